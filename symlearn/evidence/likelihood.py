"""What a network's outputs say of the targets: classes by a softmax, or real numbers with Gaussian noise.

Everything that depends on the likelihood asks one of two objects, `LIKELIHOODS["classification"]` and
`LIKELIHOODS["regression"]`. Both know the *constant predictor*, which any network must beat before anything
can be said of its layers: it answers every image alike, with the class frequencies or the targets' mean, so
it knows the targets and nothing of the images.

    loss          entropy of the class frequencies; 1/2 sum of the targets' variances / sigma^2 (regression)
    log evidence  -N entropy - 1/2 delta ||b||^2 - 1/2 sum_k log(1 + N lambda_k / delta) at the best delta, b
                  the centred log frequencies under N(0, 1/delta), lambda_k the eigenvalues of diag(p) - pp^T;
                  for regression the
                  Gaussian at its own mean and variance, whose two parameters a target cost 1/2 log N each

Axes: batch, outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class ObservationModel(ABC):
    """p(y | f) of targets given outputs `[batch, outputs]`.

    Attributes:
        name: as configurations call it.
        discrete: whether targets are classes, so that there is an accuracy and no noise to learn.
    """

    name: ClassVar[str]
    discrete: ClassVar[bool]

    @abstractmethod
    def loss(self, f: Tensor, y: Tensor, sigma_noise: float = 1.0) -> Tensor:
        """Mean negative log-likelihood of a batch as training counts it, in nats an image.

        That is without what depends on neither weights nor outputs; see `constants`.
        """

    @abstractmethod
    def constants(self, targets: float, sigma_noise: float = 1.0) -> float:
        """What `loss` leaves out, in nats an image with so many targets."""

    @abstractmethod
    def correct(self, f: Tensor, y: Tensor) -> Tensor | None:
        """How many of a batch are classified rightly, on its device, or None."""

    @abstractmethod
    def variance(self, sigma_noise: float) -> float:
        """What the curvature of the outputs is divided by: sigma^2, or 1."""

    @abstractmethod
    def predicted(self, f: Tensor) -> Tensor:
        """What outputs predict, `[batch, outputs]`: probabilities, or means."""

    @abstractmethod
    def misfit(self, f: Tensor, y: Tensor) -> str | None:
        """What is wrong with a set's targets for outputs of this shape, or None."""

    @abstractmethod
    def blank(self, count: int, f: Tensor) -> Tensor:
        """Targets of zeros for `count` images, of the type and device that go with outputs."""

    @abstractmethod
    def constant_loss(self, y: Tensor, sigma_noise: float = 1.0) -> float:
        """`loss` of the constant predictor, in nats an image.

        Args:
            y: labels `[batch]`, or targets `[batch]` or `[batch, ...]`.
            sigma_noise: the Gaussian likelihood's standard deviation (regression only).
        """

    @abstractmethod
    def constant_log_evidence(self, y: Tensor) -> float:
        """Log marginal likelihood of the constant predictor over all targets, in nats."""


class Classification(ObservationModel):
    """Classes by a softmax."""

    name = "classification"
    discrete = True

    def loss(self, f: Tensor, y: Tensor, sigma_noise: float = 1.0) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(f, y)

    def constants(self, targets: float, sigma_noise: float = 1.0) -> float:
        """Nothing."""
        return 0.0

    def correct(self, f: Tensor, y: Tensor) -> Tensor | None:
        """By the largest output."""
        return (f.argmax(1) == y).sum()

    def variance(self, sigma_noise: float) -> float:
        """1: there is no noise."""
        return 1.0

    def predicted(self, f: Tensor) -> Tensor:
        """Probabilities."""
        return f.softmax(1)

    def misfit(self, f: Tensor, y: Tensor) -> str | None:
        """Labels are whole numbers from 0 to below the number of outputs."""
        if y.is_floating_point() or y.dim() != 1:
            return f"classification needs integer labels [n], got {y.dtype} {list(y.shape)}"
        if int(y.min()) < 0 or int(y.max()) >= f.shape[1]:
            return (
                f"labels run from {int(y.min())} to {int(y.max())}, but the network has {f.shape[1]} "
                "outputs; build it with classes=… to match"
            )
        return None

    def blank(self, count: int, f: Tensor) -> Tensor:
        """Class 0."""
        return torch.zeros(count, dtype=torch.int64, device=f.device)

    def constant_loss(self, y: Tensor, sigma_noise: float = 1.0) -> float:
        """The frequencies' entropy."""
        p = _frequencies(y)
        return float(-(p * p.log()).sum())

    def constant_log_evidence(self, y: Tensor) -> float:
        """Of a lone bias."""
        n, p = len(y), _frequencies(y)
        logits = p.log() - p.log().mean()
        spectrum = n * torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p)).clamp(min=0)
        delta = torch.linspace(-8, 12, 81, dtype=torch.float64).exp().unsqueeze(1)
        cost = 0.5 * delta.squeeze(1) * logits.square().sum() + 0.5 * torch.log1p(spectrum / delta).sum(1)
        return -n * self.constant_loss(y) - float(cost.min())


class Regression(ObservationModel):
    """Real numbers with Gaussian noise of one standard deviation sigma."""

    name = "regression"
    discrete = False

    def loss(self, f: Tensor, y: Tensor, sigma_noise: float = 1.0) -> Tensor:
        """Half of the squared distance by sigma^2."""
        return 0.5 * (f - y.reshape(f.shape)).square().sum(1).mean() / sigma_noise**2

    def constants(self, targets: float, sigma_noise: float = 1.0) -> float:
        """1/2 log(2 pi sigma^2) a target."""
        return targets / 2 * math.log(2 * math.pi * sigma_noise**2)

    def correct(self, f: Tensor, y: Tensor) -> Tensor | None:
        """No such thing."""
        return None

    def variance(self, sigma_noise: float) -> float:
        """sigma^2."""
        return sigma_noise**2

    def predicted(self, f: Tensor) -> Tensor:
        """The outputs."""
        return f

    def misfit(self, f: Tensor, y: Tensor) -> str | None:
        """A real number an output."""
        if not y.is_floating_point() or y.reshape(len(y), -1).shape[1] != f.shape[1]:
            return f"regression needs real targets [n, {f.shape[1]}], got {y.dtype} {list(y.shape)}"
        return None

    def blank(self, count: int, f: Tensor) -> Tensor:
        """Zeros."""
        return f.new_zeros(count, f.shape[1])

    def constant_loss(self, y: Tensor, sigma_noise: float = 1.0) -> float:
        """Half of the targets' variances by sigma^2."""
        targets = y.reshape(len(y), -1).double()
        return float(0.5 * targets.var(0, correction=0).sum()) / sigma_noise**2

    def constant_log_evidence(self, y: Tensor) -> float:
        """Of the targets' own Gaussian."""
        n = len(y)
        variances = y.reshape(n, -1).double().var(0, correction=0).clamp(min=1e-12)
        return float((-n / 2 * (torch.log(2 * math.pi * variances) + 1) - math.log(n)).sum())


LIKELIHOODS: dict[str, ObservationModel] = {kind.name: kind for kind in (Classification(), Regression())}


def likelihood_of(name: str) -> ObservationModel:
    """A likelihood by its name.

    Returns:
        Its formulas: loss, constants, what it predicts.

    Raises:
        ValueError: an unknown one.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {name!r}; choose one of {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[name]


def _frequencies(y: Tensor) -> Tensor:
    """Frequencies of the classes that occur."""
    counts = torch.bincount(y.flatten().long().cpu()).double()
    return counts[counts > 0] / counts.sum()
