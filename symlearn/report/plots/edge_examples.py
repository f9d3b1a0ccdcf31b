"""Images at the edge of what counts as the same: a contact sheet."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from symlearn.report.found_reading import Found, Rows
from symlearn.report.plots.measured_symmetries import BEFORE
from symlearn.report.plots.style import FAINT, INK, message_figure, new_figure
from symlearn.report.reading import Report
from symlearn.report.wording import shortened

TITLE = "At the edge"


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
    figure = new_figure(1.0 + 1.52 * len(rows), TITLE, report)
    grid = figure.subplots(len(rows), columns + 1, squeeze=False, width_ratios=[1.15, *[1] * columns])
    at_rest = [cell["answer"] if cell else None for cell in rows[0]["cells"]]
    for number, row in enumerate(rows):
        head, *panels = grid[number]
        head.set_axis_off()
        words = textwrap.fill(str(row["words"]), 18)
        head.text(0, 0.5, words, va="center", fontsize=10, color=INK, parse_math=False)
        for axes, cell, before in zip(panels, row["cells"], at_rest, strict=True):
            axes.set_axis_off()
            if cell is None:
                axes.text(0.5, 0.5, "never", ha="center", va="center", fontsize=10, color=FAINT)
                continue
            axes.imshow(np.asarray(cell["pixels"], dtype=np.uint8), cmap="gray", vmin=0, vmax=255)
            answer = shortened(str(cell["answer"]), 14)
            other = cell["answer"] != before
            axes.set_title(
                f"{cell['amount']} → {answer}" if cell["amount"] else answer,
                fontsize=10,
                color="#9A4A00" if other else INK,
                weight="bold" if other else "normal",
                parse_math=False,
                pad=3,
            )
            if other:
                axes.set_axis_on()
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(color=BEFORE, linewidth=2.2)
    told = "; ".join(str(row["words"]) for row in rows)
    figure.set_label(f"{TITLE}: {columns} images, each {told}")
    return figure
