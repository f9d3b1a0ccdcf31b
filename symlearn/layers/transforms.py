"""Transformations of an image whose ranges can be learned: names, generators, units.

A transformation with a range r moves an image by exp(u r G), u uniform in [-1, 1] and G a generator of its
Lie algebra, so that with each its inverse is among them (Benton et al. 2020; Immer et al. 2022).
Several are joined before the exponential, exp(sum_d u_d r_d G_d). Generators of places act on (x, y, 1)
from the image's centre, y downwards, in units of its side; those of colours on (red, green, blue, 1) as
deviations from the image's own mean colour, in the network's units. A mirror image has a probability in place
of a range.

    name                       range                                     of no effect at
    rotation                   degrees either way, 180 at most           0
    translation-x, -y          a part of the side, 1/2 at most           0      (`translation`: both)
    scale, scale-x, scale-y    a factor, and one over it                 1
    shear                      shift of rows by their height             0
    hue                        degrees about grey, 180 at most           0
    brightness                 added to all colours                      0
    contrast                   a factor, and one over it                 1
    flip-x, flip-y             probability of the mirror image, 1/2 at most (invariant)

Ranges are kept as unconstrained values: logarithms (of a factor's logarithm), or a probability's logit.

Axes: none; generators are `[3, 3]` or `[4, 4]`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from symlearn.kinds import of_size

ActsOn = Literal["places", "colours", "mirror"]


@dataclass(frozen=True)
class Scale:
    """How a range is kept, said and used.

    Attributes:
        value: the unconstrained value of a range in its own units.
        read: the range in its own units, from a value.
        amplitude: what multiplies the generator, from a value.
        words: a range in words, of the range itself and of one over it.
        unit: what a single amount is, from an amplitude: a reading, and how it is written.
    """

    value: Callable[[float], float]
    read: Callable[[Tensor], Tensor]
    amplitude: Callable[[Tensor], Tensor]
    words: str
    unit: tuple[Callable[[float], float], str]

    def amount(self, amplitude: float) -> str:
        """A single amount in words, from what multiplies the generator: "−36°", "×1.31"."""
        read, written = self.unit
        return written.format(read(amplitude)).replace("-", "−")


DEGREES = Scale(
    math.log,
    torch.exp,
    lambda value: torch.deg2rad(value.exp()),
    "by up to ±{0:.1f}°",
    (math.degrees, "{0:+.0f}°"),
)
AMOUNT = Scale(math.log, torch.exp, torch.exp, "by up to ±{0:.3f}", (float, "{0:+.2f}"))
FACTOR = Scale(
    lambda factor: math.log(math.log(factor)),
    lambda value: value.exp().exp(),
    torch.exp,
    "by ×{1:.2f} to ×{0:.2f}",
    (math.exp, "×{0:.2f}"),
)
PROBABILITY = Scale(
    lambda p: math.log(p / (1 - p)),
    torch.sigmoid,
    torch.sigmoid,
    "with probability {0:.2f}",
    (float, "{0:.2f}"),
)


@dataclass(frozen=True)
class Transform:
    """A transformation and its range.

    Attributes:
        name: as the user writes it.
        verb: what is done to an image: "turned".
        scale: of the range.
        start: of the range, where none is given.
        lowest: range that counts as none.
        highest: beyond it images repeat, or nothing of them is left.
        acts_on: places, colours, or their order along an axis ("mirror").
        generator: entries (row, column, value) of G; of a mirror, the axis that is reversed.
        of: what a range is a part of, for words: " of the width".
    """

    name: str
    verb: str
    scale: Scale
    start: float
    lowest: float
    highest: float
    acts_on: ActsOn = "places"
    generator: tuple[tuple[int, int, float], ...] = ()
    axis: int = 0
    of: str = ""

    @property
    def matrix(self) -> Tensor:
        """G `[3, 3]` or `[4, 4]`, float64."""
        side = 4 if self.acts_on == "colours" else 3
        found = torch.zeros(side, side, dtype=torch.float64)
        for row, column, value in self.generator:
            found[row, column] = value
        return found

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest unconstrained value."""
        return self.scale.value(self.lowest), self.scale.value(self.highest)

    def amplitude(self, reading: float) -> float:
        """What multiplies the generator at the end of a range."""
        return float(self.scale.amplitude(torch.tensor(self.scale.value(reading), dtype=torch.float64)))

    def at_lowest(self, reading: float) -> bool:
        """Whether a range is as small as it may be, and so of no effect."""
        return self.scale.value(reading) <= self.bounds[0] + 0.05

    def told(self, reading: float) -> str:
        """A range in words: "turned by up to ±43.0°"; "not turned" where it has no effect."""
        if self.at_lowest(reading):
            return f"not {self.verb}"
        return f"{self.verb} {self.scale.words.format(reading, 1 / reading)}{self.of}"


COLOURS = ((0, 0, 1), (1, 1, 1), (2, 2, 1))
R3 = 1 / math.sqrt(3)
HUE = ((0, 1, -R3), (0, 2, R3), (1, 0, R3), (1, 2, -R3), (2, 0, -R3), (2, 1, R3))
TRANSFORMS: dict[str, Transform] = {
    t.name: t
    for t in (
        Transform("rotation", "turned", DEGREES, 20, 0.5, 180, generator=((0, 1, 1), (1, 0, -1))),
        Transform(
            "translation-x",
            "shifted sideways",
            AMOUNT,
            0.05,
            0.002,
            0.5,
            generator=((0, 2, 1),),
            of=" of the side",
        ),
        Transform(
            "translation-y",
            "shifted up and down",
            AMOUNT,
            0.05,
            0.002,
            0.5,
            generator=((1, 2, 1),),
            of=" of the side",
        ),
        Transform("scale", "scaled", FACTOR, 1.15, 1.005, 4, generator=((0, 0, 1), (1, 1, 1))),
        Transform("scale-x", "widened", FACTOR, 1.15, 1.005, 4, generator=((0, 0, 1),)),
        Transform("scale-y", "heightened", FACTOR, 1.15, 1.005, 4, generator=((1, 1, 1),)),
        Transform("shear", "sheared", AMOUNT, 0.1, 0.005, 2, generator=((0, 1, 1),)),
        Transform("hue", "turned in hue", DEGREES, 20, 0.5, 180, "colours", HUE),
        Transform(
            "brightness",
            "brightened and darkened",
            AMOUNT,
            0.2,
            0.005,
            3,
            "colours",
            ((0, 3, 1), (1, 3, 1), (2, 3, 1)),
        ),
        Transform(
            "contrast",
            "changed in contrast",
            FACTOR,
            1.2,
            1.005,
            4,
            "colours",
            ((0, 0, 1), (1, 1, 1), (2, 2, 1)),
        ),
        Transform("flip-x", "mirrored left to right", PROBABILITY, 0.1, 0.002, 0.5, "mirror", axis=-1),
        Transform("flip-y", "mirrored top to bottom", PROBABILITY, 0.1, 0.002, 0.5, "mirror", axis=-2),
    )
}
SHORT = {"translation": ("translation-x", "translation-y")}  # what one name stands for


def parse_transforms(given: str | Sequence[str]) -> dict[Transform, float]:
    """Read which transformations are meant, of "rotation,translation:0.1" or of a list of such names.

    Returns:
        The ranges they start with, in their own units, in the order given; their default where none is.

    Raises:
        ValueError: an unknown or repeated name, or a range out of bounds.
    """
    words = given.split(",") if isinstance(given, str) else list(given)
    found: dict[Transform, float] = {}
    for word in words:
        name, colon, number = word.strip().partition(":")
        if name not in TRANSFORMS and name not in SHORT:
            near = difflib.get_close_matches(name, [*TRANSFORMS, *SHORT], 1)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            known = ", ".join([*SHORT, *TRANSFORMS])
            raise ValueError(f"unknown transform {name!r}{guess}; expected names with commas, of {known}")
        for full in SHORT.get(name, (name,)):
            transform = TRANSFORMS[full]
            if transform in found:
                raise ValueError(f"the transform {full} is given twice; keep one of them")
            found[transform] = started(transform, number) if colon else transform.start
    return found


def started(transform: Transform, number: str) -> float:
    """Read a range as it was written.

    Returns:
        The range in the transform's own units.

    Raises:
        ValueError: no number, or one out of bounds.
    """
    low, high = transform.lowest, transform.highest
    try:
        reading = float(number)
    except ValueError:
        reading = math.nan
    if not low <= reading <= high:
        folds = transform.scale is DEGREES and reading > high
        why = " (a larger one folds over itself)" if folds else ""
        raise ValueError(
            f"the range of {transform.name} is {number!r}; expected a number from {low:g} to {high:g}{why}"
        )
    return reading


def expect_images(transforms: Sequence[Transform], channels: int, size: tuple[int, ...]) -> None:
    """Refuse images that the transformations do not make sense for.

    Raises:
        ValueError: signals or volumes, colours of images that have none, turns of images that are not square.
    """
    if len(size) != 2:
        names = ", ".join(transform.name for transform in transforms)
        raise ValueError(f"transforms ({names}) are of images, not of {of_size(size)}; leave them out")
    for transform in transforms:
        if transform.acts_on == "colours" and channels != 3:
            raise ValueError(
                f"{transform.name} changes colours, and the images have {channels} channel"
                f"{'s' if channels > 1 else ''}; leave it out, or give images with red, green and blue"
            )
        if transform.name == "rotation" and size[0] != size[1]:
            raise ValueError(
                f"rotation expects square images, got {size[0]}x{size[1]}, of which turns lose a part; pad "
                "or crop them to a square"
            )
