"""`planted-patches`, `planted-patch-places`: patches of CIFAR-10's photographs in noise, of known symmetry.

A patch is the middle of a photograph, grey, at half its size, shifted and scaled to mean 0 and standard
deviation 1; so no linear map of the image tells that it is there, nor where.

| set          | what decides the class                       | true of a network's layers |
|--------------|----------------------------------------------|----------------------------|
| patches      | which of four patches (`CHOSEN`), anywhere   | shifts in every layer      |
| patch-places | at which of four places; the patch is any    | place matters, only late   |

16 x 16 noise with one patch in it; 1,200 training images (seed 1) and 600 test images (seed 2), always the
same ones. The photographs are those of `cifar10.npz` in the data root if it lies there, else the published
ones (`torchvision_sets.py`).

Axes: photograph, batch, h, w.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from symlearn.data.arrays import load_arrays
from symlearn.data.planted import NOISE, PREFIX, SIDE, TEST, TRAIN, expect_kind
from symlearn.data.raw import Pixels, RawData, RawSplit, to_float
from symlearn.data.torchvision_sets import load_cifar10

KINDS = ("patches", "patch-places")
COPY = "cifar10.npz"
PATCH = 7
CHOSEN = (0, 1, 2, 3)  # numbers of training photographs
CLASSES, POOL = 4, 5000  # photographs that patches are drawn from


def patches_of(photographs: Tensor) -> np.ndarray:
    """The patches of photographs `[photograph, 3, 32, 32]`, uint8 or float: `[photograph, 7, 7]` float32."""
    grey = avg_pool2d(to_float(photographs).mean(1, keepdim=True), 2)[:, 0]
    margin = (grey.shape[-1] - PATCH) // 2
    middle = grey[:, margin : margin + PATCH, margin : margin + PATCH]
    deviation = middle.std((1, 2), keepdim=True, unbiased=False).clamp_min(1e-6)
    return ((middle - middle.mean((1, 2), keepdim=True)) / deviation).numpy()


def patch_images(kind: str, patches: np.ndarray, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a set of patches with a planted symmetry.

    Args:
        kind: one of `KINDS`.
        patches: `[photograph, 7, 7]`; of `patches` the four that make the classes.
        images: how many.
        seed: of noise, places and classes.

    Returns:
        Images `[images, 16, 16]`, float32, and their classes `[images]`; the same for the same seed.

    Raises:
        ValueError: no such kind.
    """
    expect_kind(kind, KINDS)
    rng = np.random.default_rng(seed)
    x = rng.normal(0, NOISE, (images, SIDE, SIDE)).astype(np.float32)
    y = rng.integers(0, CLASSES, images)
    for image, label in zip(x, y, strict=True):
        if kind == "patches":
            row, column = rng.integers(0, SIDE - PATCH + 1, 2)
            patch = patches[label]
        else:
            row, column = np.array(divmod(int(label), 2)) * (SIDE // 2) + rng.integers(0, 2, 2)
            patch = patches[rng.integers(0, len(patches))]
        image[row : row + PATCH, column : column + PATCH] += patch
    return x, y


def photographs(data_root: Path | None) -> tuple[Pixels, Pixels]:
    """Find CIFAR-10.

    Returns:
        Its training and test images, `[photograph, 3, 32, 32]`, uint8 or float.

    Raises:
        ValueError: they are not there and cannot be downloaded, or a copy without them.
    """
    copy = None if data_root is None else data_root / COPY
    raw = load_cifar10(data_root) if copy is None or not copy.is_file() else load_arrays(copy)
    for half in (raw.train.images, raw.test.images):
        if tuple(half.shape[1:]) != (3, 32, 32) or len(half) <= max(CHOSEN):
            raise ValueError(
                f"{copy} holds {len(half)} images of {list(half.shape[1:])}; expected CIFAR-10's, "
                "[3, 32, 32]; replace the copy"
            )
    return raw.train.images, raw.test.images


def load_patches(kind: str, data_root: Path | None) -> RawData:
    """One kind, `[1200, 1, 16, 16]` and `[600, 1, 16, 16]`, float32."""
    train, test = photographs(data_root)

    def drawn(pixels: Pixels) -> np.ndarray:
        return patches_of(pixels[torch.arange(min(POOL, len(pixels)))])

    chosen = patches_of(train[torch.tensor(CHOSEN)])

    def half(pixels: Pixels, images: int, seed: int) -> RawSplit:
        x, y = patch_images(kind, chosen if kind == "patches" else drawn(pixels), images, seed)
        return RawSplit(torch.from_numpy(x)[:, None], torch.from_numpy(y))

    names = tuple(str(k) for k in range(CLASSES))
    return RawData(half(train, TRAIN, 1), half(test, TEST, 2), class_names=names)


def patch_sources() -> dict[str, Callable[[Path | None], RawData]]:
    """A source a kind, by its name."""
    return {f"{PREFIX}{kind}": partial(load_patches, kind) for kind in KINDS}
