"""What passes through modules in one forward pass, and the gradients at their outputs.

Rules meet inputs, gradients and modules in float32 at least, whatever type the network runs in; see
`kfac.precision`. Under an average over copies of a datum (`averages.py`) modules see `batch * copy` rows.

Axes: batch, copy, column, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from kfac.averages import joint_weights, mean_over_copies, sum_over_copies
from kfac.checks import explained_backward
from kfac.owners import Owner
from kfac.precision import raised, rule_view, working


@dataclass
class Call:
    """One use of a module in one forward pass.

    Attributes:
        owner: with the module as rules see it.
        x: the input `[batch * copy, ...]`, in the type in which it came.
        edge: where gradients at the output are found.
        version: of x when the module saw it.
        y_shape: of the output.
        y_dtype: of the output.
        weights: of a datum's copies `[copy]`; None outside averages.
    """

    owner: Owner
    x: Tensor
    edge: GradientEdge
    version: int
    y_shape: torch.Size
    y_dtype: torch.dtype
    weights: Tensor | None = None

    @property
    def copies(self) -> int:
        """Copies of every datum."""
        return 1 if self.weights is None else len(self.weights)

    def input(self) -> Tensor:
        """The input in float32 at least, if it is still what the module saw."""
        if self.x._version != self.version:
            raise ValueError(
                f"the input of {self.owner.path!r} was modified in place after use, so its curvature cannot "
                "be read; use the out-of-place form of the operation"
            )
        return working(self.x)

    def datum_input(self) -> Tensor:
        """The input `[batch, ...]`, averaged over copies: what a rule's rows a are made of."""
        return mean_over_copies(self.input(), self.weights)

    def datum_gradient(self, g: Tensor) -> Tensor:
        """A gradient at the output, `[batch, ...]`, summed over copies: what rows g are made of."""
        return sum_over_copies(g, self.copies)


@contextmanager
def recorded_calls(owners: list[Owner], batch: int, keep_graph: bool = False) -> Iterator[list[Call]]:
    """Record every use of the owners' modules while the context is open."""
    calls: list[Call] = []

    def hook(owner: Owner) -> Callable[..., Tensor | None]:
        seen = replace(owner, module=rule_view(owner.module))
        weights = joint_weights(owner.averages)
        rows = batch if weights is None else batch * len(weights)

        def record(
            _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor
        ) -> Tensor | None:
            x = args[0] if args else next(iter(kwargs.values()))
            if x.shape[0] != rows:
                raise ValueError(
                    f"{owner.path!r} received {x.shape[0]} rows where the batch has {rows}: keep the batch "
                    "axis first and put shared places on axes of their own"
                )
            kept = x if keep_graph else x.detach()
            calls.append(Call(seen, kept, get_gradient_edge(y), x._version, y.shape, y.dtype, weights))
            # What overwrites a view gives it another history, which the edge is no part of.
            return y.clone() if y._is_view() else None

        return record

    handles = [owner.module.register_forward_hook(hook(owner), with_kwargs=True) for owner in owners]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def lowest_precision(f: Tensor, calls: list[Call]) -> torch.dtype:
    """The coarsest type among the outputs and what went in and out of the modules."""
    types = [f.dtype, *(t for call in calls for t in (call.x.dtype, call.y_dtype) if t.is_floating_point)]
    return max(types, key=lambda t: torch.finfo(t).eps)


def pull_back(
    f: Tensor, calls: list[Call], column: Tensor, keep: bool, differentiable: bool = False
) -> list[Tensor | None]:
    """Pull one cotangent `[batch, classes]` back to the calls' outputs.

    Returns:
        A gradient a call, in float32 at least; None where nothing depends on its output.

    Raises:
        NonFiniteError: they overflow float16.
    """
    edges = [call.edge for call in calls]
    if not edges:  # every parameter has a diagonal block
        return []
    half = any(torch.float16 in (call.x.dtype, call.y_dtype, f.dtype) for call in calls)

    def gradients(cotangent: Tensor) -> list[Tensor | None]:
        with explained_backward():
            return list(
                torch.autograd.grad(
                    f,
                    edges,
                    cotangent.to(f.dtype),
                    retain_graph=keep or differentiable or half,
                    create_graph=differentiable,
                    allow_unused=True,
                )
            )

    if not half:
        return [None if g is None else working(g) for g in gradients(column)]
    grads, lowered = raised(column, gradients, lambda found: found)
    return [None if g is None else lowered(g) for g in grads]
