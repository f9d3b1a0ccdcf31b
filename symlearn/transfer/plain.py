"""Layers of ours written with `torch.nn` alone.

Every path is linear between maps up to its bias, so its plain form is read off from what it does:

    full resolution   the responses to an impulse in every channel give one convolution for the sum of such
                      paths (CONV, S-CONV, any group convolution or deviation from one: the filters of all
                      group elements expanded)
    varying by place  at full resolution too, but not commuting with shifts: a form of its own beside that
                      convolution, a Conv2d whose output is multiplied by place (deviations from shifts)
    to another size   the matrices of such paths give one Linear for their sum (FC, F-FC, S-FC)

What has no weights, the choice of a polyphase component, the pooling over a group and the transformed copies
of an averaged network (at their fixed points), becomes calls of functions in a `torch.fx` graph; those of the
polyphase choice and of the copies are this package's, so a pickle of the network
needs it, while an exported file (`export.py`) does not. A layer's form takes and gives the maps that the
layer did.

Axes: batch, c_in, c_out, group, size (t; h, w; d, h, w), k.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import singledispatch
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from symlearn.kinds import shown
from symlearn.layers.conv import CircularConv
from symlearn.layers.coset_pool import CosetPool2d, GroupBatchNorm2d
from symlearn.layers.factored_fc import TwoFactors2d
from symlearn.layers.fc import FullyConnected2d
from symlearn.layers.group_conv import GroupConv2d, GroupStage, LiftingConv2d
from symlearn.layers.orbit_average import OrbitAverage, transformed
from symlearn.layers.path_sum import PathSum
from symlearn.layers.polyphase import Norm, PolyphaseSubsample2d, choose, pick
from symlearn.layers.registry import path_kind
from symlearn.layers.relaxed import RelaxedLayer2d
from symlearn.layers.relaxed_conv import CONV, RelaxedConv2d
from symlearn.layers.shift_deviation import ShiftDeviation2d
from symlearn.layers.sizes import expect_map
from symlearn.layers.symmetric_linear import SymmetricLinear2d

Planes = Callable[[Tensor], Tensor]
CHUNK = 256  # rows of a matrix read off at once
CONVOLUTIONS: dict[int, type[_ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def is_ours(module: nn.Module) -> bool:
    """Whether a module is of this package, not of torch or of a user."""
    return type(module).__module__.startswith("symlearn.")


class PlainTracer(fx.Tracer):
    """Traces networks of ours; what `torch.nn` offers and graphs that are plain already stay whole."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(choose, pick, expect_map, transformed))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `torch.fx.Tracer`."""
        return isinstance(m, fx.GraphModule) or not any(map(is_ours, m.modules()))


def traced(module: nn.Module) -> fx.GraphModule:
    """A module's `forward` as a graph, without its checks of shapes."""
    graph = PlainTracer().trace(module)
    for node in list(graph.nodes):
        if node.target is expect_map:
            graph.erase_node(node)
    return fx.GraphModule(module, graph, type(module).__name__)


def filled(module: nn.Module, weight: Tensor, bias: Tensor, like: Tensor) -> nn.Module:
    """A module with these values, in the type of `like`."""
    module.to(like)
    with torch.no_grad():
        cast(nn.Parameter, module.weight).copy_(weight)
        cast(nn.Parameter, module.bias).copy_(bias)
    return module


@torch.no_grad()
def convolution_of(
    planes: Planes,
    c_in: int,
    kernel_size: int,
    padding_mode: str,
    like: Tensor,
    scale: float = 1.0,
    axes: int = 2,
) -> _ConvNd:
    """The convolution of torch that does what a map between planes does, read off its responses to impulses.

    y(o, x) = sum_{i, t} w(o, i, t) x(i, x + t) + b(o), so an impulse at z gives w(o, i, z - x).

    Args:
        planes: `[batch, c_in, *size] -> [batch, c_out, *size']`, commuting with shifts, a bias included.
        c_in: channels of the input.
        kernel_size: k along every axis, no smaller than its support.
        padding_mode: "circular" or "zeros" (size kept), or "valid".
        like: a tensor of the type wanted.
        scale: factor of the whole.
        axes: of places.

    Returns:
        A convolution on the device and of the type of `like`, with a bias.
    """
    side = 2 * kernel_size - 1
    impulses = torch.zeros(c_in + 1, c_in, *[side] * axes, dtype=like.dtype, device=like.device)
    middle: list[Any] = [kernel_size - 1] * axes
    impulses[(range(c_in), range(c_in), *middle)] = 1
    responses = planes(impulses).double() * scale
    if responses.shape[-1] == side:  # the size was kept: the window around the impulse
        first = (kernel_size - 1) // 2
        cut: list[Any] = [slice(first, first + kernel_size)] * axes
        responses = responses[(..., *cut)]
    bias = responses[-1].flatten(1)[:, 0]
    weight = (responses[:-1] - bias.reshape(-1, *[1] * axes)).flip(*range(2, 2 + axes)).transpose(0, 1)
    pad: int | str = 0 if padding_mode == "valid" else "same"
    mode: Literal["circular", "zeros"] = "circular" if padding_mode == "circular" else "zeros"
    settings: dict[str, Any] = {"padding": pad, "padding_mode": mode}
    convolution = CONVOLUTIONS[axes](c_in, len(bias), (kernel_size,) * axes, **settings)
    return cast(_ConvNd, filled(convolution, weight, bias, like))


@torch.no_grad()
def linear_of(planes: Planes, in_shape: tuple[int, ...], like: Tensor, scale: float = 1.0) -> nn.Linear:
    """The Linear between flattened maps that does what a map between planes does.

    Args:
        planes: `[batch, *in_shape] -> [batch, c_out, *size']`, a bias included.
        in_shape: (c_in, *size).
        like: a tensor of the type wanted.
        scale: factor of the whole.

    Returns:
        A Linear from `c_in * x` to `c_out * v` features of x and v places, of the type of `like`.
    """
    count = torch.Size(in_shape).numel()
    bias = (planes(like.new_zeros(1, *in_shape)).double() * scale).flatten()
    columns = []
    for places in torch.arange(count, device=like.device).split(CHUNK):
        axes = like.new_zeros(len(places), count)
        axes[torch.arange(len(places)), places] = 1
        columns.append((planes(axes.unflatten(1, in_shape)).double() * scale).flatten(1) - bias)
    return cast(nn.Linear, filled(nn.Linear(count, len(bias)), torch.cat(columns).T, bias, like))


class SummedLayer(nn.Module):
    """A convolution and what varies by place, subsampled where it strides, plus a fully connected layer.

    Any of them may be missing.
    """

    def __init__(
        self,
        convolution: nn.Module | None,
        linear: nn.Module | None,
        stride: int,
        out_shape: tuple[int, ...],
        members: int | None,
        varying: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.convolution, self.linear, self.varying = convolution, linear, nn.ModuleList(varying)
        self.stride, self.out_shape, self.members = stride, out_shape, members
        self.axes = len(out_shape) - (1 if members is None else 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *size] -> [batch, c_out, *size']`, with the group's axis where there is one."""
        y = None
        full = [*([] if self.convolution is None else [self.convolution]), *self.varying]
        if full:
            planes = x if self.members is None else x.flatten(1, 2)
            parts = [part(planes) for part in full]
            y = sum(parts[1:], parts[0])
            if self.members is not None:
                y = y.unflatten(1, (-1, self.members))
            if self.stride == 2:
                y = pick(y, choose(y, axes=self.axes), self.axes)
        if self.linear is not None:
            direct = self.linear(x.flatten(1)).unflatten(1, self.out_shape)
            y = direct if y is None else y + direct
        return cast(Tensor, y)


class Varying(nn.Module):
    """A convolution whose output is multiplied by place, summed over the rank, and shifted by place."""

    def __init__(self, path: ShiftDeviation2d, scale: float) -> None:
        super().__init__()
        factor = path.amplitudes
        self.rank, self.convolution = path.rank, plain_form(path.filters)
        amplitudes = factor.at_places(factor.weight).detach()
        offsets = amplitudes.new_zeros(path.c_out, 1, 1) if factor.bias is None else factor.offsets().detach()
        self.amplitudes, self.offsets = nn.Parameter(amplitudes * scale), nn.Parameter(offsets * scale)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, h, w] -> [batch, c_out, h, w]`."""
        z = self.convolution(x).unflatten(1, (-1, self.rank))
        return (z * self.amplitudes).sum(2) + self.offsets


class Pooled(nn.Module):
    """Pooling over a group, or over the cosets of a subgroup."""

    cosets: Tensor | None

    def __init__(self, pool: CosetPool2d) -> None:
        super().__init__()
        self.largest = pool.reduce == "max"
        self.register_buffer("cosets", None if pool.subgroup is None else pool.cosets)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, group, h, w] -> [batch, c, h, w]`, or `[batch, c, coset, h, w]`."""
        if self.cosets is None:
            return x.amax(2) if self.largest else x.mean(2)
        members = x.index_select(2, self.cosets.flatten()).unflatten(2, tuple(self.cosets.shape))
        return members.amax(3) if self.largest else members.mean(3)


class Subsampled(nn.Module):
    """The polyphase component of largest norm."""

    def __init__(self, norm: Norm, axes: int) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, ..., *size] -> [batch, ..., *size / 2]`."""
        return pick(x, choose(x, self.norm, self.axes), self.axes)


class FixedAverage(nn.Module):
    """Outputs averaged over transformed copies, at the points and ranges of `eval` mode."""

    places: Tensor | None
    colours: Tensor | None
    weights: Tensor

    def __init__(self, average: OrbitAverage, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        axes, places, colours = average.eval().maps()
        self.axes = tuple(axes)
        self.register_buffer("places", places)
        self.register_buffer("colours", colours)
        self.register_buffer("weights", average.copy_weights().to(next(network.parameters())))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, h, w] -> [batch, classes]`."""
        copies = transformed(x, self.axes, self.places, self.colours)
        f = self.network(copies.flatten(0, 1))
        return (f.unflatten(0, (-1, len(self.weights))) * self.weights.unsqueeze(1)).sum(1)


@singledispatch
def plain_form(module: nn.Module) -> nn.Module:
    """The same map with `torch.nn` alone.

    Returns:
        A new module, or the very one given if it is not of ours.

    Raises:
        ValueError: a layer of ours that has no plain form.
    """
    return module


@singledispatch
def varying_form(path: nn.Module, scale: float) -> nn.Module:
    """A path at full resolution that does not commute with shifts, times a scale, with `torch.nn` alone.

    Returns:
        A new module.

    Raises:
        ValueError: a path that has no such form.
    """
    raise ValueError(
        f"{type(path).__name__} keeps the full resolution and does not commute with shifts, so it has no "
        "plain form; map straight to the layer's output size (full_resolution=False)"
    )


@varying_form.register
def _(path: ShiftDeviation2d, scale: float) -> nn.Module:
    return traced(Varying(path, scale))


@plain_form.register
def _(module: PathSum) -> nn.Module:
    raise ValueError(f"{type(module).__name__} has no plain form; collapse takes relaxed layers")


@plain_form.register
def _(module: RelaxedLayer2d) -> nn.Module:
    like = next(module.paths.parameters())
    members = None if module.group is None else module.members

    def total(names: Iterable[str]) -> Planes:
        def planes(x: Tensor) -> Tensor:
            maps = x if members is None else x.unflatten(1, (module.c_in, members))
            y = torch.stack([module.through(name, maps) for name in names]).sum(0)
            return y if members is None else y.flatten(1, 2)

        return planes

    parts = [part for name in module.active for part in module.paths[name].modules()]
    kernels = [getattr(part, "kernel_size", 1) for part in parts]
    k = max(kernel if isinstance(kernel, int) else max(kernel) for kernel in kernels)
    fits = k // 2 <= min(module.in_size)  # torch's circular padding wraps once at most
    if not fits and module.stride == 2:
        size, filters = shown(module.in_size), shown([k] * len(module.in_size))
        raise ValueError(f"filters of {filters} wrap around {size} maps more than once, before a stride of 2")
    full = [name for name in module.active if fits and path_kind(name).full_resolution]
    stationary = [name for name in full if path_kind(name).symmetry]
    direct = [name for name in module.active if name not in full]
    c_in, c_out = module.c_in * module.members, module.c_out * module.members
    scale = 1 / module.divisor
    convolution = linear = None
    if stationary:
        axes = len(module.in_size)
        convolution = convolution_of(total(stationary), c_in, k, "circular", like, scale, axes)
    varying = [varying_form(module.paths[name], scale) for name in full if name not in stationary]
    if direct:
        linear = linear_of(total(direct), (c_in, *module.in_size), like, scale)
    shape = (c_out, *module.out_size) if members is None else (module.c_out, members, *module.out_size)
    if members is None and linear is None and not varying and module.stride == 1:
        return cast(nn.Module, convolution)
    if members is None and not full:
        return nn.Sequential(nn.Flatten(), cast(nn.Module, linear), nn.Unflatten(1, shape))
    return traced(SummedLayer(convolution, linear, module.stride, shape, members, varying))


@plain_form.register
def _(module: RelaxedConv2d) -> nn.Module:
    direct = [name for name in module.active if name != CONV]
    if not direct:
        return module.paths[CONV]
    conv = cast(_ConvNd, module.paths[CONV])

    def total(x: Tensor) -> Tensor:
        return torch.stack([module.path(name)(x) for name in direct]).sum(0)

    linear = linear_of(total, (conv.in_channels, *module.in_size), conv.weight)
    shape = (conv.out_channels, *module.out_size)
    if CONV not in module.active:
        return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, shape))
    return traced(SummedLayer(conv, linear, 1, shape, None))


@plain_form.register
def _(module: CircularConv) -> nn.Module:
    bias = module.bias if module.bias is not None else module.weight.new_zeros(module.out_channels)
    settings: dict[str, Any] = {"padding": "same", "padding_mode": "circular"}
    plain = CONVOLUTIONS[module.axes](module.in_channels, module.out_channels, module.kernel_size, **settings)
    return filled(plain, module.weight, bias, module.weight)


@plain_form.register(FullyConnected2d)
@plain_form.register(TwoFactors2d)
@plain_form.register(SymmetricLinear2d)
def _(module: FullyConnected2d | TwoFactors2d | SymmetricLinear2d) -> nn.Module:
    linear = linear_of(module, (module.c_in, *module.in_size), next(module.parameters()))
    return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, (module.c_out, *module.out_size)))


@plain_form.register
def _(module: ShiftDeviation2d) -> nn.Module:
    return varying_form(module, 1.0)


@plain_form.register
def _(module: GroupStage) -> nn.Module:
    members = len(module.group)
    lifts = isinstance(module, LiftingConv2d)

    def planes(x: Tensor) -> Tensor:
        return module(x if lifts else x.unflatten(1, (module.c_in, members))).flatten(1, 2)

    c_in = module.c_in * (1 if lifts else members)
    k, mode = module.kernel_size, module.padding_mode
    convolution = convolution_of(planes, c_in, k, mode, module.weight)
    apart = nn.Unflatten(1, (module.c_out, members))
    return nn.Sequential(*([] if lifts else [nn.Flatten(1, 2)]), convolution, apart)


@plain_form.register
def _(module: GroupConv2d) -> nn.Module:
    return nn.Sequential(*[plain_form(stage) for stage in module.in_order])


@plain_form.register
def _(module: GroupBatchNorm2d) -> nn.Module:
    plain = nn.BatchNorm3d(module.num_features, module.eps, module.momentum, module.affine).to(
        module.running_mean
    )
    plain.load_state_dict(module.state_dict())
    return plain.train(module.training)


@plain_form.register
def _(module: CosetPool2d) -> nn.Module:
    return traced(Pooled(module))


@plain_form.register
def _(module: OrbitAverage) -> nn.Module:
    return traced(FixedAverage(module, replaced(module.network, {})))


@plain_form.register
def _(module: PolyphaseSubsample2d) -> nn.Module:
    return traced(Subsampled(module.norm, module.axes))


def plain_copy(model: nn.Module) -> nn.Module:
    """Copy a network with every layer of ours in its plain form.

    Returns:
        The copy, in which the user's own classes stay; a network of ours becomes a `torch.fx` graph of
        `torch.nn` modules.

    Raises:
        ValueError: a layer of ours, or a subclass of one, that has no plain form.
    """
    return replaced(copy.deepcopy(model), {})


def replaced(module: nn.Module, forms: dict[nn.Module, nn.Module]) -> nn.Module:
    """Bring a module, or its parts in place, to plain form.

    Args:
        module: any.
        forms: of the modules that were met before; a module in two places has one form.

    Returns:
        The plain form, or the module itself where it is the user's own.

    Raises:
        ValueError: a subclass of a layer of ours, which may do something else; a layer that has no plain
            form.
    """
    if module not in forms:
        known = plain_form.dispatch(type(module)) is not plain_form.dispatch(object)
        if known and not is_ours(module):
            raise ValueError(
                f"{type(module).__name__} is a subclass of a layer and may do something else, so it has no "
                "plain form; use the layer itself"
            )
        form = plain_form(module)
        if form is module:
            for name, child in list(module._modules.items()):
                if child is not None:
                    module._modules[name] = replaced(child, forms)
            form = outlined(module) if is_ours(module) else module
        forms[module] = form
    return forms[module]


def outlined(module: nn.Module) -> nn.Module:
    """Trace a container of ours, its parts plain already.

    Returns:
        A graph that calls its parts in the order its `forward` does.

    Raises:
        ValueError: its `forward` cannot be traced.
    """
    try:
        return traced(module)
    except (fx.proxy.TraceError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{type(module).__name__} has no plain form: {reason}") from None
