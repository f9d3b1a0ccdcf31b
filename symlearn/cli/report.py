"""`symlearn report` and `symlearn plot`: what a finished run says, from its files alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

RunPath = Annotated[
    Path, typer.Argument(metavar="DIR", help="the run folder that a fit wrote", show_default=False)
]
Format = Literal["table", "json", "html", "md", "found"]


def report(
    directory: RunPath,
    format: Annotated[
        str,
        typer.Option(
            metavar="table|json|html|md|found",
            help="how to print it; found: what was found, in plain words (HTML)",
        ),
    ] = "table",
) -> None:
    """Print which layers became convolutional: the layer table, the verdict and the run's numbers."""
    from symlearn.run_folder import RunFolder, to_json

    if format not in get_args(Format):
        raise ValueError(f"--format is {format!r}; expected table, json, html, md or found")
    folder = RunFolder(directory)
    if format in ("html", "found"):
        from symlearn.runs.results import read_found_page, read_page

        typer.echo(read_page(folder) if format == "html" else read_found_page(folder), nl=False)
        return
    from symlearn.runs.results import read_report

    found = read_report(folder)
    if format == "json":
        typer.echo(to_json(found))
    elif format == "md":
        from symlearn.report.table import layer_table_text

        typer.echo(layer_table_text(found, "md"), nl=False)
    else:
        print_table(found)


def plot(directory: RunPath) -> None:
    """Draw the figures anew from the run's files and print where they lie; nothing is trained."""
    from symlearn.run_folder import RunFolder
    from symlearn.runs.results import draw_figures

    for path in draw_figures(RunFolder(directory)):
        typer.echo(str(path))


def print_table(report: dict[str, Any]) -> None:
    """The layer table, the verdict, the proposals and the numbers; in bold and colour on a terminal."""
    from symlearn.report import table

    if not sys.stdout.isatty():
        typer.echo(table.layer_table_text(report), nl=False)
        return
    from rich.console import Console
    from rich.text import Text

    from symlearn.report.remarks import remarks
    from symlearn.report.sentence import verdict_sentence
    from symlearn.report.wording import subject

    console = Console(highlight=False)
    layers = table.layer_table(report)
    for least_missed in (-1, -2):  # weight norm, then share where the terminal is too narrow
        if console.measure(layers).minimum > console.width:
            layers.columns.pop(least_missed)
    console.print(
        Text(subject(report)), "", layers, Text(verdict_sentence(report), style="bold"), "", sep="\n"
    )
    for said in remarks(report):
        console.print(Text(said), "", sep="\n")
    for further in (table.proposals_table, table.removals_table, table.hyperparameters_table):
        if (rows := further(report)) is not None:
            console.print(rows)
    numbers = table.run_numbers(report)
    width = max(len(name) for name, _ in numbers)
    for name, value in numbers:
        console.print(Text(f"{name:<{width}}  {value}"))
