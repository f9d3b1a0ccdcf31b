"""A grid of layers × paths: cells, rows from the top down, paths above, verdicts at the right."""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from symlearn.report.plots.style import FAINT, INK, text_colour

GAP = 0.03  # white between cells, in cells
VERDICT_COLUMNS = 0.95  # room for the verdicts at the right, in cells


def cell(axes: Axes, column: int, at: int, colour: str, hatched: bool = False) -> None:
    """One cell, filled or hatched."""
    drawn = Rectangle(*box(column, at, GAP), facecolor=colour, linewidth=0)
    if hatched:
        drawn.set(hatch="////", edgecolor="#c4c4c4")
    axes.add_patch(drawn)


def outline(axes: Axes, column: int, at: int) -> None:
    """A frame around a cell."""
    axes.add_patch(
        Rectangle(*box(column, at, GAP + 0.012), fill=False, edgecolor=INK, linewidth=1.8, zorder=3)
    )


def box(column: int, at: int, gap: float, columns: int = 1) -> tuple[tuple[float, float], float, float]:
    """Corner, width and height of cells in data coordinates, less a gap that is wider between rows."""
    return (column - 0.5 + 0.6 * gap, at - 0.5 + 1.5 * gap), columns - 1.2 * gap, 1 - 3 * gap


def frame(axes: Axes, labels: list[str], columns: int) -> None:
    """Rows from the top down, no spines or ticks, room for the verdicts at the right."""
    axes.set(xlim=(-0.5, columns - 0.5 + VERDICT_COLUMNS), ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticks(range(len(labels)), labels, fontsize=10.5, color=INK, parse_math=False)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelbottom=False)
    axes.spines[:].set_visible(False)


def label_paths(axes: Axes, paths: list[str]) -> None:
    """Names of the paths above their columns, and a heading for the verdicts."""
    for column, path in enumerate(paths):
        axes.annotate(
            path.replace(":", ":\n"),
            (column, -0.5),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10.5,
            weight="bold",
            color=text_colour(path),
            parse_math=False,
            annotation_clip=False,
        )
    axes.annotate(
        "equivariant to",
        (len(paths) - 0.5 + 0.08, -0.5),
        xytext=(0, 5),
        textcoords="offset points",
        va="bottom",
        fontsize=10.5,
        color=FAINT,
        annotation_clip=False,
    )


def label_verdict(axes: Axes, at: int, columns: int, words: str, colour: str) -> None:
    """A layer's verdict at the right of its row."""
    axes.text(
        columns - 0.5 + 0.08,
        at,
        words,
        va="center",
        fontsize=10,
        parse_math=False,
        color=colour,
        weight="bold",
    )
