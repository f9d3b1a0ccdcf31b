"""Do removals at the end of a fit say what fits from scratch say? Signs, and how often the intervals hold.

    python experiments/discovery/refits.py RUN [RUN ...] --seeds 0,1,2

For every path that a finished run took out by itself, two networks are fitted from scratch by gradients of
the evidence, with the run's own configuration: the one of the paths that were there, and the same without the
path. Their difference in log evidence stands beside the one that the run stated, with its interval. Results:
results/refits.json, a row a removal; what is there already is not run again.

Axes: none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from symlearn.config import Config, read_config
from symlearn.data import DataSplits
from symlearn.data.samples import Pairs
from symlearn.fitting.fit import run_fit
from symlearn.layers.structure import relaxed_layers
from symlearn.runs.experiment import load, network_of
from symlearn.runs.table_file import write_content
from symlearn.training.start_scale import settle_scale

RESULTS = Path(__file__).parent / "results" / "refits.json"
Structure = dict[str, list[str]]  # a layer's switched-on paths


def structures(report: dict[str, Any]) -> list[tuple[dict[str, Any], Structure, Structure]]:
    """Every single removal: itself, the paths that were there, and those without it.

    A round starts without whatever earlier rounds removed.
    """
    active = {
        layer["name"]: [p for p, entry in layer["paths"].items() if entry["present"]]
        for layer in report["layers"]
        if "verdict" in layer
    }
    removals = report["selection"]["removals"]
    for removal in removals:  # what stayed out of a search's network was there before
        for layer, path in removal["paths"] if removal["removed"] else ():
            if path not in active[layer]:
                active[layer].append(path)
    found = []
    for round_ in sorted({removal["round"] for removal in removals}):
        here = [removal for removal in removals if removal["round"] == round_]
        for removal in here:
            if len(removal["paths"]) == 1:
                found.append((removal, active, without(active, removal)))
        for removal in here:
            active = without(active, removal) if removal["removed"] else active
    return found


def without(structure: Structure, removal: dict[str, Any]) -> Structure:
    """The structure without the paths of a removal."""
    gone = {tuple(pair) for pair in removal["paths"]}
    return {layer: [p for p in paths if (layer, p) not in gone] for layer, paths in structure.items()}


def evidence(config: Config, splits: DataSplits, structure: Structure, seed: int) -> float | None:
    """Log evidence of a network of these paths fitted from scratch; None where nothing was learned."""
    torch.manual_seed(seed)
    model = network_of(config, splits)
    for name, layer in relaxed_layers(model).items():
        layer.set_active(structure[name])
        layer.divisor = 1  # as under a search
    settle_scale(model)
    chosen = config.with_options(selection="gradient", removal_rounds=0, seed=seed)
    train: Pairs = (splits.train.tensors[0], splits.train.tensors[1])
    report = run_fit(model, train, None, chosen.resolved(len(train[0]))).report
    return report["log_marginal_likelihood"] if report["training"]["learned"] else None


def main() -> int:
    """Run what is left and say how often signs and intervals agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = options.results
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for run in options.runs:
        report, config = json.loads((run / "report.json").read_text()), read_config(run / "config.toml")
        config, splits = load(config)
        known: dict[tuple[str, int], float | None] = {}
        for removal, before, after in structures(report):
            (layer, path) = removal["paths"][0]
            key = f"{report['data']} {report['task']} {'+'.join(report['paths'])} seed {report['seed']}"
            name = f"{key} round {removal['round']}: {layer} without {path}"
            row = rows.setdefault(name, {**removal, "scratch": {}})
            for seed in seeds:
                if str(seed) in row["scratch"]:
                    continue
                for structure in (before, after):
                    if (place := (json.dumps(structure), seed)) not in known:
                        known[place] = evidence(config, splits, structure, seed)
                pair = [known[json.dumps(structure), seed] for structure in (before, after)]
                row["scratch"][str(seed)] = {"with": pair[0], "without": pair[1]}
                write_content(file, {"rows": rows})
                print(name, row["delta_log_evidence"], row["interval"], row["scratch"][str(seed)], flush=True)
    print(summary(rows))
    return 0


def summary(rows: dict[str, Any]) -> str:
    """Signs outside the stated noise that agree, and intervals that hold the difference from scratch."""
    signs, held = [], []
    for row in rows.values():
        pairs = [p for p in row["scratch"].values() if p["with"] is not None]
        if not pairs or row["interval"] is None:
            continue
        lost = [-float("inf") if p["without"] is None else p["without"] - p["with"] for p in pairs]
        scratch, (low, high) = statistics.median(lost), row["interval"]
        if low > 0 or high < 0:
            signs.append((scratch > 0) == (low > 0))
        held.append(low <= scratch <= high)
    agree, hold = f"{sum(signs)} of {len(signs)}", f"{sum(held)} of {len(held)}"
    return f"signs agree: {agree}; the interval holds the median from scratch: {hold}"


if __name__ == "__main__":
    sys.exit(main())
