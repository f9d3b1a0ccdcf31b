"""The curvature rules of symlearn's layers, handed to kfac: the one link between the two packages.

Notation as in `kfac.rules`: rows a `[group, batch, place, d_in]` and g `[group, batch, place, d_out]`.
`CircularConv2d` is an `nn.Conv2d` with circular padding written out, and takes that rule.
"""

from __future__ import annotations

from torch import Tensor, nn

import kfac
from kfac.rules import Conv2dRule, Rule
from symlearn.layers.conv import CircularConv2d
from symlearn.layers.factored_fc import InputChannelLinear, OutputChannelLinear


class InputChannelLinearRule(Rule):
    """theta1 of F-FC: one group an input channel, a = x(c_in, .), g = g_z(., c_in)."""

    order = (1, 0, 2)  # [c_in, c_out, x] -> [c_out, c_in, x]
    groups_are_places = True

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[batch, c_in, x]` -> `[c_in, batch, 1, x]`."""
        return x.transpose(0, 1).unsqueeze(2)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[batch, c_out, c_in]` -> `[c_in, batch, 1, c_out]`."""
        return g.permute(2, 0, 1).unsqueeze(2)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """The bias of an output channel is shared by the input channels."""
        return g.sum(2)


class OutputChannelLinearRule(Rule):
    """theta2 of F-FC: one group an output channel, a = z(c_out, .), g = g_y(c_out, .)."""

    order = (0, 2, 1)  # [c_out, v, c_in] -> [c_out, c_in, v]
    groups_are_places = True

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[batch, c_out, c_in]` -> `[c_out, batch, 1, c_in]`."""
        return x.transpose(0, 1).unsqueeze(2)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[batch, c_out, v]` -> `[c_out, batch, 1, v]`."""
        return g.transpose(0, 1).unsqueeze(2)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """The bias of a place is shared by the output channels."""
        return g.sum(1)


kfac.register_rule(CircularConv2d, Conv2dRule())
kfac.register_rule(InputChannelLinear, InputChannelLinearRule())
kfac.register_rule(OutputChannelLinear, OutputChannelLinearRule())
