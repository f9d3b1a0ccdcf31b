"""`Passes`: data that come in passes of their own: an iterable data set, or a loader with its own order.

A pass is cut anew into batches of the sizes that are asked for. Every pass must give as many images as the
first did, or at least `limit`. Before a pass the global generators, the loader's and its sampler's are seeded
by the fit, so that orders that come from them are drawn again after a resumption; a data set that has
`state_dict` and `load_state_dict` travels in the checkpoint. What draws from a generator of another kind, or
does not end where it began, is not ours to repeat. A process that asks for its share of a pass reads all of
it.

Axes: n, batch, c, h, w.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from symlearn.data.mapped import brought, check_shape, looked_at
from symlearn.data.pairs import EXPECTED, parts
from symlearn.data.randomness import Randomness
from symlearn.data.reading import death_in, last_line
from symlearn.data.samples import WHOLE, Held, Pairs, Samples, Share

MOST = 4_000_000  # images after which a pass without a limit counts as endless


class Passes(Samples):
    """Passes of loaders.

    Args:
        plain: gives batches of the images as they are, anew every time it is iterated.
        steps: the same images for the steps on the weights.
        limit: images of a pass; None takes all.
        device: where batches go.
        dtype: of images and real targets.

    Raises:
        ValueError: see `looked_at`; a pass without an end, a loader that cannot be read.
    """

    held = False

    def __init__(
        self,
        plain: Iterable[Any],
        steps: Iterable[Any],
        limit: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._plain, self._steps, self._limit = plain, steps, limit
        self._device, self._dtype = device, dtype
        self._largest = 0
        self.targets, self.shape = looked_at(self._first_pass())
        if limit is not None and len(self) < limit:
            raise ValueError(f"limit is {limit} but a pass has {len(self)} images; expected at most so many")

    def bytes_held(self, batch: int) -> int:
        """Of the targets, a batch, and the loader's own batches that are cut into it."""
        image = torch.Size(self.shape).numel() * torch.empty((), dtype=self._dtype).element_size()
        workers = getattr(self._plain, "num_workers", 0)
        ahead = 1 + (getattr(self._plain, "prefetch_factor", None) or 0) * workers
        return self.targets.numel() * self.targets.element_size() + image * (batch + ahead * self._largest)

    def _first_pass(self) -> Iterator[Pairs]:
        """The first pass, up to the limit."""
        count = 0
        for x, y in self._batches(self._plain, 0):
            self._largest = max(self._largest, len(x))
            left = len(x) if self._limit is None else self._limit - count
            yield x[:left], y[:left]
            count += len(x)
            if self._limit is not None and count >= self._limit:
                return
            if count > MOST:
                raise ValueError(
                    f"the data gave more than {MOST:,} images without an end; say how many make a pass: "
                    "symlearn.Stream(data, limit=…)"
                )

    def _batches(self, loader: Iterable[Any], seed: int) -> Iterator[Pairs]:
        """A loader's batches, without empty ones, under randomness of their own."""
        randomness, workers = Randomness(seed), getattr(loader, "num_workers", 0)
        with randomness.entered():
            seed_own(loader, seed)
            found = self._told(lambda: iter(loader), "the data", workers)
        for number in itertools.count():
            with randomness.entered():
                batch = self._told(lambda: next(found, None), f"batch {number}", workers)
            if batch is None:
                return
            x, y = parts(batch, f"batch {number}")
            if not (x.dim() and y.dim()):
                raise ValueError(f"{EXPECTED}, but the loader gives single items; give it a batch_size")
            if x.numel() or y.numel():
                yield brought((x, y), self._device, self._dtype)

    @staticmethod
    def _told(read: Any, what: str, workers: int) -> Any:
        try:
            return read()
        except Exception as error:  # whatever a user's code raises
            words = death_in(error, workers > 0) or f"{what} cannot be read ({last_line(error)})"
            raise ValueError(words) from error

    def _pass(self, loader: Iterable[Any], seed: int, sizes: Sequence[int]) -> Iterator[Pairs]:
        """Cut a pass into batches of these sizes.

        Yields:
            (x `[batch, c, h, w]`, y `[batch, ...]`), one a size, in the pass's order; images beyond the sizes
            are not given out.

        Raises:
            ValueError: it has another number of images than the first one, or images of another shape.
        """
        whole = sum(sizes) == len(self)
        left: list[Pairs] = []  # what is not given out yet
        got = 0
        batches = self._batches(loader, seed)
        for size in sizes:
            while sum(len(y) for _, y in left) < size:
                batch = next(batches, None)
                if batch is None:
                    self._miscounted(got)
                check_shape(batch[0], self.shape)
                got += len(batch[0])
                left.append(batch)
            x, y = (torch.cat(found) for found in zip(*left, strict=True))
            yield x[:size], y[:size]
            left = [(x[size:], y[size:])] if len(x) > size else []
        if whole and self._limit is None:
            extra = sum(len(y) for _, y in [*left, *itertools.islice(batches, 1)])
            if extra:
                self._miscounted(len(self) + extra)

    def _miscounted(self, got: int) -> NoReturn:
        more = "or more " if got > len(self) else ""
        raise ValueError(
            f"a pass gave {got} {more}images, but the first one gave {len(self)}; expected the same "
            "(an iterator is used up after one pass; for a stream that varies give "
            "symlearn.Stream(data, limit=…))"
        )

    def cut(self, sizes: Sequence[int]) -> Iterator[Pairs]:
        """A pass from its beginning, under the same seed every time."""
        return self._pass(self._plain, 0, sizes)

    def epoch(self, size: int, generator: torch.Generator, share: Share = WHOLE) -> Iterator[Pairs]:
        """A pass in the loader's own order, under a seed drawn from the generator."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        count, rest = divmod(len(self), size)
        cut = self._pass(self._steps, seed, [size] * count + [rest] * (rest > 0))
        start, stop = share.of(size)
        return ((x[start:stop], y[start:stop]) for x, y in cut if len(x) == size)

    def subset(self, index: Tensor) -> Held:
        """Found in a pass, and held in memory."""
        found: list[tuple[int, Tensor, Tensor]] = []
        places = {number: place for place, number in enumerate(index.tolist())}
        start = 0
        for x, y in self.batches(max(self._largest, 1)):
            here = [k for k in range(len(x)) if start + k in places]
            found += [(places[start + k], x[k].clone(), y[k]) for k in here]
            start += len(x)
        _, images, targets = zip(*sorted(found, key=lambda one: one[0]), strict=True)
        return Held(torch.stack(images), torch.stack(targets))

    def whole(self) -> Pairs:
        """A pass, read into memory."""
        x, y = (torch.cat(found) for found in zip(*self.batches(max(self._largest, 1)), strict=True))
        return x, y

    def state(self) -> dict[str, Any]:
        """Of the loaders and data sets that say it themselves."""
        return {name: one.state_dict() for name, one in self._stateful().items()}

    def load(self, saved: dict[str, Any]) -> None:
        """To the loaders and data sets."""
        for name, one in self._stateful().items():
            if name in saved:
                one.load_state_dict(saved[name])

    def _stateful(self) -> dict[str, Any]:
        found = {}
        for name, loader in (("plain", self._plain), ("steps", self._steps)):
            inner = getattr(loader, "dataset", None)
            for one in (loader, inner):
                if hasattr(one, "state_dict") and hasattr(one, "load_state_dict"):
                    found[name] = one
                    break
        return found


def seed_own(loader: Iterable[Any], seed: int) -> None:
    """Seed the generators that a loader and its samplers hold."""
    if not isinstance(loader, DataLoader):
        return
    owners = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
