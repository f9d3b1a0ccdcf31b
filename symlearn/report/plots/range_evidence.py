"""How the evidence judges every range of a transformation, a panel each."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlearn.report.found_reading import Found, curves_of
from symlearn.report.plots.ranges import UNITS
from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure, note, tidy
from symlearn.report.reading import Report

FLAT = 2.0  # nats; a curve that rises by less is drawn as flat as it is
TITLE = "The evidence along each range, all else fixed"


def range_evidence(found: Found, report: Report | None = None) -> Figure:
    """A panel a learned transformation: log evidence along its range [nats], above its least value.

    The ring is the range that was learned; at the left end the transformation has no effect.

    Returns:
        A figure whose label gives the learned ranges and where each curve is highest; without curves, one
        that says so.
    """
    curves = curves_of(found)
    if not curves:
        return message_figure(TITLE, report, "no range was learned")
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure = new_figure(3.3 * rows, TITLE, report)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    told = []
    for axes, (entry, points) in zip(grid, curves, strict=False):
        least = min(height for _, height in points)
        x, y = [at for at, _ in points], [height - least for _, height in points]
        _draw(axes, x, y, float(entry["range"]))
        name = str(entry["transform"])
        axes.set_title(name, fontsize=10, color=INK)
        axes.set_xlabel(f"range [{UNITS.get(name, 'amount')}]", fontsize=9.5, color=INK)
        best = x[y.index(max(y))]
        told.append(f"{name} learned {float(entry['range']):.3g}, highest at {best:.3g}")
    images = {(curve["images"], curve["of"]) for entry, _ in curves if (curve := entry["curve"])}
    grid[0].set_ylabel("log evidence [nats]", fontsize=9.5, color=INK)
    note(figure, "from " + ", ".join(f"{used:,} of {n:,} training images" for used, n in sorted(images)))
    figure.set_label(f"{TITLE}: {'; '.join(told)}")
    return figure


def _draw(axes: Axes, x: list[float], y: list[float], learned: float) -> None:
    """The curve, and a ring at the learned range."""
    tidy(axes)
    axes.plot(x, y, color=INK, linewidth=1.6, marker="o", markersize=3.5)
    at = min(range(len(x)), key=lambda k: abs(x[k] - learned))
    axes.plot(x[at], y[at], marker="o", markersize=11, fillstyle="none", color=INK)
    axes.axvline(learned, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.margins(0.06, 0.14)
    if max(y) < FLAT:
        axes.set_ylim(-0.1 * FLAT, 1.1 * FLAT)
