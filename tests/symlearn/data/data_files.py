"""Tiny sets written to disk in the layouts that users bring."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_idx(file: Path, array: np.ndarray) -> None:
    """A uint8 array in the idx format of MNIST."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(side).to_bytes(4, "big") for side in array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(
    root: Path, kind: str = "MNIST", train: int = 40, test: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Tiny idx files, ordered by class, where torchvision looks; returns the training images and labels."""
    random = np.random.default_rng(0)
    arrays = {}
    for half, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28))
        labels = np.sort(np.arange(count) % 10)
        write_idx(root / kind / "raw" / f"{half}-images-idx3-ubyte", images)
        write_idx(root / kind / "raw" / f"{half}-labels-idx1-ubyte", labels)
        arrays[half] = (images, labels)
    return arrays["train"]


def npz_arrays(
    train: int = 24, test: int = 12, side: int = 8, classes: int = 3, **changes: Any
) -> dict[str, np.ndarray]:
    """The four arrays of a good .npz (float images [n, h, w]), some of them changed or (None) left out."""
    random = np.random.default_rng(1)
    arrays: dict[str, Any] = {
        "x_train": random.random((train, side, side), dtype=np.float32),
        "y_train": np.arange(train) % classes,
        "x_test": random.random((test, side, side), dtype=np.float32),
        "y_test": np.arange(test) % classes,
    }
    arrays.update(changes)
    return {key: array for key, array in arrays.items() if array is not None}


def write_npz(file: Path, **changes: Any) -> Path:
    """A small .npz file; see `npz_arrays`."""
    np.savez(file, allow_pickle=True, **npz_arrays(**changes))
    return file


def write_folder(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), mode: str = "RGB", count: int = 3
) -> Path:
    """An image folder of 8x8 PNGs; every image of class k is filled with grey level 10 · (k + 1)."""
    for half in ("train", "test"):
        for k, name in enumerate(classes):
            folder = root / half / name
            folder.mkdir(parents=True)
            for i in range(count):
                level = 10 * (k + 1)
                Image.new(mode, (8, 8), level if mode == "L" else (level, level, level + i)).save(
                    folder / f"{i}.png"
                )
    return root
