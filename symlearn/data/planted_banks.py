"""`planted-cyclic-<angle>`: images of parts that are turned by multiples of 45, 60 or 90 degrees.

A part is a *rosette* in the middle of the image, two rings with waves around them,

    f_i(r, phi) = sum_ring exp(-(r - radius)^2 / (2 width^2)) sum_m cos(m (phi - theta) - phase(i, ring, m)),

scaled to norm `SIGNAL`, in noise of one a pixel. It is drawn turned, no grid is resampled. Phases are random,
so that no rosette is another one turned; no m is a multiple of 4, 6 or 8, so that a rosette's turns have mean
zero and no class can be read off linearly. The class is which rosette, its turn theta is any multiple of the
set's angle. A set has as many rosettes as make `PARTS` parts with their turns:

    set           rosettes = classes    turns of each
    cyclic-45              3                  8
    cyclic-60              4                  6
    cyclic-90              6                  4

so that a bank of `PARTS` filters of the set's angle has one basis filter a rosette: what a single dictionary
(network `unfolded-dense-once`, alpha = `PARTS`) needs. Free filters can be the same parts at 4 to 8 times the
weights. A bank of another angle has no filter of its own for every part, but parts can share filters, and of
a coarser set there is less to lose: on cyclic-90 the banks of 60 and 45 degrees, with two thirds and half of
the weights, have the higher evidence (experiments/discovery/planted.toml says what is judged).

Axes: batch, h, w.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from symlearn.data.planted import planted_halves
from symlearn.data.raw import RawData

PREFIX = "planted-cyclic-"
ANGLES = (45, 60, 90)
PARTS = 24
SIDE, SIGNAL = 16, 10.0
RINGS = ((2.8, 0.9, (1, 2, 3, 5)), (6.0, 1.1, (1, 2, 3, 5, 7, 9)))  # radius, width in pixels; m
PHASES = 4896  # seed; six rosettes whose correlations at any turns stay below 0.6


def rosettes(angle: int) -> int:
    """How many rosettes, and classes, a set has."""
    return PARTS * angle // 360


def rosette(index: int, degrees: float) -> np.ndarray:
    """A rosette, turned as `symlearn.layers.rotation.rotate` turns filters: from rows towards columns.

    Returns:
        An image `[16, 16]` of norm 1.
    """
    waves = [len(orders) for _, _, orders in RINGS]
    phases = np.random.default_rng(PHASES).uniform(0, 2 * np.pi, (rosettes(max(ANGLES)), sum(waves)))[index]
    row, column = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    radius, angle = np.hypot(row, column), np.arctan2(column, row) - np.deg2rad(degrees)
    drawn = np.zeros((SIDE, SIDE))
    for (centre, width, orders), own in zip(RINGS, np.split(phases, np.cumsum(waves)[:-1]), strict=True):
        around = sum(np.cos(m * angle - phase) for m, phase in zip(orders, own, strict=True))
        drawn += around * np.exp(-((radius - centre) ** 2) / (2 * width**2)) / np.sqrt(centre * width)
    drawn[radius > SIDE / 2] = 0.0  # where filters end
    return drawn / np.linalg.norm(drawn)


def turned_parts(angle: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a set with a planted angle.

    Returns:
        Images `[images, 16, 16]`, float32, and their classes `[images]`; the same for the same seed.

    Raises:
        ValueError: no such angle.
    """
    if angle not in ANGLES:
        raise ValueError(f"unknown angle {angle}; expected one of {', '.join(map(str, ANGLES))} degrees")
    parts = np.array(
        [[rosette(index, k * angle) for k in range(360 // angle)] for index in range(rosettes(angle))]
    )
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (images, SIDE, SIDE))
    y = rng.integers(0, rosettes(angle), images)
    x += SIGNAL * parts[y, rng.integers(0, 360 // angle, images)]
    return x.astype(np.float32), y


def load_turned_parts(angle: int, data_root: Path | None) -> RawData:
    """One set, `[1200, 1, 16, 16]` (seed 1) and `[600, 1, 16, 16]` (seed 2); `data_root` is not needed."""

    def draw(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = turned_parts(angle, images, seed)
        return x[:, None], y

    return planted_halves(draw, rosettes(angle))


def cyclic_sources() -> dict[str, Callable[[Path | None], RawData]]:
    """A source an angle, by its name."""
    return {f"{PREFIX}{angle}": partial(load_turned_parts, angle) for angle in ANGLES}
