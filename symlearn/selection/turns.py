"""Turns: the refits of a round, which do not depend on each other, spread over the ranks of a fit.

A round says which of its candidates may train now and for how many epochs. They are dealt out, the longest
first, each to the rank that has least to do; every rank trains its own, alone, until none is left or the
turn's time is over. Then what was trained is exchanged, and the rest is dealt anew. So a candidate takes the
steps that it would take in one process, whoever trains it and however long turns are; and between turns all
ranks hold all candidates, so that a checkpoint can be written and a choice made.

One process by itself has turns of one epoch, of whoever comes first.

Axes: none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from symlearn.ranks import Ranks

C = TypeVar("C", bound="Trained")
SECONDS = 5.0  # after which a rank begins no further epoch in a turn


class Trained(Protocol):
    """What trains in turns."""

    failed: bool

    def saved(self) -> dict[str, Any]:
        """State and progress as plain values."""

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` gave."""


def dealt(epochs: Mapping[int, int], size: int) -> dict[int, int]:
    """Deal out candidates by the epochs that they have left.

    Args:
        epochs: by candidate.
        size: number of ranks.

    Returns:
        The rank that trains each candidate.
    """
    loads, found = [0] * size, {}
    for at in sorted(epochs, key=lambda at: (-epochs[at], at)):
        found[at] = loads.index(min(loads))
        loads[found[at]] += epochs[at]
    return found


def take_turn(
    ranks: Ranks,
    waiting: Mapping[int, int],
    candidate: Callable[[int], C],
    train: Callable[[C], None],
) -> list[int]:
    """One turn of every rank.

    Args:
        ranks: who take part, all with the same candidates.
        waiting: epochs that a candidate may train now, those that come first first.
        candidate: gives the candidate of a number.
        train: trains it for one epoch.

    Returns:
        The numbers of those that were trained, in their order; their states are here.

    Raises:
        ValueError: training failed on a rank, on every one.
    """
    doers = dealt(waiting, ranks.size)
    ends = time.monotonic() + (SECONDS if ranks.size > 1 else 0.0)
    own: dict[int, C] = {}

    def trained() -> None:
        for at in (at for at in waiting if doers[at] == ranks.rank):
            own[at] = candidate(at)
            for _ in range(waiting[at]):
                train(own[at])
                if time.monotonic() >= ends:
                    return
                if own[at].failed:
                    break

    ranks.together(trained)
    told = ranks.gather({at: one.saved() for at, one in own.items()}) if ranks.size > 1 else [{}]
    others = {at: saved for found in told for at, saved in found.items() if at not in own}
    for at, saved in others.items():
        candidate(at).load(saved)
    return [at for at in waiting if at in own or at in others]
