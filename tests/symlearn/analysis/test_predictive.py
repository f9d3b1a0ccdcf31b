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
from symlearn.analysis.predictive import (
    LaplacePredictive,
    averaged_softmax,
    corrected_spectra,
    last_layer,
    predictive_factors,
    probit,
)
from symlearn.config import Config
from symlearn.layers.structure import relaxed_layers
from symlearn.networks import build_model

MODELS = {"mixed": (toys.mixed, (2, 5, 4)), "factored": (toys.factored, (2, 4, 3)), "mlp": (toys.mlp, (5,))}


def dense_covariance(
    model: nn.Module, factors: kfac.KroneckerFactors, delta: dict[str, float], sigma: float, x: Tensor
) -> Tensor:
    """J (H / sigma^2 + delta I)^-1 J^T of one datum at a time, `[batch, classes, classes]`."""
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
            total = total + j @ covariance @ j.T
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_covariance_is_the_dense_one(name: str, likelihood: Likelihood) -> None:
    make, shape = MODELS[name]
    model = make()
    batch = toys.batch_of(shape, 12, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    delta = {name: 0.3 + 0.2 * k for k, name in enumerate(factors.names)}
    sigma = 0.7 if likelihood == "regression" else 1.0
    predictive = LaplacePredictive(model, factors, delta, sigma)
    mean, covariance = predictive.outputs(batch[0][:5])
    assert_close(mean, model(batch[0][:5]).detach(), 1e-12, "mean")
    truth = dense_covariance(model, factors, delta, sigma, batch[0][:5])
    assert_close(covariance, truth, 1e-9, "covariance")
    if likelihood == "regression":
        variance = covariance.diagonal(dim1=1, dim2=2)
        assert_close(predictive.targets(batch[0][:5])[1] ** 2, variance + sigma**2, 1e-12, "target variance")


def test_chunks_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = toys.mixed(), toys.batch_of((2, 5, 4), 7)[0]
    factors = kfac.compute_factors(model, [toys.batch_of((2, 5, 4), 12)], "classification")
    predictive = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 1.0))
    whole = predictive.outputs(x)
    monkeypatch.setattr("symlearn.analysis.predictive.MEMORY", 1)
    for found, truth, what in zip(predictive.outputs(x), whole, ("mean", "covariance"), strict=True):
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


def integral(mean: Tensor, covariance: Tensor) -> Tensor:
    """The softmax averaged over many draws."""
    return averaged_softmax(mean, covariance, 20_000)


def test_probit_of_two_classes_is_the_probit_of_their_difference() -> None:
    mean = torch.tensor([[0.8, -0.7]], dtype=torch.float64)
    covariance = torch.tensor([[[1.5, 0.4], [0.4, 0.9]]], dtype=torch.float64)
    kappa = 1 / math.sqrt(1 + math.pi / 8 * (1.5 + 0.9 - 0.8))
    found = float(probit(mean, covariance)[0, 0])
    assert found == pytest.approx(1 / (1 + math.exp(-1.5 * kappa)), rel=1e-12)
    assert found == pytest.approx(float(integral(mean, covariance)[0, 0]), abs=0.01)


def test_probit_is_close_to_the_gaussian_integral() -> None:
    mean = torch.tensor([[0.8, -0.8, 0.3]], dtype=torch.float64)
    covariance = 1.5 * torch.eye(3, dtype=torch.float64)[None]
    exact, found = integral(mean, covariance), probit(mean, covariance)
    assert float((found - exact).abs().max()) < 0.05, f"{found.tolist()} for {exact.tolist()}"


def test_a_shift_of_all_outputs_changes_no_probability() -> None:
    """However uncertain it is: the softmax does not feel it."""
    mean = torch.tensor([[0.8, -0.8, 0.3], [2.0, 0.0, -1.0]], dtype=torch.float64)
    covariance = torch.diag_embed(torch.tensor([[0.5, 1.0, 0.2], [1.0, 1.0, 1.0]], dtype=torch.float64))
    assert_close(probit(mean + 7, covariance + 400), probit(mean, covariance), 1e-9, "probit")
    assert_close(integral(mean + 7, covariance + 400), integral(mean, covariance), 0.03, "averaged")


def test_an_uncertain_first_class_stays_first() -> None:
    """Where outputs' variances differ, scaling each output by its own would change their order."""
    mean = torch.tensor([[3.0, 1.0, 0.9]], dtype=torch.float64)
    covariance = torch.diag_embed(torch.tensor([[50.0, 0.1, 0.1]], dtype=torch.float64))
    for p in (probit(mean, covariance), integral(mean, covariance)):
        assert int(p.argmax()) == 0, p.tolist()


def test_a_datum_ignores_its_batch_mates() -> None:
    model, (x, y) = toys.mixed(), toys.batch_of((2, 5, 4), 12)
    factors = kfac.compute_factors(model, [(x, y)], "classification")
    predictive = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 0.5))
    for link in ("mc", "probit"):
        together = predictive.probabilities(x, link)
        assert_close(predictive.probabilities(x[4:5], link)[0], together[4], 1e-10, link)


def test_draws_have_the_posteriors_covariance() -> None:
    model, batch = toys.mlp(), toys.batch_of((5,), 12)
    factors = kfac.compute_factors(model, [batch], "classification")
    predictive = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 0.5), temperature=0.3)
    drawn = predictive.sample(100_000)
    for name, parameter in model.named_parameters():
        rows = (drawn[name] - parameter.detach()).flatten(1)
        size = rows.shape[1]
        truth = 0.3 * torch.linalg.inv(factors.to_dense(name) + 0.5 * torch.eye(size))
        assert_close(rows.T @ rows / len(rows), truth, 0.02, f"covariance of {name}")


def test_corrected_spectra_and_a_last_layer() -> None:
    model, (x, y) = toys.mixed(), toys.batch_of((2, 5, 4), 12)
    factors = kfac.compute_factors(model, [(x, y)], "classification")
    eigen = corrected_spectra(model, factors, (x, y), Config())
    delta = dict.fromkeys(factors.names, 1.0)
    last = last_layer(model, x)
    assert last == ["7.weight", "7.bias"]
    whole = LaplacePredictive(model, factors, delta, eigen=eigen).outputs(x)[1]
    head = LaplacePredictive(model, factors, delta, eigen=eigen, names=last).outputs(x)[1]
    rest = [name for name in factors.names if name not in last]
    body = LaplacePredictive(model, factors, delta, eigen=eigen, names=rest).outputs(x)[1]
    alone = predictive_factors(model, (x, y), Config(), last)
    assert alone.names == tuple(last)
    assert all(p.requires_grad for p in model.parameters())
    plain = LaplacePredictive(model, factors, delta, names=last).outputs(x)[1]
    assert_close(LaplacePredictive(model, alone, delta).outputs(x)[1], plain, 1e-12, "head by itself")
    assert_close(head + body, whole, 1e-12, "covariance by parts")
    with pytest.raises(ValueError, match=r"no factors for 9\.weight; there are"):
        LaplacePredictive(model, factors, delta, names=["9.weight"])
    with pytest.raises(ValueError, match="temperature must be zero or more, got -1"):
        LaplacePredictive(model, factors, delta, temperature=-1)


def test_the_last_layer_is_the_one_that_runs_last() -> None:
    class HeadFirst(nn.Module):
        """Defines its head before the layer that runs before it."""

        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.unused = nn.Linear(4, 3), nn.Linear(5, 4), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            """`[batch, 5] -> [batch, 3]`."""
            return self.head(self.body(x).tanh())

    model, x = HeadFirst().double(), toys.batch_of((5,), 4)[0]
    assert last_layer(model, x) == ["head.weight", "head.bias"]
    model.head.weight.requires_grad_(False)
    assert last_layer(model, x) == ["head.bias"] and model.training
    declared = Config().with_options(left_out=["head.bias"]).curvature
    assert last_layer(model, x, declared) == ["body.weight", "body.bias"]
    with pytest.raises(ValueError, match=r"no layer .* ran, so none is the last"):
        last_layer(nn.Flatten(), x)


def test_switched_off_paths_and_strides_are_handled() -> None:
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", alpha=1, size=16, classes=3).double()
    relaxed_layers(model)["layers.0"].set_active(["conv"])
    x, y = toys.batch_of((1, 16, 16), 6)
    factors = predictive_factors(model, (x, y), Config())
    assert not any(name.startswith("layers.0.paths.f-fc") for name in factors.names)
    mean, covariance = LaplacePredictive(model, factors, dict.fromkeys(factors.names, 1.0)).outputs(x)
    assert_close(mean, model(x).detach(), 1e-12, "mean")
    assert covariance.shape == (6, 3, 3) and bool((torch.linalg.eigvalsh(covariance) > 0).all())


def test_a_missing_prior_precision_is_named() -> None:
    model, batch = toys.mlp(), toys.batch_of((5,), 8)
    factors = kfac.compute_factors(model, [batch], "classification")
    with pytest.raises(ValueError, match=r"no prior precision for 2\.bias"):
        LaplacePredictive(model, factors, {name: 1.0 for name in factors.names if name != "2.bias"})
