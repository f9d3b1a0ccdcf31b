"""How the prior precisions moved: one panel a layer, colour by path."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from symlearn.report.plots.epochs import as_array, epoch_axis, points
from symlearn.report.plots.style import INK, message_figure, new_figure, path_colour, tidy
from symlearn.report.reading import HEAD_PATH, Metrics, Report, layer_label, layer_number, tensor_place
from symlearn.report.sentence import layer_verdict
from symlearn.report.wording import magnitude

TITLE = "Prior precisions over training"
_COLUMNS = 4  # panels side by side
_MOST_LINES = 6  # in a panel; more tensors than that are drawn per path
LineStyle = Literal["-", "--", "-.", ":"] | tuple[float, Sequence[float]]
_WEIGHTS: tuple[LineStyle, ...] = ("-", "--", "-.")
_BIASES: tuple[LineStyle, ...] = (":", (0, (1, 3)))


def prior_precisions(metrics: Metrics, report: Report | None = None) -> Figure:
    """A panel a layer: prior precision δ (log axis, no unit) of every tensor over the epochs, colour by path.

    Where a layer has more than six tensors, a line a path: the geometric mean over its tensors, with the
    range from smallest to largest shaded. A line breaks where its path was not in the network.
    The report adds the title's subject and the layers' verdicts.

    Returns:
        A figure whose label gives the last precisions; without recorded ones, one that says so.
    """
    rows = [row for row in metrics if row.get("prior_precision")]
    if not rows:
        return message_figure(TITLE, report, "no prior precisions were recorded")
    axis, label = epoch_axis(metrics)
    x = axis[[bool(row.get("prior_precision")) for row in metrics]]
    series: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # layer -> path -> tensor -> [epochs]
    for name in dict.fromkeys(name for row in rows for name in row["prior_precision"]):
        layer, path = tensor_place(name, report)
        values = as_array(row["prior_precision"].get(name) for row in rows)
        values[~(values > 0)] = math.nan  # no place on a log axis
        series.setdefault(layer, {}).setdefault(path, {})[name] = values
    layers = sorted(series, key=_by_depth)
    per_path = any(sum(map(len, paths.values())) > _MOST_LINES for paths in series.values())
    styles = _line_styles(tensors for paths in series.values() for tensors in paths.values())
    verdicts = {layer["name"]: layer_verdict(layer, report) for layer in (report or {}).get("layers") or []}

    columns = min(_COLUMNS, len(layers))
    lines = math.ceil(len(layers) / columns)
    figure = new_figure(1.7 + 2.05 * lines, TITLE, report)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for at, axes in enumerate(grid.flat):
        if at >= len(layers):
            axes.set_axis_off()
            continue
        layer = layers[at]
        for path, tensors in series[layer].items():
            if per_path:
                _draw_range(axes, x, np.stack(list(tensors.values())), path_colour(path))
                continue
            for name, values in tensors.items():
                style = styles[_leaf(name)]
                axes.plot(x, values, color=path_colour(path), linestyle=style, linewidth=1.7, **points(x))
        said = "" if set(series[layer]) == {HEAD_PATH} else verdicts.get(layer, "")
        title = f"{layer_label(layer)}: {said}" if said else layer_label(layer)
        axes.set_title(title, fontsize=10, color=INK, parse_math=False)
        _log_axis(axes)
        axes.tick_params(labelbottom=at + columns >= len(layers))
        if at + columns >= len(layers):
            axes.set_xlabel(label, fontsize=9.5, color=INK)
    figure.supylabel("prior precision δ", fontsize=10.5, color=INK)
    paths = list(dict.fromkeys(path for layer in layers for path in series[layer]))
    handles = [Line2D([], [], color=path_colour(path), linewidth=4, label=path) for path in paths]
    if not per_path:
        for style in dict.fromkeys(styles.values()):
            leaves = ", ".join(leaf for leaf in styles if styles[leaf] == style)
            handles.append(Line2D([], [], color="#555555", linestyle=style, label=leaves))
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(7, len(handles)),
        frameon=False,
        fontsize=9.5,
        handlelength=2.6,
    )
    if per_path:
        legend.set_title(
            "line: geometric mean over a path's tensors; shade: smallest to largest", FontProperties(size=9)
        )
    figure.set_label(_summary(series, paths))
    return figure


def _draw_range(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str) -> None:
    """Geometric mean and range over a path's tensors, `values` `[tensors, epochs]`."""
    seen = np.isfinite(values).any(axis=0)
    mean, low, high = (np.full(len(x), math.nan) for _ in range(3))
    mean[seen] = np.exp(np.nanmean(np.log(values[:, seen]), axis=0))
    low[seen], high[seen] = np.nanmin(values[:, seen], axis=0), np.nanmax(values[:, seen], axis=0)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=1.9, **points(x))


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1.0, 3.0) if high < 300 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.02)
    tidy(axes)


def _leaf(tensor: str) -> str:
    """What a tensor is within its path or module, such as `weight` or `theta1`."""
    _, inside, rest = tensor.partition(".paths.")
    return rest.partition(".")[2] if inside and "." in rest else tensor.rpartition(".")[2]


def _line_styles(groups: Iterable[dict[str, np.ndarray]]) -> dict[str, LineStyle]:
    """A line style for every kind of tensor, different within a path: biases dotted, weights not."""
    styles: dict[str, LineStyle] = {}
    for tensors in groups:
        leaves = [_leaf(name) for name in tensors]
        biases = [leaf for leaf in leaves if "bias" in leaf]
        weights = [leaf for leaf in leaves if "bias" not in leaf]
        styles |= {
            leaf: _WEIGHTS[at % len(_WEIGHTS)] for at, leaf in enumerate(weights) if leaf not in styles
        }
        styles |= {leaf: _BIASES[at % len(_BIASES)] for at, leaf in enumerate(biases) if leaf not in styles}
    return dict(sorted(styles.items(), key=lambda item: "bias" in item[0]))


def _by_depth(layer: str) -> tuple[bool, int, str]:
    """Numbered layers first, by number; then everything else, heads among it, by name."""
    number = layer_number(layer)
    return (number is None, number or 0, layer)


def _summary(series: dict[str, dict[str, dict[str, np.ndarray]]], paths: list[str]) -> str:
    parts = []
    for path in paths:
        last = [
            tensor[np.isfinite(tensor)][-1]
            for layer in series.values()
            for tensor in layer.get(path, {}).values()
            if np.isfinite(tensor).any()
        ]
        if last:
            parts.append(f"{path} from {magnitude(float(min(last)))} to {magnitude(float(max(last)))}")
    return f"Prior precisions over training, a panel a layer. At the end: {'; '.join(parts)}."
