"""Search over paths by the evidence, strict first.

A fit starts with the strictest path in every layer. A round then proposes, for every layer, to add a path
that is absent or to remove one that is present:

1. *Screening.* Absent paths are switched on silently (output scaled to zero, so the function does not
   change). With the gradient g of the log-likelihood and the curvature eigenvalues lambda of a silent tensor,
   the evidence that a prior precision delta would bring is, to second order,

       gain(delta) = 1/2 sum_i g_i^2 / (lambda_i + delta) - 1/2 sum_i log(1 + lambda_i / delta)

   whose slope at 1/delta = 0 is 1/2 (||g||^2 - tr H), the gradient of the evidence in the prior variance. One
   curvature pass gives it for all absent paths; its maximum over delta orders the proposals. A present path
   is the likelier to be removed the smaller its share of its layer's effective parameters.
2. *Trial.* The best guesses and an unchanged *control* get the same short refit, with the same batches and the
   same drawn columns. Half of the proposals are dropped halfway.
3. *Choice.* The proposal of highest evidence is kept if it beats the control by more than the noise, measured
   by repeating the control with other batches. A round without such a proposal ends the search.

Axes: params.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from kfac import KroneckerBlock, compute_factors

from symlearn.layers.registry import path_kind
from symlearn.structure import layer_paths, relaxed_layers
from symlearn.training import Augment, FitState, Pairs, Phase, PhaseRun, TrainingStoppedError, batches

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
        delta_log_evidence: evidence after the refit minus the control's, in nats.
        noise: spread of that difference, in nats.
        accepted: whether it was kept.
    """

    round: int
    layer: str
    path: str
    action: Literal["add", "remove"]
    score: float | None = None
    delta_log_evidence: float | None = None
    noise: float | None = None
    accepted: bool = False


def strictest_start(state: FitState) -> None:
    """Switch every relaxed layer to its most symmetric path alone."""
    for layer in relaxed_layers(state.model).values():
        strictest = max(layer.path_names, key=lambda name: path_kind(name).symmetry)
        layer.set_active([strictest])


def possible_changes(state: FitState, round_: int) -> list[Proposal]:
    """Every addition of an absent path and every removal of a path that is not its layer's last."""
    changes = []
    for name, layer in relaxed_layers(state.model).items():
        for path in layer.path_names:
            if path not in layer.active:
                changes.append(Proposal(round_, name, path, "add"))
            elif len(layer.active) > 1:
                changes.append(Proposal(round_, name, path, "remove"))
    return changes


def apply(state: FitState, proposal: Proposal, output_scale: float = QUIET) -> set[str]:
    """Make a proposal's change in place; returns the names of the tensors it touches."""
    layer = relaxed_layers(state.model)[proposal.layer]
    part = layer.paths[proposal.path]
    names = {n for lp in layer_paths(state.model) if lp.name == proposal.layer for n in lp.paths[proposal.path]}
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
            for parameter in part.parameters():
                parameter.zero_()
    state.forget(names)
    return names


def best_gain(coordinates: torch.Tensor, eigenvalues: torch.Tensor) -> float:
    """max over delta of gain(delta); see the module's notation."""
    log_delta = torch.linspace(-4, 14, 37, dtype=torch.float64).unsqueeze(1)
    delta = log_delta.exp()
    fit = (coordinates.square() / (eigenvalues + delta)).sum(1)
    return float((0.5 * fit - 0.5 * torch.log1p(eigenvalues / delta).sum(1)).max())


def screen(state: FitState, changes: list[Proposal], data: Pairs) -> list[Proposal]:
    """Proposals with their scores, likeliest gain first; removals by their path's share of the layer."""
    trial = state.clone()
    touched = {p: apply(trial, p, output_scale=0.0) for p in changes if p.action == "add"}
    gains: dict[Proposal, float] = {}
    if touched:
        curvature = state.config.curvature
        factors = compute_factors(
            trial.model,
            batches(data, curvature.batch_size),
            state.config.data.likelihood,
            curvature.fisher_type,
            curvature.mc_samples,
            curvature.weight_sharing,
            curvature.group_factors,
            seed=state.config.training.seed,
        )
        gradients = log_likelihood_gradients(trial, data)
        for proposal, names in touched.items():
            gains[proposal] = 0.0
            for name in names:
                block = factors[name]
                if isinstance(block, KroneckerBlock) and block.input_factor is not None:
                    eigen = block.eigendecompose(vectors=True)
                    coordinates = eigen.coordinates(block.to_groups(gradients[name]))
                    gains[proposal] += max(best_gain(coordinates, eigen.eigenvalues), 0.0)
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
    gamma = {p: sum(state.effective_parameters.get(n, 0.0) for n in names) for p, names in layer.paths.items()}
    return gamma[proposal.path] / max(sum(gamma.values()), 1e-12)


def log_likelihood_gradients(state: FitState, data: Pairs) -> dict[str, torch.Tensor]:
    """Gradient of the summed log-likelihood by trainable tensor, in `eval` mode."""
    names = state.active_names()
    parameters = [dict(state.model.named_parameters())[name] for name in names]
    totals = [torch.zeros_like(p) for p in parameters]
    state.model.eval()
    for x, y in batches(data, state.config.curvature.batch_size):
        f = state.model(x)
        if state.config.data.likelihood == "regression":
            loss = 0.5 * (f - y.reshape(f.shape)).square().sum() / state.sigma_noise**2
        else:
            loss = F.cross_entropy(f, y, reduction="sum")
        for total, gradient in zip(
            totals, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                total -= gradient
    return dict(zip(names, totals, strict=True))


@dataclass
class Candidate:
    """A state on trial, with its refit's progress and metrics."""

    proposal: Proposal | None
    state: FitState
    run: PhaseRun
    records: list[dict[str, Any]]
    failed: bool = False

    def advance(self, epochs: int, data: Pairs, observe: Observe, augment: Augment | None) -> None:
        """Refit for some epochs; a candidate that collapses or diverges is out of the race."""
        for _ in range(epochs):
            if self.run.over or self.failed:
                return
            try:
                record = self.run.next_epoch(self.state, data, augment)
            except TrainingStoppedError:
                self.failed = True
                return
            self.records.append(observe(self.state, self.run.phase, record))

    @property
    def evidence(self) -> float:
        """Mean of the last two evidence updates of the refit."""
        last = self.run.evidences[-2:]
        return sum(last) / len(last) if last and not self.failed else -math.inf


Observe = Callable[[FitState, Phase, dict[str, Any]], dict[str, Any]]


@dataclass
class RoundOutcome:
    """What a round gives: the state to go on with, its metrics, its proposals, whether one was kept."""

    state: FitState
    records: list[dict[str, Any]]
    proposals: list[Proposal]
    accepted: bool


def search_round(
    state: FitState,
    round_: int,
    data: Pairs,
    observe: Observe,
    augment: Augment | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> RoundOutcome:
    """One round of proposals, trials and choice; see the module's notation.

    Args:
        state: where the round starts; left as it is.
        round_: counted from 0.
        data: the training set.
        observe: completes an epoch's metrics.
        augment: augmentation of the weights' steps.
        report: told each trial's outcome.
    """
    settings = state.config.evidence
    lr = 0.6 * state.config.training.lr
    phase = Phase(f"round {round_}", settings.refit_epochs, lr, lr)
    ranked = screen(state, possible_changes(state, round_), data)[: settings.proposals]

    def candidate(proposal: Proposal | None) -> Candidate:
        twin = state.clone()
        twin.setbacks = 2  # a trial gets no second start
        if proposal is not None:
            apply(twin, proposal)
        return Candidate(proposal, twin, PhaseRun(phase), [])

    control = candidate(None)
    control.advance(phase.epochs, data, observe, augment)
    again = candidate(None)
    again.state.generator.manual_seed(state.config.training.seed + 7919 * (round_ + 1))
    again.advance(phase.epochs, data, observe, augment)
    noise = abs(control.evidence - again.evidence)
    if not math.isfinite(noise):
        noise = 0.0
    trials = [candidate(p) for p in ranked]
    half = settings.refit_epochs // 2
    for trial in trials:
        trial.advance(half, data, observe, augment)
    survivors = sorted(trials, key=lambda t: -t.evidence)[: (len(trials) + 1) // 2]
    for trial in survivors:
        trial.advance(phase.epochs, data, observe, augment)
    threshold = max(settings.min_gain * state.n_data, noise)
    best = max(survivors, key=lambda t: t.evidence, default=None)
    accept = best is not None and best.evidence > control.evidence + threshold
    proposals = []
    for trial in trials:
        assert trial.proposal is not None
        reference = control.run.evidences[: len(trial.run.evidences)][-2:]
        gain = trial.evidence - sum(reference) / max(len(reference), 1)
        kept = accept and trial is best
        outcome = replace(
            trial.proposal,
            delta_log_evidence=gain if math.isfinite(gain) else None,
            noise=noise,
            accepted=kept,
        )
        proposals.append(outcome)
        report(describe(outcome))
    winner = best if accept and best is not None else control
    winner.state.setbacks = state.setbacks
    return RoundOutcome(winner.state, winner.records, proposals, accept)


def describe(proposal: Proposal) -> str:
    """One line about a trial."""
    gain = proposal.delta_log_evidence
    change = "failed" if gain is None else f"{gain:+.0f} nats"
    verdict = " (kept)" if proposal.accepted else ""
    return f"round {proposal.round}: {proposal.action} {proposal.path} in {proposal.layer}: {change}{verdict}"


def as_dict(proposal: Proposal) -> dict[str, Any]:
    """The proposal as report.json holds it."""
    return asdict(proposal)
