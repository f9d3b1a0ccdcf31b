"""The layer table, for the terminal, for pipes and for Markdown: one line a path, grouped by layer.

A line a path, not a column a path, so that two paths or five fit the same 100 columns. Columns: what the
evidence says the layer commutes with; the path's
relative effective dimension (percent of the layer's), gamma / P (effective parameters of all), its raw
share of the layer's effective parameters, its prior precision (geometric mean over its tensors, or
smallest–largest where they span over tenfold) and its weight norm.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from symlearn.report.reading import (
    HEAD_PATH,
    Layer,
    Report,
    body_layers,
    cyclic_turns,
    finite,
    head_layers,
    layer_label,
    path_entry,
    path_names,
    proposals_of,
    removals_of,
    top_path,
    train_examples,
)
from symlearn.report.remarks import remarks
from symlearn.report.sentence import layer_verdict, verdict_sentence
from symlearn.report.wording import (
    MISSING,
    action_phrase,
    count,
    decimal,
    few,
    magnitude,
    percent,
    precision_range,
    signed,
    subject,
)

TEXT_WIDTH = 100  # columns
_PATH_WIDTH = 18  # columns; longer names of paths fold
LAYER_HEADINGS = (
    "layer",
    "equivariant to",
    "path",
    "relative",
    "γ / P",
    "share",
    "prior precision",
    "weight norm",
)
HYPERPARAMETER_HEADINGS = ("layer", "path", "learned", "value")
PROPOSAL_HEADINGS = (
    "round",
    "layer",
    "proposal",
    "Δ at half [nats]",
    "Δ log evidence [nats]",
    "90 % interval",
    "kept",
)
REMOVAL_HEADINGS = ("round", "taken out", "Δ log evidence [nats]", "90 % interval", "needed", "stays out")


def layer_table(report: Report) -> Table:
    """The layers and their paths as a rich table; verdicts and top paths in bold, absent ones dim."""
    table = _rich_table(LAYER_HEADINGS, numeric_from=3)
    for layer in [*body_layers(report), *head_layers(report)]:
        top = top_path(layer)
        rows = _layer_rows(layer, report)
        for path, row in rows:
            style = (
                "dim" if path_entry(layer, path) is None else "bold" if path == top and len(rows) > 1 else ""
            )
            own = [Text(cell, style="bold") for cell in row[:2]]
            numbers = [Text(cell, style=style) for cell in (_folded(path), *row[3:])]
            table.add_row(*own, *numbers, end_section=len(rows) > 1 and path == rows[-1][0])
    return table


def proposals_table(report: Report) -> Table | None:
    """Every proposal of the search as a rich table, kept ones in bold; None where nothing was proposed."""
    proposals = proposals_of(report)
    if not proposals:
        return None
    table = _rich_table(PROPOSAL_HEADINGS, numeric_from=3)
    for proposal, row in zip(proposals, proposal_rows(report), strict=True):
        table.add_row(*(Text(cell, style="bold" if proposal.get("accepted") else "") for cell in row))
    return table


def hyperparameters_table(report: Report) -> Table | None:
    """The hyperparameters that layers declared, as a rich table; None where there are none."""
    rows = hyperparameter_rows(report)
    if not rows:
        return None
    table = _rich_table(HYPERPARAMETER_HEADINGS, numeric_from=3)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def layer_table_text(report: Report, format: Literal["table", "md"] = "table") -> str:
    """Everything a reader of the run needs, as text.

    Returns:
        The layer table, the verdict, the search's proposals if there are any, and the run's numbers; plain
        text of at most 100 columns, or Markdown.

    Raises:
        ValueError: another format than "table" and "md".
    """
    if format not in ("table", "md"):
        raise ValueError(f"format is {format!r}, expected 'table' or 'md'")
    layers = [
        row for layer in [*body_layers(report), *head_layers(report)] for _, row in _layer_rows(layer, report)
    ]
    numbers = run_numbers(report)
    if format == "md":
        parts = [f"## {_markdown(subject(report))}", _markdown_table(LAYER_HEADINGS, layers, numeric_from=3)]
        parts.append(f"**{_markdown(verdict_sentence(report))}**")
        parts += [_markdown(said) for said in remarks(report)]
        if proposals_of(report):
            parts.append(_markdown_table(PROPOSAL_HEADINGS, proposal_rows(report), numeric_from=3))
        if removals_of(report):
            parts.append(_markdown_table(REMOVAL_HEADINGS, removal_rows(report), numeric_from=2))
        if hyperparameter_rows(report):
            parts.append(
                _markdown_table(HYPERPARAMETER_HEADINGS, hyperparameter_rows(report), numeric_from=3)
            )
        parts.append(_markdown_table(("", "value"), numbers, numeric_from=1))
    else:
        parts = [_wrapped(subject(report)), _plain(layer_table(report)), _wrapped(verdict_sentence(report))]
        parts += [_wrapped(said) for said in remarks(report)]
        if (proposals := proposals_table(report)) is not None:
            parts.append(_plain(proposals))
        if (removals := removals_table(report)) is not None:
            parts.append(_plain(removals))
        if (learned := hyperparameters_table(report)) is not None:
            parts.append(_plain(learned))
        width = max(len(name) for name, _ in numbers)
        parts.append("\n".join(f"{name:<{width}}  {value}" for name, value in numbers))
    return "\n\n".join(part for part in parts if part) + "\n"


def _layer_rows(layer: Layer, report: Report) -> list[tuple[str, list[str]]]:
    """`(path, cells)` of a layer, a row a path; the layer's own cells stand in the first row only."""
    is_head = set(layer["paths"]) == {HEAD_PATH}
    rows: list[tuple[str, list[str]]] = []
    for path in [HEAD_PATH] if is_head else path_names(report):
        entry = path_entry(layer, path)
        said = MISSING if is_head else layer_verdict(layer, report)
        own = ["", ""] if rows else [layer_label(layer["name"]), said]
        rows.append((path, [*own, path, *path_cells(entry)]))
    return rows


def path_cells(entry: Mapping[str, Any] | None) -> list[str]:
    """Relative, gamma / P, share, prior precision and weight norm of one path, as text."""
    if entry is None:
        return ["absent", MISSING, MISSING, MISSING, MISSING]
    return [
        percent(entry.get("relative")),
        f"{count(_measured(entry.get('effective_parameters')))} / {count(entry.get('parameters'))}",
        percent(entry.get("share")),
        precision_range(entry.get("prior_precision")),
        magnitude(entry.get("weight_norm")),
    ]


def layer_rows(layer: Layer, report: Report) -> list[dict[str, Any]]:
    """One layer's rows for a template: path, cells, relative as a fraction, whether it is top or absent."""
    top, rows = top_path(layer), _layer_rows(layer, report)
    return [
        {
            "path": path,
            "cells": cells[3:],
            "relative": finite((path_entry(layer, path) or {}).get("relative")) or 0.0,
            "top": path == top and len(rows) > 1,
            "absent": path_entry(layer, path) is None,
        }
        for path, cells in rows
    ]


def proposal_rows(report: Report) -> list[list[str]]:
    """The search's proposals as text.

    Who was dropped halfway has no change at the end. Files of schema 1 have a noise and no interval.

    Returns:
        A row a proposal: round, layer, proposal, its change of log evidence in nats halfway and at the end of
        its refit, the interval, if it was kept.
    """
    rows = []
    for proposal in proposals_of(report):
        delta, interval = signed(proposal.get("delta_log_evidence")), proposal.get("interval")
        if not interval and None not in (
            finite(proposal.get(key)) for key in ("noise", "delta_log_evidence")
        ):
            delta += f" ± {count(_measured(proposal['noise']))}"
        layer = layer_label(_layer_name(proposal.get("layer"), report))
        kept = "yes" if proposal.get("accepted") else "no"
        half = signed(proposal.get("halfway"))
        rows.append(
            [
                str(proposal.get("round", MISSING)),
                layer,
                action_phrase(proposal),
                half,
                delta,
                between(interval),
                kept,
            ]
        )
    return rows


def between(interval: Sequence[float] | None) -> str:
    """An interval's cell."""
    return f"{signed(interval[0])} to {signed(interval[1])}" if interval else MISSING


def removals_table(report: Report) -> Table | None:
    """Every removal at the end of the fit as a rich table; None where there was none."""
    if not removals_of(report):
        return None
    table = _rich_table(REMOVAL_HEADINGS, numeric_from=2)
    for row in removal_rows(report):
        table.add_row(*(Text(cell) for cell in row))
    return table


def removal_rows(report: Report) -> list[list[str]]:
    """Round, what was taken out, change of log evidence, interval, odds of a need, whether it stayed out."""
    rows = []
    for removal in removals_of(report):
        layers: dict[str, list[str]] = {}
        for layer, path in removal.get("paths") or []:
            layers.setdefault(str(path), []).append(layer_label(str(layer)))
        what = "; ".join(f"{path} of {_together(names)}" for path, names in layers.items())
        odds = percent(removal.get("probability_needed"))
        stayed = "yes" if removal.get("removed") else "no"
        delta = removal.get("delta_log_evidence")
        change = signed(delta)
        rows.append(
            [str(removal.get("round", MISSING)), what, change, between(removal.get("interval")), odds, stayed]
        )
    return rows


def _together(labels: Sequence[str]) -> str:
    """Layers taken out together, in few words: "layers 0, 1 and 5"."""
    plain = [label.removeprefix("layer ") for label in labels]
    if len(labels) == 1 or plain == list(labels):
        return few(labels, 60)
    return f"layers {', '.join(plain[:-1])} and {plain[-1]}"


def hyperparameter_rows(report: Report) -> list[list[str]]:
    """Layer, path, name and value of what was learned; places of anchors are for the figure."""
    rows = [
        ["input", "copies", str(entry["transform"]), str(entry["words"])]
        for entry in report.get("ranges") or []
        if entry["learned"]
    ]
    for layer in body_layers(report):
        for path, entry in layer["paths"].items():
            for name, value in (entry.get("hyperparameters") or {}).items():
                if finite(value) is not None:
                    told = _value_of(path, name, float(value))
                    rows.append([layer_label(layer["name"]), path, _plain_name(name), told])
    return rows


def _value_of(path: str, name: str, value: float) -> str:
    """A value in its own units; a generator with how far its n turns are from a whole one."""
    if name.split(".")[-1] != "generator":
        return magnitude(value)
    turns = cyclic_turns(path)
    return f"{value:.2f}°; {turns} turns {decimal(turns * value - 360, 1)}° off 360°"


def _plain_name(name: str) -> str:
    """`theta1.basis.log_lengthscale` as "theta1 lengthscale": values are given in their own units."""
    own = (part for part in name.split(".") if part not in ("basis", "rotations"))
    return " ".join(part.removeprefix("log_") for part in own)


def run_numbers(report: Report) -> list[tuple[str, str]]:
    """What was measured of the whole run, `(name, value)`; scores that were not measured are left out."""
    examples = train_examples(report)
    evidence = finite(report.get("log_marginal_likelihood"))
    gamma = [
        finite(entry.get("effective_parameters"))
        for layer in report.get("layers") or []
        for entry in layer["paths"].values()
    ]
    numbers = [("parameters", count(report.get("parameters")))]
    if any(value is not None for value in gamma):
        numbers.append(("effective parameters", count(sum(value or 0.0 for value in gamma))))
    if examples:
        numbers.append(("training examples", count(examples)))
    told = "not computed" if evidence is None else f"{decimal(evidence, 1)} nats"
    numbers.append(("log marginal likelihood", told + _sampled(report)))
    if evidence is not None and examples:
        numbers.append(("log marginal likelihood per example", f"{decimal(evidence / examples)} nats"))
    for key, name in (("left_out", "left out of the evidence"), ("diagonal", "with diagonal curvature")):
        if report.get(key):
            numbers.append((name, few(report[key])))
    for prefix, scores in (("test", report.get("test")), ("test, Laplace", report.get("laplace"))):
        for key, name, write in _SCORES:
            value = (scores or {}).get(key)
            if finite(value) is not None:
                numbers.append((f"{prefix} {name}", write(value)))
    return numbers


def _sampled(report: Report) -> str:
    """What follows an evidence that is from a part of the images, or nothing."""
    sample = report.get("evidence_sample") or {}
    error = finite((sample.get("standard_error") or {}).get("log_marginal_likelihood"))
    if error is None:
        return ""
    return f" ± {decimal(error, 1)}, from {count(sample['images'])} of {count(sample['of'])} images"


_SCORES = (
    ("accuracy", "accuracy", lambda value: percent(value, 1)),
    ("nll", "NLL", lambda value: f"{decimal(value)} nats"),
    ("ece", "ECE", lambda value: percent(value, 1)),
)


def _layer_name(layer: object, report: Report) -> str:
    """A proposal's layer by name, whether the search wrote its name or its index."""
    if isinstance(layer, int):
        names = [known["name"] for known in report.get("layers") or [] if known.get("index") == layer]
        return names[0] if names else f"layers.{layer}"
    return str(layer)


def _measured(value: object) -> float | None:
    """The number as a float, so that `count` gives small ones a decimal even where they are whole."""
    return finite(value)


def _folded(path: str) -> str:
    """A long path name on two lines, its variant on the second."""
    return path.replace(":", ":\n", 1) if len(path) > _PATH_WIDTH else path


def _rich_table(headings: Sequence[str], numeric_from: int) -> Table:
    """An empty table; headings of numbers stand on two lines where they have two words."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for at, heading in enumerate(headings):
        numeric = at >= numeric_from
        words = heading.replace("prior ", "prior\n").replace("weight ", "weight\n")
        words = words.replace("log evidence ", "log evidence\n").replace("equivariant ", "equivariant\n")
        table.add_column(
            Text(words),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=heading not in ("path", "taken out"),
            min_width=8 if heading == "path" else None,
            max_width=38 if heading == "taken out" else None,
        )
    return table


def _plain(table: Table) -> str:
    """The table as text without colour, lines stripped at the right."""
    console = Console(
        file=io.StringIO(), width=TEXT_WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, TEXT_WIDTH, break_on_hyphens=False)


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], numeric_from: int) -> str:
    rule = ["---:" if at >= numeric_from else "---" for at in range(len(headings))]
    lines = [headings, rule, *([_markdown(cell.strip()) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table's cell: no pipes, no tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
