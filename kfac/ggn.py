"""The exact generalized Gauss-Newton block of one parameter: the dense oracle every rule is held against.

H = sum_n J_n^T Lambda_n J_n with J_n `[classes, params]` the Jacobian of datum n's outputs and Lambda_n the
loss Hessian there (Schraudolph 2002). Memory grows as batch * classes * params: for toy sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from kfac.loss_hessian import Likelihood, square_root


def output_jacobian(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """J `[batch, classes, params]` of the outputs with respect to one parameter, in its flatten() order.

    Raises:
        ValueError: the model has no parameter of that name.
    """
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    if name not in parameters:
        raise ValueError(f"no parameter {name!r}; there are: {', '.join(parameters)}")

    def outputs(parameter: Tensor) -> Tensor:
        return functional_call(model, {**parameters, name: parameter}, (x,))

    jacobian = jacrev(outputs)(parameters[name])
    return jacobian.reshape(jacobian.shape[0], jacobian.shape[1], -1)


def ggn_block(model: nn.Module, batch: tuple[Tensor, Tensor], likelihood: Likelihood, name: str) -> Tensor:
    """Exact GGN block `[params, params]` of the summed negative log-likelihood over `batch` (unit noise)."""
    x, y = batch
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            columns = square_root(model(x), y, likelihood)
        jacobian = output_jacobian(model, x, name)
    finally:
        for module, mode in modes.items():
            module.training = mode
    rooted = torch.einsum("kbc,bcp->kbp", columns, jacobian).flatten(0, 1)
    return rooted.mT @ rooted
