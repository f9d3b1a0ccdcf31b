"""Square roots of the loss Hessian with respect to the network's outputs.

For one datum the Hessian of the negative log-likelihood at outputs f is Lambda. Every function here returns
columns S `[column, batch, classes]` with sum_k s_k s_k^T equal to Lambda, or to it in expectation:

- classification, p = softmax(f): Lambda = diag(p) - p p^T (Martens & Grosse 2015, section 6);
- regression with unit noise: Lambda = I (the noise enters later, as H / sigma^2).

Axes: column, batch, classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from kfac.checks import has_values
from kfac.errors import NonFiniteError

Likelihood = Literal["classification", "regression"]
FisherType = Literal["type-2", "mc", "empirical", "sketch"]


def exact_classification(f: Tensor) -> Tensor:
    """Exact square root diag(sqrt p) Q of the softmax's loss Hessian.

    Q is an orthonormal basis of the complement of sqrt(p): the columns of the Householder reflection that
    sends sqrt(p) to the last axis, without that axis' own column.

    Returns:
        Columns `[classes - 1, batch, classes]`, one fewer than there are classes.
    """
    root = f.softmax(-1).clamp_min(torch.finfo(f.dtype).tiny).sqrt()  # a slope at 0 would be infinite
    axis = torch.zeros_like(root)
    axis[:, -1] = 1.0
    v = root + axis  # never cancels: sqrt(p) >= 0
    reflection = torch.eye(f.shape[-1], dtype=f.dtype, device=f.device) - (
        2 * v.unsqueeze(2) * v.unsqueeze(1) / v.square().sum(-1)[:, None, None]
    )
    return (root.unsqueeze(2) * reflection[:, :, :-1]).permute(2, 0, 1)


def exact_regression(f: Tensor) -> Tensor:
    """Columns of the identity, `[outputs, batch, outputs]`."""
    outputs = f.shape[-1]
    return torch.eye(outputs, dtype=f.dtype, device=f.device).unsqueeze(1).expand(outputs, *f.shape)


def sampled_classification(f: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Monte-Carlo columns (p - e_y) / sqrt(M), y ~ p, `[M, batch, classes]`."""
    p = f.softmax(-1)
    drawn = torch.multinomial(p, samples, replacement=True, generator=generator)
    columns = p.unsqueeze(1) - torch.nn.functional.one_hot(drawn, f.shape[-1]).to(f.dtype)
    return columns.transpose(0, 1) / samples**0.5


def sampled_regression(f: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Monte-Carlo columns eps / sqrt(M), eps ~ N(0, I), `[M, batch, outputs]`."""
    noise = torch.randn(samples, *f.shape, dtype=f.dtype, device=f.device, generator=generator)
    return noise / samples**0.5


def sketched(exact: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Random-sign mixtures of the exact columns `[column, batch, classes]`.

    s = sum_k eps_k s_k / sqrt(M) with independent signs eps: unbiased like Monte-Carlo labels, but every
    draw carries the datum's full curvature, where a drawn label of a confident datum carries almost none.

    Returns:
        `[M, batch, classes]`, M = `samples`, whose outer products sum to the loss Hessian on average.
    """
    signs = torch.randint(0, 2, (samples, *exact.shape[:2]), generator=generator, device=exact.device)
    signs = signs.to(exact.dtype).mul_(2).sub_(1)
    return torch.einsum("mkb,kbc->mbc", signs, exact) / samples**0.5


def empirical_classification(f: Tensor, y: Tensor) -> Tensor:
    """The gradient of the negative log-likelihood at the observed label, `[1, batch, classes]`."""
    return (f.softmax(-1) - torch.nn.functional.one_hot(y, f.shape[-1]).to(f.dtype)).unsqueeze(0)


def empirical_regression(f: Tensor, y: Tensor) -> Tensor:
    """The residual f - y, `[1, batch, outputs]`."""
    return (f - y.reshape(f.shape)).to(f.dtype).unsqueeze(0)


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "classification": exact_classification,
    "regression": exact_regression,
}
SAMPLED = {"classification": sampled_classification, "regression": sampled_regression}
EMPIRICAL = {"classification": empirical_classification, "regression": empirical_regression}


def square_root(
    f: Tensor,
    y: Tensor,
    likelihood: Likelihood,
    fisher_type: FisherType = "type-2",
    mc_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Columns `[column, batch, classes]` of the chosen curvature type; see the module's notation."""
    if fisher_type == "type-2":
        return EXACT[likelihood](f)
    if fisher_type == "mc":
        return SAMPLED[likelihood](f, mc_samples, generator)
    if fisher_type == "sketch":
        return sketched(EXACT[likelihood](f), mc_samples, generator)
    return EMPIRICAL[likelihood](f, y)


def check_outputs(f: Tensor, y: Tensor, likelihood: Likelihood) -> None:
    """Reject outputs and targets that do not fit the likelihood, in one line."""
    if f.dim() != 2:
        raise ValueError(f"the network must return [batch, classes], got shape {tuple(f.shape)}")
    if y.device != f.device:
        raise ValueError(
            f"targets are on {y.device} and outputs on {f.device}; move the targets with .to(device)"
        )
    if not has_values(f):
        return
    if not torch.isfinite(f).all():
        raise NonFiniteError("the network's outputs are not finite; curvature would be meaningless")
    if likelihood == "classification":
        if f.shape[1] < 2:
            raise ValueError(
                "classification needs at least two outputs (softmax of one is constant), got one"
            )
        if y.shape != f.shape[:1] or y.dtype != torch.int64:
            raise ValueError(
                f"classification needs integer labels [batch], got {y.dtype} {tuple(y.shape)}; give every "
                "datum the number of its class, from 0"
            )
        if len(y) and not (int(y.min()) >= 0 and int(y.max()) < f.shape[1]):
            raise ValueError(
                f"labels run from {int(y.min())} to {int(y.max())}, but the network has {f.shape[1]} classes"
            )
    elif y.dtype == torch.bool or y.is_complex():
        raise ValueError(f"regression needs real targets, got {y.dtype}; convert them to numbers")
    elif y.reshape(len(y), -1).shape != f.shape:
        raise ValueError(f"regression targets {tuple(y.shape)} do not match the outputs {tuple(f.shape)}")


def log_likelihood(f: Tensor, y: Tensor, likelihood: Likelihood) -> Tensor:
    """Summed log-likelihood (classification), or -1/2 of the squared residuals (regression); float64."""
    if likelihood == "classification":
        return -torch.nn.functional.cross_entropy(f.double(), y, reduction="sum")
    return -0.5 * (f.double() - y.reshape(f.shape).double()).square().sum()
