"""What every pass over data goes through: `Samples`, and those that are held in memory.

A fit reads images in three ways, and asks for nothing else:

    batches(size)           all of them, always in the same order: curvature, evaluation, batch statistics
    epoch(size, generator)  in an order drawn anew: steps on the weights, the only ones that see augmentation
    subset(index)           some of them, as `Samples` again: gradients on few images, first looks, shards

Besides these it needs the targets (8 bytes an image, always held), the number of images and the shape of one.
`Held` has both tensors; `mapped.py` reads a data set as its images are needed and draws the same orders, so
that the same images give the same fit; `passes.py` takes what only comes in passes of its own.

Where several processes divide a pass up, each asks for its `Share`: of `batches` a run of neighbouring
images, of `epoch` a run of every batch.

Axes: n, batch, c, h, w, outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Pairs = tuple[Tensor, Tensor]
FIRST = 1000  # images whose scale stands for all


class Share(NamedTuple):
    """The part of n things that is one process', `size` processes having a part each.

    Attributes:
        rank: the number of the process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def of(self, n: int) -> tuple[int, int]:
        """Where the part of n things begins and ends: neighbours, and as many as others have, or one less."""
        return self.rank * n // self.size, (self.rank + 1) * n // self.size


WHOLE = Share()


def seeded_order(n: int, seed: int) -> Tensor:
    """A seeded order of n data: places `[n]`, on the CPU."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


class Samples(ABC):
    """Images and targets on the device and in the types of a fit.

    Attributes:
        targets: of all images, int64 `[n]` or real `[n]` or `[n, outputs]`, in the order of `batches` where
            that order is ours.
        shape: of one image, `[c, h, w]`.
    """

    targets: Tensor
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.targets.device

    @property
    @abstractmethod
    def held(self) -> bool:
        """Whether all images are in memory."""

    @abstractmethod
    def bytes_held(self, batch: int) -> int:
        """Bytes that the images and targets take while they are read `batch` images at a time."""

    @abstractmethod
    def cut(self, sizes: Sequence[int]) -> Iterator[Pairs]:
        """The first `sum(sizes)` images in their fixed order, as batches of these sizes."""

    @abstractmethod
    def epoch(self, size: int, generator: torch.Generator, share: Share = WHOLE) -> Iterator[Pairs]:
        """`n // size` batches in an order drawn from the generator at once; the rest is left out.

        Of every batch the share is given: the generator moves on alike in all processes.
        """

    @abstractmethod
    def subset(self, index: Tensor) -> Samples:
        """The images of these numbers, int64 `[k]` on the CPU, without augmentation."""

    @abstractmethod
    def whole(self) -> Pairs:
        """All images and targets in memory."""

    def batches(self, size: int, share: Share = WHOLE) -> Iterator[Pairs]:
        """The share in the fixed order, `size` at a time; the last batch has what is left."""
        start, stop = share.of(len(self))
        before, own, after = (pieces(n, size) for n in (start, stop - start, len(self) - stop))
        cut = self.cut([*before, *own, *after])
        return (batch for k, batch in enumerate(cut) if 0 <= k - len(before) < len(own))

    def even_batches(self, size: int) -> Iterator[Pairs]:
        """All in their fixed order, in as few batches of at most `size` as can be, as equal as can be."""
        n = len(self)
        count = math.ceil(n / size)
        return self.cut([n // count + (k < n % count) for k in range(count)])

    def first(self, count: int) -> Pairs:
        """The first `count` images, or all there are, and their targets."""
        return next(self.cut([min(count, len(self))]))

    def input_scale(self) -> float:
        """Root mean square of the first images' pixels; 1 where there is nothing but zeros."""
        x, _ = self.first(FIRST)
        return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / max(x.numel(), 1) ** 0.5 or 1.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to repeat passes whose orders are not ours, as plain values."""
        return {}

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        assert not saved

    def close(self) -> None:
        """End the processes that read, if there are any; the next pass starts them again."""
        return


def pieces(n: int, size: int) -> list[int]:
    """Sizes of batches of n images, `size` each; the last has what is left."""
    return [min(size, n - start) for start in range(0, n, size)]


class Held(Samples):
    """Images and targets as tensors.

    Args:
        images: `[n, c, h, w]`.
        targets: `[n]` or `[n, outputs]`.
    """

    held = True

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images, targets
        self.shape = tuple(images.shape[1:])

    def bytes_held(self, batch: int) -> int:
        """Of both tensors."""
        return sum(t.numel() * t.element_size() for t in (self.images, self.targets))

    def cut(self, sizes: Sequence[int]) -> Iterator[Pairs]:
        """Slices."""
        start = 0
        for size in sizes:
            yield self.images[start : start + size], self.targets[start : start + size]
            start += size

    def epoch(self, size: int, generator: torch.Generator, share: Share = WHOLE) -> Iterator[Pairs]:
        """By a permutation."""
        order = torch.randperm(len(self), generator=generator)
        start, stop = share.of(size)
        firsts = range(0, len(self) // size * size, size)
        picks = (order[first + start : first + stop].to(self.device) for first in firsts)
        return ((self.images[pick], self.targets[pick]) for pick in picks)

    def subset(self, index: Tensor) -> Held:
        """Copies."""
        index = index.to(self.device)
        return Held(self.images[index], self.targets[index])

    def whole(self) -> Pairs:
        """Both tensors."""
        return self.images, self.targets


SamplesLike = Samples | Pairs


def samples_of(data: SamplesLike) -> Samples:
    """Samples as they are, a pair of tensors as `Held`."""
    return data if isinstance(data, Samples) else Held(*data)
