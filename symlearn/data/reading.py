"""Batches of a map-style data set as they are asked for, through torch's own `DataLoader`.

What the loader's sampler yields is a `Request`: which items make the batch, and what their transforms may
draw. So one loader, with workers that stay, serves every pass in any order. An item draws from generators
that are seeded for it alone; its image depends neither on the batch it is in nor on the number of workers. (A
data set with `__getitems__` is asked for whole batches and seeded once a batch.) What goes wrong in a worker
comes back as a `Fault`, one line without the worker's traceback.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from symlearn.data.pairs import joined, parts
from symlearn.data.randomness import left_as_it_was, seed_globally
from symlearn.data.samples import Pairs

DIED = "DataLoader worker"  # what torch's errors of a dead worker begin with
PATIENCE = 0.5  # seconds that a dead worker's signal may take
AHEAD = 2  # batches that every worker reads ahead, torch's own default


@dataclass(frozen=True)
class Request:
    """One batch.

    Attributes:
        items: numbers of the items.
        seed: of what the data set draws.
        augmented: whether it is for a step on the weights.
    """

    items: list[int]
    seed: int = 0
    augmented: bool = False


@dataclass(frozen=True)
class Fault:
    """What kept a batch from being read, in one line."""

    words: str


@dataclass(frozen=True)
class Items:
    """A map-style data set and how its items become a batch.

    Attributes:
        dataset: of (image, target) items.
        collate: a user's function from items to a batch; None stacks them.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any] | None = None

    def batch(self, numbers: list[int], seed: int) -> Pairs:
        """Read these items.

        Returns:
            Images `[batch, c, h, w]` and targets `[batch, ...]` in the order of `numbers`: items stacked, or
            what `collate` makes of them.

        Raises:
            ValueError: an item cannot be read, or is no image with a target.
        """
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is None:
            found = [self._item(number, seed) for number in numbers]
        else:
            seed_globally(seed, numbers[0])
            found = told(lambda: fetch(numbers), f"items {numbers[0]} to {numbers[-1]}")
        if self.collate is None:
            named = zip(found, numbers, strict=True)
            return joined([parts(item, f"item {number}") for item, number in named], torch.stack)
        collate = self.collate
        return parts(told(lambda: collate(found), "a batch, by the loader's collate_fn,"), "a batch")

    def _item(self, number: int, seed: int) -> Any:
        seed_globally(seed, number)
        return told(lambda: self.dataset[number], f"item {number}")


def told(read: Callable[[], Any], what: str) -> Any:
    """Call what reads a part of a user's data set.

    Returns:
        What `read` gives, as it is.

    Raises:
        ValueError: it fails; says what cannot be read, and why.
    """
    try:
        return read()
    except Exception as error:  # whatever a user's data set raises
        raise ValueError(f"{what} of the data set cannot be read ({last_line(error)})") from error


def last_line(error: BaseException) -> str:
    """Type and last line of an error: torch puts a worker's whole traceback before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = lines[-1].strip() if lines else ""
    name = type(error).__name__
    return said if said.startswith(name) else f"{name}: {said}" if said else name


class Reader(Dataset[Any]):
    """What the workers run: requests to batches.

    Args:
        plain: the images as they are.
        steps: as the steps on the weights see them.
    """

    def __init__(self, plain: Items, steps: Items) -> None:
        self.plain, self.steps = plain, steps

    def __getitem__(self, request: Request) -> Pairs | Fault:
        """A batch, or why there is none."""
        items = self.steps if request.augmented else self.plain
        with left_as_it_was():
            try:
                return items.batch(request.items, request.seed)
            except ValueError as error:
                return Fault(str(error))


@dataclass
class Requests:
    """The requests of the present pass, as the loader's sampler."""

    now: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


@dataclass
class Reading:
    """A loader that answers requests; one pass at a time.

    Attributes:
        reader: what reads.
        workers: processes that read; 0: this one does.
        pinned: whether batches come in pinned memory, for a GPU.
        options: further ones of the `DataLoader`.
    """

    reader: Reader
    workers: int = 0
    pinned: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._requests = Requests()
        self._loader: DataLoader[Any] | None = None

    def _opened(self) -> DataLoader[Any]:
        stay: dict[str, Any] = {"persistent_workers": True} if self.workers else {}
        return DataLoader(
            self.reader,
            batch_size=None,
            sampler=self._requests,
            num_workers=self.workers,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # or else every pass would draw from the global one
            **stay,
            **self.options,
        )

    @property
    def ahead(self) -> int:
        """Batches that may be in memory besides the one that is used."""
        return (self.options.get("prefetch_factor") or AHEAD) * self.workers

    def close(self) -> None:
        """End the workers, if there are any."""
        self._loader = None

    def batches(self, requests: Sequence[Request]) -> Iterator[Pairs]:
        """Answer requests.

        Yields:
            (x `[batch, c, h, w]`, y `[batch, ...]`) of every request, in their order.

        Raises:
            ValueError: one cannot be read, or a worker died.
        """
        self._requests.now = requests
        with deaths_told():
            self._loader = self._loader or self._opened()
            found = iter(self._loader)
        while True:
            with deaths_told(self.workers > 0):
                batch = next(found, None)
            if batch is None:
                return
            if isinstance(batch, Fault):
                raise ValueError(batch.words)
            yield batch


def death_in(error: BaseException, handing_over: bool = False) -> str | None:
    """Recognise an error by which torch tells that a worker died.

    Args:
        error: as it was raised; one that a worker caught and sent says so.
        handing_over: whether a worker may have been about to hand a batch over, whose loss is a broken pipe.

    Returns:
        What to say of it; None for other errors.
    """
    said = str(error)
    lost = handing_over and isinstance(error, ConnectionError | EOFError)
    if said.startswith("Caught ") or not (lost or (isinstance(error, RuntimeError) and DIED in said)):
        return None
    if lost:  # torch's signal of the same death follows, and would be met anywhere
        with suppress(RuntimeError):
            time.sleep(PATIENCE)
    why = last_line(error) if lost else said.splitlines()[0]
    return (
        f"a process that reads images died ({why}); it may have run out of memory: take fewer workers, or "
        "workers 0 to see its own message"
    )


@contextmanager
def deaths_told(handing_over: bool = False) -> Iterator[None]:
    """One line about a worker that died: torch says it by a signal, wherever the program is.

    Raises:
        ValueError: a worker died.
        RuntimeError: any other failure, passed on as it is.
        ConnectionError: a connection that broke for another reason.
        EOFError: a file that ended for another reason.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if words := death_in(error, handing_over):
            raise ValueError(words) from error
        raise
