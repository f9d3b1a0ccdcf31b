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
import itertools
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kfac.factors import Order


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


def wrapped(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Circular padding of one axis by any amount, also beyond its size (where `F.pad` stops)."""
    if before == after == 0:
        return x
    size = x.shape[dim]
    return x.index_select(dim, torch.arange(-before, size + after, device=x.device) % size)


@dataclass(frozen=True)
class Window:
    """What a convolution reads of its input, over one, two or three axes of places.

    Attributes:
        kernel_size: a number an axis, such as (h, w).
        stride: the same; ones if not given.
        dilation: the same; ones if not given.
        groups: channel groups.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        pads: before and after every axis, the last axis first (left, right, top, bottom), as `F.pad` takes
            them; none if not given.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "zeros"
    pads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what is not given."""
        axes = len(self.kernel_size)
        for name, default in (("stride", (1,) * axes), ("dilation", (1,) * axes), ("pads", (0, 0) * axes)):
            object.__setattr__(self, name, getattr(self, name) or default)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Padding (before, after) of every axis, the first axis first."""
        return list(zip(self.pads[-2::-2], self.pads[::-2], strict=True))

    def padded(self, x: Tensor) -> Tensor:
        """The input with its padding, `[batch, c_in, *size]`."""
        if self.padding_mode == "circular":
            for dim, (before, after) in enumerate(self.sides, 2):
                x = wrapped(x, before, after, dim)
            return x
        if not any(self.pads):
            return x
        return F.pad(x, self.pads, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def patches(self, x: Tensor) -> Tensor:
        """Every window's values.

        `F.unfold` cuts two axes; a third is cut before, as views whose taps count as channels and whose
        places count as data, and a signal has one row.

        Returns:
            `[batch, c_in * tap, place]`.
        """
        x = self.padded(x)
        if len(self.kernel_size) == 1:
            return F.unfold(
                x.unsqueeze(2), (1, *self.kernel_size), (1, *self.dilation), stride=(1, *self.stride)
            )
        if len(self.kernel_size) == 2:
            return F.unfold(x, self.kernel_size, self.dilation, stride=self.stride)
        span = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        cut = x.unfold(2, span, self.stride[0])[..., :: self.dilation[0]]
        rows = rearrange(cut, "batch c depth h w tap -> (batch depth) (c tap) h w")
        flat = F.unfold(rows, self.kernel_size[1:], self.dilation[1:], stride=self.stride[1:])
        return rearrange(flat, "(batch depth) d place -> batch d (depth place)", batch=len(x))

    def is_circular_correlation(self, x: Tensor) -> bool:
        """Whether every output place sees a circular window and there are as many outputs as inputs."""
        same = all(sum(pads) == k - 1 for pads, k in zip(self.sides, self.kernel_size, strict=True))
        plain = self.groups == 1 and set(self.stride) == set(self.dilation) == {1}
        return self.padding_mode == "circular" and plain and same


def window_of(module: _ConvNd) -> Window:
    """The window of a plain convolution, in its own padding mode."""
    return Window(
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(module.dilation),
        module.groups,
        module.padding_mode,
        tuple(module._reversed_padding_repeated_twice),
    )


WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def lag_correlation(x: Tensor, *kernel: int) -> Tensor:
    """Correlation of channels at lags on circular maps `[batch, c, *size]`.

    Along the first axis the lags are 0 .. k - 1, along the others 1 - k .. k - 1. This sum is the gradient of
    a convolution's weight, and computed as such. On maps so small that lags repeat, each is computed once, as
    a matrix product.

    Returns:
        sum_p x(c, p) x(c', p + lag), summed over the batch, `[c, c', k_h, 2 k_w - 1]` for two axes.
    """
    channels, size = x.shape[1], x.shape[2:]
    spread = (kernel[0], *(2 * k - 1 for k in kernel[1:]))
    if all(n >= lags for n, lags in zip(size, spread, strict=True)):
        wide = wrapped(x, 0, kernel[0] - 1, 2)
        for dim, k in enumerate(kernel[1:], 3):
            wide = wrapped(wide, k - 1, k - 1, dim)
        return WEIGHT_GRADIENTS[len(size)](wide, (channels, channels, *spread), x)
    planes = x.transpose(0, 1)
    flat, dims = planes.flatten(1), tuple(range(2, x.dim()))
    steps = [range(kernel[0]), *(range(1 - k, k) for k in kernel[1:])]
    lags = [tuple(d % n for d, n in zip(lag, size, strict=True)) for lag in itertools.product(*steps)]
    products = {lag: flat @ planes.roll([-d for d in lag], dims).flatten(1).T for lag in set(lags)}
    return torch.stack([products[lag] for lag in lags], -1).unflatten(-1, spread)


def circular_patch_gram(x: Tensor, *kernel: int) -> Tensor:
    """Sum of outer products of all circular patches of maps `[batch, c_in, *size]`, a kernel side an axis.

    sum_x x(c, x+t) x(c', x+t') depends on t' - t alone, so prod_i (2 k_i - 1) lags, half of them by symmetry,
    stand for the (prod_i k_i)^2 pairs of taps.

    Returns:
        `[c_in * tap, c_in * tap]`, taps row by row within a channel.
    """
    axes = len(kernel)
    forward = lag_correlation(x, *kernel)  # [c, c', lag >= 0, lag, ...]
    # the lag -t of (c, c') is the lag t of (c', c)
    backward = forward[:, :, 1:].flip(*range(2, 2 + axes)).transpose(0, 1)
    by_lag = torch.cat([backward, forward], 2)
    index: list[Any] = [slice(None), slice(None)]
    for axis, k in enumerate(kernel):
        taps = torch.arange(k, device=x.device)
        shape = [1] * (2 * axes)
        shape[axis] = shape[axes + axis] = k
        index.append((taps[None, :] - taps[:, None] + k - 1).reshape(shape))  # [tap, tap'], in by_lag
    pairs = by_lag[tuple(index)]  # [c1, c2, *tap, *tap']
    return pairs.movedim(1, 1 + axes).flatten(0, axes).flatten(1)


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
