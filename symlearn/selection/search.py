"""Search over paths by the evidence, strict first.

A fit starts with the strictest path in every layer. A round then proposes, for every layer, to add a path
that is absent or to remove one that is present:

1. *Screening* (`screening.py`): one curvature pass says which changes the evidence would like best.
2. *Trial.* The best guesses and an unchanged *control* get the same short refit, with the same batches and
   the same drawn columns; further controls have batches of their own. Half of the proposals are dropped
   halfway.
3. *Choice.* The controls say what noise a difference has (`differences.py`). The proposal of highest evidence
   is kept if it beats the best control by more than that. A round without such a proposal ends the search,
   with the best of the controls.

Where several processes share the fit, candidates are spread over them (`turns.py`); each trains as it would
in one process.

A network of single paths goes through the same stages with nothing to propose, and paths draw their initial
values independently of each other; so a search that keeps nothing ends exactly where the strictest network
alone ends, and evidences can be compared.

Axes: none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from symlearn.data.samples import SamplesLike
from symlearn.selection.changes import Proposal, apply, possible_changes
from symlearn.selection.differences import CONTROLS, control_spread, difference
from symlearn.selection.growth import Paired, open_at, paired
from symlearn.selection.refits import Candidate, Observe, Round
from symlearn.selection.screening import screen
from symlearn.training.phases import PhaseRun
from symlearn.training.state import Augment, FitState

TRIAL = 3  # setbacks that put a candidate out of the race


class SearchRound(Round):
    """One round of proposals, trials and choice, an epoch at a time; see the module's notation.

    Args:
        start: where the round starts; left as it is.
        number: counted from 0.
        data: the training set.
        observe: completes an epoch's metrics.
        augment: augmentation of the weights' steps.
        earlier: the controls' evidences of earlier rounds.
        saved: what `saved` gave, to go on with an interrupted round.
    """

    kind = "round"

    def __init__(
        self,
        start: FitState,
        number: int,
        data: SamplesLike,
        observe: Observe,
        augment: Augment | None = None,
        earlier: Sequence[Sequence[float]] = (),
        saved: dict[str, Any] | None = None,
    ) -> None:
        lr = start.config.training.lr
        super().__init__(start, number, data, observe, augment, lr, 0.03 * lr)
        self.earlier = earlier
        self.settings = start.config.evidence
        if saved is None:
            changes = possible_changes(start, number)
            ranked = start.ranks.from_first(lambda: screen(start, changes, data))[: self.settings.proposals]
            self.candidates = [self.candidate(p) for p in [*[None] * CONTROLS, *ranked]]
            for at, repeat in enumerate(self.controls[1:]):
                seed = start.config.training.seed + 7919 * ((CONTROLS - 1) * number + at + 1)
                repeat.state.generator.manual_seed(seed)
            return
        self.candidates = []
        for kept in saved["candidates"]:
            proposal = Proposal(**kept["proposal"]) if kept["proposal"] else None
            candidate = Candidate(proposal, start.clone(), PhaseRun(self.phase, most=TRIAL))
            candidate.load(kept)
            self.candidates.append(candidate)

    def saved(self) -> dict[str, Any]:
        """The round as plain values, for checkpoints."""
        return {
            "candidates": [
                {
                    "proposal": asdict(c.proposal) if c.proposal else None,
                    **c.saved(),
                }
                for c in self.candidates
            ]
        }

    def candidate(self, proposal: Proposal | None) -> Candidate:
        """A copy of the start with the proposal's change."""
        twin = self.start.clone()
        if proposal is not None:
            apply(twin, proposal)
        return Candidate(proposal, twin, PhaseRun(self.phase, hold=min(self.hold, self.half), most=TRIAL))

    @property
    def progress(self) -> int:
        """Epochs of all refits so far."""
        return sum(c.run.done for c in self.candidates)

    @property
    def hold(self) -> int:
        """Epochs before the first evidence update: a new path must grow before it can be judged."""
        return int(self.settings.frequency or 1)

    @property
    def trials(self) -> list[Candidate]:
        """The candidates that carry a proposal."""
        return self.candidates[CONTROLS:]

    @property
    def controls(self) -> list[Candidate]:
        """The candidates with nothing changed, the first on the trials' batches."""
        return self.candidates[:CONTROLS]

    @property
    def ended(self) -> list[float]:
        """The evidences of the controls that did not fail."""
        return [c.evidence for c in self.controls if not c.failed]

    def survivors(self) -> list[Candidate]:
        """The better half of the trials, judged where each has had half of its refit."""
        half = [c for c in self.trials if c.failed or c.run.done >= self.half]
        updates = max(self.half // self.hold, 1)
        order = sorted(half, key=lambda c: -c.evidence_at(updates))
        return order[: (len(self.trials) + 1) // 2]

    @property
    def half(self) -> int:
        """Epochs after which half of the trials are dropped."""
        return max(self.phase.epochs // 2, 1)

    def waiting(self) -> dict[int, int]:
        """Epochs that candidates may train now, by number; next is who comes first.

        Returns:
            The controls' and those of every trial's first half; then those of the survivors' second.
        """
        epochs = self.phase.epochs
        found = self._left({c: epochs if c.proposal is None else self.half for c in self.candidates})
        return found or self._left(dict.fromkeys(self.survivors(), epochs))

    def _left(self, last: dict[Candidate, int]) -> dict[int, int]:
        """Epochs that candidates have left up to a last one each, by number; none of those that failed."""
        numbers = {candidate: at for at, candidate in enumerate(self.candidates)}
        left = {numbers[c]: epochs - c.run.done for c, epochs in last.items() if not c.failed}
        return {at: epochs for at, epochs in left.items() if epochs > 0}

    @property
    def over(self) -> bool:
        """Whether nobody has anything left to train."""
        return not self.waiting()

    def refit(self, at: int) -> Candidate:
        """The candidate of a number."""
        return self.candidates[at]

    def judged(self, gain: float) -> dict[Proposal | None, Paired]:
        """Compare survivors whose evidence is from a part of the images with the controls.

        More images are looked at while one lies within its error of `gain` above the controls' mean.

        Returns:
            Differences of evidence in nats by proposal, of survivors that are done; none if no control ended.
        """
        ends = [end for control in self.controls if (end := control.end) is not None]
        survivors = [c for c in self.survivors() if c.run.over] if ends else []
        return {
            trial.proposal: paired(end, ends, lambda value, error: open_at(gain, value, error), self.data)
            for trial in survivors
            if (end := trial.end) is not None
        }

    def outcome(self) -> tuple[FitState, list[dict[str, Any]], list[Proposal], bool]:
        """(state to go on with, its metrics, all proposals with what became of them, was one kept)."""
        alive = [c for c in self.controls if not c.failed]
        before = -math.inf if self.start.evidence is None else self.start.evidence  # if no control is left
        bar = max(self.ended, default=before)
        noise, _ = control_spread(self.ended, self.earlier)
        least = max(self.settings.min_gain * self.start.n_data, noise or 0.0)
        mean = statistics.mean(self.ended or [before])
        sampled = self.start.ranks.from_first(lambda: self.judged(bar - mean + least))

        def evidence(candidate: Candidate) -> float:
            found = sampled.get(candidate.proposal)
            return candidate.evidence if found is None else mean + found.value

        best = max(self.survivors(), key=evidence, default=self.controls[0])
        error = sampled[best.proposal].error if best.proposal in sampled else 0.0
        threshold = max(self.settings.min_gain * self.start.n_data, math.hypot(noise or 0.0, error))
        accepted = evidence(best) > bar + threshold
        half = max(self.half // self.hold, 1)
        halves = [c.evidence_at(half) for c in alive] or [before]
        proposals = []
        for trial in self.trials:
            assert trial.proposal is not None
            halfway = trial.evidence_at(half) - statistics.mean(halves)
            whole, part = None, sampled.get(trial.proposal)
            if trial.run.over and math.isfinite(trial.evidence - bar):
                earlier, own = (self.earlier if alive else ()), 0.0 if part is None else part.error
                whole = difference(evidence(trial), self.ended or [before], earlier, own)
            proposals.append(
                replace(
                    trial.proposal,
                    halfway=halfway if math.isfinite(halfway) else None,
                    delta_log_evidence=None if whole is None else whole.value,
                    noise=noise,
                    interval=None if whole is None else whole.interval,
                    accepted=accepted and trial is best,
                    images=None if part is None else part.images,
                    sampling_error=None if part is None else part.error,
                )
            )
        winner = best if accepted else max(self.controls, key=lambda c: c.evidence)
        if winner.failed:
            return self.start, [], proposals, False
        return winner.state, winner.records, proposals, accepted
