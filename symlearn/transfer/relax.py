"""Relaxing a network of the user's own: every convolution gets fully connected paths beside it.

The network's classes, its residual sums and functional calls stay as they are; only modules that are plain
`nn.Conv1d`, `2d` or `3d` are exchanged for `RelaxedConv2d` around them. Their input sizes are those that the
modules saw when one image went through. The copy's outputs for that image are compared with the network's;
where they are others, layers are exchanged one by one and those under which it changes are left.

Axes: batch, c, size (t of signals; h, w of images; d, h, w of volumes).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kfac import one_line
from symlearn.kinds import AXES, layout
from symlearn.layers.path_sum import PathSum
from symlearn.layers.registry import PathOptions
from symlearn.layers.relaxed_conv import RelaxedConv2d, expect_added
from symlearn.transfer.one_image import fault, first_pass, image_for

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Relaxation:
    """What became of the convolutions of a network.

    Attributes:
        relaxed: names of the layers with further paths.
        left: reason by name of the convolutions that were left as they are.
    """

    relaxed: tuple[str, ...]
    left: dict[str, str]


def relax(
    model: nn.Module,
    input_shape: Sequence[int],
    paths: str | Sequence[str] = ("f-fc",),
    *,
    only: Sequence[str] | None = None,
    options: PathOptions | None = None,
) -> nn.Module:
    """Copy a network and give its convolutions further paths; its outputs stay those of the network.

    In-place activations are made ordinary ones, which curvature needs.

    Args:
        model: any network with `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` modules.
        input_shape: [c, h, w] of one image, [c, t] of a signal, [c, d, h, w] of a volume.
        paths: what is added to every convolution: any of "fc", "f-fc" and "s-fc".
        only: names of the convolutions to relax, as `model.named_modules()` gives them; None takes all.
        options: what the paths leave to the user.

    Returns:
        The copy, whose attribute `relaxation` is a `Relaxation`: which layers have further paths, and why the
        others have not.

    Raises:
        ValueError: a path that cannot be added, what is no network or cannot be copied, an input the network
            does not take, a name that is no convolution, outputs that differ from pass to pass, a network in
            which no convolution can be relaxed.
    """
    added = tuple(paths.split("+")) if isinstance(paths, str) else tuple(paths)
    expect_added(added)
    expect_network(model)
    expect_input_shape(model, input_shape)
    chosen = None if only is None else {only} if isinstance(only, str) else set(only)
    copied = duplicate(model)
    found = {name: m for name, m in copied.named_modules() if isinstance(m, CONVOLUTIONS)}
    unknown = (chosen or set()) - set(found)
    if unknown:
        raise ValueError(f"{sorted(unknown)} name no convolution; choose from {', '.join(found)}")
    image = image_for(copied, input_shape)
    wanted, sizes = first_pass(copied, image, found.values())
    left = {
        name: reason
        for name, conv in found.items()
        if (reason := why_not(copied, name, conv, sizes[conv], chosen))
    }
    relaxed = {
        name: RelaxedConv2d(conv, sizes[conv][0], added, options).train(conv.training)
        for name, conv in found.items()
        if name not in left
    }
    copied = exchanged(copied, {found[name]: layer for name, layer in relaxed.items()})
    if fault(copied, image, wanted, relaxed.values()) is not None:
        copied = exchanged(copied, {layer: found[name] for name, layer in relaxed.items()})
        exchanges = {name: (found[name], layer) for name, layer in relaxed.items()}
        copied, against = one_at_a_time(copied, image, wanted, exchanges)
        left |= against
        relaxed = {name: layer for name, layer in relaxed.items() if name not in against}
    if not relaxed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise ValueError(f"no convolution can be relaxed ({reasons or 'the network has none'})")
    copied.relaxation = Relaxation(tuple(relaxed), left)  # type: ignore[assignment]
    return copied


def expect_network(model: nn.Module) -> None:
    """Refuse what is no network, and wrappers that spread one over devices.

    Raises:
        ValueError: what to give instead.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"relax takes a network, an nn.Module, got {type(model).__name__}; give the network")
    for name, module in model.named_modules():
        if isinstance(module, DataParallel | DistributedDataParallel):
            kind = type(module).__name__
            instead = f"put its .module in place of {name!r}" if name else "give model.module"
            raise ValueError(f"relax takes the network within {kind}; {instead}")


def expect_input_shape(model: nn.Module, shape: object) -> None:
    """Refuse what is no shape of an image, nor of a signal or volume of a network that has its convolutions.

    Raises:
        ValueError: which shapes the network takes.
    """
    axes = {2, *(len(m.kernel_size) for m in model.modules() if isinstance(m, CONVOLUTIONS))}
    wanted = " or ".join(f"{layout(n, 'c')} of one {kind[:-1]}" for kind, n in AXES.items() if n in axes)
    if not isinstance(shape, Sequence) or len(shape) - 1 not in axes:
        raise ValueError(f"input_shape is {wanted}, got {shape!r}; give a number an axis")
    if any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"input_shape is {wanted}, got {list(shape)}; give whole numbers above 0")


def duplicate(model: nn.Module) -> nn.Module:
    """Copy a network, with ordinary activations in place of in-place ones.

    Returns:
        The copy; the network is left as it is.

    Raises:
        ValueError: the network cannot be copied.
    """
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # noqa: BLE001, whatever a user's code raises
        raise ValueError(
            f"the network cannot be copied ({one_line(error)}); where hooks compute its weights, as "
            "nn.utils.weight_norm's do, use those of nn.utils.parametrizations, or remove them"
        ) from None
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return copied


def exchanged(model: nn.Module, parts: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with parts exchanged, in place, wherever they stand now; not within what they become."""
    slots = [
        (module, key, child)
        for module in model.modules()
        for key, child in module._modules.items()
        if child is not None and child in parts
    ]
    for module, key, child in slots:
        module._modules[key] = parts[child]
    return parts.get(model, model)


def one_at_a_time(
    model: nn.Module,
    image: Tensor,
    wanted: list[Any],
    exchanges: Mapping[str, tuple[nn.Module, nn.Module]],
) -> tuple[nn.Module, dict[str, str]]:
    """Exchange parts of a network one by one, and undo what would change its outputs.

    Args:
        model: the network, none of them exchanged.
        image: that is put through.
        wanted: what the network puts out for it.
        exchanges: old and new part by name.

    Returns:
        The network with the parts exchanged under which it stays what it was, and the reasons against the
        others by name.

    Raises:
        ValueError: the network puts out something else each time, with nothing exchanged.
    """
    if fault(model, image, wanted, ()) is not None:
        raise ValueError(
            "the network's outputs for one image differ from pass to pass, so its relaxed copy cannot be "
            "compared with it; make eval mode repeatable under torch.manual_seed"
        )
    against = {}
    for name, (old, new) in exchanges.items():
        model = exchanged(model, {old: new})
        reason = fault(model, image, wanted, [new])
        if reason is not None:
            model = exchanged(model, {new: old})
            against[name] = reason
    return model, against


def why_not(
    model: nn.Module,
    name: str,
    conv: _ConvNd,
    sizes: list[tuple[int, ...]],
    only: set[str] | None,
) -> str | None:
    """Why a convolution cannot be relaxed, or None."""
    if only is not None and name not in only:
        return "not asked for"
    if type(conv) not in CONVOLUTIONS:
        kind = next(kind for kind in CONVOLUTIONS if isinstance(conv, kind))
        return f"a {type(conv).__name__}, not an nn.{kind.__name__}, may do something else with its weights"
    if any(isinstance(m, PathSum) and conv in m.modules() for m in model.modules()):
        return "already a path of a relaxed layer"
    if "weight" not in conv._parameters:
        return "its weight is computed by a hook, and is no parameter of it"
    own = {id(p) for p in conv.parameters()}
    shared = [
        other
        for other, module in model.named_modules()
        if module is not conv and any(id(p) in own for p in module.parameters(recurse=False))
    ]
    if shared:
        return f"its weight is also that of {shared[0] or 'the network'}"
    if not sizes:
        return "its forward was not called when one image went through"
    if len(set(sizes)) > 1:
        return f"called with maps of different sizes {sorted(set(sizes))}, and added paths have one size"
    return None
