"""CONV: the stationary fully connected layer with a support of k taps an axis and circular padding.

    y(c_out, x) = sum_{c_in, t} theta(c_out, c_in, t) x(c_in, x + t) + b(c_out)

exactly equivariant to circular shifts (van der Ouderaa et al. 2023, Eq. 3), of signals, images and volumes.

Axes: batch, c_in, c_out, size (t; h, w; d, h, w), k.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from symlearn.layers.dense import given_size, matrix_of
from symlearn.layers.sizes import Size, expect_channels, sides
from symlearn.layers.spatial_filters import SpatialFilters

CONVOLVE: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}  # by the number of axes


def wrap(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Circular padding of one axis; `before` and `after` may exceed its size."""
    size = x.shape[dim]
    if before > size or after > size:
        return x.index_select(dim, torch.arange(-before, size + after, device=x.device) % size)
    return torch.cat([x.narrow(dim, size - before, before), x, x.narrow(dim, 0, after)], dim)


def wrap_around(x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Circular padding of every axis for a kernel; even k is padded more at the far side."""
    for dim, k in enumerate(kernel, 2):
        x = wrap(x, (k - 1) // 2, k // 2, dim)
    return x


def circular_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve a map that wraps around, by strides of 1.

    Two concatenations an axis do the padding, in place of many small copies.

    Args:
        x: the map `[batch, c_in, *size]`.
        weight: `[c_out, c_in, *k]`; even k is padded more at the far side.
        bias: `[c_out]`, or None.

    Returns:
        A map `[batch, c_out, *size]`.
    """
    kernel = weight.shape[2:]
    return CONVOLVE[len(kernel)](wrap_around(x, kernel), weight, bias)  # type: ignore[no-any-return]


class CircularConv(_ConvNd):
    """CONV of any number of axes; its heirs add the type of torch that it is, and nothing else.

    Kaiming-uniform for ReLU; biases start at zero. Even k is padded more at the far side, as torch does with
    `padding="same"`.
    """

    axes: ClassVar[int]

    def __init__(self, c_in: int, c_out: int, kernel_size: Size = 3, bias: bool = True) -> None:
        expect_channels(c_in, c_out)
        kernel = sides(kernel_size, self.axes)
        if len(kernel) != self.axes:
            raise ValueError(
                f"a kernel size of {type(self).__name__} has {self.axes} axes, got {kernel_size!r}"
            )
        arguments: dict[str, Any] = {"padding": "same", "padding_mode": "circular", "bias": bias}
        super().__init__(c_in, c_out, kernel, **arguments)

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As torch's; see `circular_conv`."""
        return circular_conv(input, weight, bias)

    def _plane_filters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are; see `merged.py`, to which every type says so by itself."""
        return self.weight, self.bias

    def spatial_filters(self) -> list[SpatialFilters]:
        """The filters of every pair of channels."""
        return [SpatialFilters("", self.weight.flatten(0, 1))]

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.weight.mul_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix at the given input size. For tests.

        Returns:
            `[c_out * x, c_in * x]`, between flattened maps of x places.

        Raises:
            ValueError: `in_size` is missing.
        """
        shape = (self.in_channels, *given_size(in_size))
        return matrix_of(lambda x: self._conv_forward(x, self.weight, None), shape, self.weight)


class CircularConv1d(CircularConv, nn.Conv1d):
    """CONV of signals, `[batch, c_in, t] -> [batch, c_out, t]`, weight `[c_out, c_in, k]`.

    Raises:
        ValueError: a channel count or kernel size is not positive.
    """

    axes = 1
    plane_filters = CircularConv._plane_filters


class CircularConv2d(CircularConv, nn.Conv2d):
    """CONV of images, `[batch, c_in, h, w] -> [batch, c_out, h, w]`, weight `[c_out, c_in, k, k]`.

    Raises:
        ValueError: a channel count or kernel size is not positive.
    """

    axes = 2
    plane_filters = CircularConv._plane_filters


class CircularConv3d(CircularConv, nn.Conv3d):
    """CONV of volumes, `[batch, c_in, d, h, w] -> [batch, c_out, d, h, w]`, weight `[c_out, c_in, k, k, k]`.

    Raises:
        ValueError: a channel count or kernel size is not positive.
    """

    axes = 3
    plane_filters = CircularConv._plane_filters


CIRCULAR_CONVS: dict[int, type[CircularConv]] = {
    kind.axes: kind for kind in (CircularConv1d, CircularConv2d, CircularConv3d)
}
