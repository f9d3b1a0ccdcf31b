"""In which type curvature is computed: one place for what every pass rounds to.

    products (a a^T, g g^T, softmax, roots)      in float32 at least, from whatever type the network has
    running sums over batches and chunks         in float64, up to `LARGE` bytes a sum
    output factors over one batch's columns      in float32, up to `TERMS` at a time, and these in float64
    rows that are kept                           in the network's type: they are its own numbers

A float64 network stays float64 throughout. A sum beyond `LARGE` (a factor of side 4,096; one of side 10,240
would take 800 MB) is kept in float32 instead: n additions then round it by 6e-8 sqrt(n), relatively, where
roundings are independent, and by 6e-8 n at worst.

float16 has no number between 0 and 6e-8, and a datum that is classified with confidence has cotangents of
that size. So cotangents are brought to one size by powers of two, datum by datum, before they are pulled
back through a network with any float16 in it, and the gradients brought back in float32 (`raised`).

Axes: batch, classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kfac.checks import has_values
from kfac.errors import NonFiniteError

LARGE = 2**27  # bytes of the largest sum that is kept in float64
SLICE = 2**16  # numbers that are converted and added at once, of large sums: what a cache holds
TERMS = 16  # products that are summed in their own type before they join a sum in float64
HEADROOM = (8, 0, -8, -16)  # log2 of the largest cotangent, tried one after the other until nothing overflows
T = TypeVar("T")


def working_type(dtype: torch.dtype) -> torch.dtype:
    """The type of products of such numbers: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def working(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least; as it is where it has no real numbers."""
    return tensor.to(working_type(tensor.dtype)) if tensor.is_floating_point() else tensor


def summing_type(tensor: Tensor) -> torch.dtype:
    """The type in which sums of such tensors are kept."""
    return torch.float64 if 8 * tensor.numel() <= LARGE else working_type(tensor.dtype)


def accumulated(total: Tensor | None, term: Tensor) -> Tensor:
    """The sum of both in its own type; in the total's memory, unless a graph goes through either.

    Args:
        total: what an earlier call returned, or None at the start.
        term: of any type; never changed, and not kept.

    Returns:
        The sum, of the total's type.
    """
    if total is None:
        return term.to(summing_type(term), copy=True, memory_format=torch.contiguous_format)
    if total.requires_grad or term.requires_grad:
        return total + term
    if total.dtype == term.dtype or total.numel() <= 4 * SLICE:
        return total.add_(term)
    for part, own in zip(total.view(-1).split(SLICE), term.flatten().split(SLICE), strict=True):
        part += own
    return total


@dataclass
class RunningSum:
    """A sum of many products, of which a few are summed in their own type first: conversions cost time.

    Attributes:
        total: what has settled.
        partial: what has not; the only term itself where it is one.
        terms: number of terms in it.
    """

    total: Tensor | None = None
    partial: Tensor | None = None
    terms: int = 0

    def add(self, term: Tensor) -> None:
        """Add a term, which is never changed."""
        if summing_type(term) == term.dtype:
            self.total = accumulated(self.total, term)
            return
        if self.partial is None or self.terms == 1 or self.partial.requires_grad or term.requires_grad:
            self.partial = term if self.partial is None else self.partial + term
        else:
            self.partial += term
        self.terms += 1
        if self.terms == TERMS:
            self.settle()

    def settle(self) -> None:
        """Bring everything into the total."""
        if self.partial is not None:
            self.total = accumulated(self.total, self.partial)
            self.partial, self.terms = None, 0


def sum_of(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two, in the type of sums, in memory of its own."""
    kind = torch.promote_types(summing_type(one), torch.promote_types(one.dtype, other.dtype))
    return one.to(kind) + other


def rule_view(module: nn.Module) -> nn.Module:
    """A module as rules see it.

    A module without float16 or bfloat16 is its own view. Graphs lead through the conversion.

    Returns:
        The module with parameters and buffers in float32 at least, everything else shared.
    """
    own = [*module.parameters(), *module.buffers()]
    return _view(module) if any(working(tensor) is not tensor for tensor in own) else module


def _view(module: nn.Module) -> nn.Module:
    view = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        held = {key: None if t is None else working(t) for key, t in getattr(module, kind).items()}
        view.__dict__[kind] = held
    view.__dict__["_modules"] = {k: None if m is None else _view(m) for k, m in module._modules.items()}
    return view


def finite(grads: Iterable[Tensor | None]) -> bool:
    """Whether gradients hold neither infinity nor NaN."""
    return all(math.isfinite(float(g.sum(dtype=torch.float64))) for g in grads if g is not None)


def raised(
    column: Tensor, pull: Callable[[Tensor], T], values: Callable[[T], Iterable[Tensor | None]]
) -> tuple[T, Callable[[Tensor], Tensor]]:
    """What `pull` gives for a cotangent of one size for all data, and what brings gradients back to theirs.

    Args:
        column: `[batch, classes]`.
        pull: maps a cotangent of that shape to gradients; called again while they overflow.
        values: the gradients as tensors.

    Returns:
        The gradients, and a function from one of them `[batch, ...]` to it in float32 at least.

    Raises:
        NonFiniteError: they overflow however small the cotangent.
    """
    largest = working(column.detach()).abs().amax(-1)
    size = torch.where(largest > 0, largest, 1.0).log2().ceil()
    for exponent in HEADROOM:
        scale = torch.exp2(exponent - size)  # [batch]
        grads = pull(working(column) * scale.unsqueeze(-1))
        if not has_values(column) or finite(values(grads)):
            break
    else:
        raise NonFiniteError(
            "the network's gradients are not finite however small the cotangent; where it is in float16, use "
            "bfloat16 or float32"
        )

    def lowered(grad: Tensor) -> Tensor:
        return working(grad) / scale.reshape(-1, *[1] * (grad.dim() - 1))

    return grads, lowered
