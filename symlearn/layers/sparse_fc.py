"""S-FC: the factored fully connected layer with both spatial factors between anchors.

With theta1 = u1 Phi1 and theta2 = u2 Phi2 (van der Ouderaa et al. 2023, Eq. 7):

    z(c_out, c_in) = sum_p u1(c_out, c_in, p) [sum_x Phi1(p, x) x(c_in, x)] + b1(c_out)
    y(c_out, v)    = sum_q [sum_{c_in} u2(c_out, c_in, q) z(c_out, c_in)] Phi2(q, v)

The input is projected onto the anchors and the output expanded from them; the dense theta is never built.
There is no second bias.

Axes: batch, c_in, c_out, anchor, x (input place), v (output place).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.layers.anchor_basis import AnchorBasis, Anchors
from symlearn.layers.declared import Hyperparameter
from symlearn.layers.factored_fc import (
    TwoFactors2d,
    draw_theta1,
    draw_theta2,
    input_channel_linear,
    output_channel_linear,
)
from symlearn.layers.sizes import Size
from symlearn.layers.spatial_filters import SpatialFilters


class InputAnchorLinear(nn.Module):
    """u1: for every input channel, a linear map from places, by way of anchors, to output channels.

    `[batch, c_in, x] -> [batch, c_out, c_in]`. Weight `[c_out, c_in, anchor]`, at the start closest to a
    fresh dense factor; bias `[c_out]`, zero at the start.
    """

    def __init__(self, c_in: int, c_out: int, basis: AnchorBasis, bias: bool = True) -> None:
        super().__init__()
        self.basis = basis
        self.weight = nn.Parameter(torch.empty(c_out, c_in, len(basis)))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.fan_in = len(basis)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the initial values; the basis stays."""
        dense = self.weight.new_empty(*self.weight.shape[:2], len(self.basis.grid))
        self.weight.copy_(self.basis.fitted(draw_theta1(dense)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, x] -> [batch, c_out, c_in]`."""
        return input_channel_linear(x @ self.basis().T, self.weight, self.bias)


class OutputAnchorLinear(nn.Module):
    """u2: for every output channel, a linear map from input channels, by way of anchors, to places.

    `[batch, c_out, c_in] -> [batch, c_out, v]`. Weight `[c_out, c_in, anchor]`, at the start closest to a
    fresh dense factor.
    """

    def __init__(self, c_in: int, c_out: int, basis: AnchorBasis) -> None:
        super().__init__()
        self.basis = basis
        self.weight = nn.Parameter(torch.empty(c_out, c_in, len(basis)))
        self.fan_in = c_in
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the initial values; the basis stays."""
        dense = self.weight.new_empty(*self.weight.shape[:2], len(self.basis.grid))
        self.weight.copy_(self.basis.fitted(draw_theta2(dense)))

    def forward(self, z: Tensor) -> Tensor:
        """`[batch, c_out, c_in] -> [batch, c_out, v]`."""
        return output_channel_linear(z, self.weight, None) @ self.basis()


class SparseLinear2d(TwoFactors2d):
    """S-FC, `[batch, c_in, *in_size] -> [batch, c_out, *out_size]` with c_in c_out (p + q) weights.

    Args:
        c_in: input channels.
        c_out: output channels.
        in_size: h, (h, w), (t,) or (d, h, w), of the input.
        out_size: the same of the output.
        anchors: as `AnchorBasis` takes them, for both factors, or a pair (of the input, of the output).
        lengthscale: at the start, in grid spacings.
        bias: whether theta1 has a bias `[c_out]`.
        **basis: further options of `AnchorBasis`: noise, learn, lengthscale_precision.

    Raises:
        ValueError: a size, channel count or lengthscale that is not positive, more anchors than places,
            anchors outside the map; an input of another shape.
    """

    theta1: InputAnchorLinear
    theta2: OutputAnchorLinear

    def __init__(
        self,
        c_in: int,
        c_out: int,
        in_size: Size,
        out_size: Size,
        anchors: Anchors | tuple[Anchors, Anchors] = 0.5,
        lengthscale: float = 1.0,
        bias: bool = True,
        **basis: Any,
    ) -> None:
        super().__init__(c_in, c_out, in_size, out_size)
        of_input, of_output = anchors if isinstance(anchors, tuple) else (anchors, anchors)
        self.theta1 = InputAnchorLinear(
            c_in, c_out, AnchorBasis(self.in_size, of_input, lengthscale, **basis), bias
        )
        self.theta2 = OutputAnchorLinear(
            c_in, c_out, AnchorBasis(self.out_size, of_output, lengthscale, **basis)
        )

    def dense_factors(self) -> tuple[Tensor, Tensor]:
        """See `TwoFactors2d`; for tests and figures, no pass of the layer builds them."""
        return self.theta1.weight @ self.theta1.basis(), self.theta2.weight @ self.theta2.basis()

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What the bases declare."""
        found = {}
        for name, factor in (("theta1", self.theta1), ("theta2", self.theta2)):
            for key, value in factor.basis.hyperparameters((factor.weight,)).items():
                found[f"{name}.basis.{key}"] = value
        return found

    def spatial_filters(self) -> list[SpatialFilters]:
        """What theta1 reads and what theta2 writes, for every pair of channels, with the anchors."""
        bases = (self.theta1.basis, self.theta2.basis)
        return [
            replace(shown, anchors=basis.anchors, lengthscale=float(basis.lengthscale))
            for shown, basis in zip(super().spatial_filters(), bases, strict=True)
        ]
