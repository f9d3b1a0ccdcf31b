"""What passes through modules in one forward pass, and the gradients at their outputs.

Axes: batch, column, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from kfac.checks import explained_backward
from kfac.owners import Owner


@dataclass
class Call:
    """One use of a module in one forward pass."""

    owner: Owner
    x: Tensor
    edge: GradientEdge
    version: int
    y_shape: torch.Size

    def input(self) -> Tensor:
        """The input, if it is still what the module saw."""
        if self.x._version != self.version:
            raise ValueError(
                f"the input of {self.owner.path!r} was modified in place after use, so its curvature cannot "
                "be read; use the out-of-place form of the operation"
            )
        return self.x


@contextmanager
def recorded_calls(owners: list[Owner], batch: int, keep_graph: bool = False) -> Iterator[list[Call]]:
    """Record every use of the owners' modules while the context is open."""
    calls: list[Call] = []

    def hook(owner: Owner) -> Callable[..., Tensor | None]:
        def record(
            _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor
        ) -> Tensor | None:
            x = args[0] if args else next(iter(kwargs.values()))
            if x.shape[0] != batch:
                raise ValueError(
                    f"{owner.path!r} received {x.shape[0]} rows where the batch has {batch}: keep the batch "
                    "axis first and put shared places on axes of their own"
                )
            kept = x if keep_graph else x.detach()
            calls.append(Call(owner, kept, get_gradient_edge(y), x._version, y.shape))
            # What overwrites a view gives it another history, which the edge is no part of.
            return y.clone() if y._is_view() else None

        return record

    handles = [owner.module.register_forward_hook(hook(owner), with_kwargs=True) for owner in owners]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def pull_back(
    f: Tensor, calls: list[Call], column: Tensor, keep: bool, differentiable: bool = False
) -> list[Tensor | None]:
    """Gradients at the calls' outputs for one cotangent `[batch, classes]`."""
    edges = [call.edge for call in calls]
    if not edges:  # every parameter has a diagonal block
        return []
    with explained_backward():
        return list(
            torch.autograd.grad(
                f,
                edges,
                column,
                retain_graph=keep or differentiable,
                create_graph=differentiable,
                allow_unused=True,
            )
        )
