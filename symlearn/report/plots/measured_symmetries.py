"""Which symmetries the layers of a fitted network have, and had before: a panel a transformation."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlearn.report.found_reading import NETWORK, Found, measured_rows
from symlearn.report.found_words import plain_label
from symlearn.report.plots.style import FAINT, INK, RULE, message_figure, new_figure, note, tidy
from symlearn.report.reading import Report, finite

TITLE = "Measured: how much a layer notices"
FARTHEST = 2.0  # errors beyond are drawn there
BEFORE, AFTER, FLOOR = "#E69F00", "#0072B2", "#D9E6F2"  # Okabe and Ito (2008)


def measured_symmetries(found: Found, report: Report | None = None) -> Figure:
    """A panel a transformation, a row a layer and one for the whole network: errors, 0 where exact.

    Rings are the same network before its training, dots the fitted one. A pale bar is what resampling alone
    errs by: an error that ends in it is no larger than an exact layer's may be.

    Returns:
        A figure whose label gives the whole network's errors; without measurements, one that says why.
    """
    rows = measured_rows(found)
    if not rows:
        why = (found.get("skipped") or {}).get("symmetries", "not measured")
        return message_figure(TITLE, report, str(why))
    motions = found["symmetries"]["motions"]
    figure = new_figure(1.9 + 0.34 * len(rows), TITLE, report)
    panels = figure.subplots(1, len(motions), sharey=True, squeeze=False)[0]
    for axes, motion in zip(panels, motions, strict=True):
        name = str(motion["name"])
        _draw(axes, [(one["fitted"], one["untrained"], one["floors"]) for _, one in rows], name)
        axes.set_title(name, fontsize=10, color=INK)
    labels = [label if label == NETWORK else plain_label(label) for label, _ in rows]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=9.5, color=INK, parse_math=False)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    seed = found["symmetries"].get("seed")
    beside = f"○ before training (seed {seed})   " if seed is not None else ""
    note(figure, f"{beside}● fitted   pale: what resampling alone errs by   × not measured or constant")
    network = rows[-1][1]["fitted"]
    told = ", ".join(f"{name} {value:.2g}" for name, value in network.items() if finite(value) is not None)
    figure.set_label(f"{TITLE}; errors of the whole network: {told}")
    return figure


def _draw(axes: Axes, rows: list[tuple[dict[str, object], ...]], motion: str) -> None:
    """One panel."""
    tidy(axes, "x")
    axes.set_xlim(-0.12, FARTHEST + 0.12)
    axes.set_xticks([0, 1, 2], ["0", "1", "≥ 2"])
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axhline(len(rows) - 1.5, color=RULE, linewidth=1.2)
    for at, (fitted, untrained, floors) in enumerate(rows):
        floor, before, after = (finite(one.get(motion)) for one in (floors, untrained, fitted))
        if floor:
            axes.barh(at, min(floor, FARTHEST), height=0.7, color=FLOOR)
        places = [min(value, FARTHEST) for value in (before, after) if value is not None]
        if len(places) == 2:
            axes.plot(places, [at, at], color=FAINT, linewidth=0.8)
        if before is not None:
            axes.plot(min(before, FARTHEST), at, "o", fillstyle="none", color=BEFORE, markersize=6.5)
        if after is not None:
            axes.plot(min(after, FARTHEST), at, "o", color=AFTER, markersize=6)
        else:
            axes.plot(0.05, at, "x", color=FAINT, markersize=5)
