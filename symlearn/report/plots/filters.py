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
from matplotlib.patches import Rectangle

from symlearn.report.plots.style import INK, RULE, message_figure, new_figure, note, path_colour, text_colour
from symlearn.report.reading import Report, finite, layer_label

TITLE = "Learned filters"
_COLUMNS = 6
_STEP = 1.12  # from filter to filter, in their widths
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
    for axes, entry in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        _draw_row(axes, entry)
    anchors = "dots: anchors · ℓ: lengthscale in grid spacings · " if any(e["anchors"] for e in rows) else ""
    note(figure, anchors + SCALES[max(len(entry["size"]) for entry in rows)])
    figure.set_label(
        f"Filters of largest norm of {len(rows)} weight tensors: "
        + ", ".join(_label(entry).replace("\n", " ") for entry in rows)
    )
    return figure


def _draw_row(axes: Axes, entry: Mapping[str, Any]) -> None:
    """The filters of one tensor side by side in one panel, each 1 wide and 1 high in a frame of its own."""
    shown = np.array(entry["filters"], dtype=float).reshape(-1, *entry["size"])
    limit = float(np.abs(shown).max()) or 1.0
    for at, values in enumerate(shown[:_COLUMNS]):
        wide, high = DRAWN[len(entry["size"])](axes, values, limit, entry, at * _STEP)
        axes.add_patch(
            Rectangle(
                (at * _STEP, 0), wide, high, fill=False, edgecolor=path_colour(entry["path"]), linewidth=0.8
            )
        )
    axes.set(xlim=(-0.02, _COLUMNS * _STEP), ylim=(-0.02, 1.02), xticks=[], yticks=[], aspect="equal")
    axes.set_anchor("W")
    axes.spines[:].set_visible(False)
    axes.set_ylabel(
        _label(entry), rotation=0, ha="right", va="center", fontsize=9, color=text_colour(entry["path"])
    )


def _signal(
    axes: Axes, values: np.ndarray, limit: float, entry: Mapping[str, Any], left: float
) -> tuple[float, float]:
    """`[t]` as a line about zero; width and height of what was drawn."""
    places = left + (np.arange(len(values)) + 0.5) / len(values)
    axes.plot([left, left + 1], [0.5, 0.5], color=RULE, linewidth=0.8)
    axes.plot(places, 0.5 + values / (2.2 * limit), color=path_colour(entry["path"]), linewidth=1.2)
    if entry["anchors"]:
        at = left + (np.array(entry["anchors"], dtype=float)[:, 0] + 0.5) / len(values)
        axes.scatter(at, np.full_like(at, 0.5), s=5, color=INK, linewidths=0, zorder=3)
    return 1.0, 1.0


def _image(
    axes: Axes, values: np.ndarray, limit: float, entry: Mapping[str, Any], left: float
) -> tuple[float, float]:
    """`[h, w]`, white at zero, its longer side 1; width and height of what was drawn."""
    h, w = values.shape
    wide, high = w / max(h, w), h / max(h, w)
    axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(left, left + wide, 0, high))
    if entry["anchors"]:
        rows, columns = (np.array(entry["anchors"], dtype=float).T + 0.5) / max(h, w)
        size = float(np.clip(90 / (h * w), 0.6, 9))
        axes.scatter(left + columns, high - rows, s=size, color=INK, linewidths=0)
    return wide, high


def _volume(
    axes: Axes, values: np.ndarray, limit: float, entry: Mapping[str, Any], left: float
) -> tuple[float, float]:
    """`[d, h, w]` slice by slice, row by row, with a gap between them; its anchors lie between slices."""
    across = math.ceil(math.sqrt(len(values)))
    padded = np.pad(values, ((0, -len(values) % across), (0, 1), (0, 1)), constant_values=np.nan)
    rows = padded.reshape(-1, across, *padded.shape[1:]).transpose(0, 2, 1, 3)
    montage = rows.reshape(rows.shape[0] * rows.shape[1], -1)[:-1, :-1]
    return _image(axes, montage, limit, {**entry, "anchors": []}, left)


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
