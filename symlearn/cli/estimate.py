"""`symlearn estimate`: bytes and seconds of a fit, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from symlearn.cli.options import configured, with_config_options
from symlearn.cli.own_network import typed_network


@with_config_options
def estimate(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="a configuration file", show_default=False)
    ] = None,
    *,
    processes: Annotated[int, typer.Option(min=1, help="that share the fit under torchrun")] = 1,
    options: dict[str, Any],
) -> None:
    """Say how much memory and time a fit will take, before it runs; takes the options of fit."""
    from symlearn.runs.estimate import estimate_experiment

    chosen = configured(config, options)
    typer.echo(str(estimate_experiment(chosen, typed_network(options, chosen), processes)))
