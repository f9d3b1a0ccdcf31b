"""Data sets that are read as they are needed: map-style, iterable, and broken in one way each.

Axes: n, c, h, w.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset


class Listed(Dataset):
    """Map-style, of a pair of tensors; `noise` is drawn from torch's, numpy's and Python's generators."""

    def __init__(self, x: Tensor, y: Tensor, noise: float = 0.0) -> None:
        self.x, self.y, self.noise = x, y, noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        drawn = torch.rand(()) + np.random.rand() + random.random() if self.noise else 0.0  # noqa: NPY002
        return self.x[index] + self.noise * drawn, self.y[index]


class Bad(Listed):
    """One item is something else."""

    def __init__(self, x: Tensor, y: Tensor, item: Any, at: int = 5) -> None:
        super().__init__(x, y)
        self.item, self.at = item, at

    def __getitem__(self, index: int) -> Any:
        if index != self.at:
            return super().__getitem__(index)
        if isinstance(self.item, Exception):
            raise self.item
        return self.item


class Dying(Listed):
    """The process that reads it ends, unless it is this one."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.owner = os.getpid()

    def __getitem__(self, index: int) -> Any:
        if os.getpid() != self.owner and index == 5:
            os._exit(3)
        return super().__getitem__(index)


class Flowing(IterableDataset):
    """Iterable, shuffled by torch's global generator; `count` images a pass, other numbers in later passes.

    Args:
        x: images.
        y: targets.
        later: images of every pass after the first; None: as many.
        endless: whether a pass begins again at its end.
    """

    def __init__(self, x: Tensor, y: Tensor, later: int | None = None, endless: bool = False) -> None:
        self.x, self.y, self.later, self.endless, self.begun = x, y, later, endless, 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        count = len(self.x) if self.begun == 1 or self.later is None else self.later
        while True:
            for index in torch.randperm(len(self.x)).tolist()[:count]:
                yield self.x[index], self.y[index]
            if not self.endless:
                return


class Counting(IterableDataset):
    """Iterable, in an order of its own that its state says: the k-th pass begins at the k-th image."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.passes = x, y, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for k in range(len(self.x)):
            at = (k + self.passes) % len(self.x)
            yield self.x[at], self.y[at]

    def state_dict(self) -> dict[str, int]:
        """Passes so far."""
        return {"passes": self.passes}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        """Go on from there."""
        self.passes = saved["passes"]
