"""Data sets on which fits are tried: planted symmetries (`symlearn.data.planted`), and unkind ones.

Every set is written as an .npz file once, from its own seed, with x_train, y_train, x_test, y_test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from symlearn.data.planted import KINDS, NOISE, SIDE, planted_images

PLANTED = KINDS[:7]


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
        x, y = planted_images("glyph", 8 * images, seed)
        rare = max(images // 21, 2)
        keep = [np.flatnonzero(y == k)[:count] for k, count in enumerate((rare, images - rare))]
        order = np.sort(np.concatenate(keep))
        return x[order], y[order]
    if kind == "noisy-labels":
        wrong = rng.random(len(y)) < (0.2 if seed == 1 else 0.0)  # the test set's labels are right
        return x, np.where(wrong, rng.integers(0, 10, len(y)), y)
    x, y = planted_images("glyph", images, seed)  # regression: how much ink, and which shape
    return x, (0.5 * y + x.mean((1, 2)) + rng.normal(0, 0.1, images)).astype(np.float32)


def make(kind: str, images: int, folder: Path) -> Path:
    """The set's file, made if it is not there yet."""
    file = folder / f"{kind}-{images}.npz"
    if file.exists():
        return file
    if kind in PLANTED:
        (x, y), (u, v) = planted_images(kind, images, 1), planted_images(kind, 600, 2)
    elif kind.endswith("-classes"):
        (x, y), (u, v) = (many_classes(int(kind.split("-")[0]), n, s) for n, s in ((images, 1), (600, 2)))
    else:
        (x, y), (u, v) = unkind(kind, images, 1), unkind(kind, 600, 2)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, x_train=x, y_train=y, x_test=u, y_test=v)
    part.replace(file)
    return file
