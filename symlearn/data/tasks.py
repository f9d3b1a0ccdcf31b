"""Tasks: what is done to each image of a source, and what its label becomes.

A task first places the image on a canvas (in the middle, or in one of four quadrants); the canvas is then
resized to the network's size, and the task transforms what lies there. Every sample has `draws` uniform
numbers of its own (`draws.py`), so a transform is fixed by the seed and the sample. All but `class` are for
images alone. Quadrants are numbered row by row: 0 top-left, 1 top-right, 2 bottom-left, 3 bottom-right.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from symlearn.data import warps
from symlearn.data.warps import ImageSize

IMAGES_ALONE = frozenset({2})
QUADRANTS = ("top-left", "top-right", "bottom-left", "bottom-right")
SMALLEST_SCALE, LARGEST_SCALE = 0.5, 1.25
LARGEST_SHIFT = 8  # pixels; a quarter of the side where that is less


class Task:
    """`class`: the image in the middle of its canvas, the label as it is. Base of all tasks.

    A task overrides what it changes; `uniform` is float64 [batch, draws] in [0, 1).
    """

    axes: ClassVar[frozenset[int]] = frozenset({1, 2, 3})  # of places: 1 signals, 2 images, 3 volumes
    draws: ClassVar[int] = 0
    makes_classes: ClassVar[bool] = False  # the label is more than the source's
    label_needs_place: ClassVar[bool] = False  # an image whose place is not known has no right answer
    leaves_training: ClassVar[bool] = False  # the training set keeps images and labels as they are

    def canvas(self, image_size: ImageSize) -> ImageSize:
        """The canvas for images of `image_size` where no frame is asked for."""
        return image_size

    def smallest_canvas(self, image_size: ImageSize) -> ImageSize:
        """The smallest frame that holds what the task puts on it."""
        return image_size

    def place(self, images: Tensor, canvas: ImageSize, uniform: Tensor) -> Tensor:
        """[batch, c, h, w] -> [batch, c, *canvas]."""
        return warps.place_centred(images, canvas)

    def check_size(self, size: ImageSize) -> None:
        """Raise ValueError where the transform is not defined on images of `size`."""

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        """[batch, c, h, w] -> the same shape."""
        return images

    def labels(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Int64 [batch] -> the same shape."""
        return labels

    def class_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the task's classes, from the source's."""
        return names


class QuadrantDigit(Task):
    """`quadrant-digit`: the image in a random quadrant, the label its class alone."""

    axes = IMAGES_ALONE
    draws = 1

    def canvas(self, image_size: ImageSize) -> ImageSize:
        """Twice the image's sides."""
        return 2 * image_size[0], 2 * image_size[1]

    def smallest_canvas(self, image_size: ImageSize) -> ImageSize:
        """Twice the image's sides."""
        return self.canvas(image_size)

    def place(self, images: Tensor, canvas: ImageSize, uniform: Tensor) -> Tensor:
        """Put each image in the middle of its quadrant of the canvas."""
        h, w = canvas[0] // 2, canvas[1] // 2
        quadrant = self.quadrant(uniform)
        top = (quadrant // 2) * h + (h - images.shape[-2]) // 2
        left = (quadrant % 2) * w + (w - images.shape[-1]) // 2
        return warps.place(images, canvas, top, left)

    def quadrant(self, uniform: Tensor) -> Tensor:
        """The quadrant of each sample, int64 [batch]."""
        return (uniform[:, 0] * 4).long()


class Quadrant(QuadrantDigit):
    """`quadrant`: the image in a random quadrant, the label class · 4 + quadrant."""

    makes_classes = True
    label_needs_place = True

    def labels(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Class · 4 + quadrant."""
        return labels * 4 + self.quadrant(uniform)

    def class_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Such as `3@top-left`."""
        return tuple(f"{name}@{quadrant}" for name in names for quadrant in QUADRANTS)


class Rotated(Task):
    """`rotated`: turned about the centre by an angle uniform in [-180°, 180°), bilinear."""

    axes = IMAGES_ALONE
    draws = 1

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Rotate each image by its own angle."""
        return warps.rotate(images, (2 * uniform[:, 0] - 1) * math.pi)


class RotatedTest(Rotated):
    """`rotated-test`: the test set as `rotated`, the training set as `class` (Theodosis & Ba, Table 2)."""

    leaves_training = True


class Translated(Task):
    """`translated`: shifted by whole pixels, uniform in ±min(8, side/4) along each axis; black comes in."""

    axes = IMAGES_ALONE
    draws = 2

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Shift each image by its own offsets."""
        furthest = torch.tensor([min(LARGEST_SHIFT, side // 4) for side in images.shape[-2:]])
        down, right = ((uniform * (2 * furthest + 1)).long() - furthest).unbind(-1)
        return warps.shift(images, down, right)


class Scaled(Task):
    """`scaled`: scaled about the centre by a factor in [0.5, 1.25), uniform in its logarithm, bilinear.

    No antialiasing: one filter serves all factors, and at 0.5 the bilinear one still sees every second pixel.
    """

    axes = IMAGES_ALONE
    draws = 1

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Scale each image by its own factor."""
        return warps.rescale(images, SMALLEST_SCALE * (LARGEST_SCALE / SMALLEST_SCALE) ** uniform[:, 0])


class QuarterTurns(Task):
    """`quarter-turns`: turned by 0°, 90°, 180° or 270°, exactly; the label stays the class."""

    axes = IMAGES_ALONE
    draws = 1

    def check_size(self, size: ImageSize) -> None:
        """A quarter turn keeps only squares in their frame."""
        if size[0] != size[1]:
            raise ValueError(
                f"tasks of quarter turns expect square images, got {size[0]}x{size[1]}; "
                "give a size or a frame that is square"
            )

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Turn each image by its own number of quarter turns."""
        return warps.quarter_turn(images, self.turns(uniform))

    def turns(self, uniform: Tensor) -> Tensor:
        """The quarter turns of each sample, int64 [batch]."""
        return (uniform[:, 0] * 4).long()


class ClassAndTurn(QuarterTurns):
    """`class-and-turn`: turned in the same way, the label class · 4 + quarter turns."""

    makes_classes = True

    def labels(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Class · 4 + quarter turns."""
        return labels * 4 + self.turns(uniform)

    def class_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Such as `3@90°`."""
        return tuple(f"{name}@{90 * turns}°" for name in names for turns in range(4))


TASKS: dict[str, Task] = {
    "class": Task(),
    "quadrant-digit": QuadrantDigit(),
    "quadrant": Quadrant(),
    "rotated": Rotated(),
    "rotated-test": RotatedTest(),
    "translated": Translated(),
    "scaled": Scaled(),
    "quarter-turns": QuarterTurns(),
    "class-and-turn": ClassAndTurn(),
}


def find_task(name: str) -> Task:
    """The task of that name; ValueError with the known ones otherwise."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
