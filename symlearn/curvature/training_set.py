"""Curvature over a training set, as the configuration asks for it.

Kronecker factors always; their eigenvalues as they are, or corrected (EKFAC) in the factors' own basis or in
that of the exact blocks' partial traces, for a sharper evidence at the price of one or two more passes.

Where several processes share a pass, each looks at its part of the images, and sums and spectra are those of
one process; but for the drawn columns of a `sketch` or `mc` Fisher, which every process draws for itself.

Axes: batch, c, h, w, params.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kfac import (
    EigenFactors,
    KroneckerFactors,
    Place,
    compute_factors,
    compute_gram,
    correct_eigenvalues,
    partial_trace_basis,
)
from symlearn.config import Config
from symlearn.curvature.coverage import diagonal_blocks, seen
from symlearn.curvature.whole import columns_of, uses_whole
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.evidence.whole import WholeEvidence
from symlearn.ranks import ALONE, Ranks


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


def own_batches(config: Config, data: SamplesLike, ranks: Ranks) -> dict[str, Any]:
    """This process' part of the images as batches, and whom a pass is shared with: arguments of passes."""
    samples, size = samples_of(data), config.curvature.batch_size
    shared = ranks.over(len(samples))
    place = Place(shared.share.of(len(samples))[0], len(samples), size)
    return {
        "loader": samples.batches(size, shared.share),
        "process_group": shared.group,
        "place": place if shared.size > 1 else None,
    }


def training_factors(
    model: nn.Module, config: Config, data: SamplesLike, ranks: Ranks = ALONE
) -> KroneckerFactors:
    """Kronecker factors over `data` at the present weights; `ranks` share the pass."""
    given = {**curvature_options(model, config), **own_batches(config, data, ranks)}
    with seen(model, config.curvature):
        return compute_factors(model, likelihood=config.data.likelihood, **given)


def corrected(
    model: nn.Module, config: Config, data: SamplesLike, basis: EigenFactors, ranks: Ranks
) -> EigenFactors:
    """Eigenvalues corrected in a basis."""
    given = {**column_options(config), **own_batches(config, data, ranks)}
    return correct_eigenvalues(model, likelihood=config.data.likelihood, eigen=basis, **given)


def in_own_basis(
    model: nn.Module, config: Config, data: SamplesLike, factors: KroneckerFactors, ranks: Ranks
) -> EigenFactors:
    """EKFAC: corrected in the factors' basis."""
    basis = factors.eigendecompose(vectors=True, process_group=ranks.group)
    return corrected(model, config, data, basis, ranks)


def in_partial_traces(
    model: nn.Module, config: Config, data: SamplesLike, factors: KroneckerFactors, ranks: Ranks
) -> EigenFactors:
    """Corrected in the basis of the exact blocks' partial traces."""
    options = {**column_options(config), "fallback": diagonal_blocks(model, config.curvature)}
    options |= own_batches(config, data, ranks)
    basis = partial_trace_basis(model, likelihood=config.data.likelihood, **options)
    return corrected(model, config, data, basis, ranks)


CORRECTIONS: dict[str, Callable[[nn.Module, Config, SamplesLike, KroneckerFactors, Ranks], EigenFactors]] = {
    "corrected": in_own_basis,
    "partial-traces": in_partial_traces,
}


def spectra(
    model: nn.Module,
    config: Config,
    data: SamplesLike,
    factors: KroneckerFactors,
    vectors: bool = False,
    ranks: Ranks = ALONE,
) -> EigenFactors:
    """Eigenvalues as the configuration asks for them; corrected ones always with their vectors.

    Returns:
        Spectra by parameter name, in float64, of the data that the factors are of.

    Raises:
        ValueError: eigenvalues are to be corrected of a weight that is used in several roles.
    """
    choice = config.curvature.eigenvalues
    if choice == "kronecker":
        return factors.eigendecompose(vectors, ranks.group)
    with seen(model, config.curvature):
        return CORRECTIONS[choice](model, config, data, factors, ranks)


def curvature_of(
    model: nn.Module,
    config: Config,
    data: SamplesLike,
    ranks: Ranks = ALONE,
    n_data: int | None = None,
) -> EvidenceModel:
    """Curvature over the training set at the present weights.

    Args:
        model: the network.
        config: says how the curvature is computed.
        data: the training set.
        ranks: who share the passes and the eigendecompositions, all with the same network and data.
        n_data: how many images the training set has, where `data` are a part of it.

    Returns:
        The evidence as a function of precisions and noise, the weights fixed.

    Raises:
        ValueError: as `spectra`.
    """
    likelihood = config.data.likelihood
    samples = samples_of(data)
    if uses_whole(model, config, samples, ranks, n_data):
        with seen(model, config.curvature):
            loader = list(samples.batches(config.curvature.batch_size))
            columns = columns_of(model, config, samples)
            grams = compute_gram(model, loader, likelihood, columns, config.training.seed)
            return WholeEvidence.of(model, grams, likelihood)
    factors = training_factors(model, config, data, ranks)
    eigen = spectra(model, config, data, factors, ranks=ranks)
    return EvidenceModel(factors, squared_norms(model), config.data.likelihood, eigen)
