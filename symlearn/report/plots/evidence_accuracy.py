"""Whether the evidence prefers what predicts best: a table's runs, evidence against accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from symlearn.report.plots.style import INK, message_figure, new_figure, note, tidy
from symlearn.report.reading import finite

TITLE = "Evidence against test accuracy"
_MARKERS = "osD^vP*X<>"


def evidence_accuracy(content: Mapping[str, Any]) -> Figure:
    """A point a run of a table: −log evidence an image [nats] over test accuracy [%], a mark a row.

    Args:
        content: of a table's JSON: `rows` with label, accuracy, log_marginal_likelihood and train_examples.

    Returns:
        A figure whose note and label count the runs and, from three on, give Spearman's rank correlation of
        accuracy and log evidence over them; without a run that has both, one that says so.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for row in content["rows"]:
        place = _place(row)
        if place is not None:
            points.setdefault(row["label"], []).append(place)
    title = f"{TITLE}\n{content['experiment']}"
    if not points:
        return message_figure(title, None, "no run has both evidence and accuracy")
    figure = new_figure(5.2, title, None)
    axes = figure.subplots()
    colours = colormaps["tab10"]
    for at, (label, places) in enumerate(points.items()):
        x, y = zip(*places, strict=True)
        axes.scatter(
            x, y, s=52, marker=_MARKERS[at % len(_MARKERS)], color=colours(at % 10), label=label, zorder=3
        )
    tidy(axes, "both")
    axes.set_xlabel("test accuracy [%]", fontsize=10.5, color=INK)
    axes.set_ylabel("−log evidence per image [nats]", fontsize=10.5, color=INK)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    every = np.array([place for places in points.values() for place in places])
    said = f"{len(every)} runs of {len(points)} rows"
    if len(every) > 2:
        said += f"; rank correlation of accuracy and log evidence {rank_correlation(every):.2f}"
    note(figure, said)
    figure.set_label(f"{TITLE}, {content['experiment']}: {said}.")
    return figure


def _place(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Accuracy [%] and −log evidence an image of a run; None where it lacks one of them."""
    accuracy, evidence = finite(row.get("accuracy")), finite(row.get("log_marginal_likelihood"))
    if accuracy is None or evidence is None:
        return None
    return 100 * accuracy, -evidence / row["train_examples"]


def rank_correlation(points: np.ndarray) -> float:
    """Spearman's, of accuracy and log evidence, from `[runs, 2]`: accuracy and −log evidence; ties share."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    accuracy, evidence = rankdata(points[:, 0]), rankdata(-points[:, 1])
    spread = accuracy.std() * evidence.std()
    return (
        float(np.mean((accuracy - accuracy.mean()) * (evidence - evidence.mean())) / spread)
        if spread
        else 0.0
    )
