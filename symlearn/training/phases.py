"""A phase: epochs under one cosine of the learning rate, with evidence updates and a guard (`guard.py`).

Axes: none.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.sampled import Noted
from symlearn.training.guard import BACK, MOST, Guard, quiet_layers
from symlearn.training.state import Augment, FitState, TrainingStoppedError
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence

WARM_UP = 0.05  # share of a phase in which its rate grows to what the cosine asks for
RECOVERY = 2.0  # growth of trust with every update that follows none that was taken back


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


def settled(losses: list[float]) -> bool:
    """Whether the last five epochs' mean loss fell by less than 5 % against the five before."""
    if len(losses) < 10:
        return False
    return sum(losses[5:]) > 0.95 * sum(losses[:5])


@dataclass
class PhaseRun:
    """Progress within a phase, so that a checkpoint can continue it.

    Attributes:
        phase: what is run.
        done: epochs of it that are over.
        started: the phase's epoch at which hyperparameters began to move, or None.
        hold: epoch of the phase before which they may not move.
        evidences: log evidence of every update so far.
        sampled: the same with their errors, where they are from a subset of the images.
        best: the state of best evidence so far, saved, if the phase keeps it.
        guard: the state to come back to, and when.
        most: setbacks after which the phase is over.
    """

    phase: Phase
    done: int = 0
    started: int | None = None
    hold: int = 0
    evidences: list[float] = field(default_factory=list)
    sampled: list[Noted] = field(default_factory=list)
    best: dict[str, Any] | None = None
    guard: Guard = field(default_factory=Guard)
    most: int = MOST

    @property
    def over(self) -> bool:
        """Whether all epochs are done."""
        return self.done >= self.phase.epochs

    @property
    def spent(self) -> bool:
        """Whether the guard had to step in too often."""
        return self.guard.setbacks >= self.most

    def rate(self, fraction: float) -> float:
        """Learning rate at a fraction of the present epoch."""
        phase = self.phase
        progress = (self.done + fraction) / phase.epochs
        return phase.lr_end + (phase.lr - phase.lr_end) * 0.5 * (1 + math.cos(math.pi * progress))

    def warmed_rate(self, fraction: float) -> float:
        """The same, growing from zero over the first `WARM_UP` of the phase: early steps are the riskiest."""
        progress = (self.done + fraction) / (WARM_UP * self.phase.epochs)
        return self.rate(fraction) * min(progress + 0.01, 1.0)

    def may_start(self, state: FitState) -> bool:
        """Whether hyperparameters may begin to move: after so many steps, or once the loss has settled."""
        burn_in = self.phase.burn_in
        if burn_in is None or self.done < self.hold:
            return False
        if burn_in == "settled":
            return settled(state.losses) or self.done >= self.phase.epochs // 2
        return state.step - state.begun >= int(burn_in)

    def next_epoch(
        self, state: FitState, data: SamplesLike, augment: Augment | None = None
    ) -> dict[str, Any]:
        """Run one epoch, with an evidence update where one is due.

        Returns:
            Metrics of both: `train_loss` in nats an image, `train_accuracy` (None for regression),
            `log_marginal_likelihood` in nats where an update was due; a state that the guard does not believe
            is taken back, and the reason stands under `taken_back`.

        Raises:
            TrainingStoppedError: a value is not finite, and there is no state to go back to.
        """
        chance = state.likelihood.constant_loss(samples_of(data).targets, state.sigma_noise)
        try:
            loss, accuracy = train_epoch(state, data, self.warmed_rate, augment)
        except TrainingStoppedError as error:
            self.done += 1
            return {"train_loss": None, "train_accuracy": None, **self.take_back(state, str(error), error)}
        self.done += 1
        record: dict[str, Any] = {"train_loss": loss, "train_accuracy": accuracy}
        fault = self.guard.fault(loss, chance)
        if fault is not None:
            return {**record, **self.take_back(state, fault)}
        if self.started is None and self.may_start(state):
            self.started = self.done
        frequency = state.config.evidence.frequency or 1
        since = self.done - (self.started or 0)
        if self.started is None:
            if state.warm_up.fallen and self.guard.improved(state, loss):
                self.guard.renew(state, loss)
        elif since % frequency == 0 or self.over:
            self.guard.renew(state, loss)
            try:
                promise = update_evidence(state, data)
            except TrainingStoppedError as error:
                if not self.evidences:
                    raise
                return {**record, **self.take_back(state, str(error), error)}
            self.guard.promise = max(promise, 0.0) / state.n_data
            dead = quiet_layers(state) if loss > BACK * chance and state.warm_up.fallen else []
            if dead:
                return {**record, **self.take_back(state, f"every path of {', '.join(dead)} switched off")}
            assert state.evidence is not None
            state.trust = min(RECOVERY * state.trust, 1.0)
            state.caution = min(RECOVERY**0.5 * state.caution, 1.0)
            self.evidences.append(state.evidence)
            if state.sampled is not None:
                self.sampled.append(state.sampled)
            if self.phase.keep_best and state.evidence >= max(self.evidences):
                self.best = state.saved()
            record["log_marginal_likelihood"] = state.evidence
        return record

    def take_back(self, state: FitState, fault: str, error: Exception | None = None) -> dict[str, Any]:
        """Restore the guard's state with half the rate and half the trust; time does not run backwards.

        After `most` setbacks the phase is over.

        Returns:
            {"taken_back": fault}, for the epoch's record.

        Raises:
            TrainingStoppedError: there is no state to go back to.
        """
        if self.guard.safe is None:
            raise error or TrainingStoppedError(fault)
        layers = quiet_layers(state)
        kept = {name: getattr(state, name) for name in ("epoch", "step", "caution", "trust", "setbacks")}
        generator = state.generator.get_state()
        state.load(self.guard.safe)
        for name, value in kept.items():
            setattr(state, name, value)
        state.generator.set_state(generator)
        setback = {
            "epoch": state.epoch,
            "phase": self.phase.name,
            "reason": fault,
            "layers": layers,
        }
        state.setbacks = [*state.setbacks, setback]
        state.caution, state.trust = state.caution / 2, state.trust / 2
        self.guard.setbacks += 1
        if self.spent:
            self.done = max(self.done, self.phase.epochs)
        return {"taken_back": fault}

    def saved(self) -> dict[str, Any]:
        """The progress as plain values, for checkpoints; the phase itself is not in it."""
        names = ("done", "started", "hold", "evidences", "best")
        plain = {name: copy.deepcopy(getattr(self, name)) for name in names}
        sampled = [copy.deepcopy(vars(noted)) for noted in self.sampled]
        return {**plain, "sampled": sampled, "guard": self.guard.saved()}

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` gave."""
        saved = copy.deepcopy(saved)
        self.guard = Guard(**saved.pop("guard"))
        self.sampled = [Noted(**noted) for noted in saved.pop("sampled")]
        for name, value in saved.items():
            setattr(self, name, value)
