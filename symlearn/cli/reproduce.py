"""`symlearn reproduce`: one published table, its results beside the published ones, its claims judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="which experiment; 'list' names them with their budgets and states",
            show_default=False,
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            metavar="smoke|small|cpu|paper",
            help="seconds, minutes, hours on two cores, or the paper's own scale",
        ),
    ] = "smoke",
    seeds: Annotated[
        str | None,
        typer.Option(help="such as 0,1,2; the experiment's own if not given", show_default=False),
    ] = None,
    rows: Annotated[
        str,
        typer.Option(
            help="how many of the rows that are left, or labels of rows, or parts of them, joined by commas; "
            "all if not given",
            show_default=False,
        ),
    ] = "",
    hours: Annotated[
        float | None,
        typer.Option(min=0, help="stop after these; the same command goes on", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what is left and what it will take; run nothing")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="fits at a time, a thread each")] = 2,
    data_root: Annotated[
        str | None,
        typer.Option(help="where data sets lie, in torchvision's layout or as NAME.npz", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="where the networks live")] = "cpu",
    runs: Annotated[Path, typer.Option(help="where the runs go; unfinished ones go on")] = Path("runs"),
    experiments: Annotated[
        Path | None, typer.Option(help="folder of the experiments' files", show_default=False)
    ] = None,
) -> None:
    """Run one experiment of experiments/, write each row to its JSON at once, and print table and claims.

    Rows that its JSON has are not run again; killed or out of time, the same command goes on.
    """  # noqa: DOC501, the help says what a command does
    from symlearn.runs import reproduce as reproduction
    from symlearn.runs import table_text, tables
    from symlearn.runs.forecast import forecast, forecast_text

    folder = experiments or tables.experiments_folder()
    if name == "list":
        known = [tables.read_experiment(known, folder) for known in tables.known_experiments(folder)]
        typer.echo(table_text.list_text(known, runs))
        return
    try:
        chosen = None if seeds is None else [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ValueError(
            f"--seeds is {seeds!r}; expected whole numbers joined by commas, such as 0,1,2"
        ) from None
    experiment = tables.read_experiment(name, folder)
    reproduction.expect_fits(experiment, scale)
    extra = {"device": device} | ({} if data_root is None else {"data_root": data_root})
    plan = reproduction.plan_table(experiment, scale, runs, chosen, extra, rows)
    if dry_run:
        typer.echo(forecast_text(forecast(plan.jobs, plan.rows), workers))
        return
    content = reproduction.run_table(plan, runs, workers, hours, typer.echo)
    typer.echo(f"\n{table_text.table(content)}")
    for told in (table_text.claims_text(content["claims"]), *_notes(content)):
        if told:
            typer.echo(f"\n{told}")


def _notes(content: dict) -> list[str]:
    """What belongs below a table."""
    from symlearn.runs import table_text

    own = [f"read in place of the published files: {copy}" for copy in table_text.copies(content["rows"])]
    made = [f"{count} rows: {words}" for words, count in table_text.makers(content["rows"]).items()]
    old = [f"{len(content['earlier'])} rows of other options are kept apart"] if "earlier" in content else []
    return ["\n".join([*own, *made, *old]), content["note"]]
