"""Networks whose outputs are averages over copies of a datum: f(x) = sum_k w_k network(T_k x), sum_k w_k = 1.

A module that runs its parts on several copies says so by `copy_weights` (`Averages`). Inside it every
module sees `batch * copy` rows, the copies of a datum side by side, while the loss has one output a datum.
So the curvature is that of the averaged output, J_n = sum_k w_k J_nk, pairs of different copies included.
With the rows a_k of copy k's inputs and g_k of its gradients, which hold w_k already, a place's gradient
sum_k g_k a_k^T is brought to one row (Immer et al. 2022; the `reduce` of Eschenhagen et al. 2023)

    a = sum_k w_k a_k,     g = sum_k g_k,

exact where the network behind the weight is linear, since then g_k = w_k g, and where all copies are alike.
What is dropped is sum_k (g_k - w_k g)(a_k - a)^T, which grows as copies differ: curvature is too small then,
and evidence too high: by 0.07, 0.18 and 0.38 nats an image against corrected eigenvalues, on MNIST turned by
up to +-45, 90 and 180 degrees (experiments/discovery/ranges.py, seed 1).
Places within a copy stay places. (Copies as places of their own, `expand`, would drop what pairs of copies
share: with k copies alike the curvature would be k times too small, and no range would be worth its price.)
What sums over places anyway (exact blocks, corrected eigenvalues) sums over copies too, without this.

Axes: batch, copy, group, place, d.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Averages(Protocol):
    """A module that averages its parts' outputs over copies of every datum, those of one side by side."""

    def copy_weights(self) -> Tensor:
        """Weights `[copy]`, summing to one; differentiable in what they depend on."""


def averages_around(model: nn.Module) -> dict[nn.Module, tuple[Averages, ...]]:
    """The averages that every module lies in, outermost first; modules in none are left out."""
    found: dict[nn.Module, tuple[Averages, ...]] = {}
    for module in model.modules():
        if isinstance(module, Averages):
            for part in module.modules():
                if part is not module:
                    found[part] = (*found.get(part, ()), module)
    return found


def joint_weights(averages: tuple[Averages, ...]) -> Tensor | None:
    """Weights `[copy]` of averages within averages, the innermost running fastest; None for none."""
    weights = None
    for average in averages:
        own = average.copy_weights()
        weights = own if weights is None else torch.kron(weights, own)
    return weights


def by_copy(rows: Tensor, copies: int, dim: int = 0) -> Tensor:
    """Rows `[..., batch * copy, ...]` as `[..., batch, copy, ...]`."""
    shape = rows.shape
    return rows.reshape(*shape[:dim], shape[dim] // copies, copies, *shape[dim + 1 :])


def mean_over_copies(x: Tensor, weights: Tensor | None) -> Tensor:
    """sum_k w_k x_k, `[batch * copy, ...] -> [batch, ...]`."""
    if weights is None:
        return x
    return torch.einsum("bk...,k->b...", by_copy(x, len(weights)), weights.to(x.dtype))


def sum_over_copies(x: Tensor, copies: int) -> Tensor:
    """sum_k x_k, `[batch * copy, ...] -> [batch, ...]`."""
    return x if copies == 1 else by_copy(x, copies).sum(1)


def copies_as_places(rows: Tensor, copies: int) -> Tensor:
    """Rows `[group, batch * copy, place, d]` as `[group, batch, copy * place, d]`."""
    return rows if copies == 1 else by_copy(rows, copies, 1).flatten(2, 3)
