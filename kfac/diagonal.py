"""The exact diagonal of a parameter's curvature block, by autograd: the declared fallback.

Axes: batch, column, classes, params.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap


def exact_diagonals(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, columns: Tensor
) -> dict[str, Tensor]:
    """diag(sum_n J_n^T Lambda_n J_n) `[params]` of the given parameters, over one batch.

    Args:
        model: maps x to outputs `[batch, classes]`.
        parameters: the ones asked for, by name.
        x: one batch.
        columns: of the loss Hessian's square root, `[column, batch, classes]`.
    """
    values = {name: p.detach() for name, p in parameters.items()}

    def outputs(own: dict[str, Tensor], datum: Tensor) -> Tensor:
        return functional_call(model, own, (datum.unsqueeze(0),))[0]

    jacobians = vmap(jacrev(outputs), in_dims=(None, 0))(values, x)  # [batch, classes, *shape]
    return {
        name: torch.einsum("kbc,bcp->kbp", columns, j.reshape(*j.shape[:2], -1)).square().sum((0, 1))
        for name, j in jacobians.items()
    }
