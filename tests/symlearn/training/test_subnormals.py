"""Subnormal numbers are rounded to zero while a network is trained, and handled as before afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from tiny_fits import directions, one_layer, options

from symlearn.fitting.fit import fit
from symlearn.fitting.result import Progress
from symlearn.training.subnormals import SMALLEST, flushes, subnormals_flushed


@pytest.fixture(autouse=True)
def _setting_of_the_session() -> Iterator[None]:
    before = flushes()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot round subnormal numbers to zero")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(before)


def shrunk() -> float:
    """A tensor too small for a normal number, after one more step towards zero."""
    return float(torch.full((100,), SMALLEST).div(3).sum())


def test_only_within() -> None:
    assert shrunk() > 0
    with subnormals_flushed():
        assert shrunk() == 0
    assert shrunk() > 0


def test_whoever_flushed_before_still_does() -> None:
    torch.set_flush_denormal(True)
    with subnormals_flushed():
        assert flushes()
    assert flushes()


@pytest.mark.parametrize("breaks", [False, True], ids=["finished", "broken off"])
def test_a_fit_flushes_and_leaves_no_trace(breaks: bool) -> None:
    seen: list[bool] = []

    def watch(progress: Progress) -> None:
        seen.append(flushes())
        if breaks:
            raise KeyboardInterrupt

    config = options(epochs=2, selection="none")
    if breaks:
        with pytest.raises(KeyboardInterrupt):
            fit(one_layer(), directions(), None, config, progress=watch)
    else:
        fit(one_layer(), directions(), None, config, progress=watch)
    assert seen and all(seen), f"epochs that flushed: {seen}"
    assert not flushes(), "the fit left its setting behind"


@pytest.mark.slow
def test_threads_started_within_flush_too() -> None:
    code = (
        "import torch; from symlearn.training.subnormals import SMALLEST, subnormals_flushed\n"
        "torch.set_num_threads(2)\n"
        "with subnormals_flushed():\n"
        "    shrunk = torch.full((1_000_000,), SMALLEST).mul(0.5)\n"
        "print(int(torch.count_nonzero(shrunk.view(torch.int32))))"
    )
    left = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(left) == 0, f"{left.strip()} of 1,000,000 results are subnormal"
