"""What to read from a function on the group, `[batch, c, group, ...]`.

    at the identity    F^(x)(e) = F(x), the network that was equivarified
    invariant          max, mean or log sum exp over g of F^(x)(g)
    class and element  the pair with the largest of the classes * group logits F^(x)(g)_c

If F knows upright samples, the logits of h x are largest at the class of x and the element h: the network
says what it sees and how it was turned (Bao & Song, sections 4 and 5). The pair (c, g) is class c * group + g
of `logits.flatten(1)`. Its cross-entropy is the same for (x, c, g) and (h x, c, h g), so training on upright
samples with the identity as their element, and training on turned ones, are one and the same.

Axes: batch, c, classes, group, h, w.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.layers.group_action import group_axis


def expect_function(y: Tensor) -> None:
    """Refuse what has no group's axis."""
    if y.dim() < 2:
        raise ValueError(f"expected a function on a group, [batch, c, group, ...], got {list(y.shape)}")


class AtIdentity(nn.Module):
    """The value at the identity, `[batch, c, group, ...] -> [batch, c, ...]`.

    Raises:
        ValueError: an input without a group.
    """

    def forward(self, y: Tensor) -> Tensor:
        """`[batch, c, group, ...] -> [batch, c, ...]`."""
        expect_function(y)
        return y.select(group_axis(y), 0)


class InvariantReading(nn.Module):
    """One value over the whole group, `[batch, c, group, ...] -> [batch, c, ...]`.

    Args:
        reduce: "max", "mean", or "logsumexp": of the logits of pairs (class, element) these are the logits
            of the class alone.

    Raises:
        ValueError: an unknown reduction, an input without a group.
    """

    def __init__(self, reduce: Literal["max", "mean", "logsumexp"] = "max") -> None:
        super().__init__()
        if reduce not in ("max", "mean", "logsumexp"):
            raise ValueError(f"reduce must be 'max', 'mean' or 'logsumexp', got {reduce!r}")
        self.reduce = reduce

    def forward(self, y: Tensor) -> Tensor:
        """`[batch, c, group, ...] -> [batch, c, ...]`."""
        expect_function(y)
        axis = group_axis(y)
        if self.reduce == "max":
            return y.amax(axis)
        return y.mean(axis) if self.reduce == "mean" else y.logsumexp(axis)

    def extra_repr(self) -> str:
        """The reduction, for printing."""
        return f"reduce={self.reduce!r}"


def expect_logits(logits: Tensor) -> None:
    """Refuse what is not `[batch, classes, group]`."""
    if logits.dim() != 3:
        raise ValueError(
            f"expected logits [batch, classes, group], got {list(logits.shape)}; equivarify a network with "
            "outputs [batch, classes]"
        )


def class_and_element(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Read the likeliest pair of class and element off logits `[batch, classes, group]`.

    Returns:
        Class and element of the largest logit, each int64 `[batch]`.

    Raises:
        ValueError: logits of another shape.
    """
    expect_logits(logits)
    best = logits.flatten(1).argmax(1)
    return best // logits.shape[2], best % logits.shape[2]


def joint_cross_entropy(logits: Tensor, classes: Tensor, elements: Tensor) -> Tensor:
    """Mean cross-entropy of the pairs (class, element), one softmax over all classes * group of them.

    Args:
        logits: `[batch, classes, group]`.
        classes: int64 `[batch]`.
        elements: int64 `[batch]`; zeros for samples as they should stand.

    Returns:
        A scalar, in nats a sample.

    Raises:
        ValueError: logits of another shape, a class or an element that they do not have.
    """
    expect_logits(logits)
    counts = {"classes": (classes, logits.shape[1]), "elements": (elements, logits.shape[2])}
    for name, (labels, count) in counts.items():
        if labels.shape != logits.shape[:1] or bool(((labels < 0) | (labels >= count)).any()):
            raise ValueError(
                f"expected {name} from 0 to {count - 1}, one for each of {len(logits)} samples, got "
                f"{list(labels.shape)} from {int(labels.min())} to {int(labels.max())}"
            )
    return F.cross_entropy(logits.flatten(1), classes * logits.shape[2] + elements)
