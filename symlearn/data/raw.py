"""What every source hands over: images and labels as they lie, checked, before any task.

Notation: a `RawSplit` is one half of a set (train or test) with images [n, c, h, w] (or signals [n, c, t], or
volumes [n, c, d, h, w]; all are called images here), either uint8 in 0..255 or float32 as accepted, and
targets [n] (int64 classes) or [n, d] (float32, regression). Black is 0.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from symlearn.data.warps import ImageSize


class Pixels(Protocol):
    """Images [n, c, h, w], uint8 or float32, of which some are asked for by number: a tensor, or files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, c, h, w)."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[batch, c, h, w] of the numbers `index`, int64 [batch]."""


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Images [n, c, h, w] (uint8 or float32) and targets, int64 [n] or float32 [n, d]."""

    images: Pixels
    targets: Tensor

    def __len__(self) -> int:
        """How many samples."""
        return len(self.images)


@dataclass(frozen=True, eq=False)
class RawData:
    """One source: its two halves, the names of its classes (outputs in regression) and what it prefers.

    `frame` is the canvas and `size` the final size used where the caller names none; None keeps the images'
    own size. `labelled` is False where the targets are real numbers.
    """

    train: RawSplit
    test: RawSplit
    class_names: tuple[str, ...]
    frame: ImageSize | None = None
    size: ImageSize | None = None
    labelled: bool = True

    @property
    def image_size(self) -> ImageSize:
        """(h, w) of the images as they lie; (t,) of signals, (d, h, w) of volumes."""
        return tuple(self.train.images.shape[2:])


def to_float(images: Tensor) -> Tensor:
    """Float32 images: uint8 becomes [0, 1], float stays as it is."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def check_classes(labels: Tensor, classes: int, where: str, *, every_class: bool) -> None:
    """Raise ValueError unless labels, int64 [n], lie in 0..classes-1 and, if asked, no class is empty."""
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{where} holds {len(outside)} labels out of range, the first {int(labels[first])} at index "
            f"{first}; expected whole numbers from 0 to {classes - 1}, the classes of the training set"
        )
    present = labels.unique()
    if every_class and len(present) < classes:
        gap = (
            present != torch.arange(len(present))
        ).nonzero()  # the first place where the sorted labels jump
        first = int(gap[0]) if len(gap) else len(present)
        raise ValueError(
            f"{where} has no image of class {first} ({classes - len(present)} of {classes} classes are "
            "empty); expected at least one for each; number the classes from 0 without gaps"
        )
