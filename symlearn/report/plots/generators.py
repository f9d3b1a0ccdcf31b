"""How the generators that the evidence learns moved over training, layer by layer."""

from matplotlib.figure import Figure

from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure
from symlearn.report.plots.trajectories import Trajectories, legend_of_layers
from symlearn.report.reading import Metrics, Report, cyclic_turns, layer_label, tensor_place

TITLE = "Generators over training"


def generators(metrics: Metrics, report: Report | None = None) -> Figure:
    """A panel a bank: angle (degrees) of every layer over the epochs, light to dark.

    A dashed line marks 360 / n, where the n rotations of a filter close to a group; a line breaks where its
    bank was not in the network.

    Returns:
        A figure whose label gives the last angles in degrees; without a learned one, one that says so.
    """
    found = Trajectories.of(metrics, "generator", report)
    if not found.values:
        return message_figure(TITLE, report, "no generator was learned")
    panels: dict[str, list[str]] = {}
    for name in found.values:
        panels.setdefault(tensor_place(name, report)[1], []).append(name)
    figure = new_figure(4.0, TITLE, report)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    told = []
    for axes, (bank, members) in zip(grid, panels.items(), strict=True):
        turns = cyclic_turns(bank)
        axes.axhline(360 / turns, color=FAINT, linestyle="--", linewidth=1.2, label="360° / n: a group")
        found.draw(axes, bank, members)
        axes.set_ylabel("generator θ [degrees]", fontsize=10, color=INK)
        for name in members:
            last = float(found.values[name][-1])
            layer = layer_label(tensor_place(name, report)[0])
            told.append(f"{layer} {bank} {last:.1f}°, {turns * last - 360:+.1f}° off after {turns}")
    legend_of_layers(figure)
    figure.set_label(f"Generators over training, at the end: {'; '.join(told)}")
    return figure
