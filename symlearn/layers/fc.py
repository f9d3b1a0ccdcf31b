"""FC: a dense linear map between whole feature maps (van der Ouderaa et al. 2023, Eq. 1).

    y(c_out, v) = sum_{c_in, x} theta(c_out, v, c_in, x) x(c_in, x) + b(c_out, v)

Axes: batch, c_in, c_out, x (input place), v (output place).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from symlearn.layers.sizes import Size, expect_channels, expect_map, expect_same_axes, sides


class FullyConnected2d(nn.Module):
    """FC, `[batch, c_in, *in_size] -> [batch, c_out, *out_size]`, c_in x c_out v weights, c_out v biases.

    The weight is the `[c_out * v, c_in * x]` matrix of an `nn.Linear` called `linear`, Kaiming-uniform for
    ReLU; biases start at zero. Sizes are h, (h, w), (t,) or (d, h, w).

    Raises:
        ValueError: a size or channel count is not positive; an input of another shape.
    """

    def __init__(self, c_in: int, c_out: int, in_size: Size, out_size: Size, bias: bool = True) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        self.c_in, self.c_out = c_in, c_out
        self.in_size, self.out_size = sides(in_size), sides(out_size)
        expect_same_axes(self.in_size, self.out_size)
        self.linear = nn.Linear(c_in * math.prod(self.in_size), c_out * math.prod(self.out_size), bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        nn.init.kaiming_uniform_(self.linear.weight, nonlinearity="relu")
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *in_size] -> [batch, c_out, *out_size]`."""
        expect_map(x, self.c_in, self.in_size)
        return self.linear(x.flatten(1)).unflatten(1, (self.c_out, *self.out_size))

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.linear.weight.mul_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix `[c_out * v, c_in * x]`. For tests."""
        return torch.clone(self.linear.weight)

    def extra_repr(self) -> str:
        """Channels and sizes, for printing."""
        return f"{self.c_in}, {self.c_out}, in_size={self.in_size}, out_size={self.out_size}"
