"""Alternating steps on weights and hyperparameters: when each of them may move, and what is restored when."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_fits import (
    bars,
    differences,
    directions,
    linear_model,
    noisy_map,
    one_layer,
    small_network,
    state_of,
)
from torch import Tensor

import symlearn.training as training
from kfac import compute_factors
from symlearn.evidence import log_marginal_likelihood
from symlearn.training import (
    PATIENCE,
    FitState,
    Phase,
    PhaseRun,
    TrainingStoppedError,
    collapsed_layers,
    evaluate,
    mean_loss,
    settled,
    train_epoch,
    update_evidence,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def phase(epochs: int = 8, **changes: Any) -> Phase:
    """A phase whose hyperparameters may move at once."""
    return Phase(**{"name": "test", "epochs": epochs, "lr": 0.01, "lr_end": 1e-4, "burn_in": 0, **changes})


def run(state: FitState, one: PhaseRun, data: tuple[Tensor, Tensor], **others: Any) -> list[dict[str, Any]]:
    """The records of a phase run to its end."""
    records = []
    while not one.over:
        records.append(one.next_epoch(state, data, **others))
    return records


class TestWhenHyperparametersMove:
    def test_never_in_a_map_phase(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = directions()
        state = state_of(one_layer(classes=3), data, prior_precision=3.0)
        monkeypatch.setattr(training, "update_evidence", lambda *_: pytest.fail("curvature in a MAP phase"))
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

        monkeypatch.setattr(training, "train_epoch", planned)
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


class TestAugmentation:
    def test_in_weight_steps_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The curvature sees the images as they are, in order and whole."""
        data = directions(100)
        state = state_of(one_layer(classes=3), data, frequency=1)
        trained, seen, used = [], [], []
        state.model.layer.register_forward_pre_hook(
            lambda module, args: trained.append(args[0].detach()) if module.training else None
        )

        def watched(model: torch.nn.Module, loader: Any, *rest: Any, **named: Any) -> Any:
            loaded = list(loader)
            seen.append(tuple(torch.cat(parts) for parts in zip(*loaded, strict=True)))
            return compute_factors(model, loaded, *rest, **named)

        def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
            used.append(generator)
            return x + 100.0

        monkeypatch.setattr(training, "compute_factors", watched)
        run(state, PhaseRun(phase(3)), data, augment=shifted)
        assert len(seen) == 3 and all(torch.equal(x, data[0]) and torch.equal(y, data[1]) for x, y in seen)
        assert len(trained) == 12 and all(float(x.mean()) > 50 for x in trained)
        assert all(generator is state.generator for generator in used), "only the state's own randomness"
        assert all(torch.equal(a, b) for a, b in zip(data, bars(100, "direction"), strict=True)), (
            "data changed"
        )


class TestTrouble:
    def test_nan_in_the_data(self) -> None:
        x, y = (part.clone() for part in directions(100))
        state = state_of(one_layer(classes=3), (x, y))
        x[3, 0, 2, 2] = math.nan
        with pytest.raises(
            TrainingStoppedError, match=r"training loss became nan in epoch 1; lower lr"
        ) as error:
            PhaseRun(phase()).next_epoch(state, (x, y))
        assert "\n" not in str(error.value)

    def test_a_weight_that_overflows_in_the_last_step(self) -> None:
        """The loss of a step is computed before the step: the epoch's losses are finite, its end is not."""
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        steps = iter([1e-3, 1e-3, 1e-3, 1e38])
        with pytest.raises(
            TrainingStoppedError, match="a weight became infinite or NaN in epoch 1; lower lr"
        ):
            train_epoch(state, data, lambda _: 10 * next(steps))

    def test_outputs_that_overflow_in_the_curvature_pass(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        with torch.no_grad():
            for p in state.model.parameters():
                p.fill_(1e25)
        with pytest.raises(TrainingStoppedError, match=r"in epoch 0 .* not finite.*; lower lr"):
            update_evidence(state, data)

    def test_evidence_that_is_not_finite(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        state.prior.log["head.weight"] = torch.tensor(math.nan, dtype=torch.float64)
        with pytest.raises(TrainingStoppedError, match="log marginal likelihood became nan in epoch 0"):
            update_evidence(state, data, step_hyperparameters=False)


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
        learned = ("model", "optimizer", "prior", "hyper_moments", "sigma_noise")
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


class TestCopies:
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    @pytest.mark.parametrize("method", ["mackay", "adam"])
    def test_a_clone_continues_bit_identically(self, method: str, optimizer: str) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, method=method, optimizer=optimizer, fisher_type="sketch")
        first = PhaseRun(phase(12))
        for _ in range(4):
            first.next_epoch(state, data, training_noise)
        twin, second = state.clone(), PhaseRun(first.phase)
        second.load(first.saved())
        before = twin.saved()
        left = [first.next_epoch(state, data, training_noise) for _ in range(4)]
        assert not differences(before, twin.saved()), "the original's steps changed the clone"
        right = [second.next_epoch(twin, data, training_noise) for _ in range(4)]
        assert not differences(left, right)
        assert not differences(state.saved(), twin.saved())

    def test_a_state_survives_the_disk(self) -> None:
        """Through a file read with `weights_only`, into a network drawn by another seed."""
        data = directions(100)
        state, one = state_of(one_layer(classes=3), data), PhaseRun(phase(8))
        for _ in range(3):
            one.next_epoch(state, data)
        file = io.BytesIO()
        torch.save({"state": state.saved(), "run": one.saved()}, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        twin, second = state_of(one_layer(classes=3, seed=5), data), PhaseRun(phase(8))
        twin.load(loaded["state"])
        second.load(loaded["run"])
        for _ in range(3):
            one.next_epoch(state, data)
            second.next_epoch(twin, data)
        assert not differences(state.saved(), twin.saved())
        assert not differences(one.saved(), second.saved())

    def test_what_is_saved_does_not_follow_the_state(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        saved = state.saved()
        frozen = copy.deepcopy(saved)
        train_epoch(state, data, lambda _: 0.01)
        update_evidence(state, data)
        assert not differences(saved, frozen)

    def test_switched_off_paths_travel(self) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data)
        state.model.layer.set_active(["conv"])
        twin = state.clone()
        assert twin.model.layer.active == ("conv",) and twin.active_names() == state.active_names()
        fresh = state_of(one_layer(classes=3), data)
        fresh.load(state.saved())
        assert fresh.model.layer.active == ("conv",)


def training_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation that draws from the state's generator."""
    return x + 0.1 * torch.randn(x.shape, generator=generator)


class TestNumbers:
    def test_evidence_is_that_of_the_present_state(self) -> None:
        """What the state notes is the public function's value at its weights, precisions and noise."""
        for likelihood, data, outputs in (
            ("classification", directions(100), 3),
            ("regression", noisy_map(100, 0.5), 1),
        ):
            state = state_of(linear_model(outputs), data, likelihood=likelihood, fisher_type="type-2")
            for _ in range(3):
                train_epoch(state, data, lambda _: 0.02)
            update_evidence(state, data)
            factors = compute_factors(state.model, [data], likelihood)
            sigma = state.sigma_noise if likelihood == "regression" else 1.0
            truth = log_marginal_likelihood(state.model, factors, state.prior.floats(), likelihood, sigma)
            assert state.evidence == pytest.approx(float(truth.total), rel=1e-6), likelihood
            assert set(state.effective_parameters) == set(factors.names)

    @pytest.mark.parametrize("structure", ["path", "scalar"])
    def test_shared_precisions_stay_shared(self, structure: str) -> None:
        data = directions(100)
        state = state_of(one_layer(classes=3), data, prior_structure=structure, frequency=1)
        run(state, PhaseRun(phase(4)), data)
        by_group: dict[str, set[float]] = {}
        for name, delta in state.prior.floats().items():
            by_group.setdefault(state.prior.groups[name], set()).add(delta)
        assert all(len(values) == 1 for values in by_group.values()), by_group
        assert all(values != {1.0} for values in by_group.values()), "a precision never moved"

    def test_evaluate_classification(self) -> None:
        x, y = directions(130)
        state = state_of(one_layer(classes=3), (x, y))
        accuracy, nll = evaluate(state, (x, y), size=50)
        f = state.model(x).detach().double()
        assert accuracy == pytest.approx(float((f.argmax(1) == y).double().mean()))
        assert nll == pytest.approx(float(F.cross_entropy(f, y)), rel=1e-6)

    def test_evaluate_regression_has_the_noise_in_it(self) -> None:
        x, y = noisy_map(130, 0.5)
        state = state_of(linear_model(1), (x, y), likelihood="regression")
        state.sigma_noise = 0.7
        accuracy, nll = evaluate(state, (x, y), size=50)
        truth = -torch.distributions.Normal(state.model(x).detach().double(), 0.7).log_prob(y.double()).mean()
        assert accuracy is None and nll == pytest.approx(float(truth), rel=1e-6)

    def test_regression_has_no_training_accuracy(self) -> None:
        data = noisy_map(100, 0.5)
        state = state_of(linear_model(1), data, likelihood="regression")
        assert PhaseRun(phase()).next_epoch(state, data)["train_accuracy"] is None

    def test_noise_scales_the_loss_of_the_weights(self) -> None:
        """Mean over the batch of ||f - y||^2 / (2 sigma^2), so that the prior weighs as the MAP objective says."""
        x, y = noisy_map(60, 0.5)
        state = state_of(linear_model(1), (x, y), likelihood="regression")
        f, losses = state.model(x).detach(), []
        for sigma in (1.0, 0.5):
            state.sigma_noise = sigma
            losses.append(float(mean_loss(f, y, state)))
        assert losses[0] == pytest.approx(float(0.5 * (f - y).square().mean()), rel=1e-6)
        assert losses[1] == pytest.approx(4 * losses[0], rel=1e-6)

    def test_a_batch_larger_than_the_data(self) -> None:
        data = directions(40)
        state = state_of(one_layer("conv", 3), data, batch_size=1000)
        loss, accuracy = train_epoch(state, data, lambda _: 0.01)
        assert math.isfinite(loss) and 0 <= accuracy <= 1 and state.step == 1

    def test_the_rate_follows_a_cosine(self) -> None:
        one = PhaseRun(phase(10, lr=0.1, lr_end=0.01))
        rates = []
        for done in (0, 5, 10):
            one.done = done
            rates.append(one.rate(0.0))
        assert rates == pytest.approx([0.1, 0.055, 0.01])


def test_whole_networks_are_stepped_too() -> None:
    """The `small` network, whatever its plan: an epoch and an update touch every tensor."""
    data = bars(60, "quadrant", size=16)
    state = state_of(small_network(), data, frequency=1)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    PhaseRun(phase(2)).next_epoch(state, data)
    still = [name for name, p in state.model.named_parameters() if torch.equal(p, before[name])]
    assert set(state.effective_parameters) == set(before) and len(still) < len(before) / 4, still
