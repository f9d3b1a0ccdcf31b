"""The linearised Laplace predictive against dense Jacobians and inverses, float64."""

from __future__ import annotations

import math

import pytest
import torch
import toys
from oracles import assert_close
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import kfac
from kfac.loss_hessian import Likelihood
from symlearn.analysis.predictive import LaplacePredictive, predictive_factors, probit
from symlearn.config import Config
from symlearn.networks import build_model
from symlearn.structure import relaxed_layers

MODELS = {"mixed": (toys.mixed, (2, 5, 4)), "factored": (toys.factored, (2, 4, 3)), "mlp": (toys.mlp, (5,))}


def dense_variance(
    model: nn.Module, factors: kfac.KroneckerFactors, delta: dict[str, float], sigma: float, x: Tensor
) -> Tensor:
    """diag(J (H / sigma^2 + delta I)^-1 J^T) of one datum at a time, `[batch, classes]`."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    rows = []
    for datum in x:
        jacobian = jacrev(lambda p: functional_call(model, p, (datum[None],))[0])(parameters)  # noqa: B023
        total = torch.zeros(())
        for name in factors.names:
            j = jacobian[name].flatten(1)
            covariance = torch.linalg.inv(
                factors.to_dense(name) / sigma**2 + delta[name] * torch.eye(j.shape[1])
            )
            total = total + (j @ covariance * j).sum(1)
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_variance_is_the_dense_one(name: str, likelihood: Likelihood) -> None:
    make, shape = MODELS[name]
    model = make()
    batch = toys.batch_of(shape, 12, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    delta = {name: 0.3 + 0.2 * k for k, name in enumerate(factors.names)}
    sigma = 0.7 if likelihood == "regression" else 1.0
    predictive = LaplacePredictive(model, factors, delta, sigma)
    mean, variance = predictive.outputs(batch[0][:5])
    assert_close(mean, model(batch[0][:5]).detach(), 1e-12, "mean")
    assert_close(variance, dense_variance(model, factors, delta, sigma, batch[0][:5]), 1e-9, "variance")
    if likelihood == "regression":
        assert_close(predictive.targets(batch[0][:5])[1] ** 2, variance + sigma**2, 1e-12, "target variance")


def test_chunks_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = toys.mixed(), toys.batch_of((2, 5, 4), 7)[0]
    factors = kfac.compute_factors(model, [toys.batch_of((2, 5, 4), 12)], "classification")
    predictive = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 1.0))
    whole = predictive.outputs(x)
    monkeypatch.setattr("symlearn.analysis.predictive.MEMORY", 1)
    for found, truth, what in zip(predictive.outputs(x), whole, ("mean", "variance"), strict=True):
        assert_close(found, truth, 1e-12, what)


def test_a_tight_prior_gives_the_map_prediction_and_a_loose_one_is_less_sure() -> None:
    model, batch = toys.mixed(), toys.batch_of((2, 5, 4), 12)
    factors = kfac.compute_factors(model, [batch], "classification")
    certain = model(batch[0]).softmax(1).detach()
    tight = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 1e12)).probabilities(batch[0])
    assert_close(tight, certain, 1e-6, "probabilities under a tight prior")
    loose = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 0.01)).probabilities(batch[0])
    entropy = [-(p * p.log()).sum(1).mean() for p in (certain, loose)]
    assert entropy[1] > entropy[0], (
        f"entropy {entropy[1]:.3f} under a loose prior, {entropy[0]:.3f} at the MAP"
    )
    assert torch.allclose(loose.sum(1), torch.ones(12, dtype=torch.float64))


def test_probit_of_two_classes_is_close_to_the_gaussian_integral() -> None:
    """Independent logits ±m with variance v: p = E sigmoid(N(2m, 2v)), which probit comes near."""
    m, v = 0.8, 1.5
    draws = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.tensor([[m, -m]], dtype=torch.float64)
    exact = (mean + math.sqrt(v) * draws).softmax(1).mean(0)
    found = probit(mean, torch.full((1, 2), v, dtype=torch.float64))[0]
    # the softmax form treats a difference of variance 2 v with the slope of v: a known bias of the rule
    assert abs(float(found[0] - exact[0])) < 0.05, f"{float(found[0]):.3f} for {float(exact[0]):.3f}"


def test_switched_off_paths_and_strides_are_handled() -> None:
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", alpha=1, size=16, classes=3).double()
    relaxed_layers(model)["layers.0"].set_active(["conv"])
    x, y = toys.batch_of((1, 16, 16), 6)
    factors = predictive_factors(model, (x, y), Config())
    assert not any(name.startswith("layers.0.paths.f-fc") for name in factors.names)
    mean, variance = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 1.0)).outputs(x)
    assert_close(mean, model(x).detach(), 1e-12, "mean")
    assert variance.shape == (6, 3) and bool((variance > 0).all())


def test_a_missing_prior_precision_is_named() -> None:
    model, batch = toys.mlp(), toys.batch_of((5,), 8)
    factors = kfac.compute_factors(model, [batch], "classification")
    with pytest.raises(ValueError, match=r"no prior precision for 2\.bias"):
        LaplacePredictive(model, factors, {name: 1.0 for name in factors.names if name != "2.bias"})
