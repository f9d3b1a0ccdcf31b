"""`symlearn collapse`: the learned architecture as a plain network in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from symlearn.cli.own_network import RunModel, network_of_run
from symlearn.cli.report import RunPath

if TYPE_CHECKING:
    from symlearn.transfer.collapse import CollapseReport


def collapse(
    directory: RunPath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="write the network here", show_default=False)],
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="of the file; by its ending, or pt2, if not given", show_default=False),
    ] = None,
    negligible: Annotated[
        float,
        typer.Option(help="share of a layer's effective parameters below which a path is dropped"),
    ] = 0.01,
    removal: Annotated[
        str,
        typer.Option(
            metavar="measured|local",
            help="how the evidence without a path is found: by a curvature pass each, or from one for all",
        ),
    ] = "measured",
    model: RunModel = None,
) -> None:
    """Write the learned network with plain layers alone, after comparing its outputs."""
    from symlearn.transfer.write import collapse_run

    endings = {".onnx": "onnx", ".safetensors": "safetensors"}
    chosen = file_format or endings.get(out.suffix, "pt2")
    report, change = collapse_run(
        directory, out, chosen, negligible, removal, network_of_run(directory, model)
    )
    typer.echo(as_text(report, change, out))


def as_text(report: CollapseReport, change: float | None, out: Path) -> str:
    """What was kept and dropped, and what it cost."""
    lines = [f"{'layer':24s} {'path':24s} {'effective':>10s} {'share':>7s} {'evidence without':>17s}  "]
    for fate in report.paths:
        gamma = "–" if fate.effective_parameters is None else f"{fate.effective_parameters:.1f}"
        share = "–" if fate.share is None else f"{fate.share:.1%}"
        delta = "" if fate.delta_log_evidence is None else f"{fate.delta_log_evidence:+.1f} nats"
        lines.append(
            f"{fate.layer:24s} {fate.path:24s} {gamma:>10s} {share:>7s} "
            f"{delta:>17s}  {'kept' if fate.kept else 'dropped'}"
        )
    before, after = report.parameters
    lines.append(f"parameters {before:,} -> {after:,}")
    if report.seconds is not None:
        slow, fast = (1e3 * s for s in report.seconds)
        lines.append(f"milliseconds a pass {slow:.1f} -> {fast:.1f}")
    if report.max_change is not None and report.relative_change is not None:
        lines.append(
            f"outputs moved by {report.max_change:.2g} at most ({report.relative_change:.1e} of the largest)"
        )
    read_back = "" if change is None else f"; read back, its outputs differ by {change:.1e} of the largest"
    lines.append(f"written to {out}{read_back}")
    return "\n".join(lines)
