"""The curvature rules of symlearn's layers, handed to kfac: the one link between the two packages.

Notation as in `kfac.rules`: rows a `[group, batch, place, d_in]` and g `[group, batch, place, d_out]`.
`CircularConv2d` and its like are torch's convolutions with circular padding written out, and take that rule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kfac
from kfac import ConvRule, Rule, Window
from symlearn.curvature.bank_rules import AnalysisRule, SoftThresholdRule, SynthesisRule
from symlearn.curvature.deviation_rules import (
    GroupDeviationRule,
    PlaceAmplitudesRule,
    PointwiseGroupDeviationRule,
)
from symlearn.curvature.group_rules import (
    ChannelConvRule,
    ChannelMixingRule,
    GroupStageRule,
    PointwiseGroupRule,
)
from symlearn.curvature.symmetric_rules import SymmetricLinearRule
from symlearn.layers.conv import CIRCULAR_CONVS
from symlearn.layers.cyclic_bank import Analysis2d, Synthesis2d
from symlearn.layers.factored_fc import InputChannelLinear, OutputChannelLinear
from symlearn.layers.group_conv import (
    ChannelConv2d,
    ChannelMixing,
    FullGroupConv2d,
    LiftingConv2d,
    PointwiseGroupConv2d,
)
from symlearn.layers.group_deviation import GroupDeviation2d, PointwiseGroupDeviation2d
from symlearn.layers.shift_deviation import PlaceAmplitudes
from symlearn.layers.soft_threshold import SoftThreshold
from symlearn.layers.sparse_conv import SparseConv2d
from symlearn.layers.sparse_fc import InputAnchorLinear, OutputAnchorLinear
from symlearn.layers.symmetric_linear import SymmetricLinear


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


class InputAnchorLinearRule(InputChannelLinearRule):
    """u1 of S-FC: a = Phi x(c_in, .)."""

    full_resolution = InputChannelLinearRule()

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[batch, c_in, x]` -> `[c_in, batch, 1, anchor]`."""
        return super().input_rows(module, x @ self.input_basis(module).T)

    def input_basis(self, module: nn.Module) -> Tensor:
        """Phi `[anchor, x]`."""
        assert isinstance(module, InputAnchorLinear)
        return module.basis()


class OutputAnchorLinearRule(OutputChannelLinearRule):
    """u2 of S-FC: g = Phi g_y(c_out, .)."""

    full_resolution = OutputChannelLinearRule()

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[batch, c_out, v]` -> `[c_out, batch, 1, anchor]`."""
        return super().output_rows(module, g @ self.output_basis(module).T)

    def output_basis(self, module: nn.Module) -> Tensor:
        """Phi `[anchor, v]`."""
        assert isinstance(module, OutputAnchorLinear)
        return module.basis()

    def places(self, module: nn.Module, y_shape: torch.Size) -> int:
        """One row a datum."""
        return 1


class FilterRule(ConvRule):
    """The filters of S-CONV, before the basis."""

    def window(self, module: nn.Module) -> Window:
        """See `ConvRule`."""
        assert isinstance(module, SparseConv2d)
        return Window(module.kernel_size, padding_mode=module.padding_mode, pads=module.pads)


class SparseConv2dRule(FilterRule):
    """u of S-CONV: a = patch times Phi, channel by channel."""

    full_resolution = FilterRule()

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[batch, c_in, *size]` -> `[1, batch, place, c_in * anchor]`."""
        return super().input_rows(module, x) @ self.input_basis(module).T

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """A = Phi A_patch Phi^T."""
        phi = self.input_basis(module)
        return phi @ super().input_factor(module, x) @ phi.T

    def input_basis(self, module: nn.Module) -> Tensor:
        """I (x) Phi `[c_in * anchor, c_in * tap]`."""
        assert isinstance(module, SparseConv2d)
        phi = module.basis()
        return torch.kron(torch.eye(module.c_in, dtype=phi.dtype, device=phi.device), phi)


for circular in CIRCULAR_CONVS.values():
    kfac.register_rule(circular, ConvRule())
kfac.register_rule(InputChannelLinear, InputChannelLinearRule())
kfac.register_rule(OutputChannelLinear, OutputChannelLinearRule())
kfac.register_rule(InputAnchorLinear, InputAnchorLinearRule())
kfac.register_rule(OutputAnchorLinear, OutputAnchorLinearRule())
kfac.register_rule(SparseConv2d, SparseConv2dRule())
for stage_type in (LiftingConv2d, FullGroupConv2d):
    kfac.register_rule(stage_type, GroupStageRule())
kfac.register_rule(PointwiseGroupConv2d, PointwiseGroupRule())
kfac.register_rule(ChannelConv2d, ChannelConvRule())
kfac.register_rule(ChannelMixing, ChannelMixingRule())
kfac.register_rule(GroupDeviation2d, GroupDeviationRule())
kfac.register_rule(PointwiseGroupDeviation2d, PointwiseGroupDeviationRule())
kfac.register_rule(PlaceAmplitudes, PlaceAmplitudesRule())
kfac.register_rule(Analysis2d, AnalysisRule())
kfac.register_rule(Synthesis2d, SynthesisRule())
kfac.register_rule(SoftThreshold, SoftThresholdRule())
kfac.register_rule(SymmetricLinear, SymmetricLinearRule())
