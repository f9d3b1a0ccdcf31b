"""A data set in memory: inputs and targets, made of what a user gives, and its batches in order.

Axes: batch, c, h, w.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kfac import tensor_of

Pairs = tuple[Tensor, Tensor]
Data = Dataset[Any] | Pairs | DataLoader[Any]
EXPECTED = "expected (x, y), a data set of (image, target) items or a loader of such batches"


def batches(data: Pairs, size: int) -> Iterator[Pairs]:
    """The data in order, `size` at a time."""
    for start in range(0, len(data[0]), size):
        yield data[0][start : start + size], data[1][start : start + size]


def seeded_order(n: int, seed: int) -> Tensor:
    """A seeded order of n data: places `[n]`, on the CPU."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def picked(data: Pairs, places: Tensor) -> Pairs:
    """The data at some places `[m]`, in their order."""
    places = places.to(data[0].device)
    return data[0][places], data[1][places]


def pair_of(data: object) -> Pairs:
    """Images and targets, of a pair of tensors or arrays, a data set or a loader.

    Empty batches of a loader are passed over.

    Raises:
        ValueError: data of another kind, or without numbers; images of different sizes.
    """
    if is_pair(data):
        given: Any = data
        return tensor_of(given[0], "the images"), tensor_of(given[1], "the targets")
    if isinstance(data, tuple):
        raise ValueError(f"{EXPECTED}, got a tuple of {len(data)}")
    if isinstance(data, DataLoader):
        found = [parts(batch, f"batch {k}") for k, batch in enumerate(data)]
        return joined([(x, y) for x, y in found if x.numel() or y.numel()], torch.cat)
    if hasattr(data, "tensors"):
        return pair_of(tuple(data.tensors))
    if isinstance(data, Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ValueError(f"{EXPECTED}, got a {type(data).__name__}")
    return joined([parts(data[k], f"item {k}") for k in range(len(data))], torch.stack)


def is_pair(data: object) -> bool:
    """Whether data are x and y; a list of two may also be a data set of two items."""
    if isinstance(data, list):
        return len(data) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in data)
    return isinstance(data, tuple) and len(data) == 2


def parts(item: object, name: str) -> Pairs:
    """Image and target of an item, or images and targets of a batch; what else it holds is not used.

    Raises:
        ValueError: it has no two parts, or no numbers.
    """
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise ValueError(f"{EXPECTED}, but {name} is a {type(item).__name__}; give its image and its target")
    return tensor_of(item[0], f"the image of {name}"), tensor_of(item[1], f"the target of {name}")


def joined(found: list[Pairs], join: Any) -> Pairs:
    """Images and targets of all items or batches, stacked or put one after the other.

    Raises:
        ValueError: there is none, they differ in shape, or a loader gives single items.
    """
    if not found:
        raise ValueError("expected as many targets as images and at least one, got 0 and 0")
    free = 0 if join is torch.stack else 1  # axes that may differ
    for k, pair in enumerate(found):
        for what, part, first in zip(("images", "targets"), pair, found[0], strict=True):
            if part.dim() < free:
                raise ValueError(f"{EXPECTED}, but the loader gives single {what}; give it a batch_size")
            if part.dim() != first.dim() or part.shape[free:] != first.shape[free:]:
                raise ValueError(
                    f"{what} differ in shape: {list(first.shape)} at first, {list(part.shape)} at {k}; "
                    "bring them to one size"
                )
    x, y = (join(part) for part in zip(*found, strict=True))
    return x, y
