"""What the fits of `matrix.py` came to: counts, and every miss with its reason. Reads rows, runs nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

BEHIND = 0.03  # of the best single path's accuracy by MAP
COLOURS = {"did not end": "#D55E00", "at chance": "#E69F00", "no verdict": "#F0E442", "ended": "#009E73"}


def at_chance(row: dict[str, Any]) -> bool:
    """Whether a fit does no better than the constant predictor on its own training set."""
    return row["train_loss"] is None or row["train_loss"] > 0.95 * row["constant_loss"]


def best_by_map(rows: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """Best accuracy of a single path by MAP, by task and number of images; 0 where none was run."""
    best: dict[tuple[str, int], float] = defaultdict(float)
    for row in rows:
        if row["selection"] == "none" and row["accuracy"] is not None:
            place = (row["task"], row["images"])
            best[place] = max(best[place], row["accuracy"])
    return best


def became(row: dict[str, Any]) -> str:
    """What became of a fit, a key of `COLOURS`."""
    if row["exit"] != 0:
        return "did not end"
    if at_chance(row):
        return "at chance"
    return "ended" if row["learned"] else "no verdict"


def drawn(rows: list[dict[str, Any]]) -> Figure:
    """Tasks x kinds of fit: a dot a fit, coloured by what became of it, with its test accuracy in percent."""
    fits = [row for row in rows if row["selection"] != "none"]
    kinds = sorted({kind_of(row) for row in fits})
    tasks = sorted({row["task"] for row in fits})
    size = (2.2 + 0.62 * len(kinds), 2.6 + 0.36 * len(tasks))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots()
    for row in fits:
        column, line = kinds.index(kind_of(row)), tasks.index(row["task"])
        seeds = sorted(r["seed"] for r in fits if (kind_of(r), r["task"]) == (kind_of(row), row["task"]))
        x = column + 0.3 * (seeds.index(row["seed"]) - (len(seeds) - 1) / 2)
        axes.scatter(x, line, s=150, color=COLOURS[became(row)], linewidths=0)
        if row["accuracy"] is not None:
            axes.text(x, line, f"{100 * row['accuracy']:.0f}", ha="center", va="center", fontsize=6.5)
    axes.set_xticks(range(len(kinds)), [", ".join(map(str, kind)) for kind in kinds], rotation=90, fontsize=8)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=9)
    axes.set(xlim=(-0.6, len(kinds) - 0.4), ylim=(len(tasks) - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, markersize=9, label=name)
        for name, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def kind_of(row: dict[str, Any]) -> tuple[str, int]:
    """Paths (with the network, where it is not `small`, and the method, if not the search), and images."""
    network = "" if row["network"] == "small" else f" {row['network']}"
    method = "" if row["selection"] == "search" else f" {row['selection']}"
    return f"{row['paths']}{network}{method}", row["images"]


def summarise(rows: list[dict[str, Any]]) -> str:
    """The counts and the misses, as text."""
    fits = [row for row in rows if row["selection"] != "none"]
    best = best_by_map(rows)
    ended = [row for row in fits if row["exit"] == 0]
    dead = [row for row in ended if at_chance(row)]
    lines = [
        f"{len(fits)} fits: {len(ended)} ended with exit 0 and a report",
        f"{len(dead)} at the constant predictor's loss; "
        f"{sum(not row['learned'] for row in ended)} without a verdict",
        f"{sum(bool(row['setbacks']) for row in ended)} with states taken back, "
        f"{sum(len(row['starts']) > 1 for row in ended)} with more than one start",
    ]
    for row in fits:
        keys = ("task", "paths", "network", "selection", "images", "seed")
        name, most = " ".join(str(row[key]) for key in keys), best[row["task"], row["images"]]
        if row["exit"] != 0:
            lines.append(f"did not end: {name}: {row['said']}")
        elif at_chance(row):
            lines.append(f"at chance: {name}: starts {row['starts']}")
        elif row["accuracy"] is not None and row["accuracy"] < most - BEHIND:
            lines.append(f"behind: {name}: {row['accuracy']:.3f}, by MAP {most:.3f}")
    return "\n".join(lines)
