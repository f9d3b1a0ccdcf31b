"""`.npz` files: `x_train, y_train, x_test, y_test`, or for prediction one of `x`, `x_test`, `images`.

Images are [n, h, w], [n, h, w, c] or [n, c, h, w]; the channel axis of the latter two is the one of length 1,
3 or 4. uint8 is read as 0..255 and becomes [0, 1]; float is taken as it is. Labels are whole numbers from 0,
[n] or [n, 1]; targets of a regression are real numbers, [n] or [n, d]. Pickles inside the file are never
opened.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from symlearn.data.raw import RawData, RawSplit, check_classes, to_float

CHANNELS = (1, 3, 4)
TRAINING_KEYS = ("x_train", "y_train", "x_test", "y_test")
PREDICTION_KEYS = ("x", "x_test", "images")


def load_arrays(path: Path, *, regression: bool = False) -> RawData:
    """A `.npz` file as a source; ValueError says which key, index or shape is wrong."""
    arrays = _read(path, TRAINING_KEYS)
    missing = [key for key in TRAINING_KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected the keys {', '.join(TRAINING_KEYS)}")
    x_train, x_test = arrays["x_train"], arrays["x_test"]
    train, test = (_images(arrays[key], f"{key} in {path}") for key in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"x_test in {path} holds images of shape {list(x_test.shape[1:])} but x_train of "
            f"{list(x_train.shape[1:])}; expected the same; resize or transpose one of them"
        )
    if train.dtype != test.dtype:
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


def load_array_images(path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """The images of a `.npz` to predict, float32 [n, c, h, w], named `0`, `1`, … in order."""
    arrays = _read(path, PREDICTION_KEYS)
    for key in PREDICTION_KEYS:
        if key in arrays:
            images = to_float(_images(arrays[key], f"{key} in {path}"))
            return images, tuple(str(index) for index in range(len(images)))
    raise ValueError(
        f"{path} holds no images to predict; expected one of the keys {', '.join(PREDICTION_KEYS)}"
    )


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those arrays of `keys` that the file holds."""
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


def _images(array: np.ndarray, where: str) -> Tensor:
    """One array as images [n, c, h, w], uint8 or float32."""
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{where} is {array.dtype}; expected uint8 (0..255) or float; convert it")
    if array.size == 0 or array.ndim not in (3, 4):
        raise ValueError(
            f"{where} has shape {list(array.shape)}; expected at least one image as [n, h, w], [n, h, w, "
            "c] or [n, c, h, w]"
        )
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
            single = array.astype(np.float32)
        wrong = ~np.isfinite(single)
        if wrong.any():
            first = tuple(int(axis) for axis in np.unravel_index(int(wrong.argmax()), wrong.shape))
            raise ValueError(
                f"{where} has {int(wrong.sum())} NaN or infinite pixels, the first at index {first}; "
                "expected finite numbers; clean the images first"
            )
        array = single
    if array.ndim == 3:
        array = array[:, None]
    else:
        first_axis, last_axis = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
        if first_axis == last_axis:
            why = "both axes 1 and 3 could be" if first_axis else "neither axis 1 nor 3 is"
            raise ValueError(
                f"{where} has shape {list(array.shape)}: {why} the channels (length 1, 3 or 4); "
                "expected [n, h, w, c] or [n, c, h, w] with one such axis; transpose or drop an axis"
            )
        array = array.transpose(0, 3, 1, 2) if last_axis else array
    return torch.from_numpy(np.array(array, order="C"))


def _labels(array: np.ndarray, images: np.ndarray, half: str, path: Path) -> Tensor:
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


def _real_targets(array: np.ndarray, images: np.ndarray, half: str, path: Path) -> Tensor:
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
