"""`Stream`, by which a user says how data are read as they are needed, and what becomes of it.

A map-style data set, or a loader over one that goes through all of it in order or shuffled, becomes `Mapped`:
orders and batches are the fit's own, the loader's workers, collate function and pinned memory stay. An
iterable data set, or a loader with an order of its own (a sampler, a batch sampler), becomes `Passes`.

Axes: n, batch, c, h, w.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from symlearn.data.mapped import LOOK, Mapped
from symlearn.data.pairs import EXPECTED, is_pair, joined, parts
from symlearn.data.passes import Passes
from symlearn.data.reading import Items, Reader, Reading
from symlearn.data.samples import Pairs, Samples


@dataclass(frozen=True)
class Stream:
    """Data that are read as they are needed, never held in memory together.

    Attributes:
        plain: a data set of (image, target) items, map-style or iterable, or a `DataLoader`: the images as
            they are, which evidence and evaluation see.
        steps: the same images, in the same order and as many, as the steps on the weights see them: with
            random transforms (`torchvision.transforms.v2`); None takes the plain ones.
        workers: processes that read a data set; a loader has its own number.
        limit: images of a pass, the first so many; None takes all. A stream without an end needs it.
    """

    plain: Any
    steps: Any = None
    workers: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("limit", 1)):
            given = getattr(self, name)
            whole = isinstance(given, int) and not isinstance(given, bool)
            if not (given is None and name == "limit") and not (whole and given >= least):
                raise ValueError(
                    f"{name} of a Stream is {given!r}; expected a whole number of at least {least}"
                )

    @property
    def for_steps(self) -> Any:
        """What the steps on the weights read."""
        return self.plain if self.steps is None else self.steps


Data = Dataset[Any] | Pairs | DataLoader[Any] | Stream | Samples


def in_memory(data: object) -> bool:
    """Whether data are tensors, arrays or lists already, so that they need not be read in parts."""
    if isinstance(data, DataLoader) and data.collate_fn is default_collate and order_is_ours(data):
        return gives_tensors(data.dataset)
    if isinstance(data, Dataset | DataLoader | Stream):
        return gives_tensors(data)
    return isinstance(data, list) or is_pair(data) or not readable(data)


def gives_tensors(data: object) -> bool:
    """Whether a data set is a pair of tensors and nothing is done to its items."""
    return isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__


def readable(data: object) -> bool:
    """Whether data are a data set or a loader, by what they can do."""
    items = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    wrong = isinstance(data, Mapping | str | tuple | torch.Tensor)
    return not wrong and (items or hasattr(data, "__iter__"))


def order_is_ours(loader: DataLoader[Any]) -> bool:
    """Whether a loader goes through all of a map-style data set, in order or shuffled, and no more."""
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or type(batches) is not BatchSampler:
        return False
    sampler = batches.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) is SequentialSampler


def streamed(given: Stream, device: torch.device, dtype: torch.dtype) -> Samples:
    """Make of a stream what a fit reads; goes through it once.

    Returns:
        `Mapped` if both its data sets are map-style (or loaders over such, in order or shuffled), else
        `Passes`.

    Raises:
        ValueError: no data set or loader, an empty or an endless one, two that do not go together; items or
            batches that cannot be used.
    """
    both = (given.plain, given.for_steps)
    for data in both:
        if not readable(data):
            raise ValueError(f"{EXPECTED}, got a {type(data).__name__}")
        if iter_is_self(data):
            raise ValueError(
                f"{EXPECTED}, but got an iterator, a {type(data).__name__}, which is used up after one pass; "
                "give what makes it, an IterableDataset"
            )
    mapped = [has_items(data) for data in both]
    if all(mapped):
        return _mapped(given, device, dtype)
    if any(mapped):
        raise ValueError(
            "plain and steps of a Stream must be of one kind; expected two map-style data sets (or loaders "
            "in order or shuffled), or two that are iterated"
        )
    plain, steps = (_passing(data, given.workers) for data in both)
    return Passes(plain, steps, given.limit, device, dtype)


def iter_is_self(data: Any) -> bool:
    """Whether data are an iterator, good for one pass."""
    return hasattr(data, "__next__")


def has_items(data: Any) -> bool:
    """Whether every image has a number by which it can be read."""
    if isinstance(data, DataLoader):
        return order_is_ours(data)
    listed = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    return listed and not isinstance(data, IterableDataset)


def _mapped(given: Stream, device: torch.device, dtype: torch.dtype) -> Mapped:
    plain, steps = (_items(data) for data in (given.plain, given.for_steps))
    n, n_steps = len(plain.dataset), len(steps.dataset)
    if n != n_steps:
        raise ValueError(
            f"a Stream has {n} plain images but {n_steps} for the steps; expected the same images in both"
        )
    if not n:
        raise ValueError("expected as many targets as images and at least one, got 0 and 0")
    if given.limit is not None and given.limit > n:
        raise ValueError(f"limit is {given.limit} but the data set has {n} images; expected at most so many")
    loader = given.plain if isinstance(given.plain, DataLoader) else None
    workers = given.workers if loader is None else loader.num_workers
    pinned = device.type == "cuda"
    reading = Reading(Reader(plain, steps), workers, pinned, _options(loader) if loader is not None else {})
    return Mapped(reading, torch.arange(given.limit or n), device, dtype)


def _items(data: Any) -> Items:
    if not isinstance(data, DataLoader):
        return Items(data)
    return Items(data.dataset, None if data.collate_fn is default_collate else data.collate_fn)


def _options(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a user set up for the workers of a loader."""
    if not loader.num_workers:
        return {}
    names = ("timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")
    return {name: getattr(loader, name) for name in names}


def _passing(data: Any, workers: int) -> Iterable[Any]:
    """Something that gives batches: a loader as it is, an iterable data set behind one."""
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, IterableDataset):
        return DataLoader(data, LOOK, num_workers=workers, collate_fn=_stacked)
    return data  # type: ignore[no-any-return]


def _stacked(items: list[Any]) -> Pairs:
    return joined([parts(item, "an item") for item in items], torch.stack)
