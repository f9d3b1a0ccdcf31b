"""`planted-volume`, `planted-volume-place`: volumes whose symmetries are known by construction.

12 x 12 x 12 noise with one 5 x 5 x 5 grating in it, as `planted.py` has images; 1,200 training volumes (seed
1) and 600 test volumes (seed 2), always the same ones. What decides the class, and so what a layer may
commute with:

| kind         | what decides the class                                  | true of a network's layers   |
|--------------|---------------------------------------------------------|------------------------------|
| volume       | which of four gratings, anywhere                        | shifts in every layer        |
| volume-place | at which of four corners; the grating does not matter   | place matters, but only late |

Axes: n, d, h, w.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from symlearn.data.planted import NOISE, PREFIX, expect_kind, planted_halves
from symlearn.data.raw import RawData

SIDE, BLOCK = 12, 5
CORNERS = ((0, 0, 0), (0, 6, 6), (6, 0, 6), (6, 6, 0))  # no three of them share a face
CLASSES = 4
KINDS = ("volume", "volume-place")


def grating(index: int) -> np.ndarray:
    """One of four gratings, along an axis each or along none, `[5, 5, 5]`."""
    depth, row, column = np.mgrid[0:BLOCK, 0:BLOCK, 0:BLOCK] / 2.5
    return np.asarray(np.cos(2 * np.pi * (depth, row, column, depth + row + column)[index]))


def planted_volumes(kind: str, volumes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a set with a planted symmetry.

    Returns:
        Volumes `[volumes, 1, 12, 12, 12]`, float32, and their classes `[volumes]`; the same for a seed.

    Raises:
        ValueError: no such kind.
    """
    expect_kind(kind, KINDS)
    rng = np.random.default_rng(seed)
    x = rng.normal(0, NOISE, (volumes, 1, SIDE, SIDE, SIDE)).astype(np.float32)
    y = rng.integers(0, CLASSES, volumes)
    for volume, label in zip(x[:, 0], y, strict=True):
        if kind == "volume":
            shape, (d, h, w) = int(label), rng.integers(0, SIDE - BLOCK + 1, 3)
        else:
            shape, (d, h, w) = int(rng.integers(0, 4)), np.array(CORNERS[label]) + rng.integers(0, 2, 3)
        volume[d : d + BLOCK, h : h + BLOCK, w : w + BLOCK] += grating(shape)
    return x, y


def load_planted_volumes(kind: str, data_root: Path | None) -> RawData:
    """One kind, `[1200, 1, 12, 12, 12]` and `[600, 1, 12, 12, 12]`, float32; `data_root` is not needed."""
    return planted_halves(partial(planted_volumes, kind), CLASSES)


def planted_volume_sources() -> dict[str, Callable[[Path | None], RawData]]:
    """A source a kind, by its name."""
    return {f"{PREFIX}{kind}": partial(load_planted_volumes, kind) for kind in KINDS}
