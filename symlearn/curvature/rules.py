"""The curvature rules of symlearn's layers, handed to kfac: the one link between the two packages.

Notation as in `kfac.rules`: rows a `[group, batch, place, d_in]` and g `[group, batch, place, d_out]`.
`CircularConv2d` and its like are torch's convolutions with circular padding written out, and take that rule.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

import kfac
from kfac import ConvRule, Rule, Window, circular_patch_gram, gram
from symlearn.curvature.bank_rules import AnalysisRule, SoftThresholdRule, SynthesisRule
from symlearn.curvature.symmetric_rules import SymmetricLinearRule
from symlearn.layers.conv import CIRCULAR_CONVS
from symlearn.layers.cyclic_bank import Analysis2d, Synthesis2d
from symlearn.layers.factored_fc import InputChannelLinear, OutputChannelLinear
from symlearn.layers.group_conv import (
    ChannelConv2d,
    ChannelMixing,
    FullGroupConv2d,
    GroupStage,
    LiftingConv2d,
    PointwiseGroupConv2d,
)
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


class GroupStageRule(Rule):
    """Convolutions with a bank of moved filters: y(., h, x) = W T_h^T patch(x), one place every (h, x).

    So A = sum_h T_h^T C T_h from one patch covariance C, and nothing is moved but that matrix.
    """

    def window(self, module: GroupStage) -> Window:
        """What the filters read of the planes."""
        mode = {"valid": "zeros"}.get(module.padding_mode, module.padding_mode)
        return Window((module.kernel_size,) * 2, padding_mode=mode, pads=(module.pad,) * 4)

    def patches(self, module: nn.Module, planes: Tensor) -> Tensor:
        """Patches `[batch, place, channels * tap]` of planes `[batch, channels, h, w]`."""
        return self.window(cast(GroupStage, module)).patches(planes).transpose(1, 2)

    def patch_covariance(self, module: nn.Module, planes: Tensor) -> Tensor:
        """C = sum of outer products of patches, `[channels * tap, channels * tap]`."""
        window = self.window(cast(GroupStage, module))
        if window.is_circular_correlation(planes):
            return circular_patch_gram(planes, *window.kernel_size)
        rows = self.patches(module, planes).flatten(0, 1)
        return rows.mT @ rows

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`: `[1, batch, group * place, c_in * entry]`."""
        stage = cast(GroupStage, module)
        patches = self.patches(module, stage.layout(x)).unflatten(2, (stage.c_in, -1))
        turned = [stage.bank.turn(patches, h) for h in range(len(stage.group))]
        return rearrange(turned, "group batch place c entry -> 1 batch (group place) (c entry)")

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        stage = cast(GroupStage, module)
        covariance = self.patch_covariance(module, stage.layout(x))
        turned = [stage.bank.turn_covariance(covariance, h) for h in range(len(stage.group))]
        return torch.stack(turned).sum(0, keepdim=True)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return rearrange(g, "batch c group h w -> 1 batch (group h w) c")

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """One bias for all elements and places."""
        return g.sum((2, 3, 4))

    def places(self, module: nn.Module, y_shape: torch.Size) -> int:
        """Elements times places."""
        return math.prod(y_shape[2:])

    def own_patches(self, module: nn.Module, x: Tensor) -> list[Tensor]:
        """Of every element its own patches, turned by it alone, `[batch, place, c, tap]` each."""
        stage = cast(GroupStage, module)
        return [
            stage.bank.turn(self.patches(module, plane).unflatten(2, (stage.c_in, -1)), h)
            for h, plane in enumerate(x.unbind(2))
        ]


class PointwiseGroupRule(GroupStageRule):
    """Every element by itself: its own patches, turned by it alone."""

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        turned = self.own_patches(module, x)
        return rearrange(turned, "group batch place c entry -> 1 batch (group place) (c entry)")

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        bank = cast(GroupStage, module).bank
        covariances = [self.patch_covariance(module, plane) for plane in x.unbind(2)]
        turned = [bank.turn_covariance(covariance, h) for h, covariance in enumerate(covariances)]
        return torch.stack(turned).sum(0, keepdim=True)


class PerChannelRule(GroupStageRule):
    """Every channel with a filter of its own: a group of factors a channel."""

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return rearrange(g, "batch c group h w -> c batch (group h w) 1")

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        return gram(self.input_rows(module, x))


class ChannelConvRule(PerChannelRule):
    """`ChannelConv2d`: the element's own patches."""

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[c, batch, group * place, tap]`."""
        turned = self.own_patches(module, x)
        return rearrange(turned, "group batch place c tap -> c batch (group place) tap")


class ChannelMixingRule(PerChannelRule):
    """`ChannelMixing`: the values of all members at a place."""

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[c, batch, group * place, member]`."""
        stage = cast(GroupStage, module)
        values = rearrange(x, "batch c member h w -> c batch (h w) member")
        turned = [stage.bank.turn(values, h) for h in range(len(stage.group))]
        return rearrange(turned, "group c batch place member -> c batch (group place) member")


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
kfac.register_rule(Analysis2d, AnalysisRule())
kfac.register_rule(Synthesis2d, SynthesisRule())
kfac.register_rule(SoftThreshold, SoftThresholdRule())
kfac.register_rule(SymmetricLinear, SymmetricLinearRule())
