"""What the fits of `matrix.py` came to: counts, and every miss with its reason. Reads rows, runs nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

BEHIND = 0.03  # of the best single path's accuracy by MAP


def at_chance(row: dict[str, Any]) -> bool:
    """Whether a fit does no better than the constant predictor on its own training set."""
    return row["train_loss"] is None or row["train_loss"] > 0.95 * row["constant_loss"]


def summarise(rows: list[dict[str, Any]]) -> str:
    """The counts and the misses, as text."""
    fits = [row for row in rows if row["selection"] != "none"]
    best: dict[str, float] = defaultdict(float)
    for row in rows:
        if row["selection"] == "none" and row["accuracy"] is not None:
            best[row["task"]] = max(best[row["task"]], row["accuracy"])
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
        name, most = " ".join(str(row[key]) for key in keys), best[row["task"]]
        if row["exit"] != 0:
            lines.append(f"did not end: {name}: {row['said']}")
        elif at_chance(row):
            lines.append(f"at chance: {name}: starts {row['starts']}")
        elif row["accuracy"] is not None and row["accuracy"] < most - BEHIND:
            lines.append(f"behind: {name}: {row['accuracy']:.3f}, by MAP {most:.3f}")
    return "\n".join(lines)
