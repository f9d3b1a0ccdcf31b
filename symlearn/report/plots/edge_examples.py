"""Images at the edge of what counts as the same: a contact sheet."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from symlearn.report.found_reading import Found, Rows
from symlearn.report.plots.measured_symmetries import BEFORE
from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure
from symlearn.report.reading import Report
from symlearn.report.wording import shortened

TITLE = "At the edge"
HEAD, PITCH = 1.25, 1.24  # widths of the words at the left and distance of rows, in widths of a cell
GAP = 0.04  # around an image
LINE = 15  # characters above an image
OTHER = "#9A4A00"  # of the words of another answer


def edge_examples(rows: Rows, report: Report | None = None, found: Found | None = None) -> Figure:
    """A column an image, a row what was done to it; above each, how far it went and what the network says.

    Args:
        rows: of examples.json.
        report: of the run.
        found: says why there are none.

    Returns:
        A figure whose label gives the rows; without images, one that says why.
    """
    if not rows:
        why = ((found or {}).get("skipped") or {}).get("edges", "no image was looked at")
        return message_figure(TITLE, report, str(why))
    columns = len(rows[0]["cells"])
    cell = 9.8 / (HEAD + columns)  # inches
    figure = new_figure(0.8 + cell * PITCH * len(rows), TITLE, report)
    axes = figure.subplots()
    axes.set_axis_off()
    for number, row in enumerate(rows):
        top = number * PITCH
        words = textwrap.fill(str(row["words"]), 18)
        axes.text(-HEAD, top + 0.5, words, va="center", fontsize=10, color=INK, parse_math=False)
        for column, one in enumerate(row["cells"]):
            if one is None:
                axes.text(column + 0.5, top + 0.5, "never", ha="center", va="center", color=FAINT)
            else:
                _draw(axes, column, top, one)
    axes.set(xlim=(-HEAD, columns), ylim=(len(rows) * PITCH - 0.15, -0.2), aspect="equal")
    told = "; ".join(str(row["words"]) for row in rows)
    figure.set_label(f"{TITLE}: {columns} images, each {told}")
    return figure


def _draw(axes: Axes, left: float, top: float, cell: Mapping[str, Any]) -> None:
    """One image in its cell of one by one, with its words above; framed where the answer is another."""
    pixels = np.asarray(cell["pixels"], dtype=np.uint8)
    h, w = pixels.shape[:2]
    width, height = ((1 - 2 * GAP) * side / max(h, w) for side in (w, h))
    x, y = left + (1 - width) / 2, top + (1 - height) / 2
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(x, x + width, y + height, y), zorder=1)
    other, amount = bool(cell["other"]), str(cell["amount"])
    if other:
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=BEFORE, linewidth=2.2))
    answer = shortened(str(cell["answer"]), 14)
    words = f"{amount} → {answer}" if amount else answer
    if len(words) > LINE:
        words = words.replace(" → ", "\n→ ")
    axes.text(
        left + 0.5,
        y - 0.03,
        words,
        ha="center",
        va="bottom",
        fontsize=9.5,
        linespacing=1.05,
        color=OTHER if other else INK,
        weight="bold" if other else "normal",
        parse_math=False,
    )
