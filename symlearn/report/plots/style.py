"""What all figures share: colours of the paths, figure and axes without ornament, titles.

Figures are made without pyplot, so they touch no global state and need no display. They are 10 inches wide
at 100 dots an inch: 1000 pixels. Every figure carries a sentence that says what it shows as its
label (`figure.get_label()`), which the HTML page uses as the alternative text.

A path has the same colour in every figure, by its name alone (`layers/registry.py`).
"""

import textwrap
import zlib
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from symlearn.layers.registry import known_kind
from symlearn.report.reading import HEAD_PATH, Report
from symlearn.report.wording import subject

WIDTH = 10.0  # inches
INK = "#222222"
FAINT = "#8a8a8a"
RULE = "#dddddd"

_OTHERS = {HEAD_PATH: "#7F7F7F", "other": "#4D4D4D"}


def path_colour(path: str) -> str:
    """The colour of a path, by its name alone; one without its own takes a shade of its family's."""
    if path in _OTHERS:
        return _OTHERS[path]
    kind = known_kind(path)
    if kind is not None and kind.colour:
        return kind.colour
    base = kind.family_colour if kind is not None else "#4D4D4D"
    shade = zlib.crc32(path.encode()) % 1000 / 1000  # the same in every process, unlike hash()
    if shade < 0.6:
        return blend(base, "#ffffff", 0.25 + 0.35 * shade)
    return blend(base, "#000000", 0.7 * (shade - 0.5))


def blend(colour: str, towards: str, amount: float) -> str:
    """`colour` moved towards another one; amount 0 leaves it, 1 gives the other."""
    red, green, blue = (
        (1 - amount) * a + amount * b for a, b in zip(to_rgb(colour), to_rgb(towards), strict=True)
    )
    return to_hex((red, green, blue))


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on the colour, by its relative luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if luminance < 0.28 else INK


def text_colour(path: str) -> str:
    """The path's colour, darkened until it reads as text on white."""
    return blend(path_colour(path), "#000000", 0.3)


def new_figure(height: float, title: str, report: Report | None, width: float = WIDTH) -> Figure:
    """An empty figure of `width` × `height` inches, with its title and below that what the run was about."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    about = textwrap.fill(subject(report), int(10.5 * width), break_on_hyphens=False)
    figure.suptitle(f"{title}\n{about}" if about else title, fontsize=12, color=INK, parse_math=False)
    return figure


def tidy(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Two spines, small quiet ticks, and a faint grid along one axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9.5, color=FAINT)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=RULE, linewidth=0.7)


def note(figure: Figure, text: str) -> None:
    """A quiet line below the figure that says how to read it."""
    figure.supxlabel(text, fontsize=9, color="#666666")


def message_figure(title: str, report: Report | None, message: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(2.2, title, report)
    figure.text(0.5, 0.4, message, ha="center", va="center", fontsize=11, color="#666666", parse_math=False)
    figure.set_label(f"{title}: {message}")
    return figure
