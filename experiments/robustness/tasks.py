"""Data sets on which fits are tried: planted symmetries, shortened real sets, and unkind ones.

Every set is written as an .npz file once, from its own seed, with x_train, y_train, x_test, y_test. In the
planted ones the symmetries of the task are known by construction: 16 x 16 noise with one pattern in it.

| set | what decides the class | symmetries |
|---|---|---|
| texture | which of four gratings, anywhere | shifts |
| side | which of four places; the grating does not matter | none at the end |
| glyph | which of four upright shapes, anywhere | shifts |
| turned | the same shapes, quarter-turned at random | shifts and quarter turns |
| fixed | the same shapes, upright, at one place | the data cannot tell |
| codes | which of four sets of scattered pixels | nothing local |
| shifted-codes | by how far one set of scattered pixels is shifted | none at the end |
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

SIDE, NOISE = 16, 0.3
STROKES = (  # corners of the four shapes' polylines on a 7 x 7 grid, (row, column)
    ((0, 0), (6, 0), (6, 3)),
    ((0, 3), (3, 3), (3, 6), (3, 0), (4, 0)),
    ((0, 0), (0, 3), (3, 3), (3, 5), (5, 5)),
    ((1, 1), (1, 5), (3, 5), (3, 1), (1, 1), (4, 1)),
)
PLANTED = ("texture", "side", "glyph", "turned", "fixed", "codes", "shifted-codes")


def shape(index: int) -> np.ndarray:
    """One of four shapes that are no rotation of each other, `[7, 7]`."""
    drawn = np.zeros((7, 7))
    corners = STROKES[index]
    for (r0, c0), (r1, c1) in pairwise(corners):
        steps = max(abs(r1 - r0), abs(c1 - c0))
        for k in range(steps + 1):
            drawn[r0 + (r1 - r0) * k // max(steps, 1), c0 + (c1 - c0) * k // max(steps, 1)] = 2.0
    return drawn


def grating(index: int) -> np.ndarray:
    """One of four gratings, `[5, 5]`."""
    row, column = np.mgrid[0:5, 0:5] / 2.5
    return 2 * np.cos(2 * np.pi * (row, column, row + column, row - column)[index])


def code(index: int) -> np.ndarray:
    """One of four sets of ten scattered pixels, `[16, 16]`."""
    places = np.random.default_rng(99).permutation(SIDE * SIDE)[10 * index : 10 * index + 10]
    drawn = np.zeros(SIDE * SIDE)
    drawn[places] = 1.2
    return drawn.reshape(SIDE, SIDE)


def planted(kind: str, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 16, 16]` and their classes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, NOISE, (images, SIDE, SIDE)).astype(np.float32)
    y = rng.integers(0, 4, images)
    for image, k in zip(x, y, strict=True):
        if kind in ("texture", "side"):
            at = (
                rng.integers(0, 11, 2)
                if kind == "texture"
                else np.array(divmod(k, 2)) * 9 + rng.integers(0, 2, 2)
            )
            pattern = grating(k if kind == "texture" else rng.integers(0, 4))
        elif kind in ("glyph", "turned", "fixed"):
            at = np.array((4, 5)) if kind == "fixed" else rng.integers(0, 9, 2)
            pattern = np.rot90(shape(k), rng.integers(0, 4) if kind == "turned" else 0)
        else:
            at = np.array((0, 0))
            pattern = code(k) if kind == "codes" else np.roll(code(0), (4 * k, 5 * k), (0, 1))
        h, w = pattern.shape
        image[at[0] : at[0] + h, at[1] : at[1] + w] += pattern
    return x, y


def many_classes(classes: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As many smooth random patterns as classes, one an image, shifted circularly at random."""
    patterns = np.random.default_rng(7).normal(0, 1, (classes, 6, 6))
    rng = np.random.default_rng(seed)
    x = rng.normal(0, NOISE, (images, SIDE, SIDE)).astype(np.float32)
    y = rng.permutation(np.arange(images) % classes)
    for image, k in zip(x, y, strict=True):
        image[:6, :6] += patterns[k]
        image[:] = np.roll(image, rng.integers(0, SIDE, 2), (0, 1))
    return x, y


def digits_frames(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits at a random place of a 16 x 16 frame."""
    source, rng = load_digits(), np.random.default_rng(seed)
    pick = rng.permutation(1400)[:images] if seed == 1 else 1400 + rng.permutation(397)
    x = np.zeros((len(pick), SIDE, SIDE), np.float32)
    for image, digit in zip(x, source.images[pick] / 16, strict=True):
        r, c = rng.integers(0, 9, 2)
        image[r : r + 8, c : c + 8] = digit
    return x, source.target[pick]


def unkind(kind: str, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, imbalanced classes (1:20), noisy labels (20 %), or a real target."""
    x, y = digits_frames(images, seed)
    rng = np.random.default_rng(seed + 10)
    if kind == "two-class":
        return x, (y >= 5).astype(int)
    if kind == "imbalanced":
        x, y = planted("glyph", 8 * images, seed)
        rare = max(images // 21, 2)
        keep = [np.flatnonzero(y == k)[:count] for k, count in enumerate((rare, images - rare))]
        order = np.sort(np.concatenate(keep))
        return x[order], y[order]
    if kind == "noisy-labels":
        wrong = rng.random(len(y)) < (0.2 if seed == 1 else 0.0)  # the test set's labels are right
        return x, np.where(wrong, rng.integers(0, 10, len(y)), y)
    x, y = planted("glyph", images, seed)  # regression: how much ink, and which shape
    return x, (0.5 * y + x.mean((1, 2)) + rng.normal(0, 0.1, images)).astype(np.float32)


def make(kind: str, images: int, folder: Path) -> Path:
    """The set's file, made if it is not there yet."""
    file = folder / f"{kind}-{images}.npz"
    if file.exists():
        return file
    if kind in PLANTED:
        (x, y), (u, v) = planted(kind, images, 1), planted(kind, 600, 2)
    elif kind.endswith("-classes"):
        (x, y), (u, v) = (many_classes(int(kind.split("-")[0]), n, s) for n, s in ((images, 1), (600, 2)))
    else:
        (x, y), (u, v) = unkind(kind, images, 1), unkind(kind, 600, 2)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, x_train=x, y_train=y, x_test=u, y_test=v)
    part.replace(file)
    return file
