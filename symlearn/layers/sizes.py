"""Sizes of feature maps: how they are given, and how a wrong one is refused.

Axes: batch, c_in, h, w.
"""

from __future__ import annotations

from torch import Tensor

Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    """A size given as h or (h, w).

    Returns:
        (h, w); w is h where one number was given.

    Raises:
        ValueError: not one or two positive integers.
    """
    h_w = (size, size) if isinstance(size, int) else tuple(size)
    if len(h_w) != 2 or any(not isinstance(s, int) or s < 1 for s in h_w):
        raise ValueError(f"a size is a positive integer or a pair (h, w) of them, got {size!r}")
    return h_w


def expect_channels(c_in: int, c_out: int) -> None:
    """Refuse channel counts that are not positive."""
    if c_in < 1 or c_out < 1:
        raise ValueError(f"channel counts must be positive, got c_in={c_in}, c_out={c_out}")


def expect_map(x: Tensor, c_in: int, in_size: tuple[int, int]) -> None:
    """Refuse a feature map of another shape than `[batch, c_in, h, w]`."""
    if x.dim() != 4 or tuple(x.shape[1:]) != (c_in, *in_size):
        raise ValueError(
            f"expected a map [batch, {c_in}, {in_size[0]}, {in_size[1]}], got {list(x.shape)}; "
            "build the layer for the size it is used at"
        )
