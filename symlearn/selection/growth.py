"""Decisions from a part of the images: how sure they are, and when more images are looked at.

All refits of a decision are judged on the same subset, so that the error of their difference is small, that
of chunk-by-chunk differences (`evidence/sampled.py`). Where it still leaves the decision open, the ends of
the refits are evaluated on a subset of twice the size that contains the first, and so on, until the decision
is made or all images are in. From the second size on, raw sums of the images already seen are kept.

Axes: none.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.special import stdtrit

from symlearn.curvature.sampled import ChunkSums
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.jackknife import CHUNKS
from symlearn.evidence.sampled import Noted, mean_of, paired_error
from symlearn.selection.differences import COVERAGE
from symlearn.training.state import FitState
from symlearn.training.updates import log_hyperprior


@dataclass
class EndState:
    """The end of a refit and its evidence on ever more images.

    Attributes:
        state: at the end; its weights and hyperparameters stay as they are.
        updates: the refit's last evidence updates, on the round's subset.
        found: their mean, then the evidence on twice as many images, and so on.
    """

    state: FitState
    updates: list[Noted]
    found: list[Noted] = field(default_factory=list)
    _sums: ChunkSums | None = None

    def at(self, doublings: int, data: SamplesLike) -> Noted:
        """Find the evidence after so many doublings of the subset.

        Args:
            doublings: 0 for the subset of the updates; none after all images are in.
            data: all images.

        Returns:
            The log evidence with its hyperpriors, in nats; kept in `found`, so that it is computed once.
        """
        if not self.found:
            self.found = [mean_of(self.updates)]
        while len(self.found) <= doublings:
            state = self.state
            if self._sums is None:
                images = grown(self.found[0].images, len(samples_of(data)))
                given = (state.model, state.config, data, images, state.sample_seed, state.ranks)
                self._sums = ChunkSums(*given)
            else:
                self._sums.grow()
            sampled = self._sums.evidence(state.prior.by_tensor(), state.sigma_noise)
            self.found.append(sampled.noted(self._sums.images, len(samples_of(data)), log_hyperprior(state)))
        return self.found[doublings]

    def saved(self) -> dict[str, Any]:
        """As plain values, for checkpoints; evidences on more images are found again."""
        return {"state": self.state.saved(), "updates": [vars(noted) for noted in self.updates]}

    @classmethod
    def restored(cls, state: FitState, saved: dict[str, Any]) -> EndState:
        """From what `saved` gave, into a state of the same network."""
        state.load(saved["state"])
        return cls(state, [Noted(**noted) for noted in saved["updates"]])


def grown(images: int, of: int) -> int:
    """Twice as many images, or all where that is more than there are."""
    return of if 2 * images > of else 2 * images


def open_at(threshold: float, value: float, error: float) -> bool:
    """Whether a value with a standard error of `CHUNKS` chunks may lie on either side of a threshold."""
    return abs(value - threshold) < float(stdtrit(CHUNKS - 1, 0.5 + COVERAGE / 2)) * error


@dataclass(frozen=True)
class Paired:
    """A difference of evidence on the same images.

    Attributes:
        value: in nats.
        error: its standard error for being from a part of the images; 0 from all.
        images: how many.
    """

    value: float
    error: float
    images: int


def paired(
    end: EndState, controls: Sequence[EndState], undecided: Callable[[float, float], bool], data: SamplesLike
) -> Paired:
    """Compare the end of a refit with the mean of its controls', on as many images as the decision takes.

    Args:
        end: of the refit.
        controls: ends of those with nothing changed, at least one.
        undecided: whether a difference with such a standard error leaves the decision open.
        data: all images.

    Returns:
        The refit's evidence minus the controls' mean, from the fewest images that decide, or from all.
    """
    doublings = 0
    while True:
        now, others = end.at(doublings, data), [control.at(doublings, data) for control in controls]
        value = now.evidence - statistics.mean(other.evidence for other in others)
        found = Paired(value, paired_error(now, others), now.images)
        if now.images == now.of or not undecided(found.value, found.error):
            return found
        doublings += 1
