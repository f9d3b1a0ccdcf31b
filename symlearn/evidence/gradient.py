"""Gradients of the evidence with respect to hyperparameters that layers declare, at fixed weights.

On a subset of n of the N data, every sum over data counts N / n times (Immer et al. 2023). Two estimators:

- `full`: through the outputs into the log-likelihood, and through the factors into log det(H + delta I); one
  differentiable curvature pass over the subset.
- `local`: through the outputs into the log-likelihood; into the log determinant only by the bases of the
  weights, with A and B at the bases' points held fixed: H = (Phi1 A Phi1^T) (x) (Phi2 B Phi2^T). Cheaper,
  and blind to how a layer's basis changes the inputs and gradients of others.

The weights' norms do not depend on hyperparameters; the volume's P log delta does not either.

Axes: batch, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kfac import (
    KroneckerFactors,
    Likelihood,
    compute_factors,
    differentiable_kernels,
    evaluated,
    log_likelihood,
    project_factors,
)
from symlearn.data.pairs import Pairs, batches, picked, seeded_order
from symlearn.evidence.jackknife import CHUNKS, Jackknife
from symlearn.evidence.laplace import Evidence, EvidenceModel, squared_norms
from symlearn.evidence.likelihood import likelihood_of
from symlearn.layers.declared import Hyperparameter, tracked

Estimator = Literal["full", "local"]


class NonFiniteGradientError(ValueError):
    """The gradient of a hyperparameter is not finite; it is named."""


def subset(data: Pairs, size: int, seed: int) -> tuple[Pairs, float]:
    """A seeded draw of `size` data without replacement, and the scale N / n that stands for the rest."""
    n = len(data[0])
    size = min(size, n)
    return picked(data, seeded_order(n, seed)[:size]), n / size


@dataclass
class HyperObjective:
    """The log evidence on a subset as a function of the declared hyperparameters.

    Attributes:
        model: the network, at fixed weights.
        data: the subset, x and y.
        prior_precision: delta by parameter name.
        likelihood: "classification" or "regression".
        sigma_noise: of a regression.
        scale: N / n.
        batch_size: data in a batch of the curvature pass.
        curvature: further arguments of `kfac.compute_factors` (fisher_type, seed, ...).
    """

    model: nn.Module
    data: Pairs
    prior_precision: Mapping[str, Tensor | float]
    likelihood: Likelihood = "classification"
    sigma_noise: float = 1.0
    scale: float = 1.0
    batch_size: int = 500
    curvature: dict[str, Any] = field(default_factory=dict)

    def _batches(self) -> list[Pairs]:
        return list(batches(self.data, self.batch_size))

    def _factors(self, how: dict[str, bool]) -> KroneckerFactors:
        options: dict[str, Any] = {**self.curvature, **how}
        return compute_factors(self.model, self._batches(), self.likelihood, **options).scaled(self.scale)

    def _terms(self, factors: KroneckerFactors) -> Evidence:
        model = EvidenceModel(factors, squared_norms(self.model), self.likelihood)
        return model.terms(self.prior_precision, self.sigma_noise)

    def full(self) -> Tensor:
        """The log evidence, differentiable through outputs and factors; float64."""
        return self._terms(self._factors({"differentiable": True})).total

    def frozen(self) -> KroneckerFactors:
        """A and B at the bases' points and at the present hyperparameters, for `local`."""
        with torch.no_grad():
            return self._factors({"at_full_resolution": True})

    def volume(self, frozen: KroneckerFactors) -> Tensor:
        """1/2 sum P log delta - 1/2 log det(H + delta I) with A and B fixed, through the bases alone."""
        return self._terms(project_factors(self.model, frozen)).volume

    def fit(self) -> Tensor:
        """The scaled log-likelihood, differentiable through the outputs; without the noise's own term."""
        with evaluated(self.model), differentiable_kernels(self.model):
            total = sum(log_likelihood(self.model(x), y, self.likelihood) for x, y in self._batches())
        noise = likelihood_of(self.likelihood).variance(self.sigma_noise)
        assert isinstance(total, Tensor)
        return self.scale * total / noise

    def local(self, frozen: KroneckerFactors) -> Tensor:
        """The log evidence with A and B fixed, up to what does not depend on hyperparameters."""
        return self.fit() + self.volume(frozen)


def evidence_gradients(
    objective: HyperObjective, declared: Mapping[str, Hyperparameter], estimator: Estimator = "full"
) -> dict[str, Tensor]:
    """Gradient of the log evidence, hyperpriors included, by hyperparameter; unused ones are left out.

    Raises:
        NonFiniteGradientError: a gradient is not finite.
        ValueError: an unknown estimator, or `local` for a hyperparameter that is not part of a basis.
    """
    if estimator not in ("full", "local"):
        raise ValueError(f"unknown estimator {estimator!r}; choose 'full' or 'local'")
    values = [d.value for d in declared.values()]
    if not values:
        return {}
    frozen = objective.frozen() if estimator == "local" else None
    with tracked(values), torch.enable_grad():
        if frozen is None:
            gradients = _gradients(objective.full, values)
        else:
            volume = _gradients(lambda: objective.volume(frozen), values)
            gradients = _gradients(objective.fit, values)
            for k, name in enumerate(declared):
                if gradients[k] is not None and volume[k] is None:
                    raise ValueError(
                        f"the local estimator sees bases of weights only, and {name} is not part of one; "
                        "use the full one"
                    )
                gradients[k] = _sum(gradients[k], volume[k])
        for k, d in enumerate(declared.values()):
            if d.log_prior is not None and gradients[k] is not None:
                prior = d.log_prior(d.value).sum()
                gradients[k] = _sum(gradients[k], torch.autograd.grad(prior, d.value)[0])
    found = {name: g for name, g in zip(declared, gradients, strict=True) if g is not None}
    for name, gradient in found.items():
        if not torch.isfinite(gradient).all():
            raise NonFiniteGradientError(
                f"the evidence's gradient with respect to {name} is not finite; lower hyper_lr or fix the "
                "hyperparameter (learn)"
            )
    return found


def sampled_gradients(
    objective: HyperObjective, declared: Mapping[str, Hyperparameter], estimator: Estimator = "full"
) -> dict[str, Jackknife]:
    """`evidence_gradients` with its error: from all of the objective's data, and from all but each chunk.

    Args:
        objective: on a subset in random order, whose first `CHUNKS` chunks of equal size count.
        declared: the hyperparameters.
        estimator: as for `evidence_gradients`, which this calls `CHUNKS` times more.

    Raises:
        ValueError: as `evidence_gradients`; fewer data than chunks.
    """
    size = len(objective.data[0]) // CHUNKS
    if size < 1:
        raise ValueError(f"expected at least {CHUNKS} data, one a chunk, got {len(objective.data[0])}")
    used, n = CHUNKS * size, objective.scale * len(objective.data[0])
    places = torch.arange(used)

    def of(kept: Tensor) -> dict[str, Tensor]:
        on = replace(objective, data=picked(objective.data, kept), scale=n / len(kept))
        return {name: g.detach().double() for name, g in evidence_gradients(on, declared, estimator).items()}

    whole = of(places)
    without = [of(places[(places // size) != c]) for c in range(CHUNKS)]
    return {
        name: Jackknife(value, torch.stack([one[name] for one in without]), min(used / n, 1.0))
        for name, value in whole.items()
    }


def _gradients(total: Callable[[], Tensor], values: list[Tensor]) -> list[Tensor | None]:
    """Gradients of a scalar; None where it does not depend on a value."""
    value = total()
    if not value.requires_grad:
        return [None] * len(values)
    return list(torch.autograd.grad(value, values, allow_unused=True))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
