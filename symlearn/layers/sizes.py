"""Sizes of feature maps: how they are given, and how a wrong one is refused.

A map has one, two or three axes of places: a signal (t,), an image (h, w), a volume (d, h, w); layers take
the number from the sizes they are built for. One number stands for an image of as many rows as columns.

Axes: batch, c_in, size (t; h, w; d, h, w).
"""

from __future__ import annotations

from torch import Tensor

from symlearn.kinds import LETTERS, kind_of

Size = int | tuple[int, ...]


def sides(size: Size, axes: int = 2) -> tuple[int, ...]:
    """A size given as one number, or as a tuple with a number an axis.

    Args:
        size: what is given.
        axes: how many axes one number stands for.

    Returns:
        (t,), (h, w) or (d, h, w).

    Raises:
        ValueError: not one, two or three positive integers.
    """
    each = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(each) not in LETTERS or any(not isinstance(s, int) or s < 1 for s in each):
        raise ValueError(
            f"a size is a positive integer or a tuple (t,), (h, w) or (d, h, w) of them, got {size!r}"
        )
    return each


def pair(size: Size) -> tuple[int, int]:
    """A size of images, given as h or (h, w).

    Returns:
        (h, w); w is h where one number was given.

    Raises:
        ValueError: not one or two positive integers.
    """
    h_w = (size, size) if isinstance(size, int) else tuple(size)
    if len(h_w) != 2 or any(not isinstance(s, int) or s < 1 for s in h_w):
        raise ValueError(f"a size is a positive integer or a pair (h, w) of them, got {size!r}")
    return h_w[0], h_w[1]


def expect_channels(c_in: int, c_out: int) -> None:
    """Refuse channel counts that are not positive."""
    if c_in < 1 or c_out < 1:
        raise ValueError(f"channel counts must be positive, got c_in={c_in}, c_out={c_out}")


def expect_same_axes(in_size: tuple[int, ...], out_size: tuple[int, ...]) -> None:
    """Refuse a map from signals to images and the like."""
    if len(in_size) != len(out_size):
        raise ValueError(
            f"sizes of input and output are as many positive integers, got {in_size} and {out_size}; give "
            f"both for {kind_of(in_size)}, or both for {kind_of(out_size)}"
        )


def expect_map(x: Tensor, c_in: int, in_size: tuple[int, ...]) -> None:
    """Refuse a feature map of another shape than `[batch, c_in, *in_size]`."""
    if x.dim() != 2 + len(in_size) or tuple(x.shape[1:]) != (c_in, *in_size):
        raise ValueError(
            f"expected a map [batch, {', '.join(map(str, (c_in, *in_size)))}], got {list(x.shape)}; "
            "build the layer for the size it is used at"
        )
