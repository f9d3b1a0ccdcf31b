"""How training went: evidence and loss above, accuracy below, with the phases of the search."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from symlearn.report.plots.epochs import column, epoch_axis, points
from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure, tidy
from symlearn.report.reading import Metrics, Report, finite, layer_label, proposals_of, train_examples
from symlearn.report.wording import decimal, percent

TITLE = "Evidence and accuracy over training"
_FIT, _DATA = "#222222", "#9a6fb0"  # what the network is judged by, and how it does on the training data


def evidence_curve(metrics: Metrics, report: Report | None = None) -> Figure:
    """Above, −log marginal likelihood per training example and train loss [nats]; below, accuracies [%].

    The number of training examples comes from the report, or from a `train_examples` in the metrics; without
    either the evidence is shown in total [nats], and the loss on an axis of its own. Phases of the search
    (`phase`) are marked, with the proposals that the report says were accepted in them; the best evidence
    is ringed.

    Returns:
        A figure whose label gives the best evidence and the last scores; without epochs, one that says so.
    """
    if not metrics:
        return message_figure(TITLE, report, "no epoch was recorded")
    epochs, label = epoch_axis(metrics)
    examples = train_examples(report) or train_examples(metrics[-1])
    evidence = -column(metrics, "log_marginal_likelihood") / (examples or 1)
    figure = new_figure(6.4, TITLE, report)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _draw_evidence(above, epochs, evidence, column(metrics, "train_loss"), examples)
    _draw_accuracy(below, epochs, metrics)
    below.set_xlabel(label, fontsize=10.5)
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _mark_phases(above, below, epochs, metrics, report)
    figure.set_label(_summary(evidence, examples, metrics))
    return figure


def _draw_evidence(
    axes: Axes, epochs: np.ndarray, evidence: np.ndarray, loss: np.ndarray, examples: int | None
) -> None:
    known = np.isfinite(evidence)
    tidy(axes)
    axes.margins(x=0.01)
    loss_axes = axes
    if known.any():
        x, y = epochs[known], evidence[known]
        axes.plot(x, y, color=_FIT, linewidth=1.8, label="−log marginal likelihood", **points(x))
        best = int(np.argmin(y))
        axes.plot(x[best], y[best], marker="o", markersize=10, fillstyle="none", color=_FIT)
        axes.annotate(
            f"best {decimal(y[best], 3 if examples else 1)}",
            (x[best], y[best]),
            xytext=(0, 9),
            textcoords="offset points",
            ha="right" if best > 0.85 * len(x) else "center",
            va="bottom",
            fontsize=9.5,
            color=INK,
            weight="bold",
        )
        if not examples:
            loss_axes = axes.twinx()
            loss_axes.spines[:].set_visible(False)
            loss_axes.set_ylabel("train loss [nats per example]", fontsize=10.5, color=_DATA)
            loss_axes.tick_params(colors=_DATA, labelsize=9.5)
    (line,) = loss_axes.plot(epochs, loss, color=_DATA, linewidth=1.6, label="train loss", **points(epochs))
    axes.set_ylabel("nats per training example" if loss_axes is axes else "nats, in total", fontsize=10.5)
    if loss_axes is axes and known.any() and _outranges(evidence[known]) and np.nanmin(loss) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    handles = axes.get_lines()[:1] if known.any() else []
    axes.legend(handles=[*handles, line], frameon=False, fontsize=9.5, loc="best")


def _outranges(evidence: np.ndarray) -> bool:
    """Whether a linear axis would flatten the end of the evidence curve against its start."""
    return bool(evidence.min() > 0 and evidence.max() > 12 * evidence.min())


def _draw_accuracy(axes: Axes, epochs: np.ndarray, metrics: Metrics) -> None:
    tidy(axes)
    axes.set_ylabel("accuracy [%]", fontsize=10.5)
    for key, colour, label in (("train_accuracy", _DATA, "train"), ("test_accuracy", _FIT, "test")):
        values = column(metrics, key)
        known = np.isfinite(values)
        if known.any():
            words = f"{label}, {percent(values[known][-1], 1)} at the end"
            axes.plot(
                epochs[known], 100 * values[known], color=colour, linewidth=1.6, label=words, **points(epochs)
            )
    if axes.lines:
        axes.legend(frameon=False, fontsize=9.5, loc="lower right")
    else:
        axes.text(
            0.5, 0.5, "no accuracy was recorded", transform=axes.transAxes, ha="center", color="#666666"
        )


def _mark_phases(
    above: Axes, below: Axes, epochs: np.ndarray, metrics: Metrics, report: Report | None
) -> None:
    """A line at the start of every phase, its name and accepted proposals along it."""
    phases = [str(row.get("phase") or "") for row in metrics]
    starts = [0, *(at for at, (a, b) in enumerate(pairwise(phases), start=1) if a != b)]
    if not any(phases):
        return
    for at in starts:
        for axes in (above, below):
            if at:
                axes.axvline(
                    (epochs[at - 1] + epochs[at]) / 2, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3))
                )
        accepted = _accepted(phases[at], report)
        above.annotate(
            f"{phases[at]}: {accepted}" if accepted else phases[at],
            (float(epochs[at]), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=28,
            ha="left",
            va="bottom",
            fontsize=9,
            color=INK if accepted else "#666666",
            weight="bold" if accepted else "normal",
            parse_math=False,
        )


def _accepted(phase: str, report: Report | None) -> str:
    """What the search kept in the round that a phase belongs to: "+f-fc in layer 4"."""
    found = re.search(r"round\D*(\d+)", phase)
    if not found or not report:
        return ""
    kept = [
        each for each in proposals_of(report) if each.get("accepted") and str(each.get("round")) == found[1]
    ]
    return ", ".join(
        f"{_sign(each)}{each.get('path')} in {layer_label(str(each.get('layer')))}" for each in kept
    )


def _sign(proposal: Mapping[str, Any]) -> str:
    return {"add": "+", "remove": "−"}.get(str(proposal.get("action")), "")


def _summary(evidence: np.ndarray, examples: int | None, metrics: Metrics) -> str:
    known = evidence[np.isfinite(evidence)]
    unit = "nats per training example" if examples else "nats"
    parts = [f"best −log marginal likelihood {decimal(known.min())} {unit}"] if known.size else []
    for key, label in (("train_accuracy", "train accuracy"), ("test_accuracy", "test accuracy")):
        seen = [value for row in metrics if (value := finite(row.get(key))) is not None]
        parts += [f"{label} {percent(seen[-1], 1)} at the end"] if seen else []
    return f"Curves over {len(metrics)} epochs: {'; '.join(parts) or 'train loss only'}."
