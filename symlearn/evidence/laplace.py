"""The Laplace approximation of the log marginal likelihood, and the steps that raise it.

At the MAP weights theta with GGN curvature H, tensor by tensor (MacKay 1992; Immer et al. 2021):

    log q(D) = log p(D | theta) - 1/2 sum_t delta_t ||theta_t||^2
               + 1/2 sum_t P_t log delta_t - 1/2 sum_t log det(H_t + delta_t I)

With the eigenvalues of H_t this is closed-form in delta: d / d log delta_t = 1/2 (gamma_t - delta_t
||theta_t||^2), gamma_t = sum lambda / (lambda + delta_t). So hyperparameter steps need no pass through the
network: gradient steps (Adam on log delta) or MacKay's fixed point delta = gamma / ||theta||^2.

Regression has a Gaussian likelihood of noise sigma: log p = -SSE / (2 sigma^2) - T/2 log(2 pi sigma^2) for T
scalar targets, and H / sigma^2 in place of H; its fixed point is sigma^2 = SSE / (T - sum gamma).

Axes: group (of tensors that share a precision), params.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from kfac import EigenFactors, KroneckerFactors
from symlearn.evidence.likelihood import likelihood_of
from symlearn.evidence.prior import LOG_MAX, LOG_MIN, PriorPrecision

HyperMethod = Literal["mackay", "adam"]
TINY = 1e-12


@dataclass(frozen=True)
class Evidence:
    """log q(D) with its terms apart, in nats, each a float64 scalar.

    Attributes:
        log_likelihood: log p(D | theta).
        weight_penalty: -1/2 sum delta ||theta||^2.
        volume: 1/2 sum P log delta - 1/2 log det(H + delta I), the log of posterior over prior volume.
    """

    log_likelihood: Tensor
    weight_penalty: Tensor
    volume: Tensor

    @property
    def total(self) -> Tensor:
        """The log marginal likelihood."""
        return self.log_likelihood + self.weight_penalty + self.volume


def squared_norms(model: nn.Module) -> dict[str, float]:
    """||theta_t||^2 of every trainable tensor."""
    return {
        n: float(p.detach().double().square().sum()) for n, p in model.named_parameters() if p.requires_grad
    }


class EvidenceModel:
    """The evidence as a function of the hyperparameters, at fixed weights and curvature.

    Args:
        factors: curvature of the training set.
        norms: ||theta_t||^2 by tensor.
        likelihood: "classification" or "regression".
        eigen: eigenvalues of `factors`; computed if not given.

    Raises:
        ValueError: a tensor has curvature but no norm.

    Attributes:
        still: change of every log precision below which the fixed point counts as reached; 0: never.
    """

    still: ClassVar[float] = 0.0

    def __init__(
        self,
        factors: KroneckerFactors,
        norms: Mapping[str, float],
        likelihood: str = "classification",
        eigen: EigenFactors | None = None,
    ) -> None:
        missing = set(factors.names) - set(norms)
        if missing:
            raise ValueError(f"no weight norms for {sorted(missing)}")
        self.eigen = factors.eigendecompose() if eigen is None else eigen
        self.names = factors.names
        self.likelihood = likelihood_of(likelihood)
        self.regression = not self.likelihood.discrete
        self.fit = factors.log_likelihood  # classification: log p; regression: -SSE / 2
        self.n_targets = factors.n_targets
        spectra = [self.eigen.eigenvalues[name] for name in self.names]
        self.counts = torch.tensor([len(s) for s in spectra])
        self.norms = torch.tensor([norms[name] for name in self.names], dtype=torch.float64)
        self.segments = torch.repeat_interleave(torch.arange(len(spectra)), self.counts)
        self.spectrum = torch.cat(spectra).cpu()

    def terms(
        self, prior_precision: Mapping[str, Tensor | float], sigma_noise: Tensor | float = 1.0
    ) -> Evidence:
        """The evidence with its terms apart; differentiable in precisions and noise."""
        delta = self._stack(prior_precision)
        sigma2 = torch.as_tensor(sigma_noise, dtype=torch.float64) ** 2 if self.regression else torch.ones(())
        log_likelihood = torch.as_tensor(self.fit, dtype=torch.float64)
        if self.regression:
            log_likelihood = log_likelihood / sigma2 - self.n_targets / 2 * torch.log(2 * math.pi * sigma2)
        ratio = self._log_det_ratio(delta, sigma2)
        return Evidence(log_likelihood, -0.5 * (delta * self.norms).sum(), -0.5 * ratio)

    def effective_parameters(
        self, prior_precision: Mapping[str, Tensor | float], sigma_noise: float = 1.0
    ) -> dict[str, float]:
        """gamma_t of every tensor."""
        gamma = self._gamma(self._stack(prior_precision), sigma_noise)
        return dict(zip(self.names, gamma.tolist(), strict=True))

    def prior_log_det(self, prior_precision: Mapping[str, Tensor | float]) -> Tensor:
        """sum_t P_t log delta_t, of which `volume` is half, less half of log det(H + delta I)."""
        return (self._stack(prior_precision).log() * self.counts).sum()

    def _stack(self, prior_precision: Mapping[str, Tensor | float]) -> Tensor:
        """Delta by tensor, in `names` order."""
        values = [torch.as_tensor(prior_precision[name], dtype=torch.float64).cpu() for name in self.names]
        return torch.stack(values)

    def _log_det_ratio(self, delta: Tensor, variance: Tensor) -> Tensor:
        """Log det(H / variance + D) - log det D."""
        return torch.log1p(self.spectrum / variance / delta[self.segments]).sum()

    def _gamma(self, delta: Tensor, sigma_noise: float) -> Tensor:
        scaled = self.spectrum / self.likelihood.variance(sigma_noise)
        ratio = scaled / (scaled + delta[self.segments])
        return torch.zeros(len(self.names), dtype=torch.float64).index_add_(0, self.segments, ratio)

    def group_index(self, prior: PriorPrecision) -> tuple[list[str], Tensor]:
        """Groups that have curvature, and the group's place for every tensor."""
        groups = list(dict.fromkeys(prior.groups[name] for name in self.names))
        return groups, torch.tensor([groups.index(prior.groups[name]) for name in self.names])

    def mackay(
        self,
        prior: PriorPrecision,
        sigma_noise: float = 1.0,
        steps: int = 20,
        damping: float = 0.5,
        fixed: Collection[str] = (),
    ) -> float:
        """Damped fixed-point steps log delta += damping (log(gamma / ||theta||^2) - log delta), in place.

        Groups with no curvature and no weight left (0/0) keep their precision, and so do those in `fixed`.

        Returns:
            The stepped noise, a standard deviation; of a classification, the one given.
        """
        groups, index = self.group_index(prior)
        norms = torch.zeros(len(groups), dtype=torch.float64).index_add_(0, index, self.norms)
        log = torch.stack([prior.log[group] for group in groups])
        held = torch.tensor([group in fixed for group in groups])
        for _ in range(steps):
            gamma_t = self._gamma(log.exp()[index], sigma_noise)
            gamma = torch.zeros_like(norms).index_add_(0, index, gamma_t)
            target = torch.log(gamma + TINY) - torch.log(norms + TINY)
            settled = ((gamma <= TINY) & (norms <= TINY)) | held
            before = log
            log = torch.where(settled, log, log + damping * (target - log)).clamp(LOG_MIN, LOG_MAX)
            if self.regression:
                freedom = max(self.n_targets - float(gamma.sum()), 1.0)
                target_sigma = math.sqrt(max(-2 * float(self.fit) / freedom, TINY))
                sigma_noise = sigma_noise * (target_sigma / sigma_noise) ** damping
            if float((log - before).abs().max()) < self.still:
                break
        for group, value in zip(groups, log.tolist(), strict=True):
            prior.set_log(group, value)
        return sigma_noise

    def adam(
        self,
        prior: PriorPrecision,
        moments: dict[str, list[float]],
        sigma_noise: float = 1.0,
        steps: int = 20,
        lr: float = 0.1,
        fixed: Collection[str] = (),
    ) -> float:
        """Gradient steps of Adam on log delta (and log sigma), in place.

        Args:
            prior: the precisions to step.
            moments: Adam's state by group, `[first, second, count]`; kept by the caller between calls.
            sigma_noise: the present noise.
            steps: how many.
            lr: step length in log delta.
            fixed: groups that keep their precision.

        Returns:
            The stepped noise, a standard deviation; of a classification, the one given.
        """
        groups, index = self.group_index(prior)
        keys = [*groups, "sigma_noise"] if self.regression else groups
        state = torch.tensor([moments.get(k, [0.0, 0.0, 0.0]) for k in keys], dtype=torch.float64)
        log = torch.stack([prior.log[group] for group in groups])
        free = torch.tensor([0.0 if group in fixed else 1.0 for group in groups], dtype=torch.float64)
        log_sigma = math.log(sigma_noise)
        norms = torch.zeros(len(groups), dtype=torch.float64).index_add_(0, index, self.norms)
        for _ in range(steps):
            gamma_t = self._gamma(log.exp()[index], math.exp(log_sigma))
            gamma = torch.zeros_like(norms).index_add_(0, index, gamma_t)
            ascent = 0.5 * (gamma - log.exp() * norms) * free
            if self.regression:
                slope = -2 * float(self.fit) / math.exp(2 * log_sigma) - self.n_targets + gamma.sum()
                ascent = torch.cat([ascent, slope.reshape(1)])
            state[:, 0] = 0.9 * state[:, 0] + 0.1 * ascent
            state[:, 1] = 0.999 * state[:, 1] + 0.001 * ascent.square()
            state[:, 2] += 1
            first, second = state[:, 0] / (1 - 0.9 ** state[:, 2]), state[:, 1] / (1 - 0.999 ** state[:, 2])
            step = lr * first / (second.sqrt() + 1e-8)
            log = (log + step[: len(groups)]).clamp(LOG_MIN, LOG_MAX)
            if self.regression:
                log_sigma += float(step[-1])
        moments.update(zip(keys, state.tolist(), strict=True))
        for group, value in zip(groups, log.tolist(), strict=True):
            prior.set_log(group, value)
        return math.exp(log_sigma)


def log_marginal_likelihood(
    model: nn.Module,
    factors: KroneckerFactors,
    prior_precision: Mapping[str, Tensor | float],
    likelihood: str = "classification",
    sigma_noise: Tensor | float = 1.0,
) -> Evidence:
    """The Laplace log marginal likelihood of a model at its present weights, its terms apart.

    Args:
        model: the network, at its MAP weights.
        factors: `kfac.compute_factors` of it over the training set.
        prior_precision: delta by parameter name.
        likelihood: "classification" or "regression".
        sigma_noise: the Gaussian likelihood's standard deviation (regression only).

    Returns:
        Fit, prior and Occam terms in nats, float64, and their sum `total`.

    Raises:
        ValueError: a tensor without prior precision, a precision or noise that is not positive and finite, an
            unknown likelihood.
    """
    likelihood_of(likelihood)
    missing = [name for name in factors.names if name not in prior_precision]
    if missing:
        raise ValueError(
            f"no prior precision for {', '.join(missing)}; give a positive value for each tensor"
        )
    for name in factors.names:
        _expect_positive(f"the prior precision of {name}", prior_precision[name])
    _expect_positive("sigma_noise", sigma_noise)
    return EvidenceModel(factors, squared_norms(model), likelihood).terms(prior_precision, sigma_noise)


def _expect_positive(what: str, value: Tensor | float) -> None:
    number = float(torch.as_tensor(value).detach())
    if not 0 < number < math.inf:
        raise ValueError(f"{what} must be positive and finite, got {number}")
