"""The pictures of README and results page, from the committed results of experiments; nothing is trained.

The gallery's own pictures, `gallery-*.png`, are drawn by its page (docs/tools/run_pages.py).

python figures/make_gallery.py
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from symlearn.report.plots import (
    effective_dimension_heat_map,
    equivariance_errors,
    evidence_curve,
    learned_filters,
    lengthscales,
    path_colour,
    proposals,
    reliability_diagram,
    removals_heat_map,
)
from symlearn.runs.table_text import share

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "experiments" / "layerwise" / "results"
BANKS = HERE.parent / "experiments" / "unfolded" / "results"
LAPLACE = HERE.parent / "experiments" / "laplace" / "results"
TASKS = ("quadrant-digit", "quadrant")
MARKS = {
    "learned": ("o", "#222222", "learned, by search"),
    "gradient": ("D", "#8a8a8a", "learned, by gradients"),
    "conv": ("s", path_colour("conv"), "CONV alone"),
    "f-fc": ("^", path_colour("f-fc"), "F-FC alone"),
    "conv-map": ("x", path_colour("conv"), "CONV, MAP"),
    "f-fc-map": ("x", path_colour("f-fc"), "F-FC, MAP"),
    "fc-map": ("x", path_colour("fc"), "FC, MAP"),
}


def read_lines(path: Path) -> list[dict]:
    """A JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def comparison(rows: list[dict]) -> Figure:
    """-log evidence and test NLL against accuracy for every run of the quadrant-digits experiment."""
    figure = Figure(figsize=(10, 6.6), dpi=100, layout="constrained")
    grid = figure.subplots(2, 2, sharex="col")
    for column, task in enumerate(TASKS):
        for row, (key, label) in enumerate(
            (("evidence", "−log evidence per image [nats]"), ("nll", "test NLL [nats]"))
        ):
            axes = grid[row][column]
            for name, (marker, colour, text) in MARKS.items():
                ring = name == "learned"  # on quadrant-digit it ends where CONV alone ends
                runs = [r for r in rows if r["network"] == name and r["task"] == task and "stopped" not in r]
                if key == "evidence" and name.endswith("-map"):
                    continue
                values = [
                    -r["log_marginal_likelihood"] / r["train_examples"] if key == "evidence" else r["nll"]
                    for r in runs
                ]
                axes.scatter(
                    [100 * r["accuracy"] for r in runs],
                    values,
                    marker=marker,
                    label=text,
                    **({"s": 110, "facecolors": "none", "edgecolors": colour} if ring else {"color": colour}),
                )
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylabel(label)
            if row == 1:
                axes.set_xlabel("test accuracy [%]")
            else:
                axes.set_title(f"task {task}", loc="left")
    handles, labels = grid[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Digits in quadrants: every run, three seeds each", x=0.01, ha="left")
    return figure


def shares_by_data(content: dict, path: str, title: str) -> Figure:
    """One path's share of the effective parameters, a dot a seed, a line a row of an experiment."""
    labels = list(content["published"])
    figure = Figure(figsize=(8, 0.9 + 0.5 * len(labels)), dpi=100, layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(labels):
        runs = [r for r in content["rows"] if r["label"] == label and "stopped" not in r]
        shares = [100 * share(row, path) for row in runs]
        axes.plot([min(shares), max(shares)], [place, place], color=path_colour(path), linewidth=1.5)
        axes.scatter(shares, [place] * len(shares), color=path_colour(path), zorder=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"share of {path} in the effective parameters [%], a dot a seed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def removals(content: dict, labels: list[str], title: str) -> Figure:
    """Change of log evidence when a path is removed from a layer: a panel a row, a dot a seed."""
    figure = Figure(figsize=(10, 3.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(labels), sharex=True, sharey=True)
    for axes, label in zip(panels, labels, strict=True):
        tried = [
            p
            for row in content["rows"]
            if row["label"] == label
            for p in row["proposals"]
            if (p["round"], p["action"]) == (0, "remove")
        ]
        layers, paths = (sorted({p[key] for p in tried}) for key in ("layer", "path"))
        for side, path in zip((0.15, -0.15), paths, strict=True):
            own = [p for p in tried if p["path"] == path]
            axes.scatter(
                [p["delta_log_evidence"] for p in own],
                [layers.index(p["layer"]) + side for p in own],
                color=path_colour(path),
                label=f"without {path}",
            )
        axes.axvline(0, color="#999999", linewidth=1, zorder=0)
        axes.set_yticks(range(len(layers)), [name.replace("layers.", "layer ") for name in layers])
        axes.set_title(label, loc="left")
        axes.set_xlabel("Δ log evidence [nats]")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def main() -> None:
    """Write every picture."""
    rows = json.loads((RESULTS / "quadrant_digits.json").read_text(encoding="utf-8"))["rows"]
    comparison(rows).savefig(HERE / "comparison.png")
    for task in TASKS:
        report = json.loads((RESULTS / f"learned-{task}.report.json").read_text(encoding="utf-8"))
        metrics = read_lines(RESULTS / f"learned-{task}.metrics.jsonl")
        effective_dimension_heat_map(report).savefig(HERE / f"heat-map-{task}.png")
        removals_heat_map(report).savefig(HERE / f"removals-{task}.png")
        proposals(report).savefig(HERE / f"proposals-{task}.png")
        evidence_curve(metrics, report).savefig(HERE / f"evidence-{task}.png")
        equivariance_errors(report).savefig(HERE / f"equivariance-{task}.png")
    report = json.loads((RESULTS / "sparse-quadrant.report.json").read_text(encoding="utf-8"))
    filters = json.loads((RESULTS / "sparse-quadrant.filters.json").read_text(encoding="utf-8"))
    metrics = read_lines(RESULTS / "sparse-quadrant.metrics.jsonl")
    lengthscales(metrics, report).savefig(HERE / "lengthscales-quadrant.png")
    learned_filters(filters, report).savefig(HERE / "filters-quadrant.png")
    turned = json.loads((RESULTS / "turned_digits.small.json").read_text(encoding="utf-8"))
    shares_by_data(turned, "gconv-p4", "Group convolutions on upright and on turned images").savefig(
        HERE / "gconv-shares.png"
    )
    predicted = json.loads((LAPLACE / "digits.json").read_text(encoding="utf-8"))["rows"][0]["reliability"]
    reliability_diagram({"MAP": predicted["map"], "Laplace, last layer": predicted["last-layer"]}).savefig(
        HERE / "reliability-digits.png"
    )
    banks = json.loads((BANKS / "rotated_banks.small.json").read_text(encoding="utf-8"))
    chosen = [label for label in banks["published"] if "gradients" not in label]
    removals(banks, chosen, "What the evidence loses without a bank of filters, a dot a seed").savefig(
        HERE / "bank-removals.png"
    )
    for task in ("class", "quarter-turns"):
        report = json.loads((RESULTS / f"turned-{task}.report.json").read_text(encoding="utf-8"))
        effective_dimension_heat_map(report).savefig(HERE / f"heat-map-{task}.png")


if __name__ == "__main__":
    main()
