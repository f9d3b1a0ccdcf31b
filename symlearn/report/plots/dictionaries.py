"""The filters of banks with their rotations, as a topographic grid: a row a basis filter, a column a turn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from symlearn.report.plots.filters import Filters
from symlearn.report.plots.style import message_figure, new_figure, note, path_colour, text_colour
from symlearn.report.reading import Report, layer_label

TITLE = "Filters with their rotations"


def rotated_filters(filters: Filters, report: Report | None = None) -> Figure:
    """A panel a layer's bank; in it a row a basis filter (those of largest norm), a column a rotation of it.

    Red is above zero, blue below; every filter has a colour scale of its own, the same for its rotations.

    Returns:
        A figure whose label names the banks; without a bank with rotations, one that says so.
    """
    banks = [entry for entry in filters if entry.get("filters") and entry.get("turns", 1) > 1]
    if not banks:
        return message_figure(TITLE, report, "no bank with rotations was kept")
    columns = min(2, len(banks))
    rows = -(-len(banks) // columns)
    shown = [_orbits(entry) for entry in banks]
    tallest = max(len(orbits) for orbits in shown)
    figure = new_figure(1.2 + rows * (0.35 + 0.5 * tallest), TITLE, report)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, entry, orbits in zip(grid, banks, shown, strict=False):
        axes.imshow(_mosaic(orbits), cmap="RdBu_r", vmin=-1, vmax=1, aspect="equal", interpolation="nearest")
        axes.set_title(
            f"{layer_label(entry['layer'])}, {entry['path']}",
            fontsize=9.5,
            color=text_colour(entry["path"]),
            parse_math=False,
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(path_colour(entry["path"]))
    for axes in grid[len(banks) :]:
        axes.set_axis_off()
    note(figure, "a row a filter, turned from column to column; a colour scale a row, white at zero")
    told = ", ".join(f"{layer_label(e['layer'])} {e['path']} ({e['turns']} turns)" for e in banks)
    figure.set_label(f"Filters of largest norm with their rotations: {told}")
    return figure


def _orbits(entry: Mapping[str, Any]) -> np.ndarray:
    """`[filter, turn, h, w]`, every filter scaled to 1 at most."""
    h, w = entry["size"]
    values = np.array(entry["filters"], dtype=float).reshape(-1, entry["turns"], h, w)
    return values / np.maximum(np.abs(values).max((1, 2, 3), keepdims=True), 1e-12)


def _mosaic(orbits: np.ndarray) -> np.ndarray:
    """All of them side by side with gaps, NaN in the gaps, `[row, column]`."""
    padded = np.pad(orbits, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    filters, turns, h, w = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(filters * h, turns * w)
