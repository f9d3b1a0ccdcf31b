"""Eigenvalue correction: the exact diagonal of the curvature in a Kronecker eigenbasis.

A Kronecker-factored block A (x) B / rows has eigenvectors q_i = q_out (x) q_in; its eigenvalues are only as
good as the factorisation. In the same basis the Frobenius-nearest diagonal is (George et al. 2018, "Fast
approximate natural gradient descent in a Kronecker-factored eigenbasis", section 3)

    s_i = sum_n || q_i^T J_n^T sqrt(Lambda_n) ||^2 = q_i^T H q_i

with H the exact block, whose trace is kept. A datum's gradient is the sum over the places (and calls) that
use the weight, G = sum_r g_r a_r^T, so the products of different places count, which `expand` drops.

The correction is a second pass over the data. In one basis, corrected eigenvalues add over data.

Axes: batch, group, place, d_in, d_out, params.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kfac.batches import Batches, batches_of
from kfac.checks import prepared
from kfac.collect import Curvature
from kfac.datum_gradients import DatumGradients
from kfac.draws import Place, seeded_draws
from kfac.eigen import EigenBlock, EigenFactors
from kfac.loss_hessian import FisherType, Likelihood
from kfac.owners import Owner, find_owners
from kfac.process_groups import device_of, expect_same_network, ranks_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MEMORY = 2**27  # bytes that the gradients of one chunk of data may take


def rotated(rows: Tensor, vectors: Tensor | None) -> Tensor:
    """Rows `[group, batch, place, d]` in the basis `[group or 1, d, d]` (columns)."""
    return rows if vectors is None else rows @ vectors.to(rows.dtype).unsqueeze(1)


def squared_coordinates(a: Tensor, g: Tensor) -> Tensor:
    """Squares of the data's gradients, entry by entry, from their rows in the eigenbasis.

    Args:
        a: `[group, batch, place, d_in]`.
        g: `[group, batch, place, d_out]`.

    Returns:
        sum_n (sum_place g a^T)^2, `[group, d_out, d_in]`.
    """
    if a.shape[2] == 1:  # one place: the square of the product is the product of the squares
        return g[:, :, 0].square().mT @ a[:, :, 0].square()
    total = a.new_zeros(a.shape[0], g.shape[3], a.shape[3], dtype=torch.float64)
    size = max(MEMORY // (total.numel() * a.element_size()), 1)
    for a_n, g_n in zip(a.split(size, 1), g.split(size, 1), strict=True):
        total += (g_n.mT @ a_n).square().sum(1)
    return total


def fingerprint(block: EigenBlock) -> float:
    """A number that tells one basis from another, whatever the signs of its vectors."""
    total = 0.0
    for vectors in (block.input_vectors, block.output_vectors):
        if vectors is not None:
            places = torch.arange(1, vectors.shape[1] + 1, dtype=vectors.dtype, device=vectors.device)
            total += float((places @ vectors.abs() @ places).sum())
    return total


def correct_eigenvalues(
    model: nn.Module,
    loader: Batches,
    likelihood: Likelihood,
    eigen: EigenFactors,
    fisher_type: FisherType = "type-2",
    mc_samples: int = 1,
    seed: int | None = None,
    process_group: ProcessGroup | None = None,
    place: Place | None = None,
) -> EigenFactors:
    """The spectra with s_i = q_i^T H q_i in place of products of Kronecker eigenvalues (EKFAC).

    Args:
        model: the network that `eigen` belongs to; evaluated in `eval` mode, left in the mode it was in.
        loader: batches (x, y), as for `compute_factors`.
        likelihood: "classification" or "regression" (of unit noise).
        eigen: the basis, from `factors.eigendecompose(vectors=True)` or `partial_trace_basis`. Its own
            eigenvalues are not used, so the spectra of two halves of the data, in one basis, add to the
            whole's.
        fisher_type: as for `compute_factors`.
        mc_samples: columns for "mc" and "sketch".
        seed: fixes the drawn columns.
        process_group: as for `compute_factors`; the basis must be the same on all processes, as
            `factors.eigendecompose(vectors=True, process_group=...)` gives it.
        place: as for `compute_factors`.

    Returns:
        New spectra in the same basis, `[params]` float64 a tensor, summed over the data.

    Raises:
        ValueError: a decomposition without vectors, or of another network; a weight in several roles; data as
            for `compute_factors`; bases that differ between the processes.
    """
    ranks = ranks_of(process_group)

    def chosen() -> tuple[Curvature, list[Owner], dict[str, Tensor]]:
        curvature = Curvature(likelihood, fisher_type, mc_samples)
        if any(b.needs_vectors and b.output_vectors is None for b in eigen.blocks.values()):
            raise ValueError("decomposed without vectors; use eigendecompose(vectors=True)")
        axes = {name: "diagonal" for name, block in eigen.blocks.items() if not block.needs_vectors}
        owners, parameters, _ = find_owners(model, axes)
        differing = sorted(set(parameters) ^ set(eigen.names))
        if differing:
            raise ValueError(
                f"basis and model differ in {', '.join(differing)}; decompose factors of this model"
            )
        return curvature, owners, {name: parameters[name] for name in axes}

    curvature, owners, diagonal_parameters = ranks.together(chosen)

    def own_part() -> dict[str, Tensor]:
        gradients = DatumGradients(
            model,
            owners,
            diagonal_parameters,
            curvature,
            seeded_draws(device_of(model), seed, ranks.rank, place),
            lambda name, rows: rotated(rows, eigen.blocks[name].input_vectors),
            lambda name, rows: rotated(rows, eigen.blocks[name].output_vectors),
        )
        sums = {name: torch.zeros_like(values) for name, values in eigen.eigenvalues.items()}
        with prepared(model):
            for x, y in batches_of(loader, model, likelihood):
                columns, diagonals = gradients.of_batch(x, y)
                for name, diagonal in diagonals.items():
                    sums[name] += diagonal
                for rows in columns:
                    for name, (a, g) in rows.items():
                        sums[name] += squared_coordinates(a, g).flatten()
        return sums

    expect_same_network(ranks, model, lambda: {**asdict(curvature), "seed": seed})
    if ranks.size > 1:
        ranks.expect_close("the eigenvectors", sum(fingerprint(block) for block in eigen.blocks.values()))
    sums = ranks.summed(ranks.together(own_part), device_of(model))
    return EigenFactors(
        {name: replace(block, eigenvalues=sums[name]) for name, block in eigen.blocks.items()}
    )
