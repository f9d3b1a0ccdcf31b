"""Phases: when hyperparameters may move, what a collapse restores, which state is kept."""

from __future__ import annotations

import math
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
from torch import Tensor

import symlearn.phases as phases
from symlearn.phases import PATIENCE, PhaseRun, collapsed_layers, settled
from symlearn.training import FitState, TrainingStoppedError, train_epoch, update_evidence


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
        for _ in range(4):
            train_epoch(state, data, lambda _: 0.01)
            strengths.append(set(state.optimizer.decay.values()))
        assert [s.pop() for s in strengths] == pytest.approx([0.0, 2.5, 5.0, 5.0])


def doomed() -> tuple[FitState, PhaseRun, tuple[Tensor, Tensor]]:
    """A prior so strong that no weight survives the three epochs before the hyperparameters may move."""
    data = directions()
    state = state_of(
        one_layer(classes=3), data, prior_precision=1e7, prior_warmup=1, frequency=1, lr=0.02, epochs=40
    )
    return state, PhaseRun(phase(40, lr=0.02, burn_in=24)), data


def until_collapse(state: FitState, one: PhaseRun, data: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Run on to the next collapse; its record."""
    for _ in range(10):
        record = one.next_epoch(state, data)
        if "collapsed" in record:
            return record
    raise AssertionError(f"no collapse within ten epochs; gamma {state.effective_parameters}")


class TestCollapse:
    def test_back_off_restores_the_safe_state_and_halves_the_rate(self) -> None:
        state, one, data = doomed()
        start = state.generator.get_state()
        record = until_collapse(state, one, data)
        assert record["collapsed"] == ["layer", "head"] and "log_marginal_likelihood" not in record
        assert state.setbacks == 1 and state.lr_scale == 0.5
        assert one.safe is not None
        learned = ("model", "optimizer", "hyper")
        undone = differences({k: state.saved()[k] for k in learned}, {k: one.safe[k] for k in learned})
        assert not undone, f"not restored: {undone}"
        assert state.prior.state() == dict.fromkeys(state.prior.log, pytest.approx(math.log(1e7)))
        assert (state.epoch, state.step) == (one.done, 8 * one.done), "time does not run backwards"
        assert not torch.equal(start, state.generator.get_state()), "the same batches again"
        assert one.started is None and one.hold == one.done + PATIENCE

    def test_hyperparameters_wait_and_the_rate_stays_low(self) -> None:
        state, one, data = doomed()
        until_collapse(state, one, data)
        held = state.prior.state()
        for _ in range(one.hold - 1 - one.done):
            record = one.next_epoch(state, data)
            assert "log_marginal_likelihood" not in record and "collapsed" not in record
        assert state.prior.state() == held
        assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * one.rate(7 / 8 - 1), rel=1e-6), (
            "half of the schedule's rate at the last step"
        )

    def test_the_third_stops_with_what_to_change(self) -> None:
        state, one, data = doomed()
        until_collapse(state, one, data)
        until_collapse(state, one, data)
        with pytest.raises(TrainingStoppedError, match="every path of layer, head switched off") as error:
            until_collapse(state, one, data)
        assert state.lr_scale == 0.125
        assert "raise burn_in or epochs, lower lr, or use more data" in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_collapse_in_the_last_epoch_stops(self) -> None:
        state, _, data = doomed()
        one = PhaseRun(phase(3, lr=0.02, burn_in=24))
        with pytest.raises(TrainingStoppedError, match="switched off"):
            until_collapse(state, one, data)

    def test_every_layer_is_watched(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        update_evidence(state, data)
        assert collapsed_layers(state) == []
        for name in state.effective_parameters:
            if name.startswith("layer.") and name.endswith("weight"):
                state.effective_parameters[name] = 1e-4
        assert collapsed_layers(state) == ["layer"], "a live bias does not save a layer"
        state.effective_parameters["layer.paths.conv.weight"] = 5.0
        assert collapsed_layers(state) == [], "one live path does"


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
