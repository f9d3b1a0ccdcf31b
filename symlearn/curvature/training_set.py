"""Curvature over a training set, as the configuration asks for it.

Kronecker factors always; their eigenvalues as they are, or corrected (EKFAC) in the factors' own basis or in
that of the exact blocks' partial traces, for a sharper evidence at the price of one or two more passes.

Axes: batch, c, h, w, params.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kfac import EigenFactors, KroneckerFactors, compute_factors, correct_eigenvalues, partial_trace_basis
from symlearn.config import Config
from symlearn.curvature.coverage import diagonal_blocks, seen
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.laplace import EvidenceModel, squared_norms


def column_options(config: Config) -> dict[str, Any]:
    """How the loss Hessian's columns are found: arguments of every curvature pass."""
    curvature = config.curvature
    return {
        "fisher_type": curvature.fisher_type,
        "mc_samples": curvature.mc_samples,
        "seed": config.training.seed,
    }


def curvature_options(model: nn.Module, config: Config) -> dict[str, Any]:
    """The configuration's arguments of `kfac.compute_factors`."""
    curvature = config.curvature
    return {
        **column_options(config),
        "weight_sharing": curvature.weight_sharing,
        "group_factors": curvature.group_factors,
        "fallback": diagonal_blocks(model, curvature),
    }


def training_factors(model: nn.Module, config: Config, data: SamplesLike) -> KroneckerFactors:
    """Kronecker factors over `data` at the present weights."""
    loader = samples_of(data).batches(config.curvature.batch_size)
    with seen(model, config.curvature):
        return compute_factors(model, loader, config.data.likelihood, **curvature_options(model, config))


def corrected(model: nn.Module, config: Config, data: SamplesLike, basis: EigenFactors) -> EigenFactors:
    """Eigenvalues corrected in a basis."""
    loader = samples_of(data).batches(config.curvature.batch_size)
    return correct_eigenvalues(model, loader, config.data.likelihood, basis, **column_options(config))


def in_own_basis(
    model: nn.Module, config: Config, data: SamplesLike, factors: KroneckerFactors
) -> EigenFactors:
    """EKFAC: corrected in the factors' basis."""
    return corrected(model, config, data, factors.eigendecompose(vectors=True))


def in_partial_traces(
    model: nn.Module, config: Config, data: SamplesLike, factors: KroneckerFactors
) -> EigenFactors:
    """Corrected in the basis of the exact blocks' partial traces."""
    loader = samples_of(data).batches(config.curvature.batch_size)
    options = {**column_options(config), "fallback": diagonal_blocks(model, config.curvature)}
    basis = partial_trace_basis(model, loader, config.data.likelihood, **options)
    return corrected(model, config, data, basis)


CORRECTIONS: dict[str, Callable[[nn.Module, Config, SamplesLike, KroneckerFactors], EigenFactors]] = {
    "corrected": in_own_basis,
    "partial-traces": in_partial_traces,
}


def spectra(
    model: nn.Module, config: Config, data: SamplesLike, factors: KroneckerFactors, vectors: bool = False
) -> EigenFactors:
    """Eigenvalues as the configuration asks for them; corrected ones always with their vectors.

    Returns:
        Spectra by parameter name, in float64, of the data that the factors are of.

    Raises:
        ValueError: eigenvalues are to be corrected of a weight that is used in several roles.
    """
    choice = config.curvature.eigenvalues
    if choice == "kronecker":
        return factors.eigendecompose(vectors)
    with seen(model, config.curvature):
        return CORRECTIONS[choice](model, config, data, factors)


def curvature_of(model: nn.Module, config: Config, data: SamplesLike) -> EvidenceModel:
    """Curvature over the training set at the present weights.

    Returns:
        The evidence as a function of precisions and noise, the weights fixed.

    Raises:
        ValueError: as `spectra`.
    """
    factors = training_factors(model, config, data)
    eigen = spectra(model, config, data, factors)
    return EvidenceModel(factors, squared_norms(model), config.data.likelihood, eigen)
