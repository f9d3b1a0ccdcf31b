"""The constant predictor: what any network must beat before anything can be said of its layers.

It answers every image alike, with the class frequencies or the targets' mean, so it knows the targets and
nothing of the images.

    loss          entropy of the class frequencies; 1/2 sum of the targets' variances / sigma^2 (regression)
    log evidence  -N entropy - 1/2 sum_k log(1 + N lambda_k / delta), lambda_k the eigenvalues of diag(p) -
                  pp^T, with the class logits b under N(0, 1/delta) at the best delta; for regression the
                  Gaussian at its own mean and variance, whose two parameters a target cost 1/2 log N each

Axes: batch, classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def constant_loss(y: Tensor, likelihood: str, sigma_noise: float = 1.0) -> float:
    """Mean negative log-likelihood of the constant predictor, as training counts it, in nats an image.

    Args:
        y: labels `[batch]`, or targets `[batch]` or `[batch, ...]` (regression).
        likelihood: "classification" or "regression".
        sigma_noise: the Gaussian likelihood's standard deviation (regression only).
    """
    if likelihood == "regression":
        targets = y.reshape(len(y), -1).double()
        return float(0.5 * targets.var(0, correction=0).sum()) / sigma_noise**2
    p = _frequencies(y)
    return float(-(p * p.log()).sum())


def constant_log_evidence(y: Tensor, likelihood: str) -> float:
    """Log marginal likelihood of the constant predictor over all targets, in nats."""
    n = len(y)
    if likelihood == "regression":
        variances = y.reshape(n, -1).double().var(0, correction=0).clamp(min=1e-12)
        return float((-n / 2 * (torch.log(2 * math.pi * variances) + 1) - math.log(n)).sum())
    p = _frequencies(y)
    logits = p.log() - p.log().mean()
    spectrum = n * torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p)).clamp(min=0)
    delta = torch.linspace(-8, 12, 81, dtype=torch.float64).exp().unsqueeze(1)
    cost = 0.5 * delta.squeeze(1) * logits.square().sum() + 0.5 * torch.log1p(spectrum / delta).sum(1)
    return -n * constant_loss(y, likelihood) - float(cost.min())


def _frequencies(y: Tensor) -> Tensor:
    """Frequencies of the classes that occur."""
    counts = torch.bincount(y.flatten().long().cpu()).double()
    return counts[counts > 0] / counts.sum()
