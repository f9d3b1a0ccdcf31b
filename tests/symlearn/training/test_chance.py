"""The constant predictor: its loss is the classes' entropy, its evidence that of a lone bias."""

from __future__ import annotations

import math

import pytest
import torch

from symlearn.training.chance import constant_log_evidence, constant_loss


def labels(*counts: int) -> torch.Tensor:
    """So many labels of every class."""
    return torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])


@pytest.mark.parametrize(
    ("counts", "entropy"),
    [((50, 50), math.log(2)), ((30,) * 4, math.log(4)), ((20, 0, 20), math.log(2)), ((7,), 0.0)],
    ids=["two", "four", "one of three is missing", "one class"],
)
def test_loss_is_the_entropy(counts: tuple[int, ...], entropy: float) -> None:
    assert constant_loss(labels(*counts), "classification") == pytest.approx(entropy, abs=1e-12)


def test_imbalanced() -> None:
    p = torch.tensor([20 / 21, 1 / 21])
    assert constant_loss(labels(200, 10), "classification") == pytest.approx(float(-(p * p.log()).sum()))


def test_regression_loss_is_half_the_variance() -> None:
    y = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert constant_loss(y, "regression", sigma_noise=2.0) == pytest.approx(0.5 * (1 + 4) / 4)


def test_balanced_classes_cost_no_bias() -> None:
    """Equal frequencies are the prior's own mean: no bias is needed, and none is paid for."""
    assert constant_log_evidence(labels(25, 25, 25), "classification") == pytest.approx(
        -75 * math.log(3), abs=0.05
    )


def test_imbalanced_evidence_is_that_of_the_integral() -> None:
    """Two classes, logits (b, -b), b ~ N(0, s^2 / 1): the best s by brute force, within a nat."""
    y = labels(60, 20)
    b = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    log_likelihood = 60 * torch.nn.functional.logsigmoid(2 * b) + 20 * torch.nn.functional.logsigmoid(-2 * b)
    best = max(
        float(torch.logsumexp(log_likelihood + torch.distributions.Normal(0.0, s).log_prob(b), 0))
        + math.log(12 / 4000)
        for s in torch.linspace(0.05, 3, 60, dtype=torch.float64).tolist()
    )
    assert constant_log_evidence(y, "classification") == pytest.approx(best, abs=1.0)


def test_regression_evidence_is_the_gaussians() -> None:
    y = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 3 + 5
    gaussian = torch.distributions.Normal(y.mean(), y.std(correction=0)).log_prob(y).sum()
    found = constant_log_evidence(y, "regression")
    assert found == pytest.approx(float(gaussian) - math.log(500), rel=1e-6)
