"""Relaxing a network of the user's own: every convolution gets fully connected paths beside it.

The network's classes, its residual sums and functional calls stay as they are; only modules that are plain
`nn.Conv2d` are exchanged for `RelaxedConv2d` around them. Its input size is the one the module saw when one
image of zeros went through.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kfac.modes import evaluated
from symlearn.layers.path_sum import PathSum
from symlearn.layers.registry import PathOptions
from symlearn.layers.relaxed_conv import RelaxedConv2d, expect_added


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
    """A copy of a network in which convolutions have further paths; its outputs are those of the network.

    The copy's attribute `relaxation` is a `Relaxation`: which layers have further paths, and why the others
    have not. In-place activations are made ordinary ones, which curvature needs.

    Args:
        model: any network with `nn.Conv2d` modules.
        input_shape: [c, h, w] of one image.
        paths: what is added to every convolution: any of "fc", "f-fc" and "s-fc".
        only: names of the convolutions to relax, as `model.named_modules()` gives them; None takes all.
        options: what the paths leave to the user.

    Raises:
        ValueError: a path that cannot be added, an input the network does not take, a name that is no
            convolution, a network in which no convolution can be relaxed.
    """
    added = tuple(paths.split("+")) if isinstance(paths, str) else tuple(paths)
    expect_added(added)
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise ValueError(f"relax takes the network within {type(model).__name__}; give model.module")
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise ValueError(f"input_shape is [c, h, w] of one image, got {list(input_shape)}")
    chosen = None if only is None else {only} if isinstance(only, str) else set(only)
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    found = {name: m for name, m in copied.named_modules() if isinstance(m, nn.Conv2d)}
    unknown = (chosen or set()) - set(found)
    if unknown:
        raise ValueError(f"{sorted(unknown)} name no convolution; choose from {', '.join(found)}")
    sizes = sizes_seen(copied, list(found.values()), input_shape)
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
    for name in uncalled(model, copied, relaxed, input_shape):
        copied = exchanged(copied, {relaxed.pop(name): found[name]})
        left[name] = "the network calls it by another way than its modules, so paths beside it would not run"
    if not relaxed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise ValueError(f"no convolution can be relaxed ({reasons or 'the network has none'})")
    copied.relaxation = Relaxation(tuple(relaxed), left)  # type: ignore[assignment]
    return copied


def exchanged(model: nn.Module, parts: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with parts exchanged, in place, wherever they stand but within a layer of paths."""
    for module in list(model.modules()):
        for key, child in module._modules.items():
            if child is not None and child in parts and not isinstance(module, nn.ModuleDict | PathSum):
                module._modules[key] = parts[child]
    return parts.get(model, model)


def uncalled(
    model: nn.Module, relaxed: nn.Module, layers: Mapping[str, nn.Module], input_shape: Sequence[int]
) -> list[str]:
    """The relaxed layers that one image does not reach.

    Raises:
        ValueError: the relaxed network fails, or its outputs are not the network's.
    """
    called: set[nn.Module] = set()
    hooks = [m.register_forward_pre_hook(lambda module, _: called.add(module)) for m in layers.values()]
    like = next(model.parameters(), torch.zeros(()))
    x = torch.linspace(-1, 1, math.prod(input_shape), dtype=like.dtype, device=like.device)
    x = x.reshape(1, *input_shape)
    try:
        with torch.no_grad(), evaluated(model), evaluated(relaxed):
            wanted, found = model(x), relaxed(x)
    except Exception as error:  # noqa: BLE001, whatever a user's code raises
        raise ValueError(
            f"the network does not run with relaxed layers ({one_line(error)}); it may read a convolution's "
            "attributes: leave that one out by only=[...]"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    if isinstance(wanted, Tensor) and not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise ValueError(
            "the relaxed network's outputs are not the network's; leave layers out by only=[...]"
        )
    return [name for name, layer in layers.items() if layer not in called]


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def sizes_seen(
    model: nn.Module, convolutions: list[nn.Conv2d], input_shape: Sequence[int]
) -> dict[nn.Module, list[tuple[int, int]]]:
    """The sizes (h, w) of a convolution's inputs in one pass, one a call.

    Raises:
        ValueError: the network does not take the input.
    """
    sizes: dict[nn.Module, list[tuple[int, int]]] = {conv: [] for conv in convolutions}

    def note(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = args[0] if args else next(iter(named.values()))
        sizes[module].append((x.shape[-2], x.shape[-1]))

    hooks = [conv.register_forward_pre_hook(note, with_kwargs=True) for conv in convolutions]
    like = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), evaluated(model):
            model(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    except Exception as error:  # noqa: BLE001, whatever a user's code raises
        shape = ", ".join(map(str, input_shape))
        raise ValueError(f"the network takes no input [1, {shape}] ({one_line(error)})") from None
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def why_not(
    model: nn.Module,
    name: str,
    conv: nn.Conv2d,
    sizes: list[tuple[int, int]],
    only: set[str] | None,
) -> str | None:
    """Why a convolution cannot be relaxed, or None."""
    if only is not None and name not in only:
        return "not asked for"
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, not an nn.Conv2d, may do something else with its weights"
    if any(isinstance(m, PathSum) and conv in m.modules() for m in model.modules()):
        return "already a path of a relaxed layer"
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
