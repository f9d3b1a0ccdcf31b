"""`symlearn estimate`: bytes and seconds of a fit, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from symlearn.cli.options import configured, with_config_options
from symlearn.cli.words import one_line

if TYPE_CHECKING:
    from symlearn.estimate import Estimate


@with_config_options
def estimate(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="a configuration file", show_default=False)
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Say how much memory and time a fit will take, before it runs; takes the options of fit."""
    from symlearn.estimate import estimate as estimated

    found = estimated(configured(config, options))
    rows = estimate_rows(found)
    names, values = max(len(name) for name, _, _ in rows), max(len(value) for _, value, _ in rows)
    for name, value, note in rows:
        typer.echo(f"{name:<{names}}  {value:>{values}}  {note}".rstrip())
    if not found.fits:
        typer.echo(f"\nnot enough memory: {advice(found)}")


def estimate_rows(found: Estimate) -> list[tuple[str, str, str]]:
    """Name, value and explanation, a line each."""
    memory, config, splits = found.memory, found.config, found.splits
    h, w = splits.size
    rows = [
        (
            "training images",
            f"{len(splits.train):,}",
            f"{splits.in_channels}×{h}×{w}, {splits.classes} outputs",
        ),
        ("parameters", f"{found.parameters:,}", f"{config.model.network}, {config.model.paths}"),
        ("data", size(memory.data), ""),
        ("weights", size(memory.weights), f"with gradients and {config.training.optimizer}'s moments"),
        ("activations", size(memory.activations), f"a batch of {config.training.batch_size}"),
        ("curvature factors", size(memory.factors), f"the largest {size(memory.largest_factor)}"),
        ("eigendecomposition", size(memory.eigen), "float64 copies, one factor at a time"),
        (
            "curvature activations",
            size(memory.curvature_activations),
            f"a batch of {config.curvature.batch_size}",
        ),
    ]
    if memory.trials:
        rows.append(
            ("trials", size(memory.trials), f"{2 + config.evidence.proposals} candidates of a search round")
        )
    available = "" if found.available is None else f"of {size(found.available)} that are free"
    rows.append(("memory at once", size(memory.peak), available))
    if found.seconds is not None:
        seconds = found.seconds
        rows.append(("a step", duration(seconds.step), "measured, with every path"))
        rows.append(("an evidence update", duration(seconds.update), "from one batch, with every path"))
        spread = seconds.least < 0.9 * seconds.most
        whole = f"{duration(seconds.least)} to {duration(seconds.most)}" if spread else duration(seconds.most)
        why = "as early as the search ends, as few paths as it keeps" if spread else ""
        rows.append(("the whole fit, about", whole, why))
    return rows


def advice(found: Estimate) -> str:
    """What to change, by what takes most."""
    memory = found.memory
    if max(memory.factors, memory.eigen) >= max(memory.weights + memory.trials, memory.curvature_activations):
        change = "use a smaller --alpha, or f-fc in place of fc"
    elif memory.curvature_activations >= memory.weights + memory.trials:
        change = "use a smaller --curvature-batch-size and --batch-size"
    else:
        change = "use a smaller --alpha, or fewer --proposals"
    return one_line(
        f"about {size(memory.peak)} are needed and {size(found.available or 0)} are free; {change}"
    )


def size(count: int) -> str:
    """Bytes for people: "512 B", "3.4 MB", "1.2 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: "12 ms", "3.4 s", "12 min", "1 h 05 min"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
