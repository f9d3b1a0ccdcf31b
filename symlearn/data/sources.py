"""The registry of sources by name, and what a path stands for.

A source is a function `data_root -> RawData`. Whatever is not a name is a path: a `.npz` file or an image
folder.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from symlearn.data.arrays import load_array_images, load_arrays
from symlearn.data.digits import load_digits_set
from symlearn.data.folders import SUFFIXES, load_folder, load_folder_images, load_image
from symlearn.data.planted import planted_sources
from symlearn.data.planted_banks import cyclic_sources
from symlearn.data.planted_patches import patch_sources
from symlearn.data.planted_signals import planted_signal_sources
from symlearn.data.planted_volumes import planted_volume_sources
from symlearn.data.raw import RawData, to_float
from symlearn.data.torchvision_sets import (
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
)
from symlearn.kinds import Kind, kind_of

SOURCES: dict[str, Callable[[Path | None], RawData]] = {
    "digits": load_digits_set,
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    **planted_sources(),
    **cyclic_sources(),
    **patch_sources(),
    **planted_signal_sources(),
    **planted_volume_sources(),
}


def load_raw(
    data: str | Path,
    data_root: str | Path | None,
    *,
    regression: bool = False,
    held: Callable[[int], bool] = lambda _: True,
    kind: Kind | None = None,
) -> RawData:
    """Open the source that `data` names.

    Args:
        data: a name, a `.npz` file, a folder of images or of `.npy` files.
        data_root: where named sets lie.
        regression: whether targets are real numbers.
        held: whether so many bytes of images are to be held in memory; those of files that are not are read
            as they are needed.
        kind: what the file is to hold; None tells by its axes.

    Returns:
        Images and targets of both halves, without tasks and preprocessing.

    Raises:
        ValueError: nothing of this name (the known ones are listed), or data that no fit can use.
    """
    name = str(data)
    if name in SOURCES:
        if regression:
            raise ValueError(
                f"data {name!r} has classes, not real targets; expected a .npz whose y_train and y_test "
                "are real numbers for likelihood 'regression'; use likelihood 'classification' here"
            )
        source = SOURCES[name](_data_root(data_root))
        _check_kind(name, kind, kind_of(source.image_size))
        return source
    path = _existing(name)
    if path.is_dir() and (path / "x_train.npy").is_file():
        return load_arrays(path, regression=regression, held=held, kind=kind)
    if path.is_dir():
        if regression:
            raise ValueError(
                f"image folder {path} has classes, not real targets; "
                "expected a .npz whose y_train and y_test are real numbers for likelihood 'regression'"
            )
        _check_kind(f"image folder {path}", kind, "images")
        return load_folder(path, held)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path} is no data set; expected {_known()}")
    return load_arrays(path, regression=regression, held=held, kind=kind)


def _check_kind(name: str, asked: Kind | None, kind: Kind) -> None:
    if asked not in (None, kind):
        raise ValueError(f"kind is {asked!r}, but {name} holds {kind}; leave kind out")


def load_images(
    path: str | Path,
    *,
    channels: int | None = None,
    data_root: str | Path | None = None,
    kind: Kind | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Raw images for prediction, with a name each; no labels, no task, no normalisation.

    Args:
        path: a `.npz` (key `x`, `x_test` or `images`), a folder of images (flat, `<class>/*` or
            `test/<class>/*`), one image file, or the name of a source, whose test images are taken.
        channels: 1 or 3 turns image files grey or into colour; None keeps what they hold. Arrays stay as they
            are.
        data_root: where a named source lies.
        kind: what a `.npz` is to hold; None tells by its axes.

    Returns:
        Images, float32 [n, c, h, w] (signals [n, c, t], volumes [n, c, d, h, w]), in [0, 1] unless the file
        holds floats of its own scale, and n names.

    Raises:
        ValueError: in one line, what is wrong with which file.
    """
    name = str(path)
    if name in SOURCES:
        held = SOURCES[name](_data_root(data_root)).test
        images = to_float(held.images[torch.arange(len(held))])
        return images, tuple(str(index) for index in range(len(images)))
    file = _existing(name)
    if file.is_dir():
        return load_folder_images(file, channels)
    if file.suffix.lower() == ".npz":
        return load_array_images(file, kind)
    if file.suffix.lower() in SUFFIXES:
        return load_image(file, channels)
    raise ValueError(
        f"{file} holds no images to predict; expected a .npz file, an image file or a folder of images"
    )


def _existing(name: str) -> Path:
    """The file or folder of that name; ValueError otherwise."""
    path = Path(
        os.path.expanduser(name)
    )  # os.path: an impossible name is a missing file, not another exception
    if os.path.exists(path):
        return path
    if path.suffix or len(path.parts) > 1:
        raise ValueError(f"{path} does not exist; expected {_known()}; check the path")
    raise ValueError(f"unknown data {name!r}; expected {_known()}")


def _known() -> str:
    return f"one of {', '.join(SOURCES)}, a .npz file or an image folder (train/<class>/*, test/<class>/*)"


def _data_root(data_root: str | Path | None) -> Path | None:
    return None if data_root is None else Path(data_root).expanduser()
