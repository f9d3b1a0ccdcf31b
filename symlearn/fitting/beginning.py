"""The beginning of a fit: starts in turn until one is better than the constant predictor.

Axes: none.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

from symlearn.data.samples import Samples
from symlearn.layers.structure import relaxed_layers
from symlearn.selection.changes import strictest_start
from symlearn.training.phases import Phase
from symlearn.training.start_scale import BRIEF, CLEARLY, PROBE, Start, planned_starts, redraw
from symlearn.training.state import FitState

SETTLED_FROM, SETTLED_TO = 0.3, 0.01  # parts of the learning rate
LEAST = 1.0  # effective parameters below which a network that has learned is saturated


def plan_for(state: FitState) -> list[Start]:
    """The starts to try, by the configuration and by whether any layer has a choice."""
    choices = any(len(layer.path_names) > 1 for layer in relaxed_layers(state.model).values())
    return planned_starts(state.config.evidence.selection, choices)


@dataclass
class Beginning:
    """Which start is under way, and what became of the earlier ones.

    Attributes:
        at: index of the present start.
        tried: the starts that were judged: what was different, its loss, its evidence, its outcome.
        initial: the state before the first step, saved; None once a start is chosen.
        best: the best state so far of those that were no better than the constant predictor, saved.
        learned: whether the chosen start beats the constant predictor; None: not judged yet.
        settling: whether it runs a second time, at a falling rate, since its loss fell and its evidence
            did not follow yet.
        fallen: whether its loss left the constant predictor's; True while nobody knows yet.
    """

    at: int = 0
    tried: list[dict[str, Any]] = field(default_factory=list)
    initial: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    learned: bool | None = None
    settling: bool = False
    fallen: bool = True

    def open(self, state: FitState) -> None:
        """Take the first start."""
        self.initial = state.saved()
        if state.config.evidence.selection == "search":
            strictest_start(state)

    def hopeless(self, state: FitState) -> bool:
        """Whether the present start has been on its plateau for too long."""
        return self.learned is None and not state.warm_up.fallen and state.step - state.begun >= PROBE

    def next(self, state: FitState, data: Samples, fault: str | None = None) -> str | None:
        """Judge the start that has run; go on to the next one if it is dead and there is one.

        Returns:
            A line about what is tried next; None where the start was chosen, `learned` says how good.
        """
        starts = plan_for(state)
        chance = state.likelihood.constant_loss(data.targets, state.sigma_noise)
        loss = sum(state.losses[-3:]) / len(state.losses[-3:]) if state.losses else math.inf
        beaten = state.evidence is None or state.evidence > state.likelihood.constant_log_evidence(
            data.targets
        )
        fallen = state.warm_up.fallen and loss < chance and fault is None
        effective = sum(state.effective_parameters.values())
        saturated = fallen and state.evidence is not None and effective < LEAST
        steps = state.step - state.begun
        short = steps < PROBE
        if fallen and not beaten and not short and not saturated and not self.settling:
            self.settling = True
            return f"start {self.at}: the loss fell; its evidence is given time, at a falling rate"
        self.settling = False
        good = False
        if fault is not None:
            outcome = fault
        elif saturated:
            outcome = f"saturated: it learned, yet its evidence is of {effective:.2g} effective parameters"
        elif steps < min(BRIEF, PROBE) or (short and loss < (1 - CLEARLY) * chance):
            outcome, good = "too short to be judged", True
        elif not fallen:
            outcome = "the loss stayed at the constant predictor's"
        elif short and state.evidence is None:
            outcome = "the loss hardly fell in so few steps"
        elif beaten:
            outcome, good = "learned", True
        else:
            outcome = "evidence below the constant predictor's"
        self.tried.append(
            {
                "start": starts[self.at].words,
                "steps": steps,
                "train_loss": loss if math.isfinite(loss) else None,
                "constant_loss": chance,
                "log_marginal_likelihood": state.evidence,
                "outcome": outcome,
            }
        )
        self.learned = good
        self.fallen = self.learned or fallen
        if self.learned:
            self.initial = self.best = None
            return None
        if fault is None and self.better(state):
            self.best = {"state": state.saved(), "loss": loss, "fallen": fallen}
        if self.at + 1 < len(starts):
            self.at += 1
            self.learned, self.fallen = None, True  # not known yet: a fit resumed here must still run it
            self.begin(state)
            return f"start {self.at}: {outcome}; trying again: {starts[self.at].words}"
        if self.best is not None:
            state.load(self.best["state"])
            self.fallen = bool(self.best["fallen"])
            self.learned = self.fallen and state.step - state.begun < PROBE
        self.initial = self.best = None
        return None

    def phase(self, start: Phase) -> Phase:
        """Choose the phase of the present start.

        Few images leave few updates of the precisions, and at a high rate the evidence of a network that has
        learned may lie far below what it comes to.

        Returns:
            The phase as planned or, where the loss fell and the evidence did not follow, the one in which it
            settles at falling rates.
        """
        if not self.settling:
            return start
        return replace(
            start, lr=SETTLED_FROM * start.lr, lr_end=SETTLED_TO * start.lr, burn_in=0, keep_best=True
        )

    def better(self, state: FitState) -> bool:
        """Whether a start that is no better than the constant predictor is the best of these so far."""
        if self.best is None:
            return True
        other = self.best["state"]["evidence"]
        if state.evidence is None or other is None:
            return other is None and (state.evidence is not None or state.losses[-1] < self.best["loss"])
        return bool(state.evidence > other)

    def begin(self, state: FitState) -> None:
        """Set the state up for the present start; epochs, steps and the generator go on."""
        assert self.initial is not None
        start = plan_for(state)[self.at]
        epoch, step, generator = state.epoch, state.step, state.generator.get_state()
        state.load(self.initial)
        state.epoch, state.step, state.begun = epoch, step, step
        state.generator.set_state(generator)
        state.lr_scale = start.rate
        if start.redraw:
            redraw(state.model, state.config.training.seed + 104_729 * self.at)
        if state.config.evidence.selection == "search":
            strictest_start(state, start.open_layers)

    def saved(self) -> dict[str, Any]:
        """As plain values, for checkpoints."""
        return copy.deepcopy(vars(self))
