"""One image through a network: the sizes its convolutions see, what it puts out, and whether a change shows.

Every pass is in `eval` mode, under a seed of its own, on a copy of the image that the network may overwrite.

Axes: c, size (t; h, w; d, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from kfac import evaluated, one_line
from symlearn.data.warps import ImageSize

SEED = 0


def image_for(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """An image `[1, c, *size]` of no symmetry, in a network's type and on its device."""
    like = next(model.parameters(), torch.zeros(()))
    x = torch.linspace(-1, 1, math.prod(shape), dtype=like.dtype, device=like.device)
    return x.reshape(1, *shape)


def outputs_of(model: nn.Module, image: Tensor) -> list[Any]:
    """Everything that a network puts out for an image, whatever it is arranged in."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad(), evaluated(model):
        torch.manual_seed(SEED)
        return [y.clone() if isinstance(y, Tensor) else y for y in tree_leaves(model(image.clone()))]


def first_pass(
    model: nn.Module, image: Tensor, convolutions: Iterable[_ConvNd]
) -> tuple[list[Any], dict[_ConvNd, list[ImageSize]]]:
    """Put one image through a network and watch its convolutions.

    Returns:
        What the network puts out, and the sizes, such as (h, w), of every convolution's inputs, one a call.

    Raises:
        ValueError: the network does not take the image.
    """
    sizes: dict[_ConvNd, list[ImageSize]] = {conv: [] for conv in convolutions}

    def note(module: _ConvNd, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = args[0] if args else next(iter(named.values()))
        sizes[module].append(tuple(x.shape[-len(module.kernel_size) :]))

    hooks = [conv.register_forward_pre_hook(note, with_kwargs=True) for conv in sizes]
    try:
        return outputs_of(model, image), sizes
    except Exception as error:  # noqa: BLE001, whatever a user's code raises
        shape = ", ".join(map(str, image.shape))
        raise ValueError(f"the network takes no input [{shape}] ({one_line(error)})") from None
    finally:
        for hook in hooks:
            hook.remove()


def fault(model: nn.Module, image: Tensor, wanted: list[Any], layers: Collection[nn.Module]) -> str | None:
    """What is wrong with a changed network, or None: it fails, misses new layers or puts out other values."""
    called: set[nn.Module] = set()
    hooks = [layer.register_forward_pre_hook(lambda module, _: called.add(module)) for layer in layers]
    try:
        found = outputs_of(model, image)
    except Exception as error:  # noqa: BLE001, whatever a user's code raises
        return f"the network does not run with paths beside it ({one_line(error)})"
    finally:
        for hook in hooks:
            hook.remove()
    if len(called) < len(layers):
        return "the network calls it by another way than its modules, so paths beside it would not run"
    if len(found) != len(wanted) or not all(map(same, found, wanted)):
        return "with paths beside it the network's outputs are others; it may look at its convolutions' types"
    return None


def same(found: object, wanted: object) -> bool:
    """Whether two outputs agree, up to rounding; anything but tensors does."""
    if not isinstance(found, Tensor) or not isinstance(wanted, Tensor):
        return type(found) is type(wanted)
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        return False
    if not found.is_floating_point():
        return torch.equal(found, wanted)
    return torch.allclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
