"""What the search costs, against a fit of the same length that only maximises evidence; and its screening.

    python experiments/benchmarks/search.py --tasks quadrant-digit quadrant --seeds 0

On the digits of the demo: seconds and passes over the training set (epochs of steps, trials included) of the
whole search with its removals, and of CONV alone by gradients of the evidence, start and anneal of the same
epochs. The screening's scores are compared with what became of the proposals halfway: rank correlation over
the additions of a round. Results: results/search.json.

Axes: none.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import symlearn
import symlearn.training.phases as phases
from symlearn.config import Config
from symlearn.run_folder import environment
from symlearn.training.steps import train_epoch

RESULTS = Path(__file__).parent / "results" / "search.json"
SMOKE = {"epochs": 4, "burn_in": 1, "refit_epochs": 2, "rounds": 1, "proposals": 3, "removal_rounds": 1}


def measured(task: str, seed: int, paths: str, selection: str, smoke: bool) -> dict[str, Any]:
    """One fit: seconds, passes over the training set, what the search proposed."""
    splits = symlearn.load_data("digits", task, seed=seed, limit=60 if smoke else None)
    torch.manual_seed(seed)
    model = symlearn.build_model(paths, network="small", size=16, classes=splits.classes)
    asked = dict(SMOKE) if smoke else {}
    if selection != "search":
        asked["removal_rounds"] = 0
    config = Config().with_options(paths=paths, selection=selection, seed=seed, **asked)
    passes = [0]

    def counted(*given: Any) -> tuple[float, float | None]:
        passes[0] += 1
        return train_epoch(*given)

    phases.train_epoch = counted
    begun = time.perf_counter()
    report = symlearn.fit(model, splits.train, None, config).report
    seconds = time.perf_counter() - begun
    phases.train_epoch = train_epoch
    return {"seconds": seconds, "passes": passes[0], "proposals": report["selection"]["proposals"]}


def correlations(proposals: list[dict[str, Any]]) -> list[float]:
    """Rank correlation of score and change of evidence halfway, a number a round."""
    found = []
    for number in sorted({p["round"] for p in proposals}):
        pairs = [
            (p["score"], p["halfway"])
            for p in proposals
            if p["round"] == number and p["action"] == "add" and p["halfway"] is not None
        ]
        if len({score for score, _ in pairs}) > 2:
            found.append(float(spearmanr(*zip(*pairs, strict=True)).statistic))
    return found


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["quadrant-digit", "quadrant"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--smoke", action="store_true", help="60 images and a few epochs, to see that it runs"
    )
    parser.add_argument("--results", type=Path, help="the JSON; results/search.json, or search.smoke.json")
    options = parser.parse_args()
    results = options.results or (RESULTS.with_suffix(".smoke.json") if options.smoke else RESULTS)
    torch.set_num_threads(1)
    rows = []
    for task in options.tasks:
        for seed in options.seeds:
            alone = measured(task, seed, "conv", "gradient", options.smoke)
            search = measured(task, seed, "f-fc+conv", "search", options.smoke)
            ratios = {key: search[key] / alone[key] for key in ("seconds", "passes")}
            row = {"task": task, "seed": seed, "search": search, "alone": alone, "ratio": ratios}
            row["screening"] = correlations(search["proposals"])
            rows.append(row)
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
            print(
                task,
                seed,
                {k: round(v, 2) for k, v in ratios.items()},
                "screening",
                row["screening"],
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
