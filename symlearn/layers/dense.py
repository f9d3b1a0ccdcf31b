"""The matrix of a linear map that fits any size, column by column. For tests.

Axes: batch, c, size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from symlearn.layers.sizes import Size, sides


def given_size(in_size: Size | None) -> tuple[int, ...]:
    """The input size that a convolution's matrix is asked for.

    Returns:
        (t,), (h, w) or (d, h, w); (h, h) where one number was given.

    Raises:
        ValueError: none is given.
    """
    if in_size is None:
        raise ValueError("a convolution fits any size; give in_size=(h, w) for its matrix")
    return sides(in_size)


def matrix_of(linear: Callable[[Tensor], Tensor], in_shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The matrix `[outputs, inputs]` of a linear map on maps `[batch, *in_shape]`, in the type of `like`."""
    axes = torch.eye(math.prod(in_shape), dtype=like.dtype, device=like.device)
    return linear(axes.reshape(-1, *in_shape)).flatten(1).T
