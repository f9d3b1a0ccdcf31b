"""The exact generalized Gauss-Newton block of one parameter: the dense oracle every rule is held against.

H = sum_n J_n^T Lambda_n J_n with J_n `[classes, params]` the Jacobian of datum n's outputs and Lambda_n the
loss Hessian there (Schraudolph 2002). Memory grows as batch * classes * params: for toy sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac.batches import batch_of
from kfac.checks import prepared, run
from kfac.collect import Curvature
from kfac.loss_hessian import Likelihood, check_outputs, square_root
from kfac.precision import working


def output_jacobian(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """Jacobian of a model's outputs with respect to one parameter.

    Returns:
        J `[batch, classes, params]`, the parameter in its flatten() order.

    Raises:
        ValueError: the model has no parameter of that name.
    """
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    if name not in parameters:
        raise ValueError(f"no parameter {name!r}; there are: {', '.join(parameters)}")

    def outputs(parameter: Tensor) -> Tensor:
        return functional_call(model, {**parameters, name: parameter}, (x,))

    try:
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no rules for vmap
            jacobian = jacrev(outputs)(parameters[name])
    except Exception:  # noqa: BLE001, whatever torch.func and the user's code under it raise
        jacobian = row_by_row(outputs, parameters[name])
    return jacobian.reshape(jacobian.shape[0], jacobian.shape[1], -1)


def row_by_row(outputs: Callable[[Tensor], Tensor], parameter: Tensor) -> Tensor:
    """J `[batch, classes, *shape]` by one backward pass a datum and class, of what `torch.func` refuses."""
    own = parameter.detach().requires_grad_()
    with torch.enable_grad():
        f = outputs(own)
    if not f.requires_grad:
        return f.new_zeros(*f.shape, *own.shape)
    rows = [
        torch.autograd.grad(f_nc, own, retain_graph=True, materialize_grads=True)[0] for f_nc in f.flatten()
    ]
    return torch.stack(rows).reshape(*f.shape, *own.shape)


def ggn_block(model: nn.Module, batch: Any, likelihood: Likelihood, name: str) -> Tensor:
    """Exact GGN block of the summed negative log-likelihood over `batch` (unit noise).

    Args:
        model: evaluated in `eval` mode, left in the mode it was in.
        batch: (x, y), as for `compute_factors`.
        likelihood: "classification" or "regression".
        name: of the parameter.

    Returns:
        `[params, params]`, symmetric and positive semidefinite, in the parameter's flatten() order.

    Raises:
        ValueError: an unknown name, an empty batch, or data and networks as for `compute_factors`.
    """
    Curvature(likelihood)
    x, y = batch_of(batch, model, likelihood, "the batch")
    if not len(x):
        raise ValueError("the batch is empty; a block needs at least one datum")
    with prepared(model):
        with torch.no_grad():
            f = run(model, x)
        check_outputs(f, y, likelihood)
        columns = square_root(f, y, likelihood).stacked()
        jacobian = working(output_jacobian(model, x, name))
        rooted = torch.einsum("kbc,bcp->kbp", columns, jacobian).flatten(0, 1)
        return rooted.mT @ rooted
