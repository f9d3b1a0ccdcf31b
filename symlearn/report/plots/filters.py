"""Learned filters, a row a weight tensor, with the anchors that sparsified ones are interpolated between."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from symlearn.report.plots.style import INK, message_figure, new_figure, note, path_colour, text_colour
from symlearn.report.reading import Report, finite, layer_label

TITLE = "Learned filters"
_COLUMNS = 6
Filters = Sequence[Mapping[str, Any]]


def learned_filters(filters: Filters, report: Report | None = None) -> Figure:
    """A row a weight tensor: its filters of largest norm, red above zero and blue below, dots at anchors.

    Every row has a colour scale of its own; rows are as wide as their filters are many.

    Returns:
        A figure whose label names the weight tensors; without filters, one that says so.
    """
    rows = [entry for entry in filters if entry.get("filters")]
    if not rows:
        return message_figure(TITLE, report, "no path with filters was kept")
    figure = new_figure(1.2 + 1.15 * len(rows), TITLE, report)
    grid = figure.subplots(len(rows), _COLUMNS, squeeze=False)
    for row, entry in zip(grid, rows, strict=True):
        h, w = entry["size"]
        images = np.array(entry["filters"], dtype=float).reshape(-1, h, w)
        limit = float(np.abs(images).max()) or 1.0
        anchors = np.array(entry["anchors"] or np.empty((0, 2)), dtype=float)
        for at, axes in enumerate(row):
            axes.set_xticks([])
            axes.set_yticks([])
            if at >= len(images):
                axes.set_axis_off()
                continue
            axes.spines[:].set_color(path_colour(entry["path"]))
            axes.imshow(images[at], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="equal")
            if len(anchors):
                size = float(np.clip(90 / (h * w), 0.6, 9))
                axes.scatter(anchors[:, 1], anchors[:, 0], s=size, color=INK, linewidths=0)
                axes.set_xlim(-0.5, w - 0.5)
                axes.set_ylim(h - 0.5, -0.5)
        row[0].set_ylabel(
            _label(entry), rotation=0, ha="right", va="center", fontsize=9, color=text_colour(entry["path"])
        )
    if any(entry["anchors"] for entry in rows):
        note(figure, "dots: anchors · ℓ: lengthscale in grid spacings · a colour scale a row, white at zero")
    else:
        note(figure, "a colour scale a row, white at zero")
    figure.set_label(
        f"Filters of largest norm of {len(rows)} weight tensors: "
        + ", ".join(_label(entry).replace("\n", " ") for entry in rows)
    )
    return figure


def _label(entry: Mapping[str, Any]) -> str:
    path = f"{entry['path']} {entry['part']}".strip()
    lines = [layer_label(entry["layer"]), path]
    lengthscale = finite(entry.get("lengthscale"))
    if lengthscale is not None:
        lines.append(f"ℓ = {lengthscale:.2f}")
    return "\n".join(lines)
