"""The exact diagonal of a parameter's curvature block, by autograd: the declared fallback.

Every datum gets a copy of the parameter of its own, so one backward pass a column gives all data's gradients.
What `vmap` cannot batch (recurrent layers, autograd functions without a rule for it, branches on values) goes
datum by datum instead, one backward pass a column and datum: the same numbers, slower.

Axes: batch, column, classes, params.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac.checks import explained_backward, has_values, one_line
from kfac.loss_hessian import Columns
from kfac.modes import differentiable_kernels
from kfac.precision import accumulated, raised, working_type

MEMORY = 2**27  # bytes that the gradients of one chunk of data may take
PullBack = Callable[[Tensor], dict[str, Tensor]]  # cotangent [batch, classes] -> gradients [batch, *shape]


def exact_diagonals(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, columns: Columns
) -> dict[str, Tensor]:
    """Diagonals of the GGN blocks of some parameters over one batch, diag(sum_n J_n^T Lambda_n J_n).

    Args:
        model: maps x to outputs `[batch, classes]`.
        parameters: the ones asked for, by name.
        x: one batch.
        columns: of the loss Hessian's square root.

    Returns:
        `[params]` by parameter name, in flatten() order, float64.

    Raises:
        ValueError: the network has no gradients datum by datum.
    """
    values = {name: p.detach() for name, p in parameters.items()}
    size = max(MEMORY // sum(p.numel() * working_type(p.dtype).itemsize for p in values.values()), 1)
    sums = {name: p.new_zeros(p.numel(), dtype=torch.float64) for name, p in values.items()}
    for part, cotangents in zip(x.split(size), columns.split(size), strict=True):
        try:
            chunk = squares(*side_by_side(model, values, part), cotangents)
        except Exception:  # noqa: BLE001, whatever vmap and the user's code under it raise
            if not has_values(part):  # shapes alone: one datum holds what each would
                part, cotangents = part[:1], cotangents.of_data(slice(1))
            one_by_one = zip(datum_by_datum(model, values, part), cotangents.split(1), strict=True)
            chunk = {name: torch.zeros_like(total) for name, total in sums.items()}
            for (f, pull_back), own in one_by_one:
                for name, square in squares(f, pull_back, own).items():
                    chunk[name] = accumulated(chunk[name], square)
        sums = {name: accumulated(total, chunk[name]) for name, total in sums.items()}
    return sums


def squares(f: Tensor, pull_back: PullBack, columns: Columns) -> dict[str, Tensor]:
    """Square gradients, and sum over data and columns.

    Args:
        f: outputs `[batch, classes]`, of which only the type counts.
        pull_back: from cotangents of f to gradients.
        columns: of these data.

    Returns:
        `[params]` by parameter name.
    """
    sums: dict[str, Tensor] = {}
    for column in columns:
        for name, rows in rows_of(f, pull_back, column).items():
            sums[name] = accumulated(sums.get(name), rows.square().sum(0).flatten())
    return sums


def rows_of(f: Tensor, pull_back: PullBack, column: Tensor) -> dict[str, Tensor]:
    """Pull one column back, datum by datum.

    Below float64 cotangents are raised (`kfac.precision`): what lies inside the network may be float16.

    Returns:
        Gradients `[batch, *shape]` by parameter name, in float32 at least.
    """
    if f.dtype == torch.float64:
        return pull_back(column)
    grads, lowered = raised(
        column,
        lambda cotangent: pull_back(cotangent.to(f.dtype)),
        lambda found: found.values(),
    )
    return {name: lowered(rows) for name, rows in grads.items()}


def gradients_by_datum(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, known: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, PullBack]:
    """A network's outputs, and the way back from them to every datum's own gradients.

    Args:
        model: in `eval` mode.
        parameters: values by name, whose gradients `[batch, *shape]` are wanted.
        x: data `[batch, ...]`.
        known: values of other parameters; None takes the model's own.

    Returns:
        Outputs `[batch, classes]`, and a function from a cotangent `[batch, classes]` to gradients by
        parameter name, `[batch, *shape]`. Where `vmap` fails, one datum after the other.

    Raises:
        ValueError: the network has no gradients datum by datum.
    """

    @functools.cache
    def one_by_one() -> list[tuple[Tensor, PullBack]]:
        return list(datum_by_datum(model, parameters, x, known))

    def separately(cotangent: Tensor) -> dict[str, Tensor]:
        parts = zip(one_by_one(), cotangent.split(1), strict=True)
        rows = [pull_back(own) for (_, pull_back), own in parts]
        return {name: torch.cat([row[name] for row in rows]) for name in parameters}

    def together(cotangent: Tensor) -> dict[str, Tensor]:
        try:
            return batched(cotangent)
        except Exception:  # noqa: BLE001, as below
            return separately(cotangent)

    try:
        f, batched = side_by_side(model, parameters, x, known)
    except Exception:  # noqa: BLE001, whatever vmap and the user's code under it raise
        return torch.cat([f_n for f_n, _ in one_by_one()]), separately
    return f, together


def side_by_side(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, known: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, PullBack]:
    """`gradients_by_datum` of all data at once, by `vmap`; raises what `vmap` does."""

    def outputs(copies: dict[str, Tensor]) -> Tensor:
        def output(own: dict[str, Tensor], datum: Tensor) -> Tensor:
            result: Tensor = functional_call(model, {**(known or {}), **own}, (datum.unsqueeze(0),))[0]
            return result

        return vmap(output)(copies, x)

    copies = {name: p.expand(len(x), *p.shape) for name, p in parameters.items()}
    with differentiable_kernels(model), sdpa_kernel(SDPBackend.MATH):  # the others have no rules for vmap
        f, pull_back, *_ = vjp(outputs, copies)
    return f, lambda cotangent: pull_back(cotangent)[0]


def datum_by_datum(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, known: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[Tensor, PullBack]]:
    """`gradients_by_datum` of one datum after the other, by autograd alone.

    Yields:
        Outputs `[1, classes]` of one datum, detached, and what maps their cotangent to gradients by name,
        `[1, *shape]`.

    Raises:
        ValueError: the network does not run on a single datum, or has no gradients.
    """
    for datum in x.split(1):
        own = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad(), differentiable_kernels(model), explained(own):
            f = functional_call(model, {**(known or {}), **own}, (datum,))
        yield f.detach(), functools.partial(gradients_of, f, own)


def gradients_of(f: Tensor, own: Mapping[str, Tensor], cotangent: Tensor) -> dict[str, Tensor]:
    """Gradients `[1, *shape]` of one datum's outputs `[1, classes]`; zero where they do not depend on it."""
    if not f.requires_grad:
        return {name: torch.zeros_like(p).unsqueeze(0) for name, p in own.items()}
    with explained(own):
        grads = torch.autograd.grad(
            f,
            list(own.values()),
            cotangent,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
            materialize_grads=True,
        )
    return {name: grad.unsqueeze(0) for name, grad in zip(own, grads, strict=True)}


@contextmanager
def explained(names: Collection[str]) -> Iterator[None]:
    """Say in one line that these parameters have no gradients datum by datum.

    Raises:
        ValueError: whatever else than memory a network fails on.
        OutOfMemoryError: there was not enough memory, passed on as it is.
    """
    try:
        with explained_backward():
            yield
    except (torch.OutOfMemoryError, ValueError):
        raise
    except Exception as error:
        first, *others = names
        them = f"{first!r} and {len(others)} more have" if others else f"{first!r} has"
        raise ValueError(
            f"{them} no gradients datum by datum, so no diagonal block ({one_line(error)}); freeze them, or "
            "in a fit of symlearn list them in curvature.left_out"
        ) from error
