"""`Mapped`: a map-style data set that is read as its images are needed.

Orders are drawn as for tensors in memory, so the same images give the same fit, bit for bit on a CPU. The
targets are read once at the beginning, in a pass that also finds images that cannot be used.

Axes: n, batch, c, h, w.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from symlearn.data.reading import Reading, Request
from symlearn.data.samples import WHOLE, Pairs, Samples, Share, pieces

LOOK = 256  # images of a batch where nothing else asks for a size


def brought(batch: Pairs, device: torch.device, dtype: torch.dtype) -> Pairs:
    """A batch on a device, images and real targets in a dtype, labels as int64."""
    x, y = batch
    pinned = x.is_pinned() if device.type == "cuda" else False
    y = y.to(device, dtype if y.is_floating_point() else torch.int64, non_blocking=pinned)
    return x.to(device, dtype, non_blocking=pinned), y


def looked_at(batches: Iterable[Pairs]) -> tuple[Tensor, tuple[int, ...]]:
    """Go through batches once, to keep what is small and to refuse what cannot be used.

    Returns:
        All targets `[n, ...]`, copied, and the shape of one image, such as (c, h, w).

    Raises:
        ValueError: no image, images of different shapes, values that are not finite.
    """
    targets: list[Tensor] = []
    shape: tuple[int, ...] | None = None
    for x, y in batches:
        if x.dim() < 2 or y.dim() < 1 or len(x) != len(y):
            raise ValueError(
                f"expected images [n, c, h, w] and targets [n], got {list(x.shape)} and {list(y.shape)}; "
                "give every image an axis of its own"
            )
        shape = tuple(x.shape[1:]) if shape is None else shape
        check_shape(x, shape)
        if not torch.isfinite(x).all():
            raise ValueError(
                f"{int((~torch.isfinite(x)).sum())} pixels are NaN or infinite among images "
                f"{sum(map(len, targets))} to {sum(map(len, targets)) + len(x) - 1}; clean the images"
            )
        if y.is_floating_point() and not torch.isfinite(y).all():
            raise ValueError("some targets are NaN or infinite; clean them")
        if targets and (y.dtype, y.shape[1:]) != (targets[0].dtype, targets[0].shape[1:]):
            raise ValueError(
                f"targets differ: {targets[0].dtype} {list(targets[0].shape[1:])} at first, {y.dtype} "
                f"{list(y.shape[1:])} later; expected one kind"
            )
        targets.append(y.clone())  # of a shared batch that would stay alive
    if shape is None:
        raise ValueError("expected as many targets as images and at least one, got 0 and 0")
    return torch.cat(targets), shape


def check_shape(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse images of another shape.

    Raises:
        ValueError: which shapes.
    """
    if tuple(x.shape[1:]) != shape:
        raise ValueError(
            f"images differ in shape: {list(shape)} at first, {list(x.shape[1:])} later; "
            "bring them to one size"
        )


class Mapped(Samples):
    """A data set behind a loader.

    Args:
        reading: the loader.
        items: numbers of the data set's items that count, int64 `[n]` on the CPU.
        device: where batches go.
        dtype: of images and real targets.
        known: targets and shape, where they are known.

    Raises:
        ValueError: see `looked_at`; items that cannot be read.
    """

    held = False

    def __init__(
        self,
        reading: Reading,
        items: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        known: tuple[Tensor, tuple[int, ...]] | None = None,
    ) -> None:
        self._reading, self._items, self._device, self._dtype = reading, items, device, dtype
        self.targets, self.shape = known or looked_at(self._read(items.split(LOOK)))

    def bytes_held(self, batch: int) -> int:
        """Of the targets, a batch, what workers read ahead, and what the data set says that it holds."""
        image = torch.Size(self.shape).numel() * torch.empty((), dtype=self._dtype).element_size()
        own = getattr(self._reading.reader.plain.dataset, "bytes_held", 0)
        targets = self.targets.numel() * self.targets.element_size()
        return own + targets + (1 + self._reading.ahead) * batch * image

    def _read(self, parts: Iterable[Tensor], seed: int = 0, augmented: bool = False) -> Iterator[Pairs]:
        requests = [Request(part.tolist(), seed, augmented) for part in parts if len(part)]
        for batch in self._reading.batches(requests):
            yield brought(batch, self._device, self._dtype)

    def _checked(self, batches: Iterator[Pairs]) -> Iterator[Pairs]:
        for x, y in batches:
            check_shape(x, self.shape)
            yield x, y

    def cut(self, sizes: Sequence[int]) -> Iterator[Pairs]:
        """Read in the data set's order."""
        ends = [0, *itertools.accumulate(sizes)]
        return self._checked(self._read(self._items[a:b] for a, b in itertools.pairwise(ends)))

    def batches(self, size: int, share: Share = WHOLE) -> Iterator[Pairs]:
        """See `Samples`; no more than the share is read."""
        if share == WHOLE:
            return self.cut(pieces(len(self), size))
        start, stop = share.of(len(self))
        return self.subset(torch.arange(start, stop)).cut(pieces(stop - start, size))

    def epoch(self, size: int, generator: torch.Generator, share: Share = WHOLE) -> Iterator[Pairs]:
        """By the permutation that tensors in memory would get; what items draw is seeded by the generator."""
        order = torch.randperm(len(self), generator=generator)
        seed = int(torch.randint(2**62, (1,), generator=generator.clone_state()))
        start, stop = share.of(size)
        picks = [pick[start:stop] for pick in order[: len(self) // size * size].split(size)]
        return self._checked(self._read([self._items[pick] for pick in picks], seed, augmented=True))

    def subset(self, index: Tensor) -> Mapped:
        """Other numbers, the same loader."""
        known = self.targets[index.to(self.device)], self.shape
        return Mapped(self._reading, self._items[index], self._device, self._dtype, known)

    def close(self) -> None:
        """End the loader's workers."""
        self._reading.close()

    def whole(self) -> Pairs:
        """All that were asked for, read into memory."""
        x, y = (torch.cat(found) for found in zip(*self.batches(LOOK), strict=True))
        return x, y
