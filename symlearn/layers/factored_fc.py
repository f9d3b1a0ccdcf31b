"""F-FC: a fully connected layer as two channel-wise linear maps (van der Ouderaa et al. 2023, Eq. 5).

    z(c_out, c_in) = sum_x theta1(c_out, c_in, x) x(c_in, x) + b1(c_out)
    y(c_out, v)    = sum_{c_in} theta2(c_out, c_in, v) z(c_out, c_in) + b2(v)

Each factor is one batched matrix product: theta1 maps, for every input channel by itself, x -> c_out; theta2
maps, for every output channel by itself, c_in -> v. The input is never expanded over channels.

Axes: batch, c_in, c_out, x (input place), v (output place).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from symlearn.layers.sizes import Size, expect_channels, expect_map, expect_same_axes, sides
from symlearn.layers.spatial_filters import SpatialFilters


def input_channel_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[batch, c_in, x] -> [batch, c_out, c_in]` by a weight `[c_out, c_in, x]` and a bias `[c_out]`."""
    # einsum(x, weight, "batch c_in x, c_out c_in x -> c_in c_out batch"): no operand needs a copy
    z = torch.bmm(weight.transpose(0, 1), x.permute(1, 2, 0))
    if bias is not None:
        z = z + bias.unsqueeze(1)
    return z.permute(2, 1, 0)


def output_channel_linear(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[batch, c_out, c_in] -> [batch, c_out, v]` by a weight `[c_out, c_in, v]` and a bias `[v]`."""
    # einsum(z, weight, "batch c_out c_in, c_out c_in v -> c_out batch v")
    y = torch.bmm(z.transpose(0, 1), weight)
    if bias is not None:
        y = y + bias
    return y.transpose(0, 1)


def draw_theta1(weight: Tensor) -> Tensor:
    """Fill a weight `[c_out, c_in, x]` with initial values, uniform in +-sqrt(3 / x)."""
    bound = math.sqrt(3 / weight.shape[2])
    return nn.init.uniform_(weight, -bound, bound)


def draw_theta2(weight: Tensor) -> Tensor:
    """Fill a weight `[c_out, c_in, v]` with initial values, uniform in +-sqrt(3 / c_in)."""
    bound = math.sqrt(3 / weight.shape[1])
    return nn.init.uniform_(weight, -bound, bound)


class InputChannelLinear(nn.Module):
    """theta1: for every input channel, a linear map from places to output channels.

    `[batch, c_in, x] -> [batch, c_out, c_in]`. Weight `[c_out, c_in, x]`, uniform in +-sqrt(3 / x); bias
    `[c_out]`, the same for every input channel, zero at the start.
    """

    def __init__(self, c_in: int, c_out: int, places: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, places))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.fan_in = places
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        draw_theta1(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, x] -> [batch, c_out, c_in]`."""
        return input_channel_linear(x, self.weight, self.bias)


class OutputChannelLinear(nn.Module):
    """theta2: for every output channel, a linear map from input channels to places.

    `[batch, c_out, c_in] -> [batch, c_out, v]`. Weight `[c_out, c_in, v]`, uniform in +-sqrt(3 / c_in); bias
    `[v]`, shared by the output channels, zero at the start.
    """

    def __init__(self, c_in: int, c_out: int, places: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, places))
        self.bias = nn.Parameter(torch.zeros(places)) if bias else None
        self.fan_in = c_in
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        draw_theta2(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, z: Tensor) -> Tensor:
        """`[batch, c_out, c_in] -> [batch, c_out, v]`."""
        return output_channel_linear(z, self.weight, self.bias)


class TwoFactors2d(nn.Module):
    """What F-FC and its sparsified form share: sizes, and a map by theta1, then theta2.

    Subclasses set `theta1` (`[batch, c_in, x] -> [batch, c_out, c_in]`) and `theta2` (`[batch, c_out, c_in]
    -> [batch, c_out, v]`), each with a `weight` and `reset_parameters`, and give the dense factors.
    """

    theta1: nn.Module
    theta2: nn.Module

    def __init__(self, c_in: int, c_out: int, in_size: Size, out_size: Size) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        self.c_in, self.c_out = c_in, c_out
        self.in_size, self.out_size = sides(in_size), sides(out_size)
        expect_same_axes(self.in_size, self.out_size)

    def dense_factors(self) -> tuple[Tensor, Tensor]:
        """theta1 `[c_out, c_in, x]` and theta2 `[c_out, c_in, v]`."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the initial values of both factors."""
        for factor in (self.theta1, self.theta2):
            cast(InputChannelLinear, factor).reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *in_size] -> [batch, c_out, *out_size]`."""
        expect_map(x, self.c_in, self.in_size)
        z = self.theta1(x.flatten(2))
        return self.theta2(z).unflatten(2, self.out_size)

    def spatial_filters(self) -> list[SpatialFilters]:
        """What theta1 reads and what theta2 writes, for every pair of channels."""
        theta1, theta2 = self.dense_factors()
        return [
            SpatialFilters("theta1", theta1.flatten(0, 1).unflatten(1, self.in_size)),
            SpatialFilters("theta2", theta2.flatten(0, 1).unflatten(1, self.out_size)),
        ]

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        cast(Tensor, self.theta2.weight).mul_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix `[c_out * v, c_in * x]`. For tests."""
        theta1, theta2 = self.dense_factors()
        return torch.einsum("oix,oiv->ovix", theta1, theta2).flatten(2).flatten(0, 1)

    def extra_repr(self) -> str:
        """Channels and sizes, for printing."""
        return f"{self.c_in}, {self.c_out}, in_size={self.in_size}, out_size={self.out_size}"


class FactoredLinear2d(TwoFactors2d):
    """F-FC, `[batch, c_in, *in_size] -> [batch, c_out, *out_size]` with c_in c_out (x + v) weights.

    Args:
        c_in: input channels.
        c_out: output channels.
        in_size: h, (h, w), (t,) or (d, h, w), of the input.
        out_size: the same of the output.
        bias: whether theta1 and theta2 have biases (`[c_out]` and `[v]`).

    Raises:
        ValueError: a size or channel count is not positive; an input of another shape.
    """

    theta1: InputChannelLinear
    theta2: OutputChannelLinear

    def __init__(self, c_in: int, c_out: int, in_size: Size, out_size: Size, bias: bool = True) -> None:
        super().__init__(c_in, c_out, in_size, out_size)
        self.theta1 = InputChannelLinear(c_in, c_out, math.prod(self.in_size), bias)
        self.theta2 = OutputChannelLinear(c_in, c_out, math.prod(self.out_size), bias)

    def dense_factors(self) -> tuple[Tensor, Tensor]:
        """See `TwoFactors2d`."""
        return self.theta1.weight, self.theta2.weight
