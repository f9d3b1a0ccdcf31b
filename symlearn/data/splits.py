"""`load_data`: from the name of a source and of a task to normalised training and test sets.

The order of the samples is fixed, whatever the seed, and mixes the classes: its first k samples hold the
classes in the source's proportions, each at least once where k allows, so a `limit` is fair to sets that are
stored class by class. The seed draws the training transforms only; those of the test set never change.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from symlearn.data.draws import TEST, TRAIN
from symlearn.data.free_memory import may_be_held
from symlearn.data.lazy_split import LazySplit, Making
from symlearn.data.preprocessing import Preprocessing, channel_statistics, chunk_size, statistics_of
from symlearn.data.raw import RawData, RawSplit
from symlearn.data.reading import Items, Reader, Reading, Request
from symlearn.data.sources import load_raw
from symlearn.data.tasks import Task, find_task
from symlearn.data.warps import ImageSize
from symlearn.kinds import LETTERS, Kind, of_size, shown

_TEST_SEED = 0
_ORDER_SEED = 0
_CHUNK = 2048  # images normalised at once: a bound on memory, of no influence on the result


@dataclass(frozen=True, eq=False)
class DataSplits:
    """One source under one task, ready for a network.

    `train` and `test` hold float32 images [n, in_channels, *size] (signals where the size is (t,), volumes
    where it is (d, h, w)), normalised with the training set's statistics, and int64 labels [n] (regression:
    float32 targets [n, classes]); in memory as `TensorDataset`, or as `LazySplit`, which makes them as they
    are needed. `classes` counts the outputs.
    """

    train: TensorDataset | LazySplit
    test: TensorDataset | LazySplit
    classes: int
    class_names: tuple[str, ...]
    in_channels: int
    size: ImageSize
    data: str
    task: str
    preprocessing: Preprocessing


def load_data(
    data: str | Path = "digits",
    task: str = "class",
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    size: int | ImageSize | None = None,
    frame: int | ImageSize | None = None,
    likelihood: Literal["classification", "regression"] = "classification",
    hold: bool | None = None,
    workers: int = 0,
    kind: Kind | None = None,
) -> DataSplits:
    """Load a source, apply a task to each sample and normalise with the training set's statistics.

    Args:
        data: a name of `SOURCES`, a `.npz` file or an image folder.
        task: a name of `TASKS`.
        data_root: where torchvision's sets lie or are downloaded to; None is the user's cache folder.
        limit: how many training images to take; None takes all.
        test_limit: how many test images to take; None takes all.
        seed: of the training transforms; the test set does not depend on it.
        size: final side in pixels, or (h, w), of signals (t,), of volumes (d, h, w); None keeps the canvas's;
            torchvision's 28x28 sets become 32x32.
        frame: side of the black canvas on which the image lies before resizing, or (h, w); None is 16 for
            `digits`, otherwise the image's own size, twice that for the quadrant tasks.
        likelihood: `classification`, or `regression` for a `.npz` with real targets.
        hold: whether images are held in memory; None holds sets of up to a quarter of the free memory
            (`free_memory.SHARE`). Others are read as they are needed, with the same numbers.
        workers: processes that read them, for the statistics.
        kind: what a `.npz` holds: `signals` [n, c, t], `images`, `volumes` [n, c, d, h, w]; None tells by its
            axes (`arrays.py` says how), and says so where they leave a doubt.

    Returns:
        Training and test set `[n, c, h, w]`, normalised, with classes, size and what repeats the
        preprocessing.

    Raises:
        ValueError: in one line, what was wrong, what was expected and what to do.
    """
    if likelihood not in ("classification", "regression"):
        raise ValueError(f"unknown likelihood {likelihood!r}; expected classification or regression")
    if not _is_whole(seed):
        raise ValueError(f"seed is {seed!r}; expected a whole number")
    chosen = find_task(task)
    regression = likelihood == "regression"
    if regression and chosen.makes_classes:
        raise ValueError(f"task {task!r} makes classes; expected another task for likelihood 'regression'")
    _check_size("frame", frame)
    _check_size("size", size)
    for name, number in (("limit", limit), ("test_limit", test_limit)):
        _check_count(name, number)
    raw = load_raw(
        data, data_root, regression=regression, held=lambda count: may_be_held(count, hold), kind=kind
    )
    if len(raw.image_size) not in chosen.axes:
        raise ValueError(
            f"task {task!r} is for images, but {data} holds {of_size(raw.image_size)}; expected task 'class'"
        )
    asked_frame = _size("frame", frame, len(raw.image_size))
    asked_size = _size("size", size, len(raw.image_size))
    canvas = _canvas(raw, chosen, task, asked_frame)
    final = asked_size or raw.size or canvas
    chosen.check_size(final)
    for_training = Task() if chosen.leaves_training else chosen
    taken = [
        _take(name, count, half, str(data))
        for name, count, half in (("limit", limit, raw.train), ("test_limit", test_limit, raw.test))
    ]
    train = Making(for_training, raw.train, canvas, final, seed, TRAIN, taken[0])
    test = Making(chosen, raw.test, canvas, final, _TEST_SEED, TEST, taken[1])
    held = may_be_held(train.bytes_held + test.bytes_held, hold)
    train_x, test_x = (making.all_images() if held else None for making in (train, test))
    class_names = chosen.class_names(raw.class_names)
    if raw.labelled:
        _warn_of_empty_classes(train.targets(labelled=True), class_names)
    mean, std = _statistics(train, train_x, workers)
    source_size = None if chosen.label_needs_place else raw.image_size
    preprocessing = Preprocessing(mean, std, source_size, canvas, final)
    return DataSplits(
        _half(train, raw.labelled, preprocessing, train_x),
        _half(test, raw.labelled, preprocessing, test_x),
        classes=len(class_names),
        class_names=class_names,
        in_channels=train.channels,
        size=final,
        data=str(data),
        task=task,
        preprocessing=preprocessing,
    )


def _half(
    making: Making, labelled: bool, preprocessing: Preprocessing, images: Tensor | None
) -> TensorDataset | LazySplit:
    """Normalised images and targets: of images that are held already, or made as they are needed."""
    if images is None:
        return LazySplit(making, making.targets(labelled), preprocessing)
    return TensorDataset(_normalise(images, preprocessing), making.targets(labelled))


def _statistics(making: Making, images: Tensor | None, workers: int) -> Any:
    """Mean and std by channel of the training images, held or not."""
    if images is not None:
        return channel_statistics(images)
    raw = Items(LazySplit(making, torch.zeros(len(making.index))))
    reading = Reading(Reader(raw, raw), workers)
    chunks = torch.arange(len(making.index)).split(chunk_size((making.channels, *making.size)))
    requests = [Request(chunk.tolist()) for chunk in chunks]
    return statistics_of(lambda: (x for x, _ in reading.batches(requests)))


def _normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`preprocessing.normalise` in place, chunk by chunk: a second copy of a large set is not needed."""
    for chunk in images.split(_CHUNK):
        chunk.copy_(preprocessing.normalise(chunk))
    return images


def _take(name: str, limit: int | None, half: RawSplit, data: str) -> Tensor:
    """The first `limit` samples of the fixed order, int64 [limit]."""
    if limit is not None and limit > len(half):
        which = "training" if name == "limit" else "test"
        raise ValueError(
            f"{name} is {limit} but {data} has {len(half)} {which} images; expected at most that many"
        )
    return mixed_order(half.targets)[:limit]


def mixed_order(targets: Tensor) -> Tensor:
    """A fixed shuffle whose every prefix holds the classes in proportion; plain for real targets.

    The r-th of a class's n_c samples (after the shuffle) has key r/n_c; the order is that of the keys.

    Returns:
        Numbers of the samples, int64 `[n]`, in their new order.
    """
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(_ORDER_SEED))
    if targets.is_floating_point():
        return shuffled
    labels = targets[shuffled]
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return shuffled[(rank.double() / counts[labels]).argsort(stable=True)]


def _canvas(raw: RawData, task: Task, task_name: str, asked: ImageSize | None) -> ImageSize:
    """The canvas on which images are placed, checked against what the task puts there."""
    canvas = asked or raw.frame or task.canvas(raw.image_size)
    least = task.smallest_canvas(raw.image_size)
    if any(side < smallest for side, smallest in zip(canvas, least, strict=True)):
        raise ValueError(
            f"frame {shown(canvas)} is too small for {of_size(raw.image_size)} under task {task_name!r}; "
            f"expected at least {shown(least)}; leave frame out"
        )
    return canvas


def _check_size(name: str, asked: object) -> None:
    """Refuse what is no size, before anything is loaded."""
    given = asked if isinstance(asked, (tuple, list)) else (asked,)
    if asked is not None and not (len(given) in LETTERS and all(map(_is_positive, given))):
        raise ValueError(f"{name} is {asked!r}; expected a whole number of pixels above 0, or (h, w)")


def _size(name: str, asked: int | ImageSize | None, axes: int) -> ImageSize | None:
    """One side for all axes, or one each, as a tuple of them."""
    if asked is None or isinstance(asked, int):
        return None if asked is None else (asked,) * axes
    if len(asked) != axes:
        one_each = ", ".join(LETTERS[axes]) + ("," if axes == 1 else "")
        raise ValueError(f"{name} is {asked!r}; expected a whole number of pixels above 0, or ({one_each})")
    return tuple(asked)


def _check_count(name: str, number: object) -> None:
    if number is not None and not _is_positive(number):
        raise ValueError(f"{name} is {number!r}; expected a whole number above 0, or none for all images")


def _is_positive(number: object) -> TypeGuard[int]:
    return _is_whole(number) and number > 0


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


def _warn_of_empty_classes(labels: Tensor, class_names: tuple[str, ...]) -> None:
    """Few training images can leave classes out: allowed, but said."""
    counts = labels.bincount(minlength=len(class_names))
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        warnings.warn(
            f"{len(empty)} of {len(class_names)} classes have no training image, such as "
            f"{class_names[empty[0]]!r}; raise the limit or add images",
            stacklevel=3,
        )
