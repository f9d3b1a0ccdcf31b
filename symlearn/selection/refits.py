"""Refits: states on trial, trained side by side or in turn, and what every round of them shares.

Axes: none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from symlearn.data.samples import SamplesLike
from symlearn.selection.changes import Proposal
from symlearn.selection.growth import EndState
from symlearn.selection.turns import take_turn
from symlearn.training.phases import Phase, PhaseRun
from symlearn.training.state import Augment, FitState, TrainingStoppedError

Observe = Callable[[FitState, Phase, dict[str, Any]], dict[str, Any]]


@dataclass(eq=False)
class Candidate:
    """A state on trial, with its refit's progress and metrics."""

    proposal: Proposal | None
    state: FitState
    run: PhaseRun
    records: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = False

    def next_epoch(self, data: SamplesLike, observe: Observe, augment: Augment | None) -> None:
        """One epoch of the refit; a candidate that collapses or diverges is out of the race."""
        try:
            record = self.run.next_epoch(self.state, data, augment)
        except TrainingStoppedError:
            self.failed = True
        else:
            self.failed = self.run.spent
            self.records.append(observe(self.state, self.run.phase, record))

    def evidence_at(self, updates: int) -> float:
        """Mean of the last two of the refit's first `updates` evidence updates."""
        last = self.run.evidences[:updates][-2:]
        return sum(last) / len(last) if last and not self.failed else -math.inf

    @property
    def evidence(self) -> float:
        """Mean of the last two evidence updates so far."""
        return self.evidence_at(len(self.run.evidences))

    @property
    def end(self) -> EndState | None:
        """What the refit came to, where its evidence is from a part of the images."""
        return EndState(self.state, self.run.sampled[-2:]) if self.run.sampled and not self.failed else None

    def saved(self) -> dict[str, Any]:
        """State and progress as plain values, for checkpoints; the proposal is not in it."""
        return {
            "state": self.state.saved(),
            "run": self.run.saved(),
            "records": list(self.records),
            "failed": self.failed,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` gave."""
        self.state.load(saved["state"])
        self.run.load(saved["run"])
        self.records, self.failed = saved["records"], saved["failed"]


class Round(ABC):
    """Refits of copies of one state, an epoch at a time, and a choice among them at the end.

    Args:
        start: where the round starts; left as it is.
        number: of the round, from 0.
        data: the training set.
        observe: completes an epoch's metrics.
        augment: augmentation of the weights' steps.
        lr: learning rate of the refits at their start.
        lr_end: at their end.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        start: FitState,
        number: int,
        data: SamplesLike,
        observe: Observe,
        augment: Augment | None,
        lr: float,
        lr_end: float,
    ) -> None:
        self.start, self.number, self.data = start, number, data
        self.observe, self.augment = observe, augment
        epochs = int(start.config.evidence.refit_epochs or 1)
        self.phase = Phase(f"{self.kind} {number}", epochs, lr, lr_end)

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nobody has anything left to train."""

    @property
    @abstractmethod
    def progress(self) -> int:
        """Epochs of all refits so far."""

    @abstractmethod
    def waiting(self) -> dict[int, int]:
        """Epochs that refits may train now, by number; next is who comes first."""

    @abstractmethod
    def refit(self, at: int) -> Candidate:
        """The refit of a number, begun if need be."""

    @abstractmethod
    def saved(self) -> dict[str, Any]:
        """The round as plain values, for checkpoints."""

    def next_epoch(self) -> Candidate:
        """One epoch of whoever is next, or a turn of all ranks.

        Returns:
            One that was trained.
        """
        trained = take_turn(
            self.start.ranks,
            self.waiting(),
            self.refit,
            lambda candidate: candidate.next_epoch(self.data, self.observe, self.augment),
        )
        return self.refit(trained[0])
