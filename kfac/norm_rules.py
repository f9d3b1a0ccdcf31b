"""Curvature of normalisation layers in `eval` mode: scale and shift.

    y = weight * x' + bias

with x' the normalised input: by running statistics (batch norm), or by the datum's own over a channel group
(group norm) or its last axes (layer norm, RMS norm). Both parameters have one gradient a datum, the sum over
places of g x' and of g, so their blocks are exact like a bias': B = sum of outer products.

Axes: batch, c, place, params.
"""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfac.rules import Rule, register_rule


class NormRule(Rule):
    """Common to all: the rows are sums over the places that share a scale."""

    exact = True

    @abstractmethod
    def normalised(self, module: nn.Module, x: Tensor) -> Tensor:
        """x', in the shape of x."""

    @abstractmethod
    def summed(self, module: nn.Module, values: Tensor) -> Tensor:
        """Sums over places, `[batch, params]`, of values in the shape of x."""

    def weight_rows(self, module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """See `Rule`."""
        return self.summed(module, self.normalised(module, x) * g)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return self.summed(module, g)

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """Not used: the block is exact."""
        raise NotImplementedError

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Not used: the block is exact."""
        raise NotImplementedError


class ChannelNormRule(NormRule):
    """Parameters by channel, `[batch, c, *place]`."""

    def summed(self, module: nn.Module, values: Tensor) -> Tensor:
        """`[batch, c]`."""
        return values.flatten(2).sum(2) if values.dim() > 2 else values


class BatchNormRule(ChannelNormRule):
    """`nn.BatchNorm1d`, `2d` and `3d`, by their running statistics."""

    def normalised(self, module: nn.Module, x: Tensor) -> Tensor:
        """(x - running mean) / sqrt(running variance + eps)."""
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        assert module.running_mean is not None
        assert module.running_var is not None
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = torch.rsqrt(module.running_var + module.eps)
        return (x - module.running_mean.reshape(shape)) * scale.reshape(shape)


class GroupNormRule(ChannelNormRule):
    """`nn.GroupNorm`."""

    def normalised(self, module: nn.Module, x: Tensor) -> Tensor:
        """By mean and variance of a datum's channel group."""
        assert isinstance(module, nn.GroupNorm)
        return F.group_norm(x, module.num_groups, eps=module.eps)


class LayerNormRule(NormRule):
    """`nn.LayerNorm`, parameters on the last axes, `[batch, *place, *normalized_shape]`."""

    def normalised(self, module: nn.Module, x: Tensor) -> Tensor:
        """By mean and variance over the last axes."""
        assert isinstance(module, nn.LayerNorm)
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)

    def summed(self, module: nn.Module, values: Tensor) -> Tensor:
        """`[batch, params]`."""
        assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
        return values.reshape(len(values), -1, prod(module.normalized_shape)).sum(1)


class RMSNormRule(LayerNormRule):
    """`nn.RMSNorm`: no mean, no bias."""

    def normalised(self, module: nn.Module, x: Tensor) -> Tensor:
        """By the root mean square over the last axes."""
        assert isinstance(module, nn.RMSNorm)
        return F.rms_norm(x, module.normalized_shape, eps=module.eps)


for layer_type in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
    register_rule(layer_type, BatchNormRule())
register_rule(nn.GroupNorm, GroupNormRule())
register_rule(nn.LayerNorm, LayerNormRule())
register_rule(nn.RMSNorm, RMSNormRule())
