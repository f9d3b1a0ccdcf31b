"""Learned filters, a row a weight tensor, with the anchors that sparsified ones are interpolated between.

Filters of images are drawn as images, those of signals as lines, those of volumes slice by slice, from the
front to the back.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlearn.report.plots.style import INK, RULE, message_figure, new_figure, note, path_colour, text_colour
from symlearn.report.reading import Report, finite, layer_label

TITLE = "Learned filters"
_COLUMNS = 6
Filters = Sequence[Mapping[str, Any]]


def learned_filters(filters: Filters, report: Report | None = None) -> Figure:
    """A row a weight tensor: its filters of largest norm, red above zero and blue below, dots at anchors.

    Every row has a scale of its own; rows are as wide as their filters are many.

    Returns:
        A figure whose label names the weight tensors; without filters, one that says so.
    """
    rows = [entry for entry in filters if entry.get("filters")]
    if not rows:
        return message_figure(TITLE, report, "no path with filters was kept")
    figure = new_figure(1.2 + 1.15 * len(rows), TITLE, report)
    grid = figure.subplots(len(rows), _COLUMNS, squeeze=False)
    for row, entry in zip(grid, rows, strict=True):
        shown = np.array(entry["filters"], dtype=float).reshape(-1, *entry["size"])
        limit = float(np.abs(shown).max()) or 1.0
        draw = DRAWN[len(entry["size"])]
        for at, axes in enumerate(row):
            axes.set_xticks([])
            axes.set_yticks([])
            if at >= len(shown):
                axes.set_axis_off()
                continue
            axes.spines[:].set_color(path_colour(entry["path"]))
            draw(axes, shown[at], limit, entry)
        row[0].set_ylabel(
            _label(entry), rotation=0, ha="right", va="center", fontsize=9, color=text_colour(entry["path"])
        )
    anchors = "dots: anchors · ℓ: lengthscale in grid spacings · " if any(e["anchors"] for e in rows) else ""
    note(figure, anchors + SCALES[max(len(entry["size"]) for entry in rows)])
    figure.set_label(
        f"Filters of largest norm of {len(rows)} weight tensors: "
        + ", ".join(_label(entry).replace("\n", " ") for entry in rows)
    )
    return figure


def _signal(axes: Axes, values: np.ndarray, limit: float, entry: Mapping[str, Any]) -> None:
    """`[t]` as a line about zero."""
    axes.axhline(0, color=RULE, linewidth=0.8)
    axes.plot(values, color=path_colour(entry["path"]), linewidth=1.2)
    axes.set_ylim(-1.1 * limit, 1.1 * limit)
    if entry["anchors"]:
        places = np.array(entry["anchors"], dtype=float)[:, 0]
        axes.scatter(places, np.zeros_like(places), s=5, color=INK, linewidths=0, zorder=3)


def _image(axes: Axes, values: np.ndarray, limit: float, entry: Mapping[str, Any]) -> None:
    """`[h, w]`, white at zero."""
    h, w = values.shape
    axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="equal")
    if entry["anchors"]:
        anchors = np.array(entry["anchors"], dtype=float)
        size = float(np.clip(90 / (h * w), 0.6, 9))
        axes.scatter(anchors[:, 1], anchors[:, 0], s=size, color=INK, linewidths=0)
        axes.set_xlim(-0.5, w - 0.5)
        axes.set_ylim(h - 0.5, -0.5)


def _volume(axes: Axes, values: np.ndarray, limit: float, entry: Mapping[str, Any]) -> None:
    """`[d, h, w]` slice by slice, row by row, with a gap between them; its anchors lie between slices."""
    across = math.ceil(math.sqrt(len(values)))
    padded = np.pad(values, ((0, -len(values) % across), (0, 1), (0, 1)), constant_values=np.nan)
    rows = padded.reshape(-1, across, *padded.shape[1:]).transpose(0, 2, 1, 3)
    montage = rows.reshape(rows.shape[0] * rows.shape[1], -1)[:-1, :-1]
    axes.imshow(montage, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="equal")


DRAWN = {1: _signal, 2: _image, 3: _volume}
SCALES = {
    1: "a scale a row, the line at zero",
    2: "a colour scale a row, white at zero",
    3: "a colour scale a row, white at zero · slices of a volume from the front to the back, row by row",
}


def _label(entry: Mapping[str, Any]) -> str:
    path = f"{entry['path']} {entry['part']}".strip()
    lines = [layer_label(entry["layer"]), path]
    lengthscale = finite(entry.get("lengthscale"))
    if lengthscale is not None:
        lines.append(f"ℓ = {lengthscale:.2f}")
    return "\n".join(lines)
