"""What maps are made of places on: signals, images or volumes, by the number of axes of places.

    signals   [n, c, t]          images   [n, c, h, w]          volumes   [n, c, d, h, w]

A size is the tuple of their lengths: (t,), (h, w) or (d, h, w).

Axes: n, c, t, d, h, w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Kind = Literal["signals", "images", "volumes"]
AXES: dict[Kind, int] = {"signals": 1, "images": 2, "volumes": 3}
LETTERS = {1: ("t",), 2: ("h", "w"), 3: ("d", "h", "w")}


def kind_of(size: Sequence[int]) -> Kind:
    """What maps of this size are called."""
    return get_args(Kind)[len(size) - 1]


def layout(axes: int, first: str = "n, c") -> str:
    """Names of the axes of such data, "[n, c, h, w]"."""
    return f"[{', '.join((first, *LETTERS[axes]))}]"


def shown(size: Sequence[int]) -> str:
    """A size as people write it: "64", "16x16", "12x12x12"."""
    return "x".join(map(str, size))


def of_size(size: Sequence[int]) -> str:
    """Kind and size in words: "signals of 64", "images of 16x16"."""
    return f"{kind_of(size)} of {shown(size)}"
