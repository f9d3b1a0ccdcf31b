"""Curvature of normalisation layers in `eval` mode: scale and shift of every channel.

    y(c) = weight(c) x'(c) + bias(c),    x' = (x - running mean) / sqrt(running variance + eps)

Both have one gradient a datum, sum over places of g x' and of g, so their blocks are exact like a bias':
B = sum of outer products.

Axes: batch, c, place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kfac.rules import Rule, register_rule


class BatchNormRule(Rule):
    """`nn.BatchNorm1d`, `2d` and `3d` on `[batch, c, *place]`."""

    exact = True

    def weight_rows(self, module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """See `Rule`; `[batch, c]`."""
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        if module.running_mean is None or module.running_var is None:
            raise ValueError(
                "a batch normalisation without running statistics ties a batch's data together, so it has no "
                "curvature datum by datum; use track_running_stats=True"
            )
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = torch.rsqrt(module.running_var + module.eps)
        normal = (x - module.running_mean.reshape(shape)) * scale.reshape(shape)
        return (normal * g).flatten(2).sum(2) if x.dim() > 2 else normal * g

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return g.flatten(2).sum(2) if g.dim() > 2 else g

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """Not used: the block is exact."""
        raise NotImplementedError

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Not used: the block is exact."""
        raise NotImplementedError


for layer_type in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
    register_rule(layer_type, BatchNormRule())
