"""Hyperparameters that layers declare: what the evidence learns besides precisions and noise.

A layer that has some offers `hyperparameters() -> {name: Hyperparameter}`; nothing is found by its name. The
values are unconstrained tensors kept as buffers, so that no MAP step moves them and a checkpoint carries
them; `read` turns a value into the units it is reported in. Their gradients are those of the evidence
(`evidence/gradient.py`).

Axes: none; values have shapes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


def unchanged(value: Tensor) -> Tensor:
    """The value as it is."""
    return value


@dataclass(frozen=True, eq=False)
class Hyperparameter:
    """A quantity that the evidence may learn.

    Attributes:
        value: unconstrained; a buffer of the module that declares it, stepped in place.
        read: the value in its own units, such as a lengthscale from its logarithm.
        kind: what it is, for configurations and figures: "lengthscale", "anchors", ...
        bounds: lowest and highest value a step may reach.
        log_prior: log density of a value in nats, a hyperprior; None is flat.
        replaces: weights whose own prior precision stays as it is because this hyperparameter carries the
            prior in their place.
        moves_inputs: whether it changes what the network is given; the local gradient follows inputs then.
    """

    value: Tensor
    read: Callable[[Tensor], Tensor] = unchanged
    kind: str = "hyperparameter"
    bounds: tuple[float, float] = (-1e6, 1e6)
    log_prior: Callable[[Tensor], Tensor] | None = None
    replaces: tuple[nn.Parameter, ...] = ()
    moves_inputs: bool = False


@runtime_checkable
class Declares(Protocol):
    """A module with hyperparameters of its own or of its parts."""

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What it declares, by names relative to itself."""


def hyperparameters_within(module: nn.Module) -> dict[str, Hyperparameter]:
    """What the parts of a module declare, by dotted names relative to it."""
    found: dict[str, Hyperparameter] = {}
    for name, child in module.named_children():
        own = child.hyperparameters() if isinstance(child, Declares) else hyperparameters_within(child)
        found.update({f"{name}.{key}": value for key, value in own.items()})
    return found


def hyperparameters_of(model: nn.Module) -> dict[str, Hyperparameter]:
    """Everything a model declares for the evidence to learn.

    Returns:
        Declared values by name; what several layers share is there once, by its first name.

    Raises:
        ValueError: a declared value is a parameter, which MAP steps would move.
    """
    found = model.hyperparameters() if isinstance(model, Declares) else hyperparameters_within(model)
    weights = {id(p) for p in model.parameters()}
    for name, declared in found.items():
        if id(declared.value) in weights:
            raise ValueError(f"{name} is declared as a hyperparameter and is a parameter; make it a buffer")
    first = {id(declared.value): name for name, declared in reversed(found.items())}
    return {name: declared for name, declared in found.items() if first[id(declared.value)] == name}


@contextmanager
def tracked(values: list[Tensor]) -> Iterator[None]:
    """Let autograd see these tensors while the context is open."""
    try:
        for value in values:
            value.requires_grad_(True)
        yield
    finally:
        for value in values:
            value.requires_grad_(False)
