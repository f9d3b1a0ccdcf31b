"""CONV: the stationary fully connected layer with a k x k support and circular padding.

    y(c_out, x) = sum_{c_in, t} theta(c_out, c_in, t) x(c_in, x + t) + b(c_out)

exactly equivariant to circular shifts (van der Ouderaa et al. 2023, Eq. 3).

Axes: batch, c_in, c_out, h, w, k.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.layers.dense import given_size, matrix_of
from symlearn.layers.sizes import Size, expect_channels, pair
from symlearn.layers.spatial_filters import SpatialFilters


def wrap(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Circular padding of one axis; `before` and `after` may exceed its size."""
    size = x.shape[dim]
    if before > size or after > size:
        return x.index_select(dim, torch.arange(-before, size + after, device=x.device) % size)
    return torch.cat([x.narrow(dim, size - before, before), x, x.narrow(dim, 0, after)], dim)


def circular_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve a map that wraps around, by strides of 1.

    Two concatenations do the padding, in place of many small copies.

    Args:
        x: the map `[batch, c_in, h, w]`.
        weight: `[c_out, c_in, k_h, k_w]`; even k is padded more at the far side.
        bias: `[c_out]`, or None.

    Returns:
        A map `[batch, c_out, h, w]`.
    """
    k_h, k_w = weight.shape[-2:]
    padded = wrap(x, (k_h - 1) // 2, k_h // 2, 2)
    return F.conv2d(wrap(padded, (k_w - 1) // 2, k_w // 2, 3), weight, bias)


class CircularConv2d(nn.Conv2d):
    """CONV, `[batch, c_in, h, w] -> [batch, c_out, h, w]`, weight `[c_out, c_in, k, k]`.

    Kaiming-uniform for ReLU; biases start at zero. Even k is padded more at the far side, as `nn.Conv2d`
    does with `padding="same"`.

    Raises:
        ValueError: a channel count or kernel size is not positive.
    """

    def __init__(self, c_in: int, c_out: int, kernel_size: Size = 3, bias: bool = True) -> None:
        expect_channels(c_in, c_out)
        super().__init__(c_in, c_out, pair(kernel_size), padding="same", padding_mode="circular", bias=bias)

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `nn.Conv2d`; see `circular_conv2d`."""
        return circular_conv2d(input, weight, bias)

    def plane_filters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are; see `merged.py`."""
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
            `[c_out * h * w, c_in * h * w]`, between flattened maps.

        Raises:
            ValueError: `in_size` is missing.
        """
        shape = (self.in_channels, *given_size(in_size))
        return matrix_of(lambda x: self._conv_forward(x, self.weight, None), shape, self.weight)
