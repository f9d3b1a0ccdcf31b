"""The search over paths: what it proposes, what a proposal's change does, what screening says, what is kept."""

from __future__ import annotations

import copy
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from oracles import assert_close
from scipy import stats
from tiny_fits import bars, differences, directions, one_layer, options, quadrants, small_network, state_of
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import symlearn.training.phases as phases
from symlearn.fitting.fit import fit
from symlearn.fitting.result import FitResult
from symlearn.layers import RelaxedLayer2d
from symlearn.layers.structure import relaxed_layers
from symlearn.selection.changes import (
    Proposal,
    apply,
    describe,
    possible_changes,
    strictest_start,
)
from symlearn.selection.differences import CONTROLS, EXCESS, RELATIVE, difference
from symlearn.selection.refits import Candidate
from symlearn.selection.screening import best_gain, screen
from symlearn.selection.search import TRIAL, SearchRound
from symlearn.training.phases import PhaseRun
from symlearn.training.state import FitState
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence


def strict(model: nn.Module, data: tuple[Tensor, Tensor], **changes: Any) -> FitState:
    """The strict start of a network, with two epochs of weights and an evidence update behind it."""
    state = state_of(model, data, **changes)
    strictest_start(state)
    for _ in range(2):
        train_epoch(state, data, lambda _: 0.01)
    update_evidence(state, data)
    return state


def observe(state: FitState, phase: phases.Phase, record: dict[str, Any]) -> dict[str, Any]:
    """The least a metrics line can be."""
    return {"epoch": state.epoch, "phase": phase.name, **record}


def outputs(state: FitState, x: Tensor) -> Tensor:
    """What the network says, in `eval` mode."""
    with torch.no_grad():
        return state.model.eval()(x)


class TestStrictStart:
    @pytest.mark.parametrize(
        ("paths", "kept"),
        [("f-fc+conv", "conv"), ("conv+fc", "conv"), ("fc+f-fc", "fc"), ("f-fc", "f-fc"), ("conv", "conv")],
    )
    def test_most_symmetric_path_alone_undivided(self, paths: str, kept: str) -> None:
        state = state_of(small_network(paths), bars(10, "quadrant", size=16))
        strictest_start(state)
        for name, layer in relaxed_layers(state.model).items():
            assert (layer.active, layer.divisor) == ((kept,), 1), name

    def test_it_is_the_network_of_that_path(self) -> None:
        """Function and trainable tensors, bit for bit: the other paths never existed for it."""
        data = bars(10, "quadrant", size=16)
        mixture, alone = state_of(small_network("f-fc+conv"), data), state_of(small_network("conv"), data)
        strictest_start(mixture)
        assert torch.equal(outputs(mixture, data[0]), outputs(alone, data[0]))
        assert mixture.active_names() == alone.active_names()


class TestChanges:
    def test_every_absent_path_and_no_last_one(self) -> None:
        state = state_of(small_network("fc+f-fc+conv"), bars(10, "quadrant", size=16))
        strictest_start(state)
        layers = list(relaxed_layers(state.model))
        adds = {(p.layer, p.path, p.action) for p in possible_changes(state, 0)}
        assert adds == {(name, path, "add") for name in layers for path in ("fc", "f-fc")}
        apply(state, Proposal(0, layers[1], "f-fc", "add"))
        second = {(p.layer, p.path, p.action) for p in possible_changes(state, 1)}
        changed = {(layers[1], "f-fc", "remove"), (layers[1], "conv", "remove")}
        assert second == adds - {(layers[1], "f-fc", "add")} | changed
        assert {p.round for p in possible_changes(state, 3)} == {3}

    def test_single_paths_leave_nothing_to_change(self) -> None:
        state = state_of(small_network("conv"), bars(10, "quadrant", size=16))
        assert possible_changes(state, 0) == []

    @pytest.mark.parametrize("paths", ["f-fc+conv", "fc+conv"])
    def test_a_silent_addition_leaves_the_function_exactly_alone(self, paths: str) -> None:
        x = bars(40, "quadrant", size=16)[0]
        state = strict(small_network(paths), bars(40, "quadrant", size=16))
        before = outputs(state, x)
        for proposal in possible_changes(state, 0):
            twin = state.clone()
            names = apply(twin, proposal, output_scale=0.0)
            assert torch.equal(outputs(twin, x), before), f"{proposal.layer} {proposal.path}"
            assert names == {n for n in twin.active_names() if n not in state.active_names()}

    def test_a_quiet_addition_hardly_changes_it_and_lives(self) -> None:
        """Small, but not zero in both factors of F-FC: that would be a saddle it cannot leave."""
        data = quadrants()
        state = strict(one_layer(), data)
        before = outputs(state, data[0])
        names = apply(state, Proposal(0, "layer", "f-fc", "add"))
        moved = float((outputs(state, data[0]) - before).norm() / before.norm())
        assert 0 < moved < 0.5, f"the function moved by {moved:.0%}"
        for name, p in state.model.named_parameters():
            if name in names and name.endswith("weight"):
                assert float(p.detach().norm()) > 0, f"{name} starts dead"

    def test_an_added_path_starts_anew(self) -> None:
        """Whatever it learned before a removal is gone: weights, optimizer state, precision, gamma."""
        data = quadrants()
        state = strict(one_layer(), data, method="adam")
        names = apply(state, Proposal(0, "layer", "f-fc", "add"))
        for _ in range(2):
            train_epoch(state, data, lambda _: 0.01)
        update_evidence(state, data)
        assert names <= set(state.effective_parameters) and names <= set(state.hyper.moments)
        apply(state, Proposal(1, "layer", "f-fc", "remove"))
        again = apply(state, Proposal(2, "layer", "f-fc", "add"))
        parameters = dict(state.model.named_parameters())
        assert again == names
        for name in names:
            assert state.prior.floats()[name] == pytest.approx(1.0), name
            assert name not in state.hyper.moments and name not in state.effective_parameters
            assert parameters[name] not in state.optimizer.state, name
        train_epoch(state, data, lambda _: 0.01)
        moved = {name for name in names if parameters[name] in state.optimizer.state}
        assert moved == names, "the new path does not learn"

    def test_removal_is_the_network_without_the_path(self) -> None:
        data = bars(40, "quadrant", size=16)
        state = state_of(small_network("f-fc+conv"), data)
        name, layer = next(iter(relaxed_layers(state.model).items()))
        with torch.no_grad():
            for p in state.model.parameters():
                p.add_(0.01)  # biases too
        manual = copy.deepcopy(state.model)
        with torch.no_grad():
            for p in relaxed_layers(manual)[name].paths["f-fc"].parameters():
                p.zero_()
        names = apply(state, Proposal(0, name, "f-fc", "remove"))
        assert_close(outputs(state, data[0]), manual.eval()(data[0]).detach(), 1e-6, "without the path")
        assert layer.active == ("conv",) and layer.divisor == 2, "the others are not rescaled"
        assert not names & set(state.active_names()) and all(".f-fc." in n for n in names)

    @pytest.mark.parametrize("structure", ["tensor", "path", "scalar"])
    def test_other_precisions_keep_what_they_learned(self, structure: str) -> None:
        """With one precision for the whole network too: a trial differs from the control by its path alone."""
        data = quadrants()
        state = strict(one_layer(), data, prior_structure=structure)
        before = state.prior.floats()
        names = apply(state, Proposal(0, "layer", "f-fc", "add"))
        after = state.prior.floats()
        assert {n: after[n] for n in after if n not in names} == {
            n: before[n] for n in before if n not in names
        }

    def test_a_proposal_draws_nothing_from_the_state(self) -> None:
        """So trial and control see the same batches."""
        state = strict(one_layer(), quadrants())
        before = state.generator.get_state()
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        apply(state, Proposal(0, "layer", "f-fc", "add"))
        assert torch.equal(before, state.generator.get_state()) and torch.equal(expected, torch.rand(1))


class OnePlace(nn.Module):
    """A relaxed layer from two channels of 2 x 2 places to one number, linear in its FC-like paths."""

    def __init__(self, paths: str) -> None:
        super().__init__()
        self.layer = RelaxedLayer2d(2, 1, 2, paths, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 2, 2, 2] -> [batch, 1]`."""
        return self.layer(x).flatten(1)


def gaussian_toy(paths: str, sigma: float, seed: int = 0) -> tuple[FitState, tuple[Tensor, Tensor]]:
    """Regression whose residuals an absent FC-like path explains in part."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(80, 2, 2, 2, generator=generator, dtype=torch.float64)
    w = torch.randn(8, 1, generator=generator, dtype=torch.float64) / 3
    y = x.flatten(1) @ w + sigma * torch.randn(80, 1, generator=generator, dtype=torch.float64)
    torch.manual_seed(seed)
    state = state_of(OnePlace(paths).double(), (x, y), likelihood="regression", fisher_type="type-2")
    strictest_start(state)
    state.hyper.sigma_noise = sigma
    return state, (x, y)


class TestScreening:
    LOG_DELTAS = torch.linspace(-4, 14, 37, dtype=torch.float64)

    @staticmethod
    def exact_gain(design: Tensor, residual: Tensor, sigma: float, log_deltas: Tensor) -> float:
        """max over delta of log N(r; 0, sigma^2 I + X X^T / delta) - log N(r; 0, sigma^2 I), by dense Gaussians."""
        noise, zero = sigma**2 * torch.eye(len(residual), dtype=torch.float64), torch.zeros_like(residual)
        without = MultivariateNormal(zero, noise).log_prob(residual)
        gains = [
            MultivariateNormal(zero, noise + design @ design.T / log_delta.exp()).log_prob(residual) - without
            for log_delta in log_deltas
        ]
        return float(torch.stack(gains).max())

    @pytest.mark.parametrize("sigma", [1.0, 0.4, 2.5], ids=str)
    @pytest.mark.parametrize("path", ["fc", "f-fc"])
    def test_score_is_the_exact_gain_of_a_linear_path(self, path: str, sigma: float) -> None:
        """Gaussian likelihood, one output, the silent tensor enters linearly: nothing is approximated."""
        state, (x, y) = gaussian_toy(f"{path}+conv", sigma)
        (proposal,) = screen(state, possible_changes(state, 0), (x, y))
        twin = state.clone()
        apply(twin, proposal, output_scale=0.0)
        silent = {"fc": "layer.paths.fc.linear.weight", "f-fc": "layer.paths.f-fc.theta2.weight"}[path]
        parameters = {n: p.detach() for n, p in twin.model.named_parameters()}

        def function(weight: Tensor) -> Tensor:
            return torch.func.functional_call(twin.model, {**parameters, silent: weight}, (x,))

        design = torch.func.jacrev(function)(parameters[silent]).reshape(len(x), -1)
        residual = (y - outputs(state, x))[:, 0]
        found = proposal.score
        assert found == pytest.approx(self.exact_gain(design, residual, sigma, self.LOG_DELTAS), rel=1e-8)
        fine = self.exact_gain(design, residual, sigma, torch.linspace(-4, 14, 721, dtype=torch.float64))
        assert found == pytest.approx(fine, abs=0.1), "the grid is fine enough"
        if path == "fc":
            assert found > 5, "the planted effect is worth it"

    @pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0, 5.0, 50.0], ids=lambda r: f"g²/λ {r:g}")
    def test_best_precision_of_one_direction(self, ratio: float) -> None:
        """With r = g^2 / lambda > 1 the best delta is lambda / (r - 1), its gain (r - 1 - log r) / 2; else none."""
        eigenvalues = torch.tensor([3.0], dtype=torch.float64)
        found = best_gain((ratio * eigenvalues).sqrt(), eigenvalues)
        if ratio > 1:
            truth = 0.5 * (ratio - 1 - math.log(ratio))
            assert 0.9 * truth <= found <= truth, f"{found} on a grid, {truth} at best"
        else:
            assert -1e-5 < found <= 0.0, "a gradient no larger than noise gives: nothing is gained"

    def test_state_is_left_alone(self) -> None:
        data = quadrants()
        state = strict(one_layer("fc+f-fc+conv"), data)
        before = state.saved()
        ranked = screen(state, possible_changes(state, 0), data)
        assert not differences(before, state.saved())
        scores = [p.score for p in ranked if p.action == "add"]
        assert len(scores) == 2 and scores == sorted(scores, reverse=True) and min(scores) >= 0

    def test_removals_by_their_share_and_among_the_additions(self) -> None:
        data = bars(60, "quadrant", size=16)
        state = strict(small_network("f-fc+conv"), data)
        layers = list(relaxed_layers(state.model))
        apply(state, Proposal(0, layers[0], "f-fc", "add"))
        gamma = {"conv": 30.0, "f-fc": 2.0}
        for name in dict(state.model.named_parameters()):
            if name.startswith(f"{layers[0]}."):
                state.effective_parameters[name] = gamma["conv" if ".conv." in name else "f-fc"]
        ranked = screen(state, possible_changes(state, 1), data)
        removals = [(k, p.layer, p.path, p.score) for k, p in enumerate(ranked) if p.action == "remove"]
        assert removals == [(2, layers[0], "f-fc", None), (5, layers[0], "conv", None)], removals


def search_round(
    state: FitState, data: tuple[Tensor, Tensor], saved: dict[str, Any] | None = None
) -> SearchRound:
    """A first round."""
    return SearchRound(state, 0, data, observe, saved=saved)


def finish(round_: SearchRound, limit: int = 200) -> list[Candidate]:
    """Take a round to its end; who trained, in order."""
    trained = []
    while not round_.over and len(trained) < limit:
        trained.append(round_.next_epoch())
    assert round_.over
    return trained


class TestRound:
    @pytest.mark.slow
    def test_controls_first_then_halves_then_survivors(self) -> None:
        data = bars(60, "quadrant", size=16)
        state = strict(small_network("f-fc+conv"), data, refit_epochs=4, proposals=4, frequency=1)
        round_ = search_round(state, data)
        order = [round_.candidates.index(c) for c in finish(round_)]
        trials = range(CONTROLS, CONTROLS + 4)
        assert order[:20] == [k for k in range(CONTROLS) for _ in range(4)] + [
            k for k in trials for _ in range(2)
        ]
        survivors = {round_.candidates.index(c) for c in round_.survivors()}
        assert len(survivors) == 2 and set(order[20:]) == survivors and len(order) == 24
        halves = {k: round_.candidates[k].evidence_at(2) for k in trials}
        assert min(halves[k] for k in survivors) >= max(halves[k] for k in set(halves) - survivors)

    def test_first_control_is_the_start_going_on(self) -> None:
        """The others see other batches, each its own, and only those differ."""
        data = directions()
        state = strict(one_layer(classes=3), data)
        round_ = search_round(state, data)
        finish(round_)
        alone, run = state.clone(), PhaseRun(round_.phase, hold=min(round_.hold, round_.half))
        while not run.over:
            run.next_epoch(alone, data)
        control, *repeats = round_.controls
        assert not differences(control.state.model.state_dict(), alone.model.state_dict())
        assert control.run.evidences == run.evidences
        assert len({control.evidence, *(r.evidence for r in repeats)}) == CONTROLS
        assert {len(r.run.evidences) for r in repeats} == {len(run.evidences)}

    def test_start_is_left_alone(self) -> None:
        data = quadrants()
        state = strict(one_layer(), data)
        before = state.saved()
        round_ = search_round(state, data)
        finish(round_)
        round_.outcome()
        assert not differences(before, state.saved())

    @pytest.mark.slow
    @pytest.mark.parametrize("epochs", [1, 5, 9, 13], ids=lambda n: f"after {n}")
    def test_interrupted_round_continues_bit_identically(self, epochs: int) -> None:
        """Through a file that loads with `weights_only`, into a start of its own."""
        data = quadrants(100)
        state = strict(one_layer("fc+f-fc+conv"), data)
        start, whole = state.saved(), search_round(state, data)
        for _ in range(epochs):
            whole.next_epoch()
        file = io.BytesIO()
        torch.save({"start": start, "round": whole.saved()}, file)
        finish(whole)

        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        fresh = state_of(one_layer("fc+f-fc+conv", seed=9), data)
        fresh.load(loaded["start"])
        resumed = search_round(fresh, data, loaded["round"])
        finish(resumed)
        assert not differences(whole.saved(), resumed.saved())
        (state_a, records_a, proposals_a, kept_a), (state_b, records_b, proposals_b, kept_b) = (
            whole.outcome(),
            resumed.outcome(),
        )
        assert not differences(state_a.saved(), state_b.saved()) and not differences(records_a, records_b)
        assert proposals_a == proposals_b and kept_a == kept_b

    @pytest.mark.slow
    def test_proposals_carry_what_became_of_them(self) -> None:
        data = quadrants()
        round_ = search_round(strict(one_layer("fc+f-fc+conv"), data, refit_epochs=8), data)
        finish(round_)
        _, _, proposals, accepted = round_.outcome()
        ended = round_.ended
        assert [(p.round, p.layer, p.action) for p in proposals] == [(0, "layer", "add")] * 2
        assert {p.path for p in proposals} == {"fc", "f-fc"}
        assert sum(p.accepted for p in proposals) == int(accepted)
        for proposal, trial in zip(proposals, round_.trials, strict=True):
            half, at = round_.half // round_.hold, len(trial.run.evidences)
            halves = statistics.mean(c.evidence_at(half) for c in round_.controls)
            assert proposal.halfway == trial.evidence_at(half) - halves, proposal
            assert all(len(c.run.evidences) == at for c in round_.controls) is trial.run.over
            whole = difference(trial.evidence, ended) if trial.run.over else None
            told = (None, None) if whole is None else (whole.value, whole.interval)
            assert (proposal.delta_log_evidence, proposal.interval) == told, "half a refit is another number"
            assert proposal.noise == pytest.approx(
                statistics.stdev(ended) * math.sqrt(1 + EXCESS + 1 / CONTROLS)
            )
            assert proposal.score is not None and describe(proposal).startswith(
                f"round 0: add {proposal.path}"
            )

    @pytest.mark.slow
    def test_a_proposal_must_beat_the_best_control_and_their_noise(self) -> None:
        """Evidences planted by hand: what is kept, at which gain; the noise of (0, 0, 10) is 7.8."""
        data = directions(100)
        cases = (
            (-99.4, (0, 0, 0), False),  # 1 nat of 100 images counts
            (-98.0, (0, 0, 0), True),
            (-95.0, (0, 0, 10), False),
            (-82.5, (0, 0, 10), False),
            (-82.0, (0, 0, 10), True),
            (-82.0, (10, 0, 0), True),
        )
        for trial, above, kept in cases:
            round_ = search_round(strict(one_layer(classes=3), data, min_gain=0.01), data)
            evidences = [*(-100.0 + a for a in above), trial]
            for candidate, evidence in zip(round_.candidates, evidences, strict=True):
                candidate.run.evidences, candidate.run.done = [evidence] * 2, round_.phase.epochs
            state, _, proposals, accepted = round_.outcome()
            assert accepted is kept and proposals[0].accepted is kept, (trial, above)
            best = round_.candidates[above.index(max(above))]
            assert state is (round_.trials[0] if kept else best).state, (trial, above)

    def test_noise_is_pooled_over_rounds(self) -> None:
        data = directions(100)
        state = strict(one_layer(classes=3), data)
        round_ = SearchRound(state, 1, data, observe, earlier=[[-1.0, 1.0, 0.0]])
        for candidate, evidence in zip(round_.candidates, (50.0, 54.0, 52.0, 60.0), strict=True):
            candidate.run.evidences, candidate.run.done = [evidence] * 2, round_.phase.epochs
        _, _, (proposal,), _ = round_.outcome()
        noise = math.sqrt((2 * 1.0 + 2 * 4.0) / 4 * (1 + EXCESS + 1 / 3))
        spread = math.hypot(noise, RELATIVE * 8.0)
        assert proposal.noise == pytest.approx(noise) and proposal.delta_log_evidence == pytest.approx(8.0)
        half = stats.t.ppf(0.95, 4 * (spread / noise) ** 4) * spread
        assert proposal.interval == pytest.approx((8 - half, 8 + half))

    def test_a_trial_has_fewer_setbacks_than_a_phase(self) -> None:
        data = directions(100)
        round_ = search_round(strict(one_layer(classes=3), data), data)
        assert {c.run.most for c in round_.candidates} == {TRIAL}
        again = SearchRound(round_.start, 0, data, lambda _, __, record: record, saved=round_.saved())
        assert {c.run.most for c in again.candidates} == {TRIAL}, "after a resumption too"


class TestFailures:
    """A candidate that collapses or diverges is out of the race; the search goes on."""

    @staticmethod
    def poisoned(
        monkeypatch: pytest.MonkeyPatch, which: Sequence[int], round_: SearchRound, value: float
    ) -> None:
        """After every epoch, plant a value in all weights of some candidates."""
        honest = phases.train_epoch
        victims = [round_.candidates[k].state for k in which]

        def train(state: FitState, *rest: Any) -> tuple[float, float | None]:
            result = honest(state, *rest)
            if any(state is victim for victim in victims):
                with torch.no_grad():
                    for p in state.model.parameters():
                        p.fill_(value)
            return result

        monkeypatch.setattr(phases, "train_epoch", train)

    @pytest.mark.slow
    @pytest.mark.parametrize("value", [math.nan, 1e25], ids=["nan", "overflow"])
    def test_a_diverging_trial(self, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
        data = quadrants()
        round_ = search_round(strict(one_layer("fc+f-fc+conv"), data, refit_epochs=6, frequency=1), data)
        self.poisoned(monkeypatch, [CONTROLS], round_, value)
        finish(round_)
        _, _, proposals, accepted = round_.outcome()
        assert round_.trials[0].failed and not any(c.failed for c in round_.controls)
        assert proposals[0].delta_log_evidence is None and not proposals[0].accepted
        assert describe(proposals[0]).endswith("failed")
        assert proposals[1].delta_log_evidence is not None and accepted == proposals[1].accepted

    @pytest.mark.slow
    def test_failed_controls_leave_the_last_to_compare_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = quadrants()
        round_ = search_round(strict(one_layer(), data, refit_epochs=8, frequency=1), data)
        self.poisoned(monkeypatch, range(CONTROLS - 1), round_, math.nan)
        finish(round_)
        _, _, (proposal,), accepted = round_.outcome()
        repeat, trial = round_.candidates[CONTROLS - 1 :]
        assert proposal.noise is None and proposal.interval is None
        assert proposal.delta_log_evidence == trial.evidence - repeat.evidence
        assert accepted is (proposal.delta_log_evidence > 0.005 * 200)

    def test_failed_controls_leave_the_start_to_compare_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = quadrants()
        state = strict(one_layer(), data, refit_epochs=8, frequency=1)
        for evidence, kept in ((-1e6, True), (1e6, False)):
            state.evidence = evidence
            round_ = search_round(state, data)
            self.poisoned(monkeypatch, range(CONTROLS), round_, math.nan)
            finish(round_)
            _, _, (proposal,), accepted = round_.outcome()
            assert proposal.delta_log_evidence == round_.trials[0].evidence - evidence
            assert accepted is proposal.accepted is kept

    def test_if_all_fail_the_start_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = quadrants()
        state = strict(one_layer(), data)
        round_ = search_round(state, data)
        self.poisoned(monkeypatch, range(CONTROLS + 1), round_, math.nan)
        finish(round_)
        kept, records, (proposal,), accepted = round_.outcome()
        assert kept is state and records == [] and not accepted
        assert proposal.delta_log_evidence is None and proposal.noise is None


def searched(
    paths: str, data: tuple[Tensor, Tensor], classes: int, seed: int = 0, **changes: Any
) -> FitResult:
    """A whole search on 8 x 8 images."""
    schedule = {"epochs": 40, "refit_epochs": 20, "burn_in": 100, "prior_warmup": 60, "lr": 0.02, "rounds": 2}
    return fit(one_layer(paths, classes, seed), data, config=options(**{**schedule, "seed": seed, **changes}))


class TestKnownTruth:
    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1])
    def test_position_needs_fc(self, seed: int) -> None:
        """The quadrant of a bar is invisible to convolutions and an average: F-FC must come."""
        result = searched("f-fc+conv", bars(300, "quadrant", seed), 4, seed)
        first = next(p for p in result.report["selection"]["proposals"] if p["round"] == 0)
        assert (first["action"], first["path"], first["accepted"]) == ("add", "f-fc", True), first
        assert first["delta_log_evidence"] > 50, "300 images, four classes: 416 nats at chance"
        layer = result.report["layers"][0]
        assert layer["effective_type"] == "FC" and layer["paths"]["f-fc"]["share"] > 0.5, layer["paths"]
        conv = searched("conv", bars(300, "quadrant", seed), 4, seed, rounds=0, burn_in=10_000)
        gain = result.report["log_marginal_likelihood"] - conv.report["log_marginal_likelihood"]
        assert gain > 50, f"{gain:+.1f} nats over CONV alone"

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1])
    def test_translation_invariance_needs_nothing(self, seed: int) -> None:
        """The direction of a bar is the same anywhere: nothing is added, and CONV alone is where it ends."""
        data = bars(300, "direction", seed)
        result = searched("f-fc+conv", data, 3, seed)
        proposals = result.report["selection"]["proposals"]
        assert [(p["action"], p["path"], p["accepted"]) for p in proposals] == [("add", "f-fc", False)], (
            proposals
        )
        layer = result.report["layers"][0]
        assert layer["effective_type"] == "CONV" and layer["paths"]["f-fc"]["effective_parameters"] == 0
        assert not layer["paths"]["f-fc"]["present"] and layer["paths"]["f-fc"]["prior_precision"] == {}
        alone = searched("conv", data, 3, seed)
        assert alone.report["log_marginal_likelihood"] == result.report["log_marginal_likelihood"]


class TestNothingKept:
    """A search that keeps nothing ends where the strictest network alone ends: evidences can be compared."""

    @pytest.mark.slow
    @pytest.mark.parametrize("rounds", [1, 3])
    def test_bit_identical_to_the_strictest_network(self, rounds: int) -> None:
        data, test = bars(80, "quadrant", size=16), bars(40, "quadrant", 1, 16)
        config = options(epochs=10, rounds=rounds, proposals=3, min_gain=1e6, augment=True)
        mixture = fit(small_network("f-fc+conv"), data, test, config)
        alone = fit(small_network("conv"), data, test, config)
        assert mixture.report["selection"]["proposals"] and not alone.report["selection"]["proposals"]
        for key in ("log_marginal_likelihood", "test", "active_parameters"):
            assert mixture.report[key] == alone.report[key], key
        learned = {n: p for n, p in mixture.model.named_parameters() if ".f-fc." not in n}
        assert not differences(learned, dict(alone.model.named_parameters()))
        assert [line["train_loss"] for line in mixture.metrics] == [
            line["train_loss"] for line in alone.metrics
        ]

    @pytest.mark.parametrize("paths", ["conv", "f-fc"])
    def test_single_paths_go_through_the_same_stages(self, paths: str) -> None:
        """With controls only: start, one round, anneal."""
        result = searched(paths, directions(100), 3, epochs=10, refit_epochs=4, rounds=3)
        phases = list(dict.fromkeys(line["phase"] for line in result.metrics))
        assert phases == ["start", "round 0", "anneal"], phases
        assert result.report["selection"] == {
            "method": "search",
            "proposals": [],
            "search_controls": result.report["selection"]["search_controls"],
            "removals": [],
            "controls": [],
        }
        assert [len(ended) for ended in result.report["selection"]["search_controls"]] == [CONTROLS]

    def test_no_rounds_at_all(self) -> None:
        result = searched("f-fc+conv", directions(100), 3, epochs=10, rounds=0)
        assert [line["phase"] for line in result.metrics] == ["start"] * 4 + ["anneal"] * 6
