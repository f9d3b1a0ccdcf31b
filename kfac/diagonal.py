"""The exact diagonal of a parameter's curvature block, by autograd: the declared fallback.

Every datum gets a copy of the parameter of its own, so one backward pass a column gives all data's gradients.

Axes: batch, column, classes, params.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

MEMORY = 2**27  # bytes that the gradients of one chunk of data may take


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
    size = max(MEMORY // sum(p.numel() * p.element_size() for p in values.values()), 1)
    sums = {name: p.new_zeros(p.numel()) for name, p in values.items()}
    for part, cotangents in zip(x.split(size), columns.split(size, 1), strict=True):
        for gradients in _by_datum(model, values, part, cotangents):
            sums = {name: total + gradients[name].square().sum(0).flatten() for name, total in sums.items()}
    return sums


def _by_datum(
    model: nn.Module, values: dict[str, Tensor], x: Tensor, columns: Tensor
) -> Iterator[dict[str, Tensor]]:
    """Gradients `[batch, *shape]` by name, for every column."""

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        def output(own: dict[str, Tensor], datum: Tensor) -> Tensor:
            result: Tensor = functional_call(model, own, (datum.unsqueeze(0),))[0]
            return result

        return vmap(output)(parameters, x)

    own = {name: p.expand(len(x), *p.shape) for name, p in values.items()}
    pull_back = vjp(outputs, own)[1]
    for column in columns:
        yield pull_back(column)[0]
