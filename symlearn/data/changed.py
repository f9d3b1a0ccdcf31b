"""`Changed`: other samples whose images and targets go through functions on their way.

Axes: n, batch, c, h, w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from symlearn.data.samples import WHOLE, Pairs, Samples, Share

Change = Callable[[Tensor], Tensor]


class Changed(Samples):
    """Samples behind two functions of batches, each of which treats every image or target by itself.

    Args:
        samples: what is read.
        images: `[batch, c, h, w]` to images of one shape.
        labels: targets to targets.
    """

    def __init__(self, samples: Samples, images: Change, labels: Change) -> None:
        self._samples, self._images, self._labels = samples, images, labels
        self.targets = labels(samples.targets)
        self.shape = tuple(images(samples.first(1)[0]).shape[1:])

    @property
    def held(self) -> bool:
        """As those that are read."""
        return self._samples.held

    def bytes_held(self, batch: int) -> int:
        """Of those that are read, of the targets, and of a batch of what they become."""
        images = 4 * batch * torch.Size(self.shape).numel()
        return self._samples.bytes_held(batch) + self.targets.numel() * self.targets.element_size() + images

    def _changed(self, batches: Iterator[Pairs]) -> Iterator[Pairs]:
        return ((self._images(x), self._labels(y)) for x, y in batches)

    def cut(self, sizes: Sequence[int]) -> Iterator[Pairs]:
        """Read and changed."""
        return self._changed(self._samples.cut(sizes))

    def epoch(self, size: int, generator: torch.Generator, share: Share = WHOLE) -> Iterator[Pairs]:
        """Read and changed."""
        return self._changed(self._samples.epoch(size, generator, share))

    def subset(self, index: Tensor) -> Changed:
        """Of those that are read."""
        return Changed(self._samples.subset(index), self._images, self._labels)

    def whole(self) -> Pairs:
        """Read and changed."""
        x, y = self._samples.whole()
        return self._images(x), self._labels(y)

    def state(self) -> dict[str, Any]:
        """Of those that are read."""
        return self._samples.state()

    def load(self, saved: dict[str, Any]) -> None:
        """To those that are read."""
        self._samples.load(saved)

    def close(self) -> None:
        """Of those that are read."""
        self._samples.close()
