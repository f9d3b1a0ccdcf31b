"""Alternating steps on weights and hyperparameters: the numbers, the copies, and what stops a fit."""

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
    phase,
    run,
    small_network,
    state_of,
)
from torch import Tensor

import symlearn.curvature.training_set as training_curvature
from kfac import compute_factors
from symlearn.evidence.laplace import log_marginal_likelihood
from symlearn.training.phases import PhaseRun
from symlearn.training.state import TrainingStoppedError, WarmUp
from symlearn.training.steps import evaluate, train_epoch
from symlearn.training.updates import update_evidence


class TestCompiled:
    """The weights' steps through torch.compile."""

    @pytest.mark.slow
    def test_takes_the_same_steps(self) -> None:
        data = directions(60)
        weights = []
        for compiled in (False, True):
            state = state_of(one_layer(classes=3), data, compile=compiled)
            loss, _ = train_epoch(state, data, lambda _: 0.01)
            assert (state.compiled is not None) is compiled
            weights.append(torch.cat([p.detach().flatten() for p in state.model.parameters()]))
        assert float((weights[0] - weights[1]).abs().max()) < 1e-4, loss

    def test_where_torch_cannot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One line, with what to do."""

        def refused(_: Tensor) -> Tensor:
            raise torch._dynamo.exc.TorchDynamoException("no compiler\nand a long story")

        monkeypatch.setattr(torch, "compile", lambda _: refused)
        data = directions(60)
        state = state_of(one_layer(classes=3), data, compile=True)
        with pytest.raises(TrainingStoppedError, match=r"failed here \(no compiler\); set compile to false"):
            train_epoch(state, data, lambda _: 0.01)


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

        monkeypatch.setattr(training_curvature, "compute_factors", watched)
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
        state.hyper.sigma_noise = 0.7
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
            state.hyper.sigma_noise = sigma
            losses.append(float(state.likelihood.loss(f, y, state.sigma_noise)))
        assert losses[0] == pytest.approx(float(0.5 * (f - y).square().mean()), rel=1e-6)
        assert losses[1] == pytest.approx(4 * losses[0], rel=1e-6)

    def test_a_batch_larger_than_the_data(self) -> None:
        data = directions(40)
        state = state_of(one_layer("conv", 3), data, batch_size=1000)
        loss, accuracy = train_epoch(state, data, lambda _: 0.01)
        assert math.isfinite(loss) and 0 <= accuracy <= 1 and state.step == 1


def test_whole_networks_are_stepped_too() -> None:
    """The `small` network, whatever its plan: an epoch and an update touch every tensor."""
    data = bars(60, "quadrant", size=16)
    state = state_of(small_network(), data, frequency=1)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    PhaseRun(phase(2)).next_epoch(state, data)
    still = [name for name, p in state.model.named_parameters() if torch.equal(p, before[name])]
    assert set(state.effective_parameters) == set(before) and len(still) < len(before) / 4, still


class TestWarmUp:
    """The prior waits until the loss has fallen, then grows."""

    def test_it_waits_for_the_loss(self) -> None:
        warm_up = WarmUp()
        warm_up.after_epoch(step=10, begun=0, length=8, loss=1.0, chance=1.0)
        assert warm_up.since is None and warm_up.strength(10, 8) == 0.0
        warm_up.after_epoch(step=20, begun=0, length=8, loss=0.94, chance=1.0)
        assert warm_up.fallen and warm_up.since == 20
        assert [warm_up.strength(step, 8) for step in (20, 24, 28, 99)] == [0.0, 0.5, 1.0, 1.0]

    def test_it_waits_no_longer_than_six_times_the_warm_up(self) -> None:
        warm_up = WarmUp()
        for step in (100, 148, 149):
            warm_up.after_epoch(step, begun=100, length=8, loss=1.0, chance=1.0)
        assert warm_up.since == 149 and not warm_up.fallen

    def test_weights_do_not_shrink_before(self) -> None:
        data = directions()
        state = state_of(one_layer(classes=3), data, prior_warmup=24, prior_precision=1e4)
        before = float(state.model.head.weight.detach().norm())
        train_epoch(state, data, lambda _: 1e-5)
        assert float(state.model.head.weight.detach().norm()) == pytest.approx(before, rel=1e-2)
        assert state.warm_up.since is None

    def test_travels_with_the_state(self) -> None:
        data = directions()
        state = state_of(one_layer(classes=3), data, prior_warmup=24)
        while not state.warm_up.fallen:
            train_epoch(state, data, lambda _: 0.03)
        twin = state.clone()
        assert twin.warm_up == state.warm_up and twin.warm_up is not state.warm_up
