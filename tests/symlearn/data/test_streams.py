"""Samples that are read as they are needed: the same batches as tensors in memory, and what is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import assert_refused
from streamed_sets import Bad, Flowing, Listed
from tiny_fits import bars, differences
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

import symlearn.data.passes
from symlearn.data import Held, Samples, Stream
from symlearn.data.changed import Changed
from symlearn.data.mapped import Mapped
from symlearn.data.passes import Passes
from symlearn.data.reading import death_in
from symlearn.training.inputs import samples_from

CPU = torch.device("cpu")
X, Y = bars(53, "direction")
HELD = Held(X, Y)


def opened(data: Any, **others: Any) -> Samples:
    """What a fit would read."""
    return samples_from(data, CPU, **others)


def generator() -> torch.Generator:
    """Seeded."""
    return torch.Generator().manual_seed(3)


def collated(items: list[Any]) -> Any:
    """A user's own collate function."""
    return torch.stack([x for x, _ in items]), [int(y) for _, y in items]


MAPPED: dict[str, Callable[[], Any]] = {
    "data set": lambda: Listed(X, Y),
    "stream": lambda: Stream(TensorDataset(X, Y)),
    "workers": lambda: Stream(Listed(X, Y), workers=2),
    "loader": lambda: DataLoader(Listed(X, Y), batch_size=7),
    "shuffled loader": lambda: DataLoader(Listed(X, Y), 7, shuffle=True, drop_last=True, num_workers=1),
    "own collate": lambda: DataLoader(Listed(X, Y), 7, collate_fn=collated),
}


class TestMapped:
    @pytest.mark.parametrize("case", MAPPED)
    def test_gives_what_tensors_in_memory_give(self, case: str) -> None:
        found = opened(MAPPED[case]())
        assert isinstance(found, Mapped) and not found.held and len(found) == 53
        assert found.shape == (1, 8, 8) and torch.equal(found.targets, Y)
        index = torch.randperm(53, generator=generator())[:11]
        ways: dict[str, Callable[[Samples], Any]] = {
            "batches": lambda s: list(s.batches(10)),
            "even batches": lambda s: list(s.even_batches(20)),
            "epoch": lambda s: list(s.epoch(9, generator())),
            "subset": lambda s: s.subset(index).whole(),
            "part of a subset": lambda s: list(s.subset(index).batches(4)),
            "first": lambda s: s.first(3),
            "targets": lambda s: s.subset(index).targets,
        }
        for name, way in ways.items():
            assert not differences(way(found), way(HELD)), name

    def test_generators_are_left_where_tensors_leave_them(self) -> None:
        """The fit's own, torch's, numpy's and Python's."""
        found = opened(Listed(X, Y, noise=0.1))

        def drawn(samples: Samples) -> list[Any]:
            own = generator()
            torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
            list(samples.epoch(10, own)), list(samples.batches(10))
            numbers = (np.random.rand(), random.random())  # noqa: NPY002
            return [own.get_state(), torch.rand(()), *numbers]

        assert not differences(drawn(found), drawn(HELD))

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_augmentation_is_for_steps_alone_and_independent_of_workers(self, workers: int) -> None:
        found = opened(Stream(Listed(X, Y), Listed(X, Y, noise=0.1), workers))
        assert not differences(list(found.batches(10)), list(HELD.batches(10)))
        once, again = (list(found.epoch(10, generator())) for _ in range(2))
        assert not differences(once, again), "the generator says it all"
        alone = list(opened(Stream(Listed(X, Y), Listed(X, Y, noise=0.1))).epoch(10, generator()))
        assert not differences(once, alone), f"{workers} workers draw as none"
        source = generator()
        list(found.epoch(10, source))
        other = list(found.epoch(10, source))
        plain = list(HELD.epoch(10, generator()))
        noise = torch.stack([(a - b).flatten(1).mean(1) for (a, _), (b, _) in zip(once, plain, strict=True)])
        assert (noise > 0).all() and noise.unique().numel() > 40, "an item draws for itself"
        assert differences(once, other), "every epoch draws anew"

    def test_a_random_data_set_is_the_same_in_every_plain_pass(self) -> None:
        found = opened(Listed(X, Y, noise=0.1))
        assert not differences(list(found.batches(10)), list(found.batches(10)))
        whole = torch.cat([x for x, _ in found.batches(17)])
        assert torch.equal(whole, torch.cat([x for x, _ in found.batches(10)])), "however it is cut"

    def test_an_abandoned_pass_does_not_disturb_the_next(self) -> None:
        found = opened(Stream(Listed(X, Y), workers=1))
        started = found.batches(5)
        next(started), next(started)
        assert not differences(list(found.batches(10)), list(HELD.batches(10)))

    def test_limit_and_bytes(self) -> None:
        found = opened(Stream(Listed(X, Y), limit=20))
        assert len(found) == 20 and not differences(found.whole(), (X[:20], Y[:20]))
        assert found.bytes_held(10) == 20 * 8 + 10 * 64 * 4
        ahead = opened(DataLoader(Listed(X, Y), num_workers=2, prefetch_factor=3))
        assert ahead.bytes_held(10) == 53 * 8 + 7 * 10 * 64 * 4

    def test_dtypes(self) -> None:
        found = opened(Listed((X * 50).byte(), Y.int()), dtype=torch.float64)
        x, y = found.first(4)
        assert (x.dtype, y.dtype, found.targets.dtype) == (torch.float64, torch.int64, torch.int64)
        real = opened(Listed(X, Y.float()[:, None]), dtype=torch.float64)
        assert real.targets.dtype == torch.float64 and real.targets.shape == (53, 1)


def test_changed_samples_are_those_of_changed_tensors() -> None:
    """Read through functions, and of what is held."""
    truth = Held(2 * X[:, :, ::2], Y + 1)
    for samples in (opened(Listed(X, Y)), HELD):
        found = Changed(samples, lambda x: 2 * x[:, :, ::2], lambda y: y + 1)
        assert found.shape == (1, 4, 8) and found.held == samples.held and len(found) == 53
        assert torch.equal(found.targets, truth.targets)
        index = torch.tensor([7, 3])
        assert not differences(list(found.batches(10)), list(truth.batches(10)))
        assert not differences(list(found.epoch(9, generator())), list(truth.epoch(9, generator())))
        assert not differences(found.subset(index).whole(), truth.subset(index).whole())


def test_a_tensor_data_set_that_does_something_is_read() -> None:
    found = opened(Halved(X, Y))
    assert isinstance(found, Mapped) and torch.equal(found.first(4)[0], X[:4] / 2)
    assert isinstance(opened(DataLoader(Halved(X, Y), 5)), Mapped)


class Halved(TensorDataset):
    """Tensors with a transform."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x / 2, y


class Subset(SequentialSampler):
    """A sampler that is none of torch's own."""


PASSING: dict[str, Callable[[], Any]] = {
    "iterable data set": lambda: Flowing(X, Y),
    "loader of one": lambda: DataLoader(Flowing(X, Y), batch_size=9),
    "with a worker": lambda: DataLoader(Flowing(X, Y), batch_size=9, num_workers=1),
    "own sampler": lambda: DataLoader(Listed(X, Y), 8, sampler=Subset(Listed(X, Y))),
    "own batch sampler": lambda: DataLoader(
        Listed(X, Y), batch_sampler=BatchSampler(Subset(Listed(X, Y)), 5, drop_last=False)
    ),
    "whole batches": lambda: DataLoader([(X[:30], Y[:30]), (X[30:], Y[30:])], batch_size=None),  # type: ignore[arg-type]
}


def sorted_rows(batches: list[Any]) -> torch.Tensor:
    """All images and labels, in an order that does not depend on theirs."""
    rows = torch.cat([torch.cat([x.flatten(1), y[:, None].float()], 1) for x, y in batches])
    return rows[rows[:, :-1].sum(1).argsort()]


class TestPasses:
    @pytest.mark.parametrize("case", PASSING)
    def test_every_image_once_in_batches_as_asked_for(self, case: str) -> None:
        found = opened(PASSING[case]())
        assert isinstance(found, Passes) and len(found) == 53 and found.shape == (1, 8, 8)
        truth = sorted_rows([(X, Y)])
        batches = list(found.batches(10))
        assert [len(x) for x, _ in batches] == [10] * 5 + [3]
        assert torch.equal(sorted_rows(batches), truth)
        assert not differences(batches, list(found.batches(10))), "always in the same order"
        once, again = (list(found.epoch(10, generator())) for _ in range(2))
        assert [len(x) for x, _ in once] == [10] * 5 and not differences(once, again)
        index = torch.tensor([50, 2, 7])
        whole = found.whole()
        assert not differences(found.subset(index).whole(), (whole[0][index], whole[1][index]))

    def test_a_shuffled_pass_is_another_in_every_epoch(self) -> None:
        found, own = opened(Flowing(X, Y)), generator()
        assert differences(list(found.epoch(10, own)), list(found.epoch(10, own)))

    def test_global_generators_are_left_alone(self) -> None:
        found = opened(Flowing(X, Y))
        before = torch.get_rng_state()
        list(found.epoch(10, generator())), list(found.batches(4))
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_limit_makes_passes_of_an_endless_stream(self) -> None:
        found = opened(Stream(Flowing(X, Y, endless=True), limit=60))
        assert len(found) == 60 and [len(x) for x, _ in found.batches(25)] == [25, 25, 10]
        assert len(list(found.epoch(25, generator()))) == 2


class Endless(IterableDataset):
    """Numbers without an end."""

    def __iter__(self) -> Any:
        while True:
            yield X[0], 0


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "empty data set": (lambda: Listed(X[:0], Y[:0]), "at least one, got 0 and 0"),
    "empty stream": (lambda: Flowing(X[:0], Y[:0]), "at least one, got 0 and 0"),
    "dictionary": (lambda: Bad(X, Y, {"image": X[0]}), "but item 5 is a dict; give its image and its target"),
    "image alone": (lambda: Bad(X, Y, X[0]), "but item 5 is a Tensor"),
    "text label": (lambda: Bad(X, Y, (X[0], "cat")), "the target of item 5: expected an array or tensor"),
    "other shape": (lambda: Bad(X, Y, (X[0, :, :5], 1)), "images differ in shape: [1, 8, 8] at first"),
    "unreadable": (
        lambda: Bad(X, Y, OSError("no such file")),
        "item 5 of the data set cannot be read (OSErr",
    ),
    "unreadable by a worker": (
        lambda: Stream(Bad(X, Y, KeyError("a\nb")), workers=1),
        "item 5 of the data set cannot be read (KeyError",
    ),
    "unreadable in passes by a worker": (
        lambda: DataLoader(Bad(X, Y, RuntimeError("torn")), 9, sampler=Subset(Listed(X, Y)), num_workers=1),
        "batch 0 cannot be read (RuntimeError: torn)",
    ),
    "not finite": (
        lambda: Bad(X, Y, (X[0] * torch.nan, 1)),
        "64 pixels are NaN or infinite among images 0 to",
    ),
    "other targets": (
        lambda: Bad(X, Y, (X[0], torch.tensor([1, 2]))),
        "targets differ in shape: [] at first",
    ),
    "two lengths": (
        lambda: Stream(Listed(X, Y), Listed(X[:5], Y[:5])),
        "53 plain images but 5 for the steps",
    ),
    "two kinds": (lambda: Stream(Listed(X, Y), Flowing(X, Y)), "must be of one kind"),
    "limit": (lambda: Stream(Listed(X, Y), limit=54), "limit is 54 but the data set has 53 images"),
    "limit of a pass": (lambda: Stream(Flowing(X, Y), limit=54), "limit is 54 but a pass has 53 images"),
    "iterator": (lambda: iter([(X, Y)]), "which is used up after one pass"),
    "endless": (Endless, "more than 40 images without an end; say how many make a pass: symlearn.Stream"),
    "number": (lambda: Stream(3), "got a int"),
    "workers": (lambda: Stream(Listed(X, Y), workers=-1), "workers of a Stream is -1"),
    "no limit": (lambda: Stream(Listed(X, Y), limit=0), "limit of a Stream is 0; expected a whole number of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_in_one_line(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symlearn.data.passes, "MOST", 40 if case == "endless" else 10**6)
    make, words = REFUSED[case]
    assert_refused(lambda: opened(make()), words)


@pytest.mark.parametrize(
    ("later", "words"),
    [(40, "a pass gave 40 images, but the first one gave 53"), (60, "a pass gave 60 or more images")],
    ids=["fewer", "more"],
)
def test_another_number_of_images_in_a_later_pass(later: int, words: str) -> None:
    x, y = (torch.cat([part, part]) for part in (X, Y))
    first = Flowing(x, y, later)
    first.begun, first.later = 1, 53  # the first pass gives 53 of the 106
    found = opened(first)
    first.later = later
    for read in (lambda: list(found.batches(10)), lambda: list(found.epoch(10, generator()))):
        assert_refused(read, words)


DEATH = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from streamed_sets import Dying
from tiny_fits import bars
from torch.utils.data import DataLoader, SubsetRandomSampler
import symlearn

x, y = bars(20, "direction")
data = [symlearn.Stream(Dying(x, y), workers=1), DataLoader(Dying(x, y), 4, sampler=SubsetRandomSampler(range(20)), num_workers=1)]
for one in data:
    try:
        symlearn.fit(torch.nn.Linear(64, 3), one, out=sys.argv[2])
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_worker_that_dies(tmp_path: Path) -> None:
    """In a process of its own: torch raises from a signal handler, wherever that process is."""
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-c", DEATH, str(tests), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("a process that reads images died (" in one for one in lines)
    assert not (tmp_path / "run").exists(), "nothing was written"


@pytest.mark.parametrize(
    ("error", "handing_over", "death"),
    [
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), False, True),
        (
            RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: mine"),
            True,
            False,
        ),
        (ConnectionResetError("by peer"), True, True),
        (ConnectionResetError("by a server of images"), False, False),
        (RuntimeError("the network's own"), True, False),
    ],
    ids=["killed", "sent by a worker", "broken pipe", "no worker", "other"],
)
def test_what_counts_as_a_death(error: Exception, handing_over: bool, death: bool) -> None:
    assert (death_in(error, handing_over) is not None) == death


def test_what_is_in_memory_stays_there() -> None:
    for data in ((X, Y), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), 5, shuffle=True)):
        found = opened(data)
        assert isinstance(found, Held) and not differences(found.whole(), (X, Y))
