"""A phase: epochs under one cosine of the learning rate, with evidence updates and a guard against collapse.

Axes: none.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from symlearn.pairs import Pairs
from symlearn.structure import layer_paths
from symlearn.training import Augment, FitState, TrainingStoppedError, train_epoch, update_evidence

PATIENCE = 4  # evidence updates' time that hyperparameters wait after a collapse


@dataclass(frozen=True)
class Phase:
    """A run of epochs.

    Attributes:
        name: what the metrics call it.
        epochs: how many.
        lr: learning rate at its start.
        lr_end: at its end (cosine between).
        burn_in: steps before hyperparameters move, "settled" (training loss), or None: never (MAP).
        keep_best: whether the state of best evidence is kept and restored at the end.
    """

    name: str
    epochs: int
    lr: float
    lr_end: float
    burn_in: int | str | None = 0
    keep_best: bool = False


def collapsed_layers(state: FitState) -> list[str]:
    """Layers whose switched-on paths all have next to no effective parameters: nothing passes through.

    A declared diagonal of no such layer is left alone: it may be added to maps, which then still pass.
    """
    dead, free = [], state.config.curvature.diagonal
    for layer in layer_paths(state.model):
        names = [n for group in layer.paths.values() for n in group if n in state.effective_parameters]
        weights = [n for n in names if not n.endswith("bias") and (layer.relaxed or n not in free)]
        if weights and sum(state.effective_parameters[n] for n in weights) < 1e-2:
            dead.append(layer.name)
    return dead


def settled(losses: list[float]) -> bool:
    """Whether the last five epochs' mean loss fell by less than 5 % against the five before."""
    if len(losses) < 10:
        return False
    return sum(losses[5:]) > 0.95 * sum(losses[:5])


@dataclass
class PhaseRun:
    """Progress within a phase, so that a checkpoint can continue it.

    On a collapse (a layer's paths all off, the usual sign that precisions outran unsettled weights) the state
    from before the hyperparameters began to move comes back, they wait for `PATIENCE` more updates' time, and
    the learning rate is halved for the rest of the fit.

    Attributes:
        phase: what is run.
        done: epochs of it that are over.
        started: the phase's epoch at which hyperparameters began to move, or None.
        hold: epoch of the phase before which they may not move, after a collapse.
        evidences: log evidence of every update so far.
        best: the state of best evidence so far, saved, if the phase keeps it.
        safe: the state to come back to on a collapse.
    """

    phase: Phase
    done: int = 0
    started: int | None = None
    hold: int = 0
    evidences: list[float] = field(default_factory=list)
    best: dict[str, Any] | None = None
    safe: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        """Whether all epochs are done."""
        return self.done >= self.phase.epochs

    def rate(self, fraction: float) -> float:
        """Learning rate at a fraction of the present epoch."""
        phase = self.phase
        progress = (self.done + fraction) / phase.epochs
        return phase.lr_end + (phase.lr - phase.lr_end) * 0.5 * (1 + math.cos(math.pi * progress))

    def may_start(self, state: FitState) -> bool:
        """Whether hyperparameters may begin to move: after so many steps, or once the loss has settled."""
        burn_in = self.phase.burn_in
        if burn_in is None or self.done < self.hold:
            return False
        if burn_in == "settled":
            return settled(state.losses) or self.done >= self.phase.epochs // 2
        return state.step >= int(burn_in)

    def next_epoch(self, state: FitState, data: Pairs, augment: Augment | None = None) -> dict[str, Any]:
        """Run one epoch, with an evidence update where one is due; returns the metrics of both.

        Raises:
            TrainingStoppedError: a value is not finite, or a layer collapsed for a third time.
        """
        loss, accuracy = train_epoch(state, data, self.rate, augment)
        self.done += 1
        record: dict[str, Any] = {"train_loss": loss, "train_accuracy": accuracy}
        if self.started is None and self.may_start(state):
            self.started, self.safe = self.done, state.saved()
        frequency = state.config.evidence.frequency or 1
        if self.started is not None and ((self.done - self.started) % frequency == 0 or self.over):
            update_evidence(state, data)
            dead = collapsed_layers(state)
            if dead:
                self.back_off(state, dead)
                return {**record, "collapsed": dead}
            assert state.evidence is not None
            self.evidences.append(state.evidence)
            if self.phase.keep_best and state.evidence >= max(self.evidences):
                self.best = state.saved()
            record["log_marginal_likelihood"] = state.evidence
        return record

    def back_off(self, state: FitState, dead: list[str]) -> None:
        """Restore the safe state and hold the hyperparameters; twice at most in a fit.

        Raises:
            TrainingStoppedError: a third collapse, or one that leaves no epochs to recover in.
        """
        assert self.safe is not None
        setbacks, epoch, step, generator = (
            state.setbacks,
            state.epoch,
            state.step,
            state.generator.get_state(),
        )
        slower = state.lr_scale / 2
        state.load(self.safe)
        state.epoch, state.step, state.setbacks, state.lr_scale = epoch, step, setbacks + 1, slower
        state.generator.set_state(generator)
        self.started, self.hold = None, self.done + PATIENCE * (state.config.evidence.frequency or 1)
        unjudged = self.phase.keep_best and self.best is None and self.hold > self.phase.epochs
        if state.setbacks > 2 or self.over or unjudged:
            raise TrainingStoppedError(
                f"every path of {', '.join(dead)} switched off (no effective parameters) by epoch {epoch}: "
                "the precisions outran the weights; raise burn_in or epochs, lower lr, or use more data"
            )

    def saved(self) -> dict[str, Any]:
        """The progress as plain values, for checkpoints; the phase itself is not in it."""
        names = ("done", "started", "hold", "evidences", "best", "safe")
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` gave."""
        for name, value in copy.deepcopy(saved).items():
            setattr(self, name, value)
