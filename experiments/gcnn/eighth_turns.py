"""A task with turns of 45 degrees: does the evidence prefer C_8 to p4 at equal numbers of parameters?

    python experiments/gcnn/eighth_turns.py
    python experiments/gcnn/eighth_turns.py --paths gconv-p4 --seeds 1 --epochs 150

`planted-eighths` has four shapes anywhere, turned by any multiple of 45 degrees. The network `small` with
5 x 5 filters is fitted to its first images by gradients of the evidence (no search: one path in every layer),
once of gconv-p4 (25 weights a filter and member) and once of gconv-c8 (13, for twice the members). Beside
evidence and test figures stands how far a fitted network's logits are from invariant, on shapes drawn turned
about the centre without noise: ||f(h x) - f(x)|| / ||f(x) - mean of f|| for every turn h.

Results: results/eighth_turns.json, a row a fit; what is there already is not run again.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import symlearn
from symlearn.config import Config
from symlearn.data.planted import SIDE, load_planted, smooth_shape
from symlearn.networks import build_model
from symlearn.run_folder import environment, to_json
from symlearn.runs.reproduce import commit

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "eighth_turns.json"
KERNEL, ALPHA, IMAGES = 5, 1, 400
BURN_IN, FREQUENCY = 3, 4  # steps before the first update, an epoch of the fit; epochs between updates
PATHS = ("gconv-p4", "gconv-c8")


@torch.no_grad()
def invariance(model: nn.Module) -> list[float]:
    """By multiples of 45 degrees, how far the logits of the four shapes move; relative to their spread."""
    centre = np.full(2, (SIDE - 1) / 2)
    shapes = [[smooth_shape(label, centre, turn) for label in range(4)] for turn in range(8)]
    logits = model(torch.tensor(np.array(shapes), dtype=torch.float32).flatten(0, 1).unsqueeze(1))
    logits = logits.unflatten(0, (8, 4))
    spread = (logits[0] - logits[0].mean(0)).norm()
    return [float((turned - logits[0]).norm() / spread) for turned in logits]


def fitted(path: str, seed: int, epochs: int) -> dict[str, Any]:
    """One fit, as a row."""
    start, data = time.perf_counter(), load_planted("eighths", None)
    torch.manual_seed(seed)
    model = build_model(path, network="small", size=SIDE, alpha=ALPHA, classes=4, kernel_size=KERNEL)
    config = Config().with_options(
        selection="gradient",
        removal_rounds=0,
        epochs=epochs,
        burn_in=BURN_IN * epochs,
        frequency=FREQUENCY,
        batch_size=64,
        seed=seed,
    )
    train = (data.train.images[:IMAGES], data.train.targets[:IMAGES])
    result = symlearn.fit(model, train, (data.test.images, data.test.targets), config)
    report = result.report
    return {
        "path": path,
        "seed": seed,
        "epochs": epochs,
        "log_marginal_likelihood": report["log_marginal_likelihood"],
        "learned": report["training"]["learned"],
        "accuracy": report["test"]["accuracy"],
        "nll": report["test"]["nll"],
        "parameters": report["parameters"],
        "effective_parameters": sum(
            path["effective_parameters"] for layer in report["layers"] for path in layer["paths"].values()
        ),
        "invariance": invariance(result.model.eval()),
        "seconds": time.perf_counter() - start,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line a fit."""
    lines = []
    for row in rows:
        moved = "" if None in row["invariance"] else f", logits move by {max(row['invariance']):.3f}"
        lines.append(
            f"seed {row['seed']}, {row['path']} ({row['parameters']} parameters), {row['epochs']} epochs: "
            f"log evidence {row['log_marginal_likelihood']:.0f}, accuracy {100 * row['accuracy']:.1f} %, "
            f"NLL {row['nll']:.3f}{moved}{'' if row['learned'] else ', less evidence than a constant'}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is left, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--paths", default=",".join(PATHS))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: Path = options.results
    rows = json.loads(results.read_text())["rows"] if results.exists() else []
    known = {(row["path"], row["seed"], row["epochs"]) for row in rows}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for case in ((path, seed, options.epochs) for seed in seeds for path in options.paths.split(",")):
        if case in known:
            continue
        rows.append(fitted(*case))
        content = {
            "data": f"planted-eighths, {IMAGES} training images",
            "network": f"small, alpha {ALPHA}, {KERNEL} x {KERNEL} filters",
            "burn_in_steps_an_epoch": BURN_IN,
            "frequency": FREQUENCY,
            "commit": commit(HERE),
            "environment": environment(),
            "rows": rows,
        }
        results.parent.mkdir(exist_ok=True)
        results.write_text(to_json(content) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
