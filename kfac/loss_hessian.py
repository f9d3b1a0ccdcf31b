"""Square roots of the loss Hessian with respect to the network's outputs, column by column.

For one datum the Hessian of the negative log-likelihood at outputs f is Lambda. Every function here returns
`Columns`, s `[batch, classes]` one at a time, with sum_k s_k s_k^T equal to Lambda, or to it in expectation:

- classification, p = softmax(f): Lambda = diag(p) - p p^T (Martens & Grosse 2015, section 6);
- regression with unit noise: Lambda = I (the noise enters later, as H / sigma^2).

The exact root of classification is S = diag(r) Q, r = sqrt(p), with Q an orthonormal basis of the complement
of r: the columns of the Householder reflection I - 2 v v^T / |v|^2 with v = r + e_last, which sends r to the
last axis, without that axis' own column. With 2 / |v|^2 = 1 / (1 + r_last),

    S_jk = r_j (delta_jk (r_last + 1 - p_k) - (1 - delta_jk) r_j r_k) / (1 + r_last)     j before the last
    S_jk = -r_last r_k                                                                   j the last

so a column, or the product of S with a vector, takes O(batch * classes) numbers and operations. Everything is
in float32 at least, and 1 - p is the sum of the other classes where one has nearly all: a datum that is
classified with confidence keeps its digits.

Axes: column, batch, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kfac.checks import has_values
from kfac.draws import Draws
from kfac.errors import NonFiniteError
from kfac.precision import working

Likelihood = Literal["classification", "regression"]
FisherType = Literal["type-2", "mc", "empirical", "sketch"]
WHOLE = slice(None)


@dataclass(frozen=True)
class Columns:
    """Columns of a root, made when they are asked for.

    Attributes:
        make: column k of the data in a slice without steps, `[batch, classes]`.
        count: number of columns.
        batch: number of data.
    """

    make: Callable[[int, slice], Tensor]
    count: int
    batch: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        return (self.make(k, WHOLE) for k in range(self.count))

    def of_data(self, part: slice) -> Columns:
        """The columns of some of the data."""
        data = range(self.batch)[part]

        def make(k: int, inner: slice) -> Tensor:
            return self.make(k, slice(data[inner].start, data[inner].stop))

        return Columns(make, self.count, len(data))

    def split(self, size: int) -> Iterator[Columns]:
        """Columns of `size` data after the other."""
        return (self.of_data(slice(start, start + size)) for start in range(0, self.batch, size))

    def stacked(self) -> Tensor:
        """All of them at once, `[column, batch, classes]`: for few classes."""
        return torch.stack(list(self))


@dataclass(frozen=True)
class Softmax:
    """What roots of classification are made of, each `[batch, classes]`.

    Attributes:
        p: probabilities.
        others: 1 - p, without cancellation.
    """

    p: Tensor
    others: Tensor

    @classmethod
    def of(cls, f: Tensor) -> Softmax:
        """Of outputs, in float32 at least."""
        p = working(f).softmax(-1)
        p = p.clamp_min(torch.finfo(p.dtype).tiny)  # a root's slope at 0 would be infinite
        top = p.argmax(-1, keepdim=True)
        rest = p.scatter(-1, top, torch.zeros_like(p[:, :1])).sum(-1, keepdim=True)
        return cls(p, (1 - p).scatter(-1, top, rest))

    def gradient(self, y: Tensor, part: slice) -> Tensor:
        """The gradient p - e_y of the negative log-likelihood at labels `[batch]`, of some of the data."""
        at = y[part, None]
        return self.p[part].scatter(-1, at, -self.others[part].gather(-1, at))


def classification_columns(f: Tensor) -> Columns:
    """The classes - 1 columns of diag(r) Q."""
    softmax = Softmax.of(f)
    root = softmax.p.sqrt()
    last = root[:, -1:]
    by_row = torch.cat([softmax.p[:, :-1] / (1 + last), last], -1)  # -S_jk / r_k off the diagonal
    diagonal = root * (last + softmax.others) / (1 + last)

    def make(k: int, part: slice) -> Tensor:
        column = -by_row[part] * root[part, k : k + 1]
        column[:, k] = diagonal[part, k]
        return column

    return Columns(make, f.shape[-1] - 1, len(f))


def regression_columns(f: Tensor) -> Columns:
    """The columns of the identity."""
    like = working(f.detach())

    def make(k: int, part: slice) -> Tensor:
        column = torch.zeros_like(like[part])
        column[:, k] = 1.0
        return column

    return Columns(make, f.shape[-1], len(f))


def sampled_classification(f: Tensor, samples: int, draws: Draws) -> Columns:
    """Monte-Carlo columns (p - e_y) / sqrt(M), y ~ p."""
    softmax = Softmax.of(f)
    drawn = torch.multinomial(softmax.p.detach(), samples, replacement=True, generator=draws.generator)
    return Columns(lambda k, part: softmax.gradient(drawn[:, k], part) / samples**0.5, samples, len(f))


def sampled_regression(f: Tensor, samples: int, draws: Draws) -> Columns:
    """Monte-Carlo columns eps / sqrt(M), eps ~ N(0, I)."""
    dtype = working(f).dtype
    noise = torch.randn(samples, *f.shape, dtype=dtype, device=f.device, generator=draws.generator)
    return Columns(lambda k, part: noise[k, part] / samples**0.5, samples, len(f))


def sketched_classification(f: Tensor, samples: int, draws: Draws) -> Columns:
    """Random-sign mixtures of the exact columns: the reflection applied to signs, times r.

    s = sum_k eps_k s_k / sqrt(M) with independent signs eps: unbiased like Monte-Carlo labels, but every
    draw carries the datum's full curvature, where a drawn label of a confident datum carries almost none.

    Returns:
        M = `samples` columns, whose outer products sum to the loss Hessian on average.
    """
    softmax = Softmax.of(f)
    root = softmax.p.sqrt()
    last, top = root[:, -1:], root[:, :-1].argmax(-1, keepdim=True)
    diagonal = last + softmax.others[:, :-1]
    signs = draws.signs(samples, f.shape[-1] - 1, len(f), f.device)

    def make(k: int, part: slice) -> Tensor:
        z, r, at = signs[k, :, part].T.to(root.dtype), root[part, :-1], top[part]
        weighed = r * z
        rest = weighed.scatter(-1, at, torch.zeros_like(at, dtype=r.dtype)).sum(-1, keepdim=True)
        whole = rest + weighed.gather(-1, at)
        beside = (whole - weighed).scatter(-1, at, rest)  # sum over the other columns, without cancellation
        before = r * (diagonal[part] * z - r * beside) / (1 + last[part])
        return torch.cat([before, -last[part] * whole], -1) / samples**0.5

    return Columns(make, samples, len(f))


def sketched_regression(f: Tensor, samples: int, draws: Draws) -> Columns:
    """Random signs / sqrt(M)."""
    signs, dtype = draws.signs(samples, f.shape[-1], len(f), f.device), working(f).dtype
    return Columns(lambda k, part: signs[k, :, part].T.to(dtype) / samples**0.5, samples, len(f))


def empirical_classification(f: Tensor, y: Tensor) -> Columns:
    """The gradient of the negative log-likelihood at the observed label."""
    softmax = Softmax.of(f)
    return Columns(lambda _, part: softmax.gradient(y, part), 1, len(f))


def empirical_regression(f: Tensor, y: Tensor) -> Columns:
    """The residual f - y."""
    outputs = working(f)
    residual = (outputs - y.reshape(f.shape)).to(outputs.dtype)
    return Columns(lambda _, part: residual[part], 1, len(f))


EXACT: dict[str, Callable[[Tensor], Columns]] = {
    "classification": classification_columns,
    "regression": regression_columns,
}
SAMPLED = {"classification": sampled_classification, "regression": sampled_regression}
SKETCHED = {"classification": sketched_classification, "regression": sketched_regression}
EMPIRICAL = {"classification": empirical_classification, "regression": empirical_regression}


def square_root(
    f: Tensor,
    y: Tensor,
    likelihood: Likelihood,
    fisher_type: FisherType = "type-2",
    mc_samples: int = 1,
    draws: Draws | None = None,
) -> Columns:
    """Columns of the chosen curvature type, random ones from `draws` (None: torch's global generator)."""
    draws = draws or Draws()
    if fisher_type == "type-2":
        return EXACT[likelihood](f)
    if fisher_type == "mc":
        return SAMPLED[likelihood](f, mc_samples, draws)
    if fisher_type == "sketch":
        return SKETCHED[likelihood](f, mc_samples, draws)
    return EMPIRICAL[likelihood](f, y)


def exact_classification(f: Tensor) -> Tensor:
    """The exact root of classification as one tensor `[classes - 1, batch, classes]`. For tests."""
    return classification_columns(f).stacked()


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
        return -F.cross_entropy(f.double(), y, reduction="sum")
    return -0.5 * (f.double() - y.reshape(f.shape).double()).square().sum()
