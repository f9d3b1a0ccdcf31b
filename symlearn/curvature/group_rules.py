"""The curvature rules of convolutions with a bank of moved filters (`layers/group_conv.py`).

Notation as in `kfac.rules`: rows a `[group, batch, place, d_in]` and g `[group, batch, place, d_out]`; a
weight is used once an element and place.

Axes: batch, c, group (h), member (g), h, w, tap, entry.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from kfac import Rule, Window, circular_patch_gram, gram
from symlearn.layers.group_conv import GroupStage


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

    def covariances(self, module: nn.Module, x: Tensor) -> Tensor:
        """A of every element alone, `[group, d_in, d_in]`."""
        stage = cast(GroupStage, module)
        covariance = self.patch_covariance(module, stage.layout(x))
        return torch.stack([stage.bank.turn_covariance(covariance, h) for h in range(len(stage.group))])

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        return self.covariances(module, x).sum(0, keepdim=True)

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

    def covariances(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `GroupStageRule`."""
        bank, planes = cast(GroupStage, module).bank, x.unbind(2)
        own = [self.patch_covariance(module, plane) for plane in planes]
        return torch.stack([bank.turn_covariance(covariance, h) for h, covariance in enumerate(own)])


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
