"""The exact diagonal of a parameter's curvature block, by autograd: the declared fallback.

Every datum gets a copy of the parameter of its own, so one backward pass a column gives all data's gradients.

Axes: batch, column, classes, params.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
        _, pull_back = gradients_by_datum(model, values, part)
        for column in cotangents:
            gradients = pull_back(column)
            sums = {name: total + gradients[name].square().sum(0).flatten() for name, total in sums.items()}
    return sums


def gradients_by_datum(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, known: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Callable[[Tensor], dict[str, Tensor]]]:
    """Outputs `[batch, classes]`, and what maps a cotangent of theirs to every datum's own gradients.

    Args:
        model: in `eval` mode.
        parameters: values by name, whose gradients `[batch, *shape]` are wanted.
        x: data `[batch, ...]`.
        known: values of other parameters; None takes the model's own.
    """

    def outputs(copies: dict[str, Tensor]) -> Tensor:
        def output(own: dict[str, Tensor], datum: Tensor) -> Tensor:
            result: Tensor = functional_call(model, {**(known or {}), **own}, (datum.unsqueeze(0),))[0]
            return result

        return vmap(output)(copies, x)

    f, pull_back, *_ = vjp(outputs, {name: p.expand(len(x), *p.shape) for name, p in parameters.items()})
    return f, lambda cotangent: pull_back(cotangent)[0]
