"""How a layer type's parameters meet its inputs and outputs: one rule a type, dispatched on the exact type.

A layer with one weight is, per group, the linear map y_r = W a_r at every place r. A rule turns the tensors
that pass through the module into rows

    a  [group, batch, place, d_in]      from the module's input x
    g  [group, batch, place, d_out]     from a gradient at the module's output

such that the weight's gradient is sum_{batch, place} g a^T per group, and a bias' gradient is
sum_batch `bias_rows`. Everything else (sums over data, expand or reduce, several calls) is generic.

Rows are linear in the tensors they are made of, so that copies of a datum may be averaged before
(`averages.py`); where they are not, a rule is `exact`.

`Rule` subclasses may override `input_factor` where the sum of a a^T has a faster form than its rows.
A package that ships layers of its own names the module that registers their rules in its attribute
`__kfac_rules__`; it is imported when one of its layers is first met.

Axes: batch, group, place, d_in, d_out, c_in, c_out, size (one, two or three axes: t; h, w; d, h, w), tap.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kfac.factors import Order
from kfac.windows import Window, circular_patch_gram, window_of


class Rule(ABC):
    """Curvature rule of one layer type.

    Attributes:
        order: the weight, flattened, is `[group, d_out, d_in]` permuted by this.
        groups_are_places: whether `group_factors="shared"` averages B over the groups (van der Ouderaa et
            al. 2023, section 5.1, treats the channels of a factored layer as shared places).
        full_resolution: for layers whose weight sits in a basis, the rule of the same map between the
            basis' points: rows before `input_basis` and `output_basis` are applied.
        exact: whether the weight's gradient is one row a datum, `weight_rows`, whose outer products are its
            block; there are no Kronecker factors then.
    """

    order: Order = (0, 1, 2)
    groups_are_places: bool = False
    full_resolution: Rule | None = None
    exact: bool = False

    def covers(self, module: nn.Module) -> bool:
        """Whether the rule holds for this module, set up as it is."""
        return True

    def of(self, module: nn.Module) -> Rule:
        """The rule that a module of this type takes: this one, or another where the module's size decides."""
        return self

    @abstractmethod
    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """Rows a `[group, batch, place, d_in]` of the weight."""

    @abstractmethod
    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Rows g `[group, batch, place, d_out]` of the weight."""

    @abstractmethod
    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """The bias' gradient datum by datum, `[batch, d_bias]`."""

    def weight_rows(self, module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """The weight's gradient datum by datum, `[batch, d_weight]`, where `exact`."""
        raise NotImplementedError

    def input_basis(self, module: nn.Module) -> Tensor | None:
        """Phi `[d_in, point]` with a = Phi a_full, or None: the weight is not in a basis."""
        return None

    def output_basis(self, module: nn.Module) -> Tensor | None:
        """Phi `[d_out, point]` with g = Phi g_full, or None."""
        return None

    def places(self, module: nn.Module, y_shape: torch.Size) -> int:
        """Number of places a datum uses the weight at, from the output's shape."""
        return self.output_rows(module, torch.empty(y_shape, device="meta")).shape[2]

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """A = sum over batch and places of a a^T, `[group, d_in, d_in]`."""
        return gram(self.input_rows(module, x))

    def output_factor(self, module: nn.Module, g: Tensor) -> Tensor:
        """B = sum over batch and places of g g^T, `[group, d_out, d_out]`."""
        return gram(self.output_rows(module, g))


def gram(rows: Tensor) -> Tensor:
    """Sum of outer products over batch and places: `[group, batch, place, d]` -> `[group, d, d]`."""
    flat = rows.flatten(1, 2)
    return flat.mT @ flat


class LinearRule(Rule):
    """`nn.Linear` on `[batch, *place, d_in]` with any number of extra axes."""

    def covers(self, module: nn.Module) -> bool:
        """All but the last map of `nn.MultiheadAttention`, which reads its weight and never calls it."""
        return not isinstance(module, NonDynamicallyQuantizableLinear)

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        return x.reshape(1, x.shape[0], -1, x.shape[-1])

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return g.reshape(1, g.shape[0], -1, g.shape[-1])

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return g.reshape(g.shape[0], -1, g.shape[-1]).sum(1)


class ConvRule(Rule):
    """`nn.Conv1d`, `2d` and `3d` with their own padding mode, stride, dilation and groups."""

    def window(self, module: nn.Module) -> Window:
        """What the module reads of its input."""
        assert isinstance(module, _ConvNd)
        return window_of(module)

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        window = self.window(module)
        return rearrange(
            window.patches(x), "batch (group d) place -> group batch place d", group=window.groups
        )

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        groups = self.window(module).groups
        return rearrange(g.flatten(2), "batch (group d) place -> group batch place d", group=groups)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return g.sum(tuple(range(2, g.dim())))

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`; circular windows by their lags, everything else by its patches."""
        window = self.window(module)
        if window.is_circular_correlation(x):
            return circular_patch_gram(x, *window.kernel_size).unsqueeze(0)
        columns = rearrange(
            window.patches(x), "batch (group d) place -> group d (batch place)", group=window.groups
        )
        return columns @ columns.mT

    def output_factor(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        groups = self.window(module).groups
        g = g.flatten(2)
        if g.shape[2] > g.shape[1]:  # large maps: sum small products in place of copying the map
            maps = rearrange(g, "batch (group d) place -> (batch group) d place", group=groups)
            return torch.bmm(maps, maps.mT).unflatten(0, (len(g), groups)).sum(0)
        columns = rearrange(g, "batch (group d) place -> group d (batch place)", group=groups)
        return columns @ columns.mT


Conv2dRule = ConvRule  # the name of before


_RULES: dict[type, Rule] = {}


def register_rule(layer_type: type[nn.Module], rule: Rule) -> None:
    """Use `rule` for modules of exactly `layer_type` (and for subclasses that leave its forward alone)."""
    _RULES[layer_type] = rule


register_rule(nn.Linear, LinearRule())
for convolution in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
    register_rule(convolution, ConvRule())


def _load_rules_of(layer_type: type) -> None:
    """Import the rules that the layer type's own package ships, if it names any."""
    package = sys.modules.get(layer_type.__module__.partition(".")[0])
    rules = getattr(package, "__kfac_rules__", None)
    if rules is not None:
        importlib.import_module(rules)


def _same_map(layer_type: type, base: type) -> bool:
    """Whether a subclass computes what its base computes: it overrides no method of the forward pass."""
    methods = ("forward", "_conv_forward", "__call__")
    return all(getattr(layer_type, m, None) is getattr(base, m, None) for m in methods)


def find_rule(module: nn.Module) -> Rule | None:
    """The rule for a module, or None: by its exact type, or by a base whose forward pass it inherits."""
    layer_type = type(module)
    if layer_type not in _RULES:
        _load_rules_of(layer_type)
    for base in layer_type.__mro__:
        if base in _RULES:
            return _RULES[base].of(module) if _same_map(layer_type, base) else None
    return None
