"""Search over paths by the evidence, strict first.

A fit starts with the strictest path in every layer. A round then proposes, for every layer, to add a path
that is absent or to remove one that is present:

1. *Screening.* Absent paths are switched on silently (output scaled to zero, so the function does not
   change). With the gradient g of the log-likelihood and the curvature eigenvalues lambda of a silent tensor,
   the evidence that a prior precision delta would bring is, to second order,

       gain(delta) = 1/2 sum_i g_i^2 / (lambda_i + delta) - 1/2 sum_i log(1 + lambda_i / delta)

   whose slope at 1/delta = 0 is 1/2 (||g||^2 - tr H), the gradient of the evidence in the prior variance. One
   curvature pass gives it for all absent paths; its maximum over delta orders them. A present path is the
   likelier to be removed the smaller its share of its layer's effective parameters.
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

Axes: params.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from kfac import DiagonalBlock, KroneckerBlock, differentiable_kernels
from symlearn.curvature.sampled import part_of
from symlearn.curvature.training_set import training_factors
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.layers.structure import layer_paths, relaxed_layers
from symlearn.selection.differences import CONTROLS, control_spread, difference, within
from symlearn.selection.growth import EndState, Paired, open_at, paired
from symlearn.selection.turns import take_turn
from symlearn.training.phases import Phase, PhaseRun
from symlearn.training.start_scale import settle_scale
from symlearn.training.state import (
    Augment,
    FitState,
    TrainingStoppedError,
)

TRIAL = 3  # setbacks that put a candidate out of the race
QUIET = 0.1  # output scale of a path on trial: the function hardly changes, yet both factors of F-FC live


@dataclass(frozen=True)
class Proposal:
    """One change of one layer, and what became of it.

    Attributes:
        round: counted from 0.
        layer: the layer's name.
        path: the path to add or remove.
        action: "add" or "remove".
        score: the screening's guess of the gain, in nats (None for removals).
        halfway: evidence in the middle of the refit minus the controls' mean, in nats.
        delta_log_evidence: the same at its end; None for those that were dropped halfway, or failed.
        noise: standard deviation of a difference about zero, in nats.
        interval: that holds 90 % of what further refits would give, in nats.
        accepted: whether it was kept.
        images: that the change of evidence is from, where that is not all of them.
        sampling_error: its standard error for that, in nats; part of the interval.
    """

    round: int
    layer: str
    path: str
    action: Literal["add", "remove"]
    score: float | None = None
    halfway: float | None = None
    delta_log_evidence: float | None = None
    noise: float | None = None
    interval: tuple[float, float] | None = None
    accepted: bool = False
    images: int | None = None
    sampling_error: float | None = None


def strictest_start(state: FitState, open_layers: int = 0) -> None:
    """Switch every layer to what a search starts from: the most symmetric path alone where it may grow.

    Args:
        state: changed in place.
        open_layers: so many of the last layers keep all their paths, for tasks that no strict start learns.
    """
    layers = list(relaxed_layers(state.model).values())
    for depth, layer in enumerate(layers, 1):
        layer.start_search()
        if depth > len(layers) - open_layers:
            layer.set_active(layer.path_names)
    settle_scale(state.model)


def possible_changes(state: FitState, round_: int) -> list[Proposal]:
    """Every change that a layer allows."""
    return [
        Proposal(round_, name, path, action)
        for name, layer in relaxed_layers(state.model).items()
        for path, action in layer.changes()
    ]


def apply(state: FitState, proposal: Proposal, output_scale: float = QUIET) -> set[str]:
    """Make a proposal's change in place; returns the names of the tensors it touches."""
    layer = relaxed_layers(state.model)[proposal.layer]
    part = layer.path(proposal.path)
    names = {
        n for lp in layer_paths(state.model) if lp.name == proposal.layer for n in lp.paths[proposal.path]
    }
    if proposal.action == "add":
        layer.set_active([*layer.active, proposal.path])
        seed = int(torch.randint(2**31, (1,), generator=state.generator.clone_state()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            part.reset_parameters()
        part.scale_output_(output_scale)
    else:
        layer.set_active([name for name in layer.active if name != proposal.path])
        with torch.no_grad():
            for parameter in layer.paths[proposal.path].parameters():
                parameter.zero_()
    state.forget(names)
    return names


def best_gain(coordinates: torch.Tensor, eigenvalues: torch.Tensor) -> float:
    """Max over delta of gain(delta); see the module's notation."""
    log_delta = torch.linspace(-4, 14, 37, dtype=torch.float64, device=eigenvalues.device).unsqueeze(1)
    delta = log_delta.exp()
    fit = (coordinates.square() / (eigenvalues + delta)).sum(1)
    return float((0.5 * fit - 0.5 * torch.log1p(eigenvalues / delta).sum(1)).max())


def screen(state: FitState, changes: list[Proposal], data: SamplesLike) -> list[Proposal]:
    """Proposals with their scores, likeliest gain first; removals by their path's share of the layer."""
    trial = state.clone()
    touched = {p: apply(trial, p, output_scale=0.0) for p in changes if p.action == "add"}
    gains: dict[Proposal, float] = {}
    if touched:
        part, scale = part_of(data, trial.config, trial.sample_seed)
        factors = training_factors(trial.model, trial.config, part).scaled(scale)
        gradients = {name: scale * g for name, g in log_likelihood_gradients(trial, part).items()}
        noise = state.likelihood.variance(state.sigma_noise)
        for proposal, names in touched.items():
            gains[proposal] = 0.0
            for name in names:
                block = factors[name]
                weight = isinstance(block, KroneckerBlock) and len(block.shape) > 1  # biases are not asked
                if weight or isinstance(block, DiagonalBlock):
                    eigen = block.eigendecompose(vectors=True)
                    coordinates = eigen.coordinates(block.to_groups(gradients[name]))
                    gains[proposal] += max(best_gain(coordinates, eigen.eigenvalues / noise), 0.0)
    adds = sorted((replace(p, score=gains[p]) for p in touched), key=lambda p: -(p.score or 0.0))
    removals = sorted((p for p in changes if p.action == "remove"), key=lambda p: remaining_share(state, p))
    return [*interleave(adds, removals)]


def interleave(adds: list[Proposal], removals: list[Proposal]) -> Iterator[Proposal]:
    """Additions and removals in turn, two additions first."""
    adds, removals = adds.copy(), removals.copy()
    while adds or removals:
        yield from (adds.pop(0) for _ in range(min(2, len(adds))))
        if removals:
            yield removals.pop(0)


def remaining_share(state: FitState, proposal: Proposal) -> float:
    """The path's share of its layer's effective parameters."""
    layer = next(lp for lp in layer_paths(state.model) if lp.name == proposal.layer)
    gamma = {
        p: sum(state.effective_parameters.get(n, 0.0) for n in names) for p, names in layer.paths.items()
    }
    return gamma[proposal.path] / max(sum(gamma.values()), 1e-12)


def log_likelihood_gradients(state: FitState, data: SamplesLike) -> dict[str, torch.Tensor]:
    """Gradient of the summed log-likelihood by trainable tensor, in `eval` mode."""
    names = state.active_names()
    parameters = [dict(state.model.named_parameters())[name] for name in names]
    totals = [torch.zeros_like(p) for p in parameters]
    state.model.eval()
    with differentiable_kernels(state.model):
        for x, y in samples_of(data).batches(state.config.curvature.batch_size):
            f = state.model(x)
            loss = len(x) * state.likelihood.loss(f, y, state.sigma_noise)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total -= gradient
    return dict(zip(names, totals, strict=True))


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


class SearchRound:
    """One round of proposals, trials and choice, an epoch at a time; see the module's notation.

    Args:
        start: where the round starts; left as it is.
        round_: counted from 0.
        data: the training set.
        observe: completes an epoch's metrics.
        augment: augmentation of the weights' steps.
        earlier: the controls' evidences of earlier rounds.
        saved: what `saved` gave, to go on with an interrupted round.
    """

    def __init__(
        self,
        start: FitState,
        round_: int,
        data: SamplesLike,
        observe: Observe,
        augment: Augment | None = None,
        earlier: Sequence[Sequence[float]] = (),
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.start, self.round, self.data, self.observe, self.augment = start, round_, data, observe, augment
        self.earlier = earlier
        self.settings = start.config.evidence
        lr = start.config.training.lr
        self.phase = Phase(f"round {round_}", int(self.settings.refit_epochs or 1), lr, 0.03 * lr)
        if saved is None:
            changes = possible_changes(start, round_)
            ranked = start.ranks.from_first(lambda: screen(start, changes, data))[: self.settings.proposals]
            self.candidates = [self.candidate(p) for p in [*[None] * CONTROLS, *ranked]]
            for at, repeat in enumerate(self.controls[1:]):
                seed = start.config.training.seed + 7919 * ((CONTROLS - 1) * round_ + at + 1)
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

    def next_epoch(self) -> Candidate:
        """One epoch of whoever is next, or a turn of all ranks.

        Returns:
            One that was trained.
        """
        trained = take_turn(
            self.start.ranks,
            self.waiting(),
            self.candidates.__getitem__,
            lambda candidate: candidate.next_epoch(self.data, self.observe, self.augment),
        )
        return self.candidates[trained[0]]

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


def describe(proposal: Proposal) -> str:
    """One line about a trial."""
    gain, half = proposal.delta_log_evidence, proposal.halfway
    dropped = "failed" if half is None else f"{half:+.0f} nats halfway, dropped"
    change = dropped if gain is None else f"{gain:+.0f} nats{within(proposal.interval)}"
    verdict = " (kept)" if proposal.accepted else ""
    return f"round {proposal.round}: {proposal.action} {proposal.path} in {proposal.layer}: {change}{verdict}"
