"""Reliability: how often predictions of each confidence are right."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure, note, tidy
from symlearn.report.reading import Report

TITLE = "Accuracy by confidence"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def reliability_diagram(
    curves: Mapping[str, Sequence[Mapping[str, float]]], report: Report | None = None
) -> Figure:
    """Accuracy against mean confidence, bin by bin, for every way to predict; below, where the data lie.

    Args:
        curves: by name, the bins of `symlearn.analysis.calibration.reliability`.
        report: of the run, for the title.

    Returns:
        A figure whose label gives the calibration errors in percent; without scores, one that says so.
    """
    if not any(curves.values()):
        return message_figure(TITLE, report, "no predictions were scored")
    figure = new_figure(5.2, TITLE, report)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    sentences = []
    for (name, bins), colour in zip(curves.items(), COLOURS, strict=False):
        data = sum(b["count"] for b in bins)
        error = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / data
        label = f"{name}, ECE {100 * error:.1f} %"
        above.plot(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.6,
            label=label,
        )
        for b in bins:
            below.stairs([b["count"] / data], [b["low"], b["high"]], color=colour, linewidth=1.6)
        sentences.append(label)
    above.set_ylabel("accuracy", fontsize=10.5, color=INK)
    below.set_ylabel("share of data", fontsize=10.5, color=INK)
    below.set_xlabel("confidence", fontsize=10.5, color=INK)
    above.legend(fontsize=9.5, frameon=False, loc="upper left")
    for axes in (above, below):
        tidy(axes, "both")
    note(figure, "below the dashed line predictions are too sure, above it not sure enough")
    figure.set_label(f"Accuracy by confidence. {'; '.join(sentences)}.")
    return figure
