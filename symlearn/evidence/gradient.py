"""Gradients of the evidence with respect to hyperparameters that layers declare, at fixed weights.

On a subset of n of the N data, every sum over data counts N / n times (Immer et al. 2023). Two estimators:

- `full`: through the outputs into the log-likelihood, and through the factors into log det(H + delta I); one
  differentiable curvature pass over the subset.
- `local`: through the outputs into the log-likelihood; into the log determinant only by the bases of the
  weights, with A and B at the bases' points held fixed: H = (Phi1 A Phi1^T) (x) (Phi2 B Phi2^T). Cheaper,
  and blind to how a layer's basis changes the inputs and gradients of others. Where something declared
  moves the network's own inputs (ranges of transformations), A follows, B stays fixed.

The weights' norms do not depend on hyperparameters; the volume's P log delta does not either.

Axes: batch, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
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
    renew_input_factors,
)
from symlearn.data.samples import Held, Pairs, SamplesLike, samples_of, seeded_order
from symlearn.evidence.jackknife import CHUNKS, Jackknife
from symlearn.evidence.laplace import Evidence, EvidenceModel, squared_norms
from symlearn.evidence.likelihood import likelihood_of
from symlearn.layers.declared import Hyperparameter, hyperparameters_of, tracked

Estimator = Literal["full", "local"]


class NonFiniteGradientError(ValueError):
    """The gradient of a hyperparameter is not finite; it is named."""


def subset(data: SamplesLike, size: int, seed: int) -> tuple[Pairs, float]:
    """A seeded draw of `size` data without replacement, and the scale N / n that stands for the rest."""
    samples = samples_of(data)
    n = len(samples)
    size = min(size, n)
    return samples.subset(seeded_order(n, seed)[:size]).whole(), n / size


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
        return list(Held(*self.data).batches(self.batch_size))

    def _factors(self, how: dict[str, bool]) -> KroneckerFactors:
        options: dict[str, Any] = {**self.curvature, **how}
        return compute_factors(self.model, self._batches(), self.likelihood, **options).scaled(self.scale)

    def terms(self, factors: KroneckerFactors) -> Evidence:
        """The evidence of scaled factors, with its terms apart."""
        model = EvidenceModel(factors, squared_norms(self.model), self.likelihood)
        return model.terms(self.prior_precision, self.sigma_noise)

    def full(self) -> Tensor:
        """The log evidence, differentiable through outputs and factors; float64."""
        return self.terms(self._factors({"differentiable": True})).total

    def frozen(self) -> KroneckerFactors:
        """A and B at the bases' points and at the present hyperparameters, for `local`."""
        with torch.no_grad():
            return self._factors({"at_full_resolution": True})

    def volume(self, frozen: KroneckerFactors) -> Tensor:
        """1/2 sum P log delta - 1/2 log det(H + delta I) through bases and moved inputs alone; B is fixed."""
        if any(one.moves_inputs for one in hyperparameters_of(self.model).values()):
            sharing = self.curvature.get("weight_sharing", "expand")
            given = (self.model, self._batches(), self.likelihood, frozen, sharing)
            frozen = renew_input_factors(*given, at_full_resolution=True)
        return self.terms(project_factors(self.model, frozen)).volume

    def fit(self) -> Tensor:
        """The scaled log-likelihood, differentiable through the outputs; without the noise's own term."""
        with evaluated(self.model), differentiable_kernels(self.model):
            total = sum(log_likelihood(self.model(x), y, self.likelihood) for x, y in self._batches())
        noise = likelihood_of(self.likelihood).variance(self.sigma_noise)
        assert isinstance(total, Tensor)
        return self.scale * total / noise

    def local(self, frozen: KroneckerFactors) -> Tensor:
        """The log evidence with A and B fixed as `volume` says, up to what no hyperparameter changes."""
        return self.fit() + self.volume(frozen)


def evidence_gradients(
    objective: HyperObjective, declared: Mapping[str, Hyperparameter], estimator: Estimator = "full"
) -> dict[str, Tensor]:
    """Gradient of the log evidence, hyperpriors included.

    Returns:
        Nats a unit of the hyperparameter, of its shape, by name; those that nothing uses are missing.

    Raises:
        NonFiniteGradientError: a gradient is not finite.
        ValueError: an unknown estimator, or `local` for a hyperparameter that is not part of a basis.
    """
    found = unchecked_gradients(objective, declared, estimator)
    for name, gradient in found.items():
        if not torch.isfinite(gradient).all():
            raise NonFiniteGradientError(
                f"the evidence's gradient with respect to {name} is not finite; lower hyper_lr or fix the "
                "hyperparameter (learn)"
            )
    return found


def unchecked_gradients(
    objective: HyperObjective, declared: Mapping[str, Hyperparameter], estimator: Estimator = "full"
) -> dict[str, Tensor]:
    """The same, finite or not, which shapes alone cannot tell.

    Raises:
        ValueError: an unknown estimator, or `local` for a hyperparameter that is not part of a basis.
    """  # noqa: DOC201, the first line says it
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
            gradients = _together(_gradients(objective.fit, values), volume, declared)
        for k, d in enumerate(declared.values()):
            if gradients[k] is not None:
                gradients[k] = _sum(gradients[k], _hyperprior_gradient(d))
    return {name: g for name, g in zip(declared, gradients, strict=True) if g is not None}


def sampled_gradients(
    objective: HyperObjective, declared: Mapping[str, Hyperparameter], estimator: Estimator = "full"
) -> dict[str, Jackknife]:
    """Estimate `evidence_gradients` with their error: from all chunks of the data, and from all but each one.

    Raw sums of the chunks are summed up in every such way, so that all have the same drawn columns.

    Args:
        objective: on a subset in random order, whose first `CHUNKS` chunks of equal size count.
        declared: the hyperparameters.
        estimator: as for `evidence_gradients`.

    Returns:
        Nats a unit of the hyperparameter by name, float64, of its shape, and `[chunk, *shape]` without each
        chunk; those that nothing uses are missing.

    Raises:
        ValueError: as `evidence_gradients`; fewer data than chunks.
    """
    size = len(objective.data[0]) // CHUNKS
    if size < 1:
        raise ValueError(f"expected at least {CHUNKS} data, one a chunk, got {len(objective.data[0])}")
    if estimator not in ("full", "local"):
        raise ValueError(f"unknown estimator {estimator!r}; choose 'full' or 'local'")
    n, used = objective.scale * len(objective.data[0]), CHUNKS * size
    seed = objective.curvature.get("seed")
    chunks = [
        replace(
            objective,
            data=Held(*objective.data).subset(torch.arange(c * size, (c + 1) * size)).whole(),
            scale=1.0,
            curvature={**objective.curvature, "seed": None if seed is None else seed + c},
        )
        for c in range(CHUNKS)
    ]
    values = [d.value for d in declared.values()]
    if not values:
        return {}
    full = estimator == "full"
    with tracked(values), torch.enable_grad():
        sums = [chunk._factors({"differentiable": True}) if full else chunk.frozen() for chunk in chunks]
        fits = [] if full else [chunk.fit() for chunk in chunks]

        def of(kept: list[int]) -> list[Tensor | None]:
            scale = n / (len(kept) * size)
            total = reduce(add, [sums[c] for c in kept]).scaled(scale)
            if full:
                return _gradients(lambda: objective.terms(total).total, values, keep=True)
            volume = _gradients(lambda: objective.volume(total), values, keep=True)
            fit = _gradients(lambda: scale * torch.stack([fits[c] for c in kept]).sum(), values, keep=True)
            return _together(fit, volume, declared)

        whole = of([*range(CHUNKS)])
        without = [of([k for k in range(CHUNKS) if k != c]) for c in range(CHUNKS)]
        priors = [_hyperprior_gradient(d) for d in declared.values()]
    found = {}
    for k, (name, prior) in enumerate(zip(declared, priors, strict=True)):
        one, rest = whole[k], [g for left in without if (g := left[k]) is not None]
        if one is not None and len(rest) == CHUNKS:
            shifted = [(g if prior is None else g + prior).double() for g in (one, *rest)]
            found[name] = Jackknife(shifted[0], torch.stack(shifted[1:]), min(used / n, 1.0))
    return found


def _together(
    fit: list[Tensor | None], volume: list[Tensor | None], declared: Mapping[str, Hyperparameter]
) -> list[Tensor | None]:
    """Sum both parts of the local estimator.

    Returns:
        A gradient a declared hyperparameter, in their order; None where nothing uses it.

    Raises:
        ValueError: a hyperparameter that is not part of a basis.
    """
    for name, through_outputs, through_bases in zip(declared, fit, volume, strict=True):
        if through_outputs is not None and through_bases is None:
            raise ValueError(
                f"the local estimator sees bases of weights and moved inputs only, and {name} is not part of "
                "one; use the full one"
            )
    return [_sum(a, b) for a, b in zip(fit, volume, strict=True)]


def _hyperprior_gradient(declared: Hyperparameter) -> Tensor | None:
    """Of the log density of the hyperprior; None without one."""
    if declared.log_prior is None:
        return None
    return torch.autograd.grad(declared.log_prior(declared.value).sum(), declared.value)[0]


def _gradients(total: Callable[[], Tensor], values: list[Tensor], keep: bool = False) -> list[Tensor | None]:
    """Gradients of a scalar, its graph kept or not; None where it does not depend on a value."""
    value = total()
    if not value.requires_grad:
        return [None] * len(values)
    return list(torch.autograd.grad(value, values, allow_unused=True, retain_graph=keep))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
