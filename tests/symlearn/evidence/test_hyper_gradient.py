"""Gradients of the evidence with respect to what layers declare: finite differences, planted values, trouble."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import tiny_fits
import torch
from torch import Tensor, nn

from kfac import compute_factors
from symlearn.evidence.gradient import (
    Estimator,
    HyperObjective,
    NonFiniteGradientError,
    evidence_gradients,
    sampled_gradients,
    subset,
)
from symlearn.evidence.hyperparameters import Hyperparameters
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.layers import SparseConv2d, SparseLinear2d
from symlearn.layers.anchor_basis import interpolation
from symlearn.layers.declared import Hyperparameter, hyperparameters_of

BOTH = ("lengthscale", "anchors", "noise")


def toy(**options: Any) -> nn.Module:
    """S-CONV and S-FC with everything to learn, on 1 x 5 x 4, three outputs, float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        SparseConv2d(1, 2, lengthscale=0.8, learn=BOTH, **options),
        nn.Tanh(),
        SparseLinear2d(2, 2, (5, 4), (3, 2), lengthscale=1.3, learn=BOTH, **options),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()


def objective(model: nn.Module, likelihood: str, curvature: dict[str, Any]) -> HyperObjective:
    """Nine data in batches of four, each counting two and a half times."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(9, 1, 5, 4, dtype=torch.float64, generator=generator)
    y = (
        torch.arange(9) % 3
        if likelihood == "classification"
        else torch.randn(9, 3, generator=generator).double()
    )
    delta = {n: 0.3 + 0.1 * k for k, (n, _) in enumerate(model.named_parameters())}
    return HyperObjective(model, (x, y), delta, likelihood, 0.7, 2.5, 4, curvature)  # type: ignore[arg-type]


CURVATURES = {
    "grouped": {"fisher_type": "type-2", "group_factors": "grouped"},
    "shared": {"fisher_type": "type-2", "group_factors": "shared"},
    "reduce": {"fisher_type": "type-2", "weight_sharing": "reduce"},
    "sketch": {"fisher_type": "sketch", "seed": 3},
    "empirical": {"fisher_type": "empirical"},
}


@pytest.mark.parametrize("estimator", ["full", "local"])
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("hyperprior", [None, 2.0], ids=["flat", "hyperprior"])
def test_gradient_equals_finite_differences(
    estimator: str, likelihood: str, curvature: str, hyperprior: float | None
) -> None:
    model = toy(lengthscale_precision=hyperprior)
    goal = objective(model, likelihood, CURVATURES[curvature])
    declared = hyperparameters_of(model)
    assert len(declared) == 9
    gradients = evidence_gradients(goal, declared, estimator)  # type: ignore[arg-type]
    frozen = goal.frozen()  # A and B stay fixed in what `local` is the gradient of

    def value() -> float:
        with torch.no_grad():
            total = float(goal.full() if estimator == "full" else goal.local(frozen))
            return total + sum(float(d.log_prior(d.value)) for d in declared.values() if d.log_prior)

    for name, one in declared.items():
        direction = torch.cos(torch.arange(1.0, 1 + one.value.numel())).reshape(one.value.shape).double()
        step = 1e-4
        one.value.add_(step * direction)
        above = value()
        one.value.sub_(2 * step * direction)
        below = value()
        one.value.add_(step * direction)
        truth, found = (above - below) / (2 * step), float((gradients[name] * direction).sum())
        scale = max(abs(truth), 0.05 * float(gradients[name].norm()))  # a direction may be nearly flat
        assert abs(found - truth) < 1e-4 * scale, f"{name}: {found} where differences give {truth}"


def test_full_is_the_gradient_of_the_evidence_itself() -> None:
    """The objective on all data, scale one, is what `log_marginal_likelihood` says."""
    model = toy()
    goal = objective(model, "classification", {})
    goal.scale = 1.0
    factors = compute_factors(model, [goal.data], "classification")
    truth = EvidenceModel(factors, squared_norms(model)).terms(goal.prior_precision).total
    assert float(goal.full().detach()) == pytest.approx(float(truth), rel=1e-10)


def test_subset_is_seeded_and_scaled() -> None:
    data = (torch.arange(100.0).unsqueeze(1), torch.arange(100))
    (x, y), scale = subset(data, 40, seed=5)
    assert scale == 2.5 and len(x) == 40 and torch.equal(x[:, 0].long(), y) and len(set(y.tolist())) == 40
    assert torch.equal(subset(data, 40, seed=5)[0][1], y)
    assert not torch.equal(subset(data, 40, seed=6)[0][1], y)
    assert subset(data, 1000, seed=0)[1] == 1.0


PLANTED, START = 2.0, 0.7


def planted(kind: str, seed: int) -> tuple[nn.Module, Any, tuple[Tensor, Tensor]]:
    """A network that starts at l = 0.7, its basis, and data whose filters have l = 2 (two grid spacings)."""
    torch.manual_seed(seed)
    layer: SparseConv2d | SparseLinear2d
    if kind == "s-conv":
        layer = SparseConv2d(1, 4, (5, 7), lengthscale=START, learn=("lengthscale",), bias=False)
        basis = layer.basis
    else:
        layer = SparseLinear2d(1, 8, 8, 1, anchors=(0.5, 1), lengthscale=START, learn=("lengthscale",))
        basis = layer.theta1.basis
    layer.double()
    phi = interpolation(basis.anchors, basis.grid, torch.tensor(PLANTED), basis.noise)
    theta = torch.randn(4 if kind == "s-conv" else 8, len(basis), dtype=torch.float64) @ phi
    x = torch.randn(200, 1, 8, 8, dtype=torch.float64)
    if kind == "s-conv":
        padded = nn.functional.pad(x, (3, 3, 2, 2), mode="circular")
        y = nn.functional.conv2d(padded, theta.reshape(4, 1, 5, 7)).flatten(1)
    else:
        y = x.flatten(1) @ theta.T
    return nn.Sequential(layer, nn.Flatten()), basis, (x, y + 0.5 * torch.randn_like(y))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("kind", "estimator"), [("s-conv", "local"), ("s-fc", "full")])
def test_a_planted_lengthscale_is_found(kind: str, estimator: str, seed: int) -> None:
    model, basis, (x, y) = planted(kind, seed)
    hyper = Hyperparameters(model, "tensor", 1.0)
    evidences = []
    for update in range(45):
        fit_weights(model, x, y, hyper)
        factors = compute_factors(model, [(x, y)], "regression")
        evidence = EvidenceModel(factors, squared_norms(model), "regression")
        hyper.sigma_noise = evidence.mackay(hyper.prior, hyper.sigma_noise)
        evidences.append(float(evidence.terms(hyper.prior.by_tensor(), hyper.sigma_noise).total))
        pairs, scale = subset((x, y), 64, update)
        goal = HyperObjective(model, pairs, hyper.prior.floats(), "regression", hyper.sigma_noise, scale)
        rate = 0.05 * (1 + math.cos(math.pi * update / 45))
        hyper.step(evidence_gradients(goal, hyper.declared, estimator), rate)  # type: ignore[arg-type]
    found = float(basis.lengthscale)
    assert abs(found - PLANTED) < 0.2 * PLANTED, f"{kind}, seed {seed}: {found:.2f} for {PLANTED}"
    assert evidences[-1] > evidences[5], "the evidence rises, the first fits of the weights aside"


def fit_weights(model: nn.Module, x: Tensor, y: Tensor, hyper: Hyperparameters) -> None:
    """A few L-BFGS steps to the MAP weights."""
    delta, variance = hyper.prior.floats(), hyper.sigma_noise**2
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=15, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum(delta[n] * p.square().sum() for n, p in model.named_parameters())
        loss = (0.5 * (model(x) - y).square().sum() / variance + 0.5 * penalty) / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)


class Scale(nn.Module):
    """A layer with a hyperparameter that is no basis: log of a gain on its input."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("log_gain", torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_gain.exp() * x

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return {"log_gain": Hyperparameter(self.log_gain, torch.exp, "gain")}


def gained(value: float = 0.0) -> nn.Module:
    """A user's network with a hyperparameter of their own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Scale(value), nn.Linear(20, 3)).double()


def test_any_layer_may_declare() -> None:
    model = gained()
    goal = objective(model, "classification", {})
    (gradient,) = evidence_gradients(goal, hyperparameters_of(model)).values()
    values = []
    for step in (1e-4, -2e-4):
        model[1].log_gain.add_(step)
        values.append(float(goal.full()))
    assert float(gradient) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-4)


def test_local_refuses_what_is_no_basis() -> None:
    model = gained()
    with pytest.raises(ValueError, match=r"1\.log_gain is not part of one; use the full one"):
        evidence_gradients(objective(model, "classification", {}), hyperparameters_of(model), "local")


def test_a_gradient_that_is_not_finite_is_named() -> None:
    model = gained()

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * math.nan

    declared = hyperparameters_of(model)
    steep = {n: Hyperparameter(d.value, log_prior=lambda v: Steep.apply(v)) for n, d in declared.items()}
    with pytest.raises(NonFiniteGradientError, match=r"with respect to 1\.log_gain is not finite"):
        evidence_gradients(objective(model, "classification", {}), steep)


def test_nothing_declared_costs_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).double()
    assert evidence_gradients(objective(model, "classification", {}), {}) == {}


def test_gradients_leave_no_trace() -> None:
    model = toy()
    before = {n: b.clone() for n, b in model.named_buffers()}
    evidence_gradients(objective(model, "classification", {}), hyperparameters_of(model))
    assert not any(b.requires_grad for b in model.buffers())
    assert all(torch.equal(before[n], b) for n, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())


class TestStatedErrors:
    """Of gradients from a part of the data."""

    @pytest.mark.parametrize("estimator", ["full", "local"])
    def test_all_data_leave_none(self, estimator: Estimator) -> None:
        objective, declared = sampled_case(40)
        full = evidence_gradients(objective, declared, estimator)
        found = sampled_gradients(objective, declared, estimator)
        assert set(found) == set(full) and len(full) == 6
        for name, one in found.items():
            assert torch.allclose(one.whole, full[name].double(), rtol=1e-7, atol=1e-9), name
            assert float(one.standard_error.sum()) == 0 and float(one.bias.abs().sum()) == 0

    @pytest.mark.parametrize("estimator", ["full", "local"])
    @pytest.mark.slow
    def test_against_draws(self, estimator: Estimator) -> None:
        objective, declared = sampled_case(240)
        truth = evidence_gradients(objective, declared, estimator)
        errors: dict[str, list[Tensor]] = {name: [] for name in truth}
        stated: dict[str, list[Tensor]] = {name: [] for name in truth}
        for seed in range(15):
            pairs, scale = subset(objective.data, 80, seed)
            part = dataclasses.replace(objective, data=pairs, scale=scale)
            for name, found in sampled_gradients(part, declared, estimator).items():
                assert found.part == pytest.approx(1 / 3)
                errors[name].append(found.whole - truth[name])
                stated[name].append(found.standard_error)
        for name in truth:
            spread = torch.stack(errors[name]).square().mean().sqrt()
            said = torch.stack(stated[name]).square().mean().sqrt()
            assert 0.55 < float(said / spread) < 1.8, name

    def test_each_chunk_counts_as_if_it_were_not_there(self) -> None:
        """Without chunk c, the gradient is that of the others alone, at their scale."""
        objective, declared = sampled_case(48)
        found = sampled_gradients(objective, declared)
        kept = torch.arange(48) // 6 != 3
        x, y = objective.data
        rest = dataclasses.replace(objective, data=(x[kept], y[kept]), scale=48 / 42)
        for name, gradient in evidence_gradients(rest, declared).items():
            assert torch.allclose(found[name].without[3], gradient, rtol=1e-7, atol=1e-9), name

    def test_too_few_data(self) -> None:
        with pytest.raises(ValueError, match="at least 8 data, one a chunk, got 5"):
            sampled_gradients(*sampled_case(5))


def sampled_case(data: int) -> tuple[HyperObjective, dict[str, Hyperparameter]]:
    """S-CONV and S-FC with lengthscales and anchors to learn, float64, and so many data."""
    torch.manual_seed(0)
    learn = ("lengthscale", "anchors")
    model = nn.Sequential(
        SparseConv2d(1, 2, lengthscale=0.8, learn=learn),
        nn.Tanh(),
        SparseLinear2d(2, 2, (8, 8), (3, 2), lengthscale=1.3, learn=learn),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    x, y = tiny_fits.bars(data, "direction")
    delta = {name: 1.0 for name, _ in model.named_parameters()}
    return HyperObjective(model, (x.double(), y), delta), hyperparameters_of(model)
