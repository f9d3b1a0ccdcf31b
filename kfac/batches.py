"""A loader's batches as every pass takes them: two tensors, a target for each input, none of them empty.

A batch is a tuple or list whose first two parts are x and y: tensors, numpy arrays, or lists of numbers or of
arrays. Tensors stay in their type and on their device. Everything else comes to the network's device, and
real numbers to its type, targets at least to float32. Class labels of any integer type become int64.

Axes: batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

Batches = Iterable[Any]
EXPECTED = "expected a loader of batches (x, y)"
INTEGERS = frozenset(
    {
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)


def batches_of(loader: Batches, model: nn.Module, likelihood: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that hold data, each made ready by `batch_of`; empty ones are passed over.

    Args:
        loader: an iterable of batches, or one batch of tensors or arrays by itself.
        model: the network they are for.
        likelihood: "classification" or "regression".

    Yields:
        (x `[batch, ...]`, y `[batch]` or `[batch, outputs]`), as `batch_of` gives them.

    Raises:
        ValueError: no loader, or one without data; see `batch_of` too.
    """
    found = False
    for k, batch in enumerate(batches_in(loader)):
        x, y = batch_of(batch, model, likelihood, f"batch {k}")
        if len(x):
            found = True
            yield x, y
    if not found:
        raise ValueError(
            "the loader gave no data; a pass needs at least one batch that is not empty (an iterator is used "
            "up after one pass: give a list or a DataLoader)"
        )


def batches_in(loader: Batches) -> Iterable[Any]:
    """What there is to iterate over; a single batch counts as a loader of one.

    Returns:
        The loader itself, or a list of the one batch; the batches are not looked into yet.

    Raises:
        ValueError: what was given is no loader.
    """
    if isinstance(loader, tuple | list) and len(loader) == 2:
        whole = all(isinstance(part, Tensor | np.ndarray) for part in loader)
        return [loader] if whole else loader
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise ValueError(
            f"{EXPECTED}, got a data set of single items, {type(loader).__name__}; put it into a DataLoader"
        )
    if isinstance(loader, Mapping | str) or not hasattr(loader, "__iter__"):
        raise ValueError(f"{EXPECTED}, got {type(loader).__name__}; give a DataLoader or a list of batches")
    return loader


def batch_of(batch: object, model: nn.Module, likelihood: str, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one batch; what else it holds is not used.

    Args:
        batch: (x, y, ...); see the module's docstring.
        model: the network it is for.
        likelihood: "classification" or "regression".
        name: of the batch, for messages.

    Returns:
        x `[batch, ...]` and y `[batch]` or `[batch, outputs]`. Tensors stay where they are and of their type,
        arrays are brought to the model's; whole-numbered labels of a classification become int64.

    Raises:
        ValueError: it has no two parts, they hold no numbers, or are not of one length.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(f"{EXPECTED}, but {name} is a {type(batch).__name__}; make it a tuple of x and y")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    x = brought(batch[0], f"x of {name}", like.dtype, like.device)
    y = brought(batch[1], f"y of {name}", torch.promote_types(like.dtype, torch.float32), like.device)
    if not x.dim() or not y.dim():
        raise ValueError(
            f"{name} has x {list(x.shape)} and y {list(y.shape)}; expected x [batch, ...] and y [batch] or "
            "[batch, outputs]; put single items into a DataLoader"
        )
    if len(x) != len(y):
        raise ValueError(f"{name} has {len(x)} inputs and {len(y)} targets; expected as many of both")
    return x, y.long() if likelihood == "classification" and y.dtype in INTEGERS else y


def brought(values: object, what: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor as it is, anything else on the device, real numbers in the type."""
    tensor = tensor_of(values, what)
    if isinstance(values, Tensor):
        return tensor
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def tensor_of(values: object, what: str) -> Tensor:
    """Numbers as a tensor.

    Args:
        values: a tensor, an array, a list of tensors of one shape, or of numbers or arrays.
        what: what they are, for the message.

    Returns:
        The tensor itself, a stack of a list's tensors, or a tensor that shares its memory with the array
        where numpy allows it.

    Raises:
        ValueError: they are no array of numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(v, Tensor) for v in values):
            return torch.stack(list(values))
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        kind = (
            f"an array of {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        )
        raise ValueError(f"{what}: expected an array or tensor of numbers, got {kind}; convert it") from None
