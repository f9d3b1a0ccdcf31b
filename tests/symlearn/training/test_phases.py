"""Phases: when hyperparameters may move, what a collapse restores, which state is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_fits import (
    differences,
    directions,
    one_layer,
    phase,
    run,
    state_of,
)

import symlearn.training.phases as phases
from symlearn.training.guard import Guard, quiet_layers
from symlearn.training.phases import PhaseRun, settled
from symlearn.training.state import STRIDE, FitState, TrainingStoppedError
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence


class TestWhenHyperparametersMove:
    def test_never_in_a_map_phase(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = directions()
        state = state_of(one_layer(classes=3), data, prior_precision=3.0)
        monkeypatch.setattr(phases, "update_evidence", lambda *_: pytest.fail("curvature in a MAP phase"))
        before, one = state.prior.state(), PhaseRun(phase(6, burn_in=None))
        records = run(state, one, data)
        assert state.prior.state() == before and state.sigma_noise == 1.0 and one.evidences == []
        assert all("log_marginal_likelihood" not in record for record in records)
        assert records[-1]["train_loss"] < records[0]["train_loss"], "the weights do learn"

    @pytest.mark.parametrize(("burn_in", "first"), [(1, 1), (16, 2), (17, 3), (40, 5)], ids=str)
    def test_not_before_so_many_steps(self, burn_in: int, first: int) -> None:
        """Eight steps an epoch: precisions stay where they are until the first epoch that ends past burn_in."""
        data = directions()
        state = state_of(one_layer(classes=3), data, frequency=1)
        one, initial = PhaseRun(phase(6, burn_in=burn_in)), state.prior.state()
        moved = []
        while not one.over:
            one.next_epoch(state, data)
            moved.append(state.prior.state() != initial)
        assert state.step == 48
        assert moved == [False] * (first - 1) + [True] * (6 - first + 1)

    def test_every_so_many_epochs_and_at_the_end(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, frequency=3)
        records = run(state, PhaseRun(phase(9, burn_in=8)), data)  # eight steps are two epochs
        updates = [k for k, r in enumerate(records, 1) if "log_marginal_likelihood" in r]
        assert updates == [2, 5, 8, 9]

    def test_once_the_loss_has_settled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Falling for eleven epochs, then flat: five flat ones against five that ended the fall."""
        data = directions(100)
        state = state_of(one_layer(classes=3), data, frequency=1)
        losses = iter([2.0 * 0.8**k for k in range(11)] + [0.2] * 60)

        def planned(state: FitState, *_: object) -> tuple[float, float]:
            state.losses = [*state.losses, next(losses)][-10:]
            return state.losses[-1], 0.0

        monkeypatch.setattr(phases, "train_epoch", planned)
        one = PhaseRun(phase(60, burn_in="settled"))
        while one.started is None:
            one.next_epoch(state, data)
        history = [2.0 * 0.8**k for k in range(11)] + [0.2] * 60
        first = next(k for k in range(10, 60) if settled(history[k - 10 : k]))
        assert one.started == first and 12 < first < 21

    def test_a_loss_that_never_settles_does_not_stop_them(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, frequency=1)
        one = PhaseRun(phase(8, burn_in="settled"))
        run(state, one, data)
        assert one.started == 4, "half of the phase at the latest"

    @pytest.mark.parametrize(
        ("losses", "answer"),
        [
            ([1.0] * 9, False),
            ([1.0] * 10, True),
            ([1.0] * 5 + [0.9] * 5, False),
            ([1.0] * 5 + [0.96] * 5, True),
            ([1.0] * 5 + [1.5] * 5, True),
        ],
        ids=["too few", "flat", "falling", "hardly falling", "rising"],
    )
    def test_settled(self, losses: list[float], answer: bool) -> None:
        assert settled(losses) is answer

    def test_the_prior_grows_over_its_warm_up(self) -> None:
        data = directions(100)  # four steps an epoch
        state = state_of(one_layer(classes=3), data, prior_warmup=8, prior_precision=5.0)
        strengths = []
        state.warm_up.since = 0  # the loss has fallen before
        for _ in range(4):
            train_epoch(state, data, lambda _: 0.01)
            strengths.append(set(state.optimizer.decay.values()))
        assert [s.pop() for s in strengths] == pytest.approx([0.0, 2.5, 5.0, 5.0])


class TestGuard:
    """What the guard believes, and what it takes back."""

    @pytest.mark.parametrize(
        ("loss", "promise", "fault"),
        [
            (0.1, 0.0, None),
            (0.30, 0.0, None),
            (0.36, 0.0, "rose from 0.1 to 0.36"),
            (0.36, 0.1, None),
            (0.99, 5.0, "back to the constant predictor's"),
        ],
        ids=["as before", "noise", "risen", "promised", "collapsed"],
    )
    def test_faults(self, loss: float, promise: float, fault: str | None) -> None:
        guard = Guard(safe={}, loss=0.1, promise=promise)
        found = guard.fault(loss, chance=1.0)
        assert (found is None) if fault is None else (found is not None and fault in found), found

    def test_nothing_is_at_fault_before_a_state_is_kept(self) -> None:
        assert Guard().fault(99.0, chance=1.0) is None

    def test_no_collapse_without_having_learned(self) -> None:
        assert Guard(safe={}, loss=0.99).fault(1.0, chance=1.0) is None

    def test_takes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = directions()
        state = state_of(one_layer(classes=3), data, frequency=1, lr=0.03)
        one = PhaseRun(phase(30, lr=0.03))
        for _ in range(8):
            one.next_epoch(state, data)
        assert one.guard.safe is not None
        safe, generator = one.guard.safe, state.generator.get_state()
        honest = phases.train_epoch

        def spike(*given: Any) -> tuple[float, float | None]:
            honest(*given)
            return 7.0, 0.0

        monkeypatch.setattr(phases, "train_epoch", spike)
        record = one.next_epoch(state, data)
        assert "rose from" in record["taken_back"] or "constant predictor" in record["taken_back"]
        learned = ("model", "optimizer", "hyper")
        undone = differences({k: state.saved()[k] for k in learned}, {k: safe[k] for k in learned})
        assert not undone, f"not restored: {undone}"
        assert (state.epoch, state.step) == (one.done, 8 * one.done) == (9, 72), "time does not run backwards"
        assert (state.caution, state.trust) == (0.5, 0.5)
        assert not torch.equal(generator, state.generator.get_state()), "the same batches again"
        (setback,) = state.setbacks
        assert (setback["epoch"], setback["phase"]) == (9, one.phase.name)
        monkeypatch.undo()
        one.next_epoch(state, data)
        used = state.optimizer.param_groups[0]["lr"]
        assert used == pytest.approx(0.5 * one.rate(7 / 8 - 1), rel=1e-6), "half of the schedule's rate"
        assert state.trust == 1.0 and state.caution == pytest.approx(0.5**0.5), "updates bring them back"

    def test_an_explosion_is_not_kept_on_its_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While precisions wait, only a better state takes the kept one's place, by loss or with the prior."""
        data = directions()
        state = state_of(one_layer(classes=3), data, frequency=1, lr=0.03)
        one = PhaseRun(phase(30, lr=0.03, burn_in=10**6))
        planned = iter([0.5, 0.1, 0.3, 0.5, 0.2, 0.7])

        def explosion(state: FitState, *_: object) -> tuple[float, float]:
            state.warm_up.fallen = True
            return next(planned), 0.9

        monkeypatch.setattr(phases, "train_epoch", explosion)
        kept = []
        for _ in range(3):
            one.next_epoch(state, data)
            kept.append(one.guard.loss)
        assert kept == [0.5, 0.1, 0.1]
        assert "rose from 0.1 to 0.5" in one.next_epoch(state, data)["taken_back"]
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.mul_(0.1)
        one.next_epoch(state, data)
        assert one.guard.loss == 0.2, "the loss rose, as the prior asked for"
        assert state.prior_loss() < one.guard.objective
        one.next_epoch(state, data)
        assert len(state.setbacks) == 2

    def test_the_prior_term_is_that_of_the_objective(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, prior_precision=3.0)
        squares = sum(float(p.detach().double().square().sum()) for p in state.model.parameters())
        assert state.prior_loss() == pytest.approx(3.0 * squares / (2 * len(data[0])), rel=1e-12)

    def test_too_many_end_the_phase(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = directions()
        state = state_of(one_layer(classes=3), data, frequency=1, lr=0.03)
        one = PhaseRun(phase(30, lr=0.03), most=2)
        for _ in range(5):
            one.next_epoch(state, data)
        monkeypatch.setattr(phases, "train_epoch", lambda *_: (7.0, 0.0))
        one.next_epoch(state, data)
        assert not one.over
        one.next_epoch(state, data)
        assert one.over and one.spent and len(state.setbacks) == 2

    def test_without_a_safe_state_it_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)

        def broken(*_: Any) -> tuple[float, float | None]:
            raise TrainingStoppedError("the training loss became nan")

        monkeypatch.setattr(phases, "train_epoch", broken)
        with pytest.raises(TrainingStoppedError, match="became nan"):
            PhaseRun(phase(3)).next_epoch(state, data)

    def test_every_layer_is_watched(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        update_evidence(state, data)
        assert quiet_layers(state) == []
        for name in state.effective_parameters:
            if name.startswith("layer.") and name.endswith("weight"):
                state.effective_parameters[name] = 1e-4
        assert quiet_layers(state) == ["layer"], "a live bias does not save a layer"
        state.effective_parameters["layer.paths.conv.weight"] = 5.0
        assert quiet_layers(state) == [], "one live path does"

    def test_precisions_move_no_further_than_trusted(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, hyper_steps=200, prior_precision=1e-4)
        before = state.prior.state()
        state.trust = 0.25
        update_evidence(state, data)
        moved = {g: abs(v - before[g]) for g, v in state.prior.state().items()}
        assert max(moved.values()) == pytest.approx(0.25 * STRIDE), moved


class TestBestState:
    def test_is_that_of_best_evidence(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, frequency=1, lr=0.05)
        one = PhaseRun(phase(12, lr=0.05, keep_best=True))
        kept = []
        while not one.over:
            one.next_epoch(state, data)
            kept.append((state.evidence, state.saved()))
        assert one.best is not None and len(one.evidences) == 12
        top = max(range(12), key=lambda k: kept[k][0])
        assert one.best["evidence"] == max(one.evidences)
        assert not differences(one.best, kept[top][1]), "another state than the one of best evidence"

    def test_is_not_kept_unless_asked_for(self) -> None:
        data = directions(100)
        one = PhaseRun(phase(3))
        run(state_of(one_layer(classes=3), data), one, data)
        assert one.best is None


class TestRate:
    def test_the_rate_follows_a_cosine(self) -> None:
        one = PhaseRun(phase(10, lr=0.1, lr_end=0.01))
        rates = []
        for done in (0, 5, 10):
            one.done = done
            rates.append(one.rate(0.0))
        assert rates == pytest.approx([0.1, 0.055, 0.01])
