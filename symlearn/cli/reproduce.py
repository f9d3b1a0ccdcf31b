"""`symlearn reproduce`: one published table, its results beside the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="which experiment; 'list' names them", show_default=False)
    ],
    scale: Annotated[
        str,
        typer.Option(
            metavar="smoke|small|paper", help="seconds, minutes on two cores, or the paper's own scale"
        ),
    ] = "smoke",
    seeds: Annotated[
        str | None,
        typer.Option(help="such as 0,1,2; the experiment's own if not given", show_default=False),
    ] = None,
    only: Annotated[
        str, typer.Option(help="labels of rows, or parts of them, joined by commas; all if not given")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="fits at a time, a thread each")] = 2,
    data_root: Annotated[
        str | None, typer.Option(help="where downloaded data sets lie", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="where the networks live")] = "cpu",
    runs: Annotated[Path, typer.Option(help="where the runs go; finished ones are read")] = Path("runs"),
    experiments: Annotated[
        Path | None, typer.Option(help="folder of the experiments' files", show_default=False)
    ] = None,
) -> None:
    """Run one experiment of experiments/, write its JSON, and print its table beside the published one."""
    from symlearn.runs import reproduce as reproduction

    folder = experiments or reproduction.experiments_folder()
    if name == "list":
        for known, path in reproduction.known_experiments(folder).items():
            typer.echo(f"{known:24s} {reproduction.read_experiment(known, folder).source}  ({path})")
        return
    try:
        chosen = None if seeds is None else [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ValueError(
            f"--seeds is {seeds!r}; expected whole numbers joined by commas, such as 0,1,2"
        ) from None
    experiment = reproduction.read_experiment(name, folder)
    extra = {"device": device} | ({} if data_root is None else {"data_root": data_root})
    content = reproduction.reproduce(experiment, scale, runs, chosen, workers, extra, only, typer.echo)
    typer.echo(f"\n{reproduction.table(content)}")
    if experiment.note:
        typer.echo(f"\n{experiment.note}")
