"""How the lengthscales that the evidence learns moved over training, by layer."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from symlearn.report.plots.style import INK, message_figure, new_figure
from symlearn.report.plots.trajectories import Trajectories, legend_of_layers
from symlearn.report.reading import Metrics, Report, layer_label, tensor_place

TITLE = "Lengthscales over training"


def lengthscales(metrics: Metrics, report: Report | None = None) -> Figure:
    """A panel a path: lengthscale (grid spacings, log axis) of every layer over the epochs, light to dark.

    A line breaks where its path was not in the network.

    Returns:
        A figure whose label gives the last lengthscales; without a learned one, one that says so.
    """
    found = Trajectories.of(metrics, "lengthscale", report)
    if not found.values:
        return message_figure(TITLE, report, "no lengthscale was learned")
    panels: dict[str, list[str]] = {}
    for name in found.values:
        layer, path = tensor_place(name, report)
        panels.setdefault(f"{path} {_part(name, layer, path)}".strip(), []).append(name)
    figure = new_figure(4.0, TITLE, report)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, members) in zip(grid, panels.items(), strict=True):
        found.draw(axes, title, members)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    grid[0].set_ylabel("lengthscale ℓ [grid spacings]", fontsize=10, color=INK)
    legend_of_layers(figure)
    last = {name: float(np.nan_to_num(values[-1])) for name, values in found.values.items()}
    told = ", ".join(
        f"{layer_label(found.layers[name])} {tensor_place(name, report)[1]} {last[name]:.2f}" for name in last
    )
    figure.set_label(f"Lengthscales over training, at the end: {told}")
    return figure


def _part(name: str, layer: str, path: str) -> str:
    """The part of a path that a lengthscale belongs to: "theta1" of "….s-fc.theta1.basis.log_lengthscale"."""
    inner = name.removeprefix(f"{layer}.paths.{path}.").split(".")
    return inner[0] if len(inner) > 2 else ""
