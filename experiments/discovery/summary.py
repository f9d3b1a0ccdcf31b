"""What the planted benchmark says, all its rows together: a table, numbers and a picture.

    python experiments/discovery/summary.py [experiments/discovery/results/planted.small.json]

- layers right, wrong and undecided by task (`symlearn/runs/truth.py` says what is true of them);
- accuracy beside the best single path's by MAP, of the rows that have one;
- the stated odds that a path is needed, of paths that are not;
- the screening's scores against the change halfway and at the end: rank correlation over a round's additions.

Writes figures/planted.png and results/planted-summary.json.

Axes: none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from symlearn.layers.registry import path_kind
from symlearn.runs.truth import ANY, RIGHT, UNDECIDED, WRONG, same_everywhere, scores

HERE = Path(__file__).resolve().parent
COLOURS = {RIGHT: "#0072B2", UNDECIDED: "#BBBBBB", WRONG: "#D55E00"}


def by_label(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every label, in the file's order, but for fits that stopped."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        if "stopped" in row:
            continue
        found.setdefault(row["label"], []).append(row)
    return found


def verdicts_of(row: dict[str, Any]) -> list[str]:
    """What each layer commutes with, first to last."""
    return [verdict["symmetry"] for verdict in row["verdicts"].values()]


def counts_of(truth: str, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Layers right, wrong and undecided over all runs."""
    found = [scores(truth, verdicts_of(row)) for row in rows]
    return {key: sum(one[key] for one in found) for key in (RIGHT, WRONG, UNDECIDED)}


def odds(content: dict[str, Any]) -> list[float]:
    """The stated odds of a need, of paths that are not needed: tasks where one symmetry holds in every layer.

    There a path of no symmetry is not needed; of paths that have some, one may stand in for another, so
    nothing is known.
    """
    found = []
    for row in (row for row in content["rows"] if "stopped" not in row):
        if not same_everywhere(content["truth"].get(row["label"])):
            continue
        for removal in row["removals"]:
            if len(removal["paths"]) > 1 or removal["probability_needed"] is None:
                continue
            if path_kind(removal["paths"][0][1]).commutes_with == "none":
                found.append(removal["probability_needed"])
    return found


def screening(content: dict[str, Any]) -> dict[str, list[float]]:
    """Rank correlations of score and outcome over a round's additions, halfway and at the end."""
    found: dict[str, list[float]] = {"halfway": [], "delta_log_evidence": []}
    for row in (row for row in content["rows"] if "stopped" not in row):
        for number in sorted({p["round"] for p in row["proposals"]}):
            added = [p for p in row["proposals"] if p["round"] == number and p["action"] == "add"]
            for key, values in found.items():
                pairs = [(p["score"], p[key]) for p in added if p[key] is not None]
                if min(len(set(side)) for side in zip(*pairs, strict=True)) > 2 if pairs else False:
                    values.append(float(spearmanr(*zip(*pairs, strict=True)).statistic))
    return found


def summary(content: dict[str, Any]) -> dict[str, Any]:
    """Everything in numbers."""
    rows = by_label(content)
    single: dict[str, float] = {}
    for label, runs in rows.items():
        if label.endswith(" by MAP"):
            task = label.partition(":")[0]
            mean = statistics.mean(run["accuracy"] for run in runs)
            single[task] = max(single.get(task, 0.0), mean)
    tasks: dict[str, Any] = {}
    for label, runs in rows.items():
        if label.endswith(" by MAP"):
            continue
        accuracies = [run["accuracy"] for run in runs]
        truth = content["truth"].get(label)
        tasks[label] = {
            "runs": len(runs),
            "stopped": sum(r["label"] == label and "stopped" in r for r in content["rows"]),
            "learned": sum(bool(run["training"]["learned"]) for run in runs if "training" in run),
            "truth": truth,
            "layers": None if truth is None else counts_of(truth, [r for r in runs if "verdicts" in r]),
            "accuracy": accuracies,
            "best_single_path": single.get(label.partition(":")[0]),
            "seconds": [run["seconds"] for run in runs if "seconds" in run],
        }
    judged = [t["layers"] for t in tasks.values() if t["layers"] and t["truth"] != ANY]
    total = {key: sum(one[key] for one in judged) for key in (RIGHT, WRONG, UNDECIDED)}
    ranks = screening(content)
    return {
        "scale": content["scale"],
        "commits": sorted({made["commit"] for row in content["rows"] for made in row["made"]}),
        "tasks": tasks,
        "layers_where_something_is_true": total,
        "screening_rank_correlation": {
            key: {"rounds": len(values), "mean": statistics.mean(values) if values else None}
            for key, values in ranks.items()
        },
        "odds_of_paths_that_are_not_needed": [round(p, 3) for p in odds(content)],
    }


def drawn(found: dict[str, Any]) -> Figure:
    """A bar a task: layers right, undecided and wrong."""
    tasks = {label: task for label, task in found["tasks"].items() if task["layers"]}
    figure = Figure(figsize=(10, 1.6 + 0.36 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    for at, task in enumerate(tasks.values()):
        left, whole = 0.0, max(sum(task["layers"].values()), 1)
        for key in (RIGHT, UNDECIDED, WRONG):
            share = task["layers"][key] / whole
            axes.barh(at, share, left=left, color=COLOURS[key], label=key if not at else None, height=0.7)
            left += share
        mean = statistics.mean(task["accuracy"]) if task["accuracy"] else float("nan")
        axes.text(
            1.01,
            at,
            f"{task['layers'][RIGHT]} of {whole} layers, {task['learned']} of {task['runs']} fits learned, "
            f"accuracy {100 * mean:.1f} %",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(tasks)), [f"{label}  ({t['truth']})" for label, t in tasks.items()], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of layers")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def main() -> int:
    """Read, count, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="?", type=Path, default=HERE / "results" / "planted.small.json")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the numbers")
    parser.add_argument(
        "--figures", type=Path, default=HERE.parents[1] / "figures", help="folder of the picture"
    )
    options = parser.parse_args()
    found = summary(json.loads(options.rows.read_text(encoding="utf-8")))
    (options.results / "planted-summary.json").write_text(json.dumps(found, indent=1) + "\n")
    drawn(found).savefig(options.figures / "planted.png", dpi=110)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
