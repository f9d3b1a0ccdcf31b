"""What a convolution may lack: filters that differ by place, of low rank and slowly.

    y(c_out, v) = sum_r a_r(c_out, v) (psi_r * x)(c_out, v) + sum_q b(c_out, q) phi_q(v)
    a_r(c_out, v) = sum_q alpha(c_out, r, q) phi_q(v)

A relaxed group convolution of the translations (Wang, Walters & Yu 2022): at every place another mixture of
`rank` circular convolutions psi_r. Unlike theirs, every output channel has amplitudes of its own, and they
lie in the span of the slowest cosines on the grid but the constant, three an axis (`zero_mean.py`): so the
deviation is orthogonal to a convolution beside it, and it cannot change abruptly from one place to the next.
With psi or alpha at zero, and b, a sum with a convolution commutes with shifts exactly.

Weights: rank c_in c_out k^2 + 8 (rank + 1) c_out, against c_in c_out (X + V) of F-FC.

The two factors are modules of their own, linear each while the other is held: `filters`, x -> z, and
`amplitudes`, z -> y.

Axes: batch, c_in, c_out, rank (r), function (q), h, w, v (place).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from symlearn.layers.conv import CircularConv2d
from symlearn.layers.dense import matrix_of
from symlearn.layers.sizes import Size, expect_channels, expect_map, pair
from symlearn.layers.spatial_filters import SpatialFilters
from symlearn.layers.zero_mean import on_places

FREQUENCIES = 3  # cosines an axis, the constant included


class PlaceAmplitudes(nn.Module):
    """Every channel of the filters' output times its amplitude, summed over the rank.

    `[batch, c_out * rank, h, w] -> [batch, c_out, h, w]`. Weight `[c_out, rank, function]`, uniform in
    +-sqrt(3 / (rank function)); bias `[c_out * function]`, zero at the start.
    """

    functions: Tensor

    def __init__(self, c_out: int, rank: int, size: tuple[int, int], bias: bool = True) -> None:
        super().__init__()
        functions = on_places(size, FREQUENCIES)  # [function, h, w]
        self.register_buffer("functions", functions, persistent=False)
        self.weight = nn.Parameter(torch.empty(c_out, rank, len(functions)))
        self.bias = nn.Parameter(torch.zeros(c_out * len(functions))) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        bound = math.sqrt(3 / self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def at_places(self, coefficients: Tensor) -> Tensor:
        """`[..., function] -> [..., h, w]`."""
        return torch.einsum("...q,qhw->...hw", coefficients, self.functions.to(coefficients.dtype))

    def offsets(self) -> Tensor:
        """What the bias adds, `[c_out, h, w]`."""
        assert self.bias is not None
        return self.at_places(self.bias.unflatten(0, (len(self.weight), -1)))

    def forward(self, z: Tensor) -> Tensor:
        """`[batch, c_out * rank, h, w] -> [batch, c_out, h, w]`."""
        y = (z.unflatten(1, self.weight.shape[:2]) * self.at_places(self.weight)).sum(2)
        return y if self.bias is None else y + self.offsets()


class ShiftDeviation2d(nn.Module):
    """Filters that differ by place, `[batch, c_in, h, w] -> [batch, c_out, h, w]`.

    Args:
        c_in: input channels.
        c_out: output channels.
        size: h, or (h, w), of the maps.
        kernel_size: k.
        rank: number of filters that are mixed.
        bias: whether there is one, `[c_out * function]`.

    Raises:
        ValueError: a count that is not positive, maps of one place; an input of another shape.
    """

    def __init__(
        self, c_in: int, c_out: int, size: Size, kernel_size: int = 3, rank: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        self.c_in, self.c_out, self.size, self.rank = c_in, c_out, pair(size), rank
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be a positive integer, got {rank!r}")
        if self.size == (1, 1):
            raise ValueError("maps of 1x1 have one place, so nothing can differ by place; use larger maps")
        self.filters = CircularConv2d(c_in, c_out * rank, kernel_size, bias=False)
        self.amplitudes = PlaceAmplitudes(c_out, rank, self.size, bias)

    def reset_parameters(self) -> None:
        """Draw the initial values of both factors."""
        self.filters.reset_parameters()
        self.amplitudes.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, h, w] -> [batch, c_out, h, w]`."""
        expect_map(x, self.c_in, self.size)
        return cast(Tensor, self.amplitudes(self.filters(x)))

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.amplitudes.weight.mul_(factor)

    def spatial_filters(self) -> list[SpatialFilters]:
        """The filters of every pair of channels, and how strong they are by place."""
        amplitudes = self.amplitudes.at_places(self.amplitudes.weight)
        return [
            SpatialFilters("filters", self.filters.weight.flatten(0, 1)),
            SpatialFilters("amplitudes", amplitudes.flatten(0, 1)),
        ]

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix `[c_out * h * w, c_in * h * w]`. For tests."""
        offsets = 0.0 if self.amplitudes.bias is None else self.amplitudes.offsets()
        return matrix_of(lambda x: self(x) - offsets, (self.c_in, *self.size), self.filters.weight)

    def extra_repr(self) -> str:
        """Channels, size and rank, for printing."""
        return f"{self.c_in}, {self.c_out}, size={self.size}, rank={self.rank}"
