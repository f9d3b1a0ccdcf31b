"""The constant predictor: its loss is the classes' entropy, its evidence that of a lone bias."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from symlearn.evidence.likelihood import LIKELIHOODS, likelihood_of

CLASSES, REAL = LIKELIHOODS["classification"], LIKELIHOODS["regression"]


def labels(*counts: int) -> torch.Tensor:
    """So many labels of every class."""
    return torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])


@pytest.mark.parametrize(
    ("counts", "entropy"),
    [((50, 50), math.log(2)), ((30,) * 4, math.log(4)), ((20, 0, 20), math.log(2)), ((7,), 0.0)],
    ids=["two", "four", "one of three is missing", "one class"],
)
def test_loss_is_the_entropy(counts: tuple[int, ...], entropy: float) -> None:
    assert CLASSES.constant_loss(labels(*counts)) == pytest.approx(entropy, abs=1e-12)


def test_imbalanced() -> None:
    p = torch.tensor([20 / 21, 1 / 21])
    assert CLASSES.constant_loss(labels(200, 10)) == pytest.approx(float(-(p * p.log()).sum()))


def test_regression_loss_is_half_the_variance() -> None:
    y = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert REAL.constant_loss(y, sigma_noise=2.0) == pytest.approx(0.5 * (1 + 4) / 4)


def test_balanced_classes_cost_no_bias() -> None:
    """Equal frequencies are the prior's own mean: no bias is needed, and none is paid for."""
    assert CLASSES.constant_log_evidence(labels(25, 25, 25)) == pytest.approx(-75 * math.log(3), abs=0.05)


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
    assert CLASSES.constant_log_evidence(y) == pytest.approx(best, abs=1.0)


def test_regression_evidence_is_the_gaussians() -> None:
    y = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 3 + 5
    gaussian = torch.distributions.Normal(y.mean(), y.std(correction=0)).log_prob(y).sum()
    found = REAL.constant_log_evidence(y)
    assert found == pytest.approx(float(gaussian) - math.log(500), rel=1e-6)


def test_losses_are_those_of_torch() -> None:
    f = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels_ = torch.arange(7) % 3
    assert torch.equal(CLASSES.loss(f, labels_), torch.nn.functional.cross_entropy(f, labels_))
    assert CLASSES.constants(3, 2.0) == 0 and CLASSES.variance(2.0) == 1
    y = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = -torch.distributions.Normal(f, 0.7).log_prob(y).sum(1).mean()
    assert float(REAL.loss(f, y, 0.7)) + REAL.constants(3, 0.7) == pytest.approx(float(whole))
    assert REAL.variance(0.7) == pytest.approx(0.49)


def test_what_outputs_predict() -> None:
    f = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert CLASSES.correct(f, torch.tensor([0, 0])) == 1 and REAL.correct(f, f) is None
    assert torch.allclose(CLASSES.predicted(f).sum(1), torch.ones(2)) and REAL.predicted(f) is f


@pytest.mark.parametrize(
    ("likelihood", "y", "said"),
    [
        (CLASSES, torch.tensor([0, 1]), None),
        (CLASSES, torch.tensor([0, 2]), "run from 0 to 2, but the network has 2 outputs"),
        (CLASSES, torch.tensor([0.0, 1.0]), "integer labels"),
        (REAL, torch.zeros(2, 2), None),
        (REAL, torch.zeros(2), r"real targets \[n, 2\]"),
        (REAL, torch.tensor([0, 1]), "real targets"),
    ],
)
def test_misfits_are_told(likelihood: Any, y: torch.Tensor, said: str | None) -> None:
    told = likelihood.misfit(torch.zeros(1, 2), y)
    assert told is None if said is None else re.search(said, told), told
    assert likelihood.misfit(torch.zeros(1, 2), likelihood.blank(4, torch.zeros(1, 2))) is None


def test_unknown_likelihoods_are_refused() -> None:
    with pytest.raises(
        ValueError, match="unknown likelihood 'poisson'; choose one of classification, regression"
    ):
        likelihood_of("poisson")
