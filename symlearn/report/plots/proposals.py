"""What the search tried: change of log evidence of every proposal, by round, layer and path."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure, path_colour, tidy
from symlearn.report.reading import Report, finite, layer_label, proposals_of, train_examples
from symlearn.report.wording import action_phrase, signed

if TYPE_CHECKING:
    from matplotlib.axes._secondary_axes import SecondaryAxis  # private, so for the type only

TITLE = "Change of log evidence of every proposal against the unchanged control"
_COLUMNS = 3  # panels side by side
_MARKERS = {"add": "^", "remove": "v"}

ProposalEntry = Mapping[str, Any]  # an entry of the report's proposals


def proposals(report: Report) -> Figure:
    """A panel a round; a stem is one proposal's change of log evidence [nats] against the control.

    Colour says the path, the marker's direction whether it was added or removed, a ring that it was kept;
    error bars are the evidence's own noise where the report has it. Where changes span over a hundredfold
    the axis is symmetrically logarithmic. A second axis gives nats per training example where known.

    Returns:
        A figure whose label tells what was kept; without proposals, one that says so.
    """
    tried = [each for each in proposals_of(report) if finite(each.get("delta_log_evidence")) is not None]
    if not tried:
        method = (report.get("selection") or {}).get("method") or "none"
        return message_figure(TITLE, report, f"no proposals were tried (selection: {method})")
    rounds = list(dict.fromkeys(each.get("round") for each in tried))
    columns = min(_COLUMNS, len(rounds))
    lines = math.ceil(len(rounds) / columns)
    figure = new_figure(1.5 + 2.7 * lines, TITLE, report)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    layers = sorted({str(each["layer"]) for each in tried}, key=_by_depth)
    threshold = _linear_below(tried)
    for at, axes in enumerate(grid.flat):
        if at >= len(rounds):
            axes.set_axis_off()
            continue
        _draw_round(axes, [each for each in tried if each.get("round") == rounds[at]], layers)
        axes.set_title(f"round {rounds[at]}", fontsize=10.5, color=INK)
        _scale(axes, threshold)
        if at % columns == 0:
            scale = "" if threshold is None else "\n(symmetric log scale)"
            axes.set_ylabel(f"Δ log evidence [nats]{scale}", fontsize=10, color=INK)
        if at % columns == columns - 1:
            _per_example(axes, train_examples(report), threshold)
    figure.legend(
        handles=_legend(tried),
        loc="outside lower center",
        ncols=8,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.6,
    )
    figure.set_label(_summary(tried))
    return figure


def _draw_round(axes: Axes, tried: Sequence[ProposalEntry], layers: Sequence[str]) -> None:
    axes.axhline(0, color=INK, linewidth=1)
    for place, layer in enumerate(layers):
        here = [each for each in tried if str(each["layer"]) == layer]
        for at, each in enumerate(here):
            x = place + (at - (len(here) - 1) / 2) * min(0.26, 0.8 / len(here))
            delta, reach = float(each["delta_log_evidence"]), _reach(each)
            colour = path_colour(str(each.get("path")))
            axes.plot([x, x], [0, delta], color=colour, linewidth=2, solid_capstyle="butt")
            if reach:
                axes.errorbar(x, delta, yerr=reach, color="#555555", linewidth=0.9, capsize=2, zorder=2.5)
            marker = _MARKERS.get(str(each.get("action")), "o")
            axes.plot(x, delta, marker=marker, color=colour, markersize=8, markeredgewidth=0, zorder=3)
            if each.get("accepted"):
                axes.plot(x, delta, marker="o", markersize=15, fillstyle="none", color=INK, zorder=5)
                below = delta < 0
                axes.annotate(
                    signed(delta),
                    (x, delta),
                    xytext=(0, -11 if below else 11),
                    textcoords="offset points",
                    ha="center",
                    va="top" if below else "bottom",
                    fontsize=9,
                    weight="bold",
                    color=INK,
                    zorder=6,
                )
    labels = [layer_label(layer).removeprefix("layer ") for layer in layers]
    axes.set_xticks(range(len(layers)), labels, parse_math=False)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xlabel("layer", fontsize=9.5)
    axes.margins(y=0.18)
    tidy(axes)


def _linear_below(tried: Sequence[ProposalEntry]) -> float | None:
    """Below which change [nats] a symmetric log axis is linear; None where a linear axis shows everything."""
    sizes = sorted(abs(float(each["delta_log_evidence"])) for each in tried)
    middle = sizes[len(sizes) // 2]
    if middle <= 0 or sizes[-1] <= 100 * max(sizes[0], middle / 30):
        return None
    return float(10 ** max(0, math.floor(math.log10(max(sizes[len(sizes) // 4], 1e-12)))))


def _scale(axes: "Axes | SecondaryAxis", threshold: float | None) -> None:
    """A symmetric log axis, linear below the threshold, a tick a power of ten; or thousands with commas."""
    if threshold is None:
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        return
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.6)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=threshold))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: "" if 0 < abs(y) < 1.5 * threshold else _tick(y))
    )
    axes.yaxis.set_minor_locator(NullLocator())


def _tick(value: float, _: int | None = None) -> str:
    return f"{value:+,.6g}".replace("-", "−") if value else "0"


def _per_example(axes: Axes, examples: int | None, threshold: float | None) -> None:
    """A second axis at the right in nats per training example."""
    if not examples:
        return
    both = (lambda y: np.asarray(y) / examples, lambda y: np.asarray(y) * examples)
    second = axes.secondary_yaxis("right", functions=both)
    _scale(second, None if threshold is None else threshold / examples)
    second.set_ylabel("nats per training example", fontsize=9.5, color="#666666")
    second.tick_params(colors="#666666", labelsize=9)
    second.spines["right"].set_color(FAINT)


def _legend(tried: Sequence[ProposalEntry]) -> list[Line2D]:
    paths = dict.fromkeys(str(each.get("path")) for each in tried)
    actions = dict.fromkeys(str(each.get("action")) for each in tried)
    handles = [Line2D([], [], color=path_colour(path), linewidth=4, label=path) for path in paths]
    handles += [
        Line2D(
            [],
            [],
            color="#666666",
            linestyle="",
            marker=_MARKERS.get(action, "o"),
            markersize=7,
            label=action,
        )
        for action in actions
    ]
    if any(each.get("accepted") for each in tried):
        handles.append(
            Line2D([], [], color=INK, linestyle="", marker="o", fillstyle="none", markersize=12, label="kept")
        )
    if any(_reach(each) for each in tried):
        what = "90 % interval" if any(each.get("interval") for each in tried) else "± noise"
        handles.append(Line2D([], [], color=INK, linestyle="", marker="|", markersize=11, label=what))
    return handles


def _reach(proposal: ProposalEntry) -> float | None:
    """Half of a change's interval, or its noise in files of schema 1 [nats]."""
    interval = proposal.get("interval")
    return (interval[1] - interval[0]) / 2 if interval else finite(proposal.get("noise"))


def _label(proposal: ProposalEntry) -> str:
    return layer_label(str(proposal["layer"]))


def _by_depth(layer: str) -> tuple[str, int]:
    stem, _, number = layer.rpartition(".")
    return (stem, int(number)) if number.isdecimal() else (layer, -1)


def _summary(tried: Sequence[ProposalEntry]) -> str:
    kept = [
        f"{action_phrase(each)} in {_label(each)} ({signed(each['delta_log_evidence'])} nats)"
        for each in tried
        if each.get("accepted")
    ]
    verdict = f"kept: {'; '.join(kept)}" if kept else "none was kept"
    return f"Change of log evidence of {len(tried)} proposals of the search; {verdict}."
