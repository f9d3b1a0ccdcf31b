"""The global generators of torch, numpy and Python, which the transforms of a data set draw from.

What is drawn while images are read depends on seeds that we give, and leaves no trace outside: a fit that
reads its images as they are needed draws what it would draw if it held them.

Axes: none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_STEP = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: neighbours get seeds far apart
_MASK = (1 << 63) - 1


def seed_globally(seed: int, item: int = 0) -> None:
    """Seed the three generators for one item; the CPU's of torch only."""
    mixed = (seed ^ (item + 1) * _STEP) & _MASK
    torch.default_generator.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)  # noqa: NPY002 - what transforms use


class Randomness:
    """States of the three generators that hold while a context is open; outside everything is as before.

    Args:
        seed: that they begin with.
    """

    def __init__(self, seed: int) -> None:
        outside = _states()
        seed_globally(seed)
        self._inside = _states()
        _restore(outside)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within, draws go on where the last context stopped."""
        outside = _states()
        _restore(self._inside)
        try:
            yield
        finally:
            self._inside = _states()
            _restore(outside)


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Whatever is drawn or seeded within, the three generators are as before afterwards."""
    outside = _states()
    try:
        yield
    finally:
        _restore(outside)


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
