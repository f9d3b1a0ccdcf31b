"""How the ranges of transformations that the evidence learns moved over training, a panel each."""

from matplotlib.figure import Figure

from symlearn.report.plots.epochs import points
from symlearn.report.plots.style import INK, message_figure, new_figure, tidy
from symlearn.report.plots.trajectories import Trajectories
from symlearn.report.reading import Metrics, Report

TITLE = "Learned ranges over training"
UNITS = {
    "rotation": "degrees",
    "hue": "degrees",
    "translation-x": "of the side",
    "translation-y": "of the side",
    "scale": "factor",
    "scale-x": "factor",
    "scale-y": "factor",
    "contrast": "factor",
    "flip-x": "probability",
    "flip-y": "probability",
}


def ranges(metrics: Metrics, report: Report | None = None) -> Figure:
    """A panel a transformation: its range over the epochs, in its own units."""
    found = Trajectories.of(metrics, "range", report)
    if not found.values:
        return message_figure(TITLE, report, "no range was learned")
    figure = new_figure(3.4, TITLE, report)
    columns = min(len(found.values), 4)
    rows = -(-len(found.values) // columns)
    figure.set_figheight(3.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(found.values) :]:
        axes.set_axis_off()
    told = []
    for axes, (name, values) in zip(grid, found.values.items(), strict=False):
        transform = name.rpartition(".")[2]
        axes.plot(found.epochs, values, color=INK, linewidth=1.8, **points(found.epochs))
        axes.set_title(transform, fontsize=10, color=INK)
        axes.set_ylabel(f"range [{UNITS.get(transform, 'amount')}]", fontsize=9.5, color=INK)
        axes.set_xlabel(found.label, fontsize=9.5, color=INK)
        tidy(axes)
        told.append(f"{transform} {float(values[-1]):.3g}")
    figure.set_label(f"{TITLE}, at the end: {', '.join(told)}")
    return figure
