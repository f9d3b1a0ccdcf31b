"""`planted-<kind>`: made-up images whose symmetries are known by construction, to check verdicts against.

16 x 16 noise with one pattern in it; 1,200 training images (seed 1) and 600 test images (seed 2), always the
same ones. What decides the class, and so what a layer may commute with (`planted_signals.py` and
`planted_volumes.py` have signals and volumes):

| kind          | what decides the class                              | true of a network's layers         |
|---------------|-----------------------------------------------------|------------------------------------|
| texture       | which of four gratings, anywhere                    | shifts in every layer              |
| side          | at which of four places; the grating does not matter | place matters, but only late      |
| glyph         | which of four upright shapes, anywhere              | shifts in every layer              |
| turned        | the same shapes, quarter-turned at random           | shifts and turns in every layer    |
| fixed         | the same shapes, upright, at one place              | the data cannot tell               |
| codes         | which of four sets of scattered pixels              | not local, but shifts cost nothing |
| shifted-codes | by how far one set of scattered pixels is shifted   | place matters, at whatever depth   |
| mixture       | half textures, half one shape at one of four places | place matters, but only late       |
| eighths       | the shapes in smooth strokes, turned by k * 45°     | shifts and turns by 45° everywhere |

Axes: batch, h, w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from symlearn.data.raw import RawData, RawSplit

PREFIX = "planted-"
SIDE, NOISE, TRAIN, TEST = 16, 0.3, 1200, 600
STROKE = 0.9  # pixels; the standard deviation of a smooth stroke's profile
STROKES = (  # corners of the four shapes' polylines on a 7 x 7 grid, (row, column)
    ((0, 0), (6, 0), (6, 3)),
    ((0, 3), (3, 3), (3, 6), (3, 0), (4, 0)),
    ((0, 0), (0, 3), (3, 3), (3, 5), (5, 5)),
    ((1, 1), (1, 5), (3, 5), (3, 1), (1, 1), (4, 1)),
)
KINDS = ("texture", "side", "glyph", "turned", "fixed", "codes", "shifted-codes", "mixture", "eighths")


def shape(index: int) -> np.ndarray:
    """One of four shapes that are no rotation of each other, `[7, 7]`."""
    drawn = np.zeros((7, 7))
    for (r0, c0), (r1, c1) in pairwise(STROKES[index]):
        steps = max(abs(r1 - r0), abs(c1 - c0))
        for k in range(steps + 1):
            drawn[r0 + (r1 - r0) * k // steps, c0 + (c1 - c0) * k // steps] = 2.0
    return drawn


def smooth_shape(index: int, centre: np.ndarray, eighths: int) -> np.ndarray:
    """One of the four shapes in Gaussian strokes, about any centre `[2]` and turned by k * 45°.

    Drawn turned, at its distance from the strokes: no grid is resampled.

    Returns:
        An image `[16, 16]`.
    """
    cos, sin = np.cos(np.pi / 4 * eighths), np.sin(np.pi / 4 * eighths)
    turn = np.array([[cos, -sin], [sin, cos]])
    points = (np.moveaxis(np.mgrid[0:SIDE, 0:SIDE], 0, -1) - centre) @ turn  # in the shape's own frame
    distances = []
    for start, end in pairwise(np.array(STROKES[index], dtype=float) - 3):
        along = ((points - start) @ (end - start) / ((end - start) ** 2).sum()).clip(0, 1)
        distances.append(np.linalg.norm(points - start - along[..., None] * (end - start), axis=-1))
    return 2 * np.exp(-(np.min(distances, 0) ** 2) / (2 * STROKE**2))


def grating(index: int) -> np.ndarray:
    """One of four gratings, `[5, 5]`."""
    row, column = np.mgrid[0:5, 0:5] / 2.5
    return 2 * np.cos(2 * np.pi * (row, column, row + column, row - column)[index])


def code(index: int) -> np.ndarray:
    """One of four sets of ten scattered pixels, `[16, 16]`."""
    drawn = np.zeros(SIDE * SIDE)
    drawn[np.random.default_rng(99).permutation(SIDE * SIDE)[10 * index : 10 * index + 10]] = 1.2
    return drawn.reshape(SIDE, SIDE)


def pattern(kind: str, label: int, rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """What an image of a class has in it: the pattern `[a, b]`, and its row and column."""
    if kind == "mixture" and label >= 4:
        row, column = np.array(divmod(label - 4, 2)) * 8 + rng.integers(0, 2, 2)
        return shape(3), int(row), int(column)
    if kind in ("texture", "mixture"):
        row, column = rng.integers(0, SIDE - 4, 2)
        return grating(label), int(row), int(column)
    if kind == "side":
        row, column = np.array(divmod(label, 2)) * 9 + rng.integers(0, 2, 2)
        return grating(int(rng.integers(0, 4))), int(row), int(column)
    if kind == "eighths":
        return smooth_shape(label, rng.uniform(5, SIDE - 6, 2), int(rng.integers(0, 8))), 0, 0
    if kind == "fixed":
        return shape(label), 4, 5
    if kind in ("glyph", "turned"):
        row, column = rng.integers(0, SIDE - 6, 2)
        turns = int(rng.integers(0, 4)) if kind == "turned" else 0
        return np.rot90(shape(label), turns), int(row), int(column)
    shifted = np.roll(code(0), (4 * label, 5 * label), (0, 1))
    return code(label) if kind == "codes" else shifted, 0, 0


def expect_kind(kind: str, kinds: Sequence[str]) -> None:
    """Refuse a kind that a family of planted sets does not have.

    Raises:
        ValueError: no such kind.
    """
    if kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(kinds)}")


def planted_images(kind: str, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a set with a planted symmetry.

    Returns:
        Images `[images, 16, 16]`, float32, and their classes `[images]`; the same for the same seed.

    Raises:
        ValueError: no such kind.
    """
    expect_kind(kind, KINDS)
    rng = np.random.default_rng(seed)
    x = rng.normal(0, NOISE, (images, SIDE, SIDE)).astype(np.float32)
    y = rng.integers(0, 8 if kind == "mixture" else 4, images)
    for image, label in zip(x, y, strict=True):
        drawn, row, column = pattern(kind, int(label), rng)
        image[row : row + drawn.shape[0], column : column + drawn.shape[1]] += drawn
    return x, y


def planted_halves(draw: Callable[[int, int], tuple[np.ndarray, np.ndarray]], classes: int) -> RawData:
    """A source from a function of a number and a seed that draws x `[number, c, ...]` and y `[number]`."""

    def half(number: int, seed: int) -> RawSplit:
        x, y = draw(number, seed)
        return RawSplit(torch.from_numpy(x), torch.from_numpy(y))

    return RawData(half(TRAIN, 1), half(TEST, 2), class_names=tuple(str(k) for k in range(classes)))


def load_planted(kind: str, data_root: Path | None) -> RawData:
    """One kind, `[1200, 1, 16, 16]` and `[600, 1, 16, 16]`, float32; `data_root` is not needed."""

    def draw(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = planted_images(kind, images, seed)
        return x[:, None], y

    return planted_halves(draw, 8 if kind == "mixture" else 4)


def planted_sources() -> dict[str, Callable[[Path | None], RawData]]:
    """A source a kind, by its name."""
    return {f"{PREFIX}{kind}": partial(load_planted, kind) for kind in KINDS}
