"""Time and peak memory of curvature passes over the number of classes.

A batch of 128 through one hidden layer of 64. A drawn column should cost what the outputs cost, O(classes) in
time and memory. Factors hold a matrix of the outputs, classes^2; type-2 has a column a class too, classes^3
in time, in memory that does not grow with all columns at once (512 MB at 1,000 classes and 128 data). The
sketch as it was built before, the exact columns stacked and mixed, stands beside them up to 1,000 classes.

Every measurement is a process of its own: peak is the rise of its resident set from the network and the data
to its largest, after a first pass over two classes has loaded every library.

    python experiments/benchmarks/classes.py

`classes.png` beside the JSON is drawn from it alone.

Axes: batch, classes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from timing import RESULTS, forget_peak, resident_mebibytes, write
from torch import nn

import kfac
from kfac.loss_hessian import exact_classification

BATCH, HIDDEN, FEATURES = 128, 64, 30
CLASSES = (100, 300, 1000, 3000, 10000)
Pass = Callable[[nn.Module, Any], object]


def factors(fisher_type: str) -> Pass:
    return lambda net, batch: kfac.compute_factors(net, [batch], "classification", fisher_type, seed=0)


def column(fisher_type: str) -> Pass:
    """One drawn column of the root alone, without the network's factors."""

    def draw(net: nn.Module, batch: Any) -> object:
        x, y = batch
        with torch.no_grad():
            return kfac.loss_hessian.square_root(net(x), y, "classification", fisher_type).stacked()

    return draw


def stacked_sketch(net: nn.Module, batch: Any) -> object:
    """A sketched column from the tensor of all exact ones."""
    with torch.no_grad():
        exact = exact_classification(net(batch[0]))
        signs = torch.randint(0, 2, exact.shape[:2]).to(exact.dtype).mul_(2).sub_(1)
        return torch.einsum("kb,kbc->bc", signs, exact)


def partial_traces(net: nn.Module, batch: Any) -> object:
    return kfac.partial_trace_basis(net, [batch], "classification")


def diagonal(net: nn.Module, batch: Any) -> object:
    everywhere = {name: "diagonal" for name, _ in net.named_parameters()}
    return kfac.compute_factors(net, [batch], "classification", fallback=everywhere)


SIDES: dict[str, tuple[Pass, int]] = {  # a pass, and the most classes it is measured at
    "column, sketch": (column("sketch"), 10000),
    "column, Monte Carlo": (column("mc"), 10000),
    "column, sketch of stacked": (stacked_sketch, 1000),
    "factors, sketch": (factors("sketch"), 10000),
    "factors, Monte Carlo": (factors("mc"), 10000),
    "factors, type-2": (factors("type-2"), 1000),
    "diagonal, type-2": (diagonal, 300),
    "partial traces, type-2": (partial_traces, 300),
}


def data(classes: int) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
    return net, (torch.randn(BATCH, FEATURES), torch.randint(0, classes, (BATCH,)))


def measured(side: str, classes: int) -> dict[str, float]:
    """Seconds of the quickest of up to three passes, and peak in MiB."""
    run = SIDES[side][0]
    run(*data(2))
    net, batch = data(classes)
    before = resident_mebibytes(peak=False)
    forget_peak()
    seconds = []
    while len(seconds) < 3 and sum(seconds) < 2:
        start = time.perf_counter()
        run(net, batch)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "peak_mebibytes": resident_mebibytes(peak=True) - before}


def figure(record: dict[str, Any]) -> Figure:
    """Seconds and peak memory over classes, both axes logarithmic, from the JSON's own record."""
    drawn = Figure(figsize=(10, 4.6), layout="constrained")
    axes = drawn.subplots(1, 2)
    for axis, key, label in zip(
        axes, ("seconds", "peak_mebibytes"), ("seconds", "peak memory, MiB"), strict=True
    ):
        for side, rows in record["sides"].items():
            style = "--" if side.startswith("column") else "-"
            axis.loglog(
                [int(c) for c in rows], [row[key] for row in rows.values()], style, marker="o", label=side
            )
        axis.set(xlabel="classes", ylabel=label)
        axis.grid(alpha=0.3)
    axes[1].axhline(300, color="grey", linewidth=1)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "CLASSES"), help="measure one, print and stop")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.measure:
        print(json.dumps(measured(chosen.measure[0], int(chosen.measure[1]))))
        sys.exit()
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for side, (_, most) in SIDES.items():
        rows[side] = {}
        for classes in (c for c in CLASSES if c <= most):
            command = [sys.executable, sys.argv[0], "--measure", side, str(classes)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = rows[side][classes] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{side:28}{classes:7}{found['seconds']:10.4f} s{found['peak_mebibytes']:9.1f} MiB",
                flush=True,
            )
    write("classes", {"batch": BATCH, "hidden": HIDDEN, "threads": 1, "sides": rows})
    record = json.loads((RESULTS / "classes.json").read_text())
    figure(record).savefig(RESULTS / "classes.png", dpi=120)
