"""A Kronecker basis from the exact block's own partial traces.

With a datum's gradients G = sum_r g_r a_r^T `[d_out, d_in]` over all columns of the loss Hessian's root, the
exact block H = sum vec(G) vec(G)^T has the partial traces

    A' = sum G^T G = tr_out H  [group, d_in, d_in],     B' = sum G G^T = tr_in H  [group, d_out, d_out]

and A' (x) B' / tr H is the Kronecker product that has the same ones (in Shampoo's terms its two
preconditioners: Gupta et al. 2018; as an eigenbasis, Vyas et al. 2024, "SOAP"). KFAC's A = sum a a^T counts
every datum alike; here a datum counts by how much curvature it carries, which on a trained network, sure of
most of its data, is far from alike. It costs one pass over the data, as the correction of eigenvalues does.

Axes: batch, group, place, d_in, d_out, params.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from kfac.batches import Batches, batches_of
from kfac.checks import prepared
from kfac.collect import Curvature
from kfac.datum_gradients import DatumGradients
from kfac.draws import Place, seeded_draws
from kfac.eigen import EigenBlock, EigenFactors, decompose_diagonal, symmetric_eigenvalues
from kfac.eigen_shares import Task, decomposed, eigen_cost
from kfac.loss_hessian import FisherType, Likelihood
from kfac.owners import Fallback, find_owners
from kfac.precision import accumulated
from kfac.process_groups import device_of, expect_same_network, ranks_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Sum = tuple[str, Literal["inner", "outer", "diagonal"]]
MEMORY = 2**27  # bytes that the gradients of one chunk of data may take


def partial_traces(a: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Partial traces of a batch's exact block, from the gradients G_n = sum_place g a^T of its data.

    Args:
        a: `[group, batch, place, d_in]`.
        g: `[group, batch, place, d_out]`.

    Yields:
        For one part of the batch after the other,
        sum_n G_n^T G_n `[group, d_in, d_in]` and sum_n G_n G_n^T `[group, d_out, d_out]`.
    """
    if a.shape[2] == 1:
        a, g = a[:, :, 0], g[:, :, 0]
        by_g, by_a = a * g.norm(dim=2, keepdim=True), g * a.norm(dim=2, keepdim=True)
        yield by_g.mT @ by_g, by_a.mT @ by_a
        return
    group, _, _, d_in = a.shape
    d_out = g.shape[3]
    size = max(MEMORY // (group * d_out * d_in * a.element_size()), 1)
    for a_n, g_n in zip(a.split(size, 1), g.split(size, 1), strict=True):
        gradient = g_n.mT @ a_n  # [group, batch, d_out, d_in]
        rows, columns = gradient.flatten(1, 2), gradient.transpose(2, 3).flatten(1, 2)
        yield rows.mT @ rows, columns.mT @ columns


def decompose(inner: Tensor, outer: Tensor) -> EigenBlock:
    """Spectrum of A' (x) B' / tr H, group by group."""
    in_values, in_vectors = symmetric_eigenvalues(inner, vectors=True)
    out_values, out_vectors = symmetric_eigenvalues(outer, vectors=True)
    trace = in_values.sum(1).clamp_min(torch.finfo(in_values.dtype).tiny)
    values = out_values.unsqueeze(2) * in_values.unsqueeze(1) / trace[:, None, None]
    return EigenBlock(values.flatten(), in_vectors, out_vectors)


def partial_trace_basis(
    model: nn.Module,
    loader: Batches,
    likelihood: Likelihood,
    fisher_type: FisherType = "type-2",
    mc_samples: int = 1,
    seed: int | None = None,
    fallback: Fallback | None = None,
    process_group: ProcessGroup | None = None,
    place: Place | None = None,
) -> EigenFactors:
    """Spectra with vectors of the Kronecker products that have the exact blocks' partial traces.

    Good by themselves, and a better basis than KFAC's own for `correct_eigenvalues`.

    Args:
        model: evaluated in `eval` mode, left in the mode it was in.
        loader: batches (x, y), as for `compute_factors`.
        likelihood: "classification" or "regression" (of unit noise).
        fisher_type: as for `compute_factors`.
        mc_samples: columns for "mc" and "sketch".
        seed: fixes the drawn columns.
        fallback: as for `compute_factors`.
        process_group: as for `compute_factors`; every process returns the same basis.
        place: as for `compute_factors`.

    Returns:
        A spectrum with vectors a parameter, in the model's order; declared diagonals as they are.

    Raises:
        ValueError: an uncovered parameter (named), an unused one, a weight in several roles, or data as for
            `compute_factors`.
    """
    ranks = ranks_of(process_group)
    curvature = ranks.together(lambda: Curvature(likelihood, fisher_type, mc_samples))

    def own_part() -> dict[Sum, Tensor]:
        owners, parameters, diagonal_names = find_owners(model, fallback or {})
        named = {name: parameters[name] for name in diagonal_names}
        draws = seeded_draws(device_of(model), seed, ranks.rank, place)
        gradients = DatumGradients(model, owners, named, curvature, draws)
        sums: dict[Sum, Tensor] = {}
        with prepared(model):
            for x, y in batches_of(loader, model, likelihood):
                columns, of_batch = gradients.of_batch(x, y)
                for name, diagonal in of_batch.items():
                    sums[name, "diagonal"] = accumulated(sums.get((name, "diagonal")), diagonal)
                for rows in columns:
                    for name, (a, g) in rows.items():
                        for inner, outer in partial_traces(a, g):
                            sums[name, "inner"] = accumulated(sums.get((name, "inner")), inner)
                            sums[name, "outer"] = accumulated(sums.get((name, "outer")), outer)
        return sums

    def options() -> dict[str, object]:
        return {**asdict(curvature), "diagonal": find_owners(model, fallback or {})[2], "seed": seed}

    expect_same_network(ranks, model, options)
    sums = ranks.summed(ranks.together(own_part), device_of(model))
    _, parameters, _ = find_owners(model, fallback or {})
    found = {name for name, _ in sums}
    unused = [name for name in parameters if name not in found]
    if unused:
        raise ValueError(f"{', '.join(unused)} never influenced an output; freeze or remove what is not used")
    tasks: dict[str, Task] = {}
    for name in parameters:
        if (name, "diagonal") in sums:
            tasks[name] = Task(0.0, functools.partial(decompose_diagonal, sums[name, "diagonal"]))
        else:
            inner, outer = sums[name, "inner"], sums[name, "outer"]
            cost = eigen_cost(*inner.shape[:2]) + eigen_cost(*outer.shape[:2])
            tasks[name] = Task(cost, functools.partial(decompose, inner, outer))
    return decomposed(ranks, tasks, device_of(model))
