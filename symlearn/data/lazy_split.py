"""One half of a source under a task: its images made a few at a time, held together or as they are needed.

An image depends on the seed and its own number alone, so both give the same, bit for bit.

Axes: n, batch, c, h, w (t of signals; d, h, w of volumes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from symlearn.data import warps
from symlearn.data.draws import per_sample_uniform
from symlearn.data.preprocessing import Preprocessing
from symlearn.data.raw import RawSplit, to_float
from symlearn.data.samples import Pairs
from symlearn.data.tasks import Task
from symlearn.data.warps import ImageSize

_CHUNK = 2048  # images transformed at once: a bound on memory, of no influence on the result


@dataclass(frozen=True, eq=False)
class Making:
    """How the samples of one half become images.

    Attributes:
        task: what is done to them.
        half: the source's images and targets.
        canvas: on which a task places them.
        size: that the canvas is resized to.
        seed: of the task's transforms.
        split: which half, for their draws.
        index: numbers of the samples, int64 `[n]`.
    """

    task: Task
    half: RawSplit
    canvas: ImageSize
    size: ImageSize
    seed: int
    split: int
    index: Tensor

    @property
    def channels(self) -> int:
        """Of the images."""
        return int(self.half.images.shape[1])

    @property
    def bytes_held(self) -> int:
        """Bytes that all images take as float32."""
        return 4 * len(self.index) * self.channels * math.prod(self.size)

    def uniform(self, index: Tensor) -> Tensor:
        """The numbers in [0, 1) that belong to these samples of the source."""
        return per_sample_uniform(self.seed, self.split, index, self.task.draws)

    def images(self, positions: Tensor) -> Tensor:
        """Images `[batch, c, *size]` at these positions of `index`, not normalised."""
        index = self.index[positions]
        uniform = self.uniform(index)
        placed = self.task.place(to_float(self.half.images[index]), self.canvas, uniform)
        return self.task.transform(warps.resize(placed, self.size), uniform)

    def targets(self, labelled: bool) -> Tensor:
        """Of all samples, under the task where they are labels."""
        targets = self.half.targets[self.index]
        return self.task.labels(targets, self.uniform(self.index)) if labelled else targets

    def all_images(self) -> Tensor:
        """Images of all samples, `[n, c, *size]`."""
        images = torch.empty(len(self.index), self.channels, *self.size)
        for positions in torch.arange(len(self.index)).split(_CHUNK):
            images[positions[0] : positions[-1] + 1] = self.images(positions)
        return images


class LazySplit(Dataset[Pairs]):
    """Images and targets of one half, made as they are asked for.

    Args:
        making: the images.
        targets: of all samples.
        preprocessing: that normalises the images; None leaves them as they are.
    """

    def __init__(self, making: Making, targets: Tensor, preprocessing: Preprocessing | None = None) -> None:
        self.making, self.targets, self.preprocessing = making, targets, preprocessing

    @property
    def bytes_held(self) -> int:
        """Bytes of the source's images, where they are in memory."""
        images = self.making.half.images
        return images.numel() * images.element_size() if isinstance(images, Tensor) else 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> Pairs:
        if not -len(self) <= position < len(self):
            raise IndexError(f"image {position} of {len(self)}")
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[Pairs]:
        """Several at once, as loaders ask for them."""
        at = torch.tensor(positions)
        images = self.making.images(at)
        if self.preprocessing is not None:
            images = self.preprocessing.normalise(images)
        return list(zip(images, self.targets[at], strict=True))
