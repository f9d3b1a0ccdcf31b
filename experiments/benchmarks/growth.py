"""How cost grows with the work: images, width, classes and layers, each doubled three times.

Three times are measured on one thread: a step on the weights (a batch of 50), a curvature pass over all
images with its eigenvalues, and a whole update of the precisions. Beside each stands the slope of a line
through its logarithms, and the slope that counting operations gives for large sizes:

    images   a step does not know how many there are (0); a pass sees each once (1)
    width    channels in times channels out (2); eigenvalues are cubic, and of small factors a small part
    classes  the head alone, which is a small part (0); `classes.py` takes it by itself
    layers   as many as there are (1)

What is small is below its slope: calls cost as much as what they compute. Of every size the quickest of the
rounds counts, the sizes taking turns.

    python experiments/benchmarks/growth.py

`growth.png` beside the JSON is drawn from it alone.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from timing import RESULTS, write
from torch import nn

from symlearn.config import Config
from symlearn.curvature.training_set import curvature_of
from symlearn.layers import RelaxedLayer2d
from symlearn.training.state import FitState
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence

BASE = {"images": 250, "width": 8, "classes": 10, "layers": 2}
EXPECTED = {  # slopes by what grows: of a step, of a pass
    "images": {"step": 0.0, "pass": 1.0, "update": 1.0},
    "width": {"step": 2.0, "pass": 2.0, "update": 2.0},
    "classes": {"step": 0.0, "pass": 0.0, "update": 0.0},
    "layers": {"step": 1.0, "pass": 1.0, "update": 1.0},
}
BATCH, SIDE, ROUNDS = 50, 16, 3
COLOURS = {"step": "#0072B2", "pass": "#D55E00", "update": "#009E73"}


def network(width: int, classes: int, layers: int) -> nn.Module:
    """Relaxed layers (F-FC + CONV) of one width on 16x16 maps, the average over places, a head."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for depth in range(layers):
        parts += [RelaxedLayer2d(width if depth else 1, width, SIDE, "f-fc+conv"), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def prepared(images: int, width: int, classes: int, layers: int) -> tuple[FitState, Any]:
    """A state of a fit and its data."""
    generator = torch.Generator().manual_seed(0)
    data = (
        torch.randn(images, 1, SIDE, SIDE, generator=generator),
        torch.arange(images) % classes,
    )
    config = Config().with_options(batch_size=BATCH, epochs=1, seed=0).resolved(images)
    return FitState(network(width, classes, layers), config, images), data


def seconds(state: FitState, data: Any) -> dict[str, float]:
    """Of a step, of a curvature pass and of an update."""
    one = (data[0][: 4 * BATCH], data[1][: 4 * BATCH])
    times = {}
    begun = time.perf_counter()
    train_epoch(state, one, lambda _: 1e-4)
    times["step"] = (time.perf_counter() - begun) / (len(one[0]) // BATCH)
    begun = time.perf_counter()
    curvature_of(state.model, state.config, data)
    times["pass"] = time.perf_counter() - begun
    begun = time.perf_counter()
    update_evidence(state, data)
    times["update"] = time.perf_counter() - begun
    return times


def slope(sizes: list[int], values: list[float]) -> float:
    """Of the line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measured(doublings: int, rounds: int) -> dict[str, Any]:
    """Seconds by what grows and size, quickest of the rounds, and the slopes."""
    found: dict[str, Any] = {}
    for grows, base in BASE.items():
        sizes = [base * 2**k for k in range(doublings + 1)]
        ready = {size: prepared(**{**BASE, grows: size}) for size in sizes}
        best = {size: dict.fromkeys(COLOURS, math.inf) for size in sizes}
        for size in sizes:
            seconds(*ready[size])
        for _ in range(rounds):
            for size in sizes:
                for what, took in seconds(*ready[size]).items():
                    best[size][what] = min(best[size][what], took)
        slopes = {what: slope(sizes, [best[size][what] for size in sizes]) for what in COLOURS}
        found[grows] = {"sizes": sizes, "seconds": [best[s] for s in sizes], "slopes": slopes}
        told = ", ".join(f"{what} {slopes[what]:.2f} ({EXPECTED[grows][what]:g})" for what in COLOURS)
        print(f"{grows:8} slopes, expected ones behind them: {told}", flush=True)
    return found


def figure(record: dict[str, Any]) -> Figure:
    """Seconds over what grows, all axes logarithmic, with a line of the expected slope through the last."""
    drawn = Figure(figsize=(11, 3.6), layout="constrained")
    for axis, (grows, found) in zip(drawn.subplots(1, 4, sharey=True), record["grows"].items(), strict=True):
        sizes = np.array(found["sizes"], dtype=float)
        for what, colour in COLOURS.items():
            values = [row[what] for row in found["seconds"]]
            axis.loglog(sizes, values, "o-", color=colour, label=f"{what} {found['slopes'][what]:.2f}")
            expected = values[-1] * (sizes / sizes[-1]) ** record["expected"][grows][what]
            axis.loglog(sizes, expected, ":", color=colour, linewidth=1)
        axis.set(xlabel=grows, xticks=sizes, xticklabels=[f"{int(s):,}" for s in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", title="slope", frameon=False)
        if grows == "images":
            axis.set_ylabel("seconds, one thread")
    drawn.supxlabel("dotted: the slope that counting operations gives", fontsize="small")
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="once, two sizes each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the figure")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    name = "growth.smoke" if chosen.smoke else "growth"
    grown = measured(1, 1) if chosen.smoke else measured(3, ROUNDS)
    write(name, {"base": BASE, "expected": EXPECTED, "grows": grown}, chosen.results)
    record = json.loads((chosen.results / f"{name}.json").read_text())
    figure(record).savefig(chosen.results / f"{name}.png", dpi=120)
