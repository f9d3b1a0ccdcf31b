"""How the lengthscales that the evidence learns moved over training, by layer."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from symlearn.analysis.plots.epochs import as_array, epoch_axis, points
from symlearn.analysis.plots.style import INK, message_figure, new_figure, tidy
from symlearn.analysis.reading import Metrics, Report, layer_label, tensor_place

TITLE = "Lengthscales over training"


def lengthscales(metrics: Metrics, report: Report | None = None) -> Figure:
    """A panel a path: lengthscale (grid spacings, log axis) of every layer over the epochs, light to dark.

    A line breaks where its path was not in the network.
    """
    rows = [row for row in metrics if row.get("lengthscale")]
    if not rows:
        return message_figure(TITLE, report, "no lengthscale was learned")
    axis, label = epoch_axis(metrics)
    x = axis[[bool(row.get("lengthscale")) for row in metrics]]
    names = list(dict.fromkeys(name for row in rows for name in row["lengthscale"]))
    panels: dict[str, list[str]] = {}
    for name in names:
        layer, path = tensor_place(name)
        part = _part(name, layer, path)
        panels.setdefault(f"{path} {part}".strip(), []).append(name)
    figure = new_figure(4.0, TITLE, report)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    layers = list(dict.fromkeys(tensor_place(name)[0] for name in names))
    shades: Colormap = colormaps["viridis_r"]
    colours = {layer: shades(0.1 + 0.9 * k / max(len(layers) - 1, 1)) for k, layer in enumerate(layers)}
    for axes, (title, members) in zip(grid, panels.items(), strict=True):
        for name in members:
            layer = tensor_place(name)[0]
            values = as_array(row["lengthscale"].get(name) for row in rows)
            axes.plot(x, values, color=colours[layer], linewidth=1.8, label=layer_label(layer), **points(x))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(title, fontsize=10, color=INK, parse_math=False)
        axes.set_xlabel(label, fontsize=9.5, color=INK)
        tidy(axes)
    grid[0].set_ylabel("lengthscale ℓ [grid spacings]", fontsize=10, color=INK)
    handles = {h.get_label(): h for axes in grid for h in axes.get_lines()}
    figure.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=min(8, len(handles)),
        frameon=False,
        fontsize=9.5,
    )
    last = {
        name: float(np.nan_to_num(as_array(row["lengthscale"].get(name) for row in rows)[-1]))
        for name in names
    }
    told = ", ".join(
        f"{layer_label(tensor_place(n)[0])} {tensor_place(n)[1]} {v:.2f}" for n, v in last.items()
    )
    figure.set_label(f"Lengthscales over training, at the end: {told}")
    return figure


def _part(name: str, layer: str, path: str) -> str:
    """The part of a path that a lengthscale belongs to: "theta1" of "….s-fc.theta1.basis.log_lengthscale"."""
    inner = name.removeprefix(f"{layer}.paths.{path}.").split(".")
    return inner[0] if len(inner) > 2 else ""
