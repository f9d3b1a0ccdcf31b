"""`.npz` files: `x_train, y_train, x_test, y_test`, or for prediction one of `x`, `x_test`, `images`.

Images are [n, h, w], [n, h, w, c] or [n, c, h, w]; the channel axis of the latter two is the one of length 1,
3 or 4. Signals are [n, c, t] and volumes [n, c, d, h, w], with any number of channels. Where `kind` does not
say what a file holds, its axes do: five are volumes, four are images, and so are three, unless axis 1 is
shorter than 4, which makes signals: no network of ours takes an image so low. What is taken for granted is
said in a warning where it may be wrong.

uint8 is read as 0..255 and becomes [0, 1]; float is taken as it is. Labels are whole numbers from 0, [n] or
[n, 1]; targets of a regression are real numbers, [n] or [n, d]. Pickles inside the file are never opened.

A folder of `.npy` files with the names of the keys is read as a `.npz` is. Images that may not be held in
memory are read as they are needed, unless they are compressed.
"""

import warnings
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symlearn.data.raw import Pixels, RawData, RawSplit, check_classes, to_float
from symlearn.data.stored_arrays import StoredArray, stored_array
from symlearn.kinds import Kind, shown

CHANNELS = (1, 3, 4)
LOWEST = 4  # pixels: the smallest height that a network of ours takes
NDIMS: dict[Kind, tuple[int, ...]] = {"signals": (3,), "images": (3, 4), "volumes": (5,)}
WANTED: dict[Kind, str] = {
    "signals": "[n, c, t]; signals without channels need an axis of them, x[:, None]",
    "images": "[n, h, w], [n, h, w, c] or [n, c, h, w], or a signal [n, c, t] or a volume [n, c, d, h, w]; "
    "signals without channels need an axis of them, x[:, None]",
    "volumes": "[n, c, d, h, w]; volumes without channels need an axis of them, x[:, None]",
}
TRAINING_KEYS = ("x_train", "y_train", "x_test", "y_test")
PREDICTION_KEYS = ("x", "x_test", "images")


@dataclass(frozen=True)
class ArrayImages:
    """Images of an array on disk, read when they are asked for.

    Attributes:
        array: where they lie.
        where: what messages call it.
        kind: what it holds.
    """

    array: StoredArray
    where: str
    kind: Kind

    def __len__(self) -> int:
        """How many."""
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, c, h, w), (n, c, t) or (n, c, d, h, w)."""
        return len(self), *self[torch.zeros(1, dtype=torch.int64)].shape[1:]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Uint8 or float32 [batch, c, h, w] of the images `index`, int64 [batch]."""
        where = f"{self.where}, from image {int(index[0])} on,"
        return _images(self.array.rows(index.numpy()), where, self.kind)


def load_arrays(
    path: Path,
    *,
    regression: bool = False,
    held: Callable[[int], bool] = lambda _: True,
    kind: Kind | None = None,
) -> RawData:
    """Take a `.npz` file, or a folder of `.npy` files, as a source.

    Args:
        path: of the file or folder.
        regression: whether targets are real numbers.
        held: whether so many bytes of images are to be held in memory.
        kind: what the file holds; None tells by the axes of its arrays.

    Returns:
        Images and targets of both halves; images that are not held are read as they are needed.

    Raises:
        ValueError: a key is missing, or an array has a shape or type that no source has; it is named.
    """
    stored = _left_on_disk(path, held)
    arrays: dict[str, np.ndarray | StoredArray] = {
        **_read(path, tuple(key for key in TRAINING_KEYS if key not in stored)),
        **stored,
    }
    missing = [key for key in TRAINING_KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected the keys {', '.join(TRAINING_KEYS)}")
    return _as_source(path, arrays, regression, kind)


def _left_on_disk(path: Path, held: Callable[[int], bool]) -> dict[str, StoredArray]:
    """Those arrays of images that are read as they are needed: both, or none."""
    found = {key: stored_array(path, key) for key in ("x_train", "x_test")}
    whole = {key: array for key, array in found.items() if array is not None and array.shape[0]}
    if len(whole) == 2:
        return {} if held(sum(array.nbytes for array in whole.values())) else whole
    if path.is_file() and not held(path.stat().st_size):
        warnings.warn(
            f"{path} is large and compressed, so its images are read into memory whole; save it with "
            "numpy.savez, or as a folder of .npy files, to have them read as they are needed",
            stacklevel=4,
        )
    return {}


def _as_source(path: Path, arrays: dict[str, Any], regression: bool, asked: Kind | None) -> RawData:
    """The checked arrays as a source."""
    x_train, x_test = arrays["x_train"], arrays["x_test"]
    kind = asked or _kind_by_axes(x_train.shape)
    train, test = (_pixels(arrays[key], f"{key} in {path}", kind) for key in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"x_test in {path} holds {kind} of shape {list(x_test.shape[1:])} but x_train of "
            f"{list(x_train.shape[1:])}; expected the same; resize or transpose one of them"
        )
    _say_assumed(x_train.shape, f"x_train in {path}", asked, kind)
    if np.dtype(np.uint8) in (x_train.dtype, x_test.dtype) and x_train.dtype != x_test.dtype:
        raise ValueError(
            f"x_train in {path} is {x_train.dtype} but x_test is {x_test.dtype}; "
            "expected uint8 (0..255) or float in both"
        )
    if regression:
        targets = [
            _real_targets(arrays[f"y_{half}"], arrays[f"x_{half}"], half, path) for half in ("train", "test")
        ]
        outputs = targets[0].shape[1]
        if targets[1].shape[1] != outputs:
            raise ValueError(
                f"y_test in {path} has {targets[1].shape[1]} targets a sample but y_train {outputs}; "
                "expected as many"
            )
        names = tuple(f"y{i}" for i in range(outputs))
        return RawData(RawSplit(train, targets[0]), RawSplit(test, targets[1]), names, labelled=False)
    labels = [_labels(arrays[f"y_{half}"], arrays[f"x_{half}"], half, path) for half in ("train", "test")]
    classes = max(int(labels[0].max()), 0) + 1
    check_classes(labels[0], classes, f"y_train in {path}", every_class=True)
    check_classes(labels[1], classes, f"y_test in {path}", every_class=False)
    names = tuple(str(label) for label in range(classes))
    return RawData(RawSplit(train, labels[0]), RawSplit(test, labels[1]), names)


def load_array_images(path: Path, kind: Kind | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """The images of a `.npz` to predict, float32 [n, c, h, w], named `0`, `1`, … in order."""
    arrays = _read(path, PREDICTION_KEYS)
    for key in PREDICTION_KEYS:
        if key in arrays:
            found = kind or _kind_by_axes(arrays[key].shape)
            images = to_float(_images(arrays[key], f"{key} in {path}", found))
            return images, tuple(str(index) for index in range(len(images)))
    raise ValueError(
        f"{path} holds no images to predict; expected one of the keys {', '.join(PREDICTION_KEYS)}"
    )


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those arrays of `keys` that the file holds."""
    if path.is_dir():
        return {key: _read_file(path / f"{key}.npy") for key in keys if (path / f"{key}.npy").is_file()}
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a .npz file; check the path")
    try:
        archive = np.load(path, allow_pickle=False)
        held = tuple(archive.files)
    except Exception as error:  # not a zip, cut off, not readable: zipfile, zlib and numpy raise many types
        raise ValueError(
            f"{path} is not a .npz file or is truncated; expected one that numpy.savez wrote"
        ) from error
    arrays = {}
    with archive:
        for key in keys:
            if key not in held:
                continue
            try:
                arrays[key] = archive[key]
            except Exception as error:  # the same many types, and a ValueError for pickled objects
                raise ValueError(
                    f"{key} in {path} cannot be read: it is truncated or holds Python objects; "
                    "expected a plain array of numbers; save it again"
                ) from error
    return arrays


def _read_file(file: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except Exception as error:  # as above
        raise ValueError(
            f"{file} cannot be read: it is no .npy file, is truncated or holds Python objects; save it again"
        ) from error


def _pixels(array: np.ndarray | StoredArray, where: str, kind: Kind) -> Pixels:
    """An array's images, in memory if it is there."""
    return ArrayImages(array, where, kind) if isinstance(array, StoredArray) else _images(array, where, kind)


def _kind_by_axes(shape: tuple[int, ...]) -> Kind:
    """What an array of this shape is taken for where nobody says; see the module's notation."""
    if len(shape) == 3 and shape[1] < LOWEST:
        return "signals"
    return "volumes" if len(shape) == 5 else "images"


def _say_assumed(shape: tuple[int, ...], where: str, asked: Kind | None, kind: Kind) -> None:
    """Warn of what was taken for granted, where an array could as well be something else."""
    read = f"{where} has shape {list(shape)} and is read as"
    if kind != "images" and shape[1] > max(shape[2:]):
        warnings.warn(
            f"{read} {kind} of {shape[1]} channels and {shown(shape[2:])} places; if the channels come last, "
            "transpose it",
            stacklevel=5,
        )
    elif asked is None and len(shape) == 3 and kind == "signals":
        warnings.warn(
            f"{read} signals [n, c, t] of {shape[2]} places; if these are grey images, give kind 'images'",
            stacklevel=5,
        )
    elif asked is None and len(shape) == 3 and shape[1] != shape[2]:
        warnings.warn(
            f"{read} grey images of {shown(shape[1:])}; if these are signals [n, c, t] of {shape[1]} "
            "channels, give kind 'signals'",
            stacklevel=5,
        )


def _images(array: np.ndarray, where: str, kind: Kind) -> Tensor:
    """One array as images [n, c, h, w], signals [n, c, t] or volumes [n, c, d, h, w], uint8 or float32."""
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{where} is {array.dtype}; expected uint8 (0..255) or float; convert it")
    if array.size == 0 or array.ndim not in NDIMS[kind]:
        raise ValueError(
            f"{where} has shape {list(array.shape)}; expected at least one {kind[:-1]} as {WANTED[kind]}"
        )
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
            single = array.astype(np.float32)
        wrong = ~np.isfinite(single)
        if wrong.any():
            first = tuple(int(axis) for axis in np.unravel_index(int(wrong.argmax()), wrong.shape))
            what = "pixels" if kind == "images" else "values"
            raise ValueError(
                f"{where} has {int(wrong.sum())} NaN or infinite {what}, the first at index {first}; "
                "expected finite numbers; clean the images first"
            )
        array = single
    if array.ndim == 3 and kind == "images":
        array = array[:, None]
    elif kind == "images":
        first_axis, last_axis = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
        if first_axis == last_axis:
            why = "both axes 1 and 3 could be" if first_axis else "neither axis 1 nor 3 is"
            raise ValueError(
                f"{where} has shape {list(array.shape)}: {why} the channels (length 1, 3 or 4); "
                "expected [n, h, w, c] or [n, c, h, w] with one such axis; transpose or drop an axis "
                "(volumes have five, [n, c, d, h, w])"
            )
        array = array.transpose(0, 3, 1, 2) if last_axis else array
    return torch.from_numpy(np.array(array, order="C"))


def _labels(array: np.ndarray, images: Sized, half: str, path: Path) -> Tensor:
    """Labels [n] or [n, 1] as int64 [n]."""
    where = f"y_{half} in {path}"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (len(images),):
        raise ValueError(
            f"{where} has shape {list(array.shape)}; expected [{len(images)}], one label for each image of "
            f"x_{half}"
        )
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"{where} is {array.dtype}; expected whole numbers from 0; number the classes")
    with np.errstate(invalid="ignore", over="ignore"):
        whole = array.astype(np.int64)
        wrong = whole.astype(array.dtype) != array
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{where} holds {int(wrong.sum())} labels that are not whole numbers, the first {array[first]} "
            f"at index {first}; "
            'expected classes 0, 1, …; for real targets use likelihood = "regression"'
        )
    if (whole < 0).any():
        first = int((whole < 0).argmax())
        raise ValueError(
            f"{where} holds {int((whole < 0).sum())} negative labels, the first {whole[first]} at index "
            f"{first}; expected whole numbers from 0; number the classes from 0"
        )
    return torch.from_numpy(whole)


def _real_targets(array: np.ndarray, images: Sized, half: str, path: Path) -> Tensor:
    """Targets [n] or [n, d] as float32 [n, d]."""
    where = f"y_{half} in {path}"
    if array.ndim not in (1, 2) or array.size == 0 or len(array) != len(images):
        raise ValueError(
            f"{where} has shape {list(array.shape)}; expected [{len(images)}] or [{len(images)}, d], a "
            f"target for each image of x_{half}"
        )
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"{where} is {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        targets = array.astype(np.float32).reshape(len(array), -1)
    wrong = ~np.isfinite(targets)
    if wrong.any():
        raise ValueError(
            f"{where} has {int(wrong.sum())} NaN or infinite targets, the first at index "
            f"{int(wrong.any(1).argmax())}; expected finite numbers; clean the targets first"
        )
    return torch.from_numpy(targets)
