"""Equivarification: any network made equivariant under any finite group (Bao & Song, Lemma 3.0.2).

For F: X -> Z and a group G that acts on X,

    F^(x)(g) = F(g^-1 x),    (h F^(x))(g) = F^(x)(h^-1 g),    so    F^(h x) = h F^(x),

and the value at the identity is F. The parameters are F's own. Functions on the group are
`[batch, c, group, ...]`, with the group where the group maps of this library have it: features `[batch, d]`
become `[batch, d, group]`, maps `[batch, c, h, w]` become `[batch, c, group, h, w]`, and a number a sample
becomes `[batch, group]`. The map of an element lies in that element's own frame: it is F of the turned image,
not turned back.

F is called once, with the group folded into the batch. Whatever F computes over a batch it therefore computes
over all elements too: the statistics of batch normalisation in training are shared by the group, which keeps
the equivariance and is part of the same F in both forms below. A module that treats the samples of a batch
differently (dropout in training) is equivariant only in `eval` mode.

Layer by layer (section 4): the first layer is lifted, F1^(x)(g) = F1(g^-1 x); a later one acts on functions
on G as (Fi^ y)(g) = Fi(y(g)), element by element. Their composition is the whole network's F^.

Where elements act trivially, equivarify by `action.quotient(action.kernel(in_shape))`: F is then called once
a coset.

Axes: batch, c, d, group, h, w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symlearn.groups import FiniteGroup
from symlearn.layers.group_action import GroupAction, action_of, group_axis


def fold(y: Tensor) -> Tensor:
    """A function on the group as a larger batch: `[batch, c, group, ...] -> [group * batch, c, ...]`."""
    return y.movedim(group_axis(y), 0).flatten(0, 1)


def unfold(y: Tensor, group: int) -> Tensor:
    """The inverse of `fold`: `[group * batch, c, ...] -> [batch, c, group, ...]`."""
    return y.unflatten(0, (group, len(y) // group)).movedim(0, min(2, y.dim()))


def by_sample(module: nn.Module, x: Tensor) -> Tensor:
    """A module's output on a batch `[batch, ...]`.

    Returns:
        `[batch, ...]`, a row a sample.

    Raises:
        ValueError: it is no tensor with one row a sample.
    """
    y = module(x)
    if not isinstance(y, Tensor) or y.dim() < 1 or len(y) != len(x):
        got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"equivarify needs a module that maps [batch, ...] to [batch, ...]; a batch of {len(x)} became "
            f"{got}; wrap what returns one tensor, a row a sample"
        )
    return y


class EquivariantMap(nn.Module):
    """A module whose outputs are functions on a group, and that knows how they are moved.

    Args:
        action: on the inputs.
    """

    def __init__(self, action: GroupAction) -> None:
        super().__init__()
        self.action = action
        self.output_action = action.on_functions()

    def act_on_output(self, y: Tensor, element: int) -> Tensor:
        """(h y)(g) = y(h^-1 g) for an output of this module."""
        return self.output_action.move(y, element)

    def extra_repr(self) -> str:
        """The action, for printing."""
        return f"action={self.action!r}"


class Equivarified(EquivariantMap):
    """F^, a function on the group: `[batch, ...] -> [batch, c, group, ...]`. See the module's notation.

    Args:
        module: F; shared, not copied.
        action: of the group on F's inputs.

    Raises:
        ValueError: an input that the group does not act on (images that are not square), a module that is
            not applied sample by sample.
    """

    def __init__(self, module: nn.Module, action: GroupAction) -> None:
        super().__init__(action)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, ...] -> [batch, c, group, ...]`."""
        moved = torch.cat([self.action.move(x, g) for g in self.action.inverse])  # g^-1 x
        return unfold(by_sample(self.module, moved), len(self.action))


class ByElement(nn.Module):
    """A module applied at every element, (F^ y)(g) = F(y(g)): `[batch, c, group, ...] -> the same kind`.

    Args:
        module: F; shared, not copied.
        group: number of elements.

    Raises:
        ValueError: an input with another number of elements, a module not applied sample by sample.
    """

    def __init__(self, module: nn.Module, group: int) -> None:
        super().__init__()
        self.module, self.group = module, group

    def forward(self, y: Tensor) -> Tensor:
        """`[batch, c, group, ...] -> [batch, c', group, ...]`."""
        if y.dim() < 2 or y.shape[group_axis(y)] != self.group:
            raise ValueError(
                f"expected a function on {self.group} elements, [batch, c, {self.group}, ...] or [batch, "
                f"{self.group}], got {list(y.shape)}"
            )
        return unfold(by_sample(self.module, fold(y)), self.group)


class EquivarifiedLayers(EquivariantMap):
    """F^ of a chain of layers, one by one: every layer's output is a function on the group.

    Args:
        layers: the chain; its layers are shared, not copied.
        action: of the group on the first layer's inputs.

    Raises:
        ValueError: no layers; as `Equivarified`.
    """

    def __init__(self, layers: nn.Sequential, action: GroupAction) -> None:
        super().__init__(action)
        if not isinstance(layers, nn.Sequential) or not len(layers):
            raise ValueError(
                f"equivarify_layers needs an nn.Sequential of one layer or more, got "
                f"{type(layers).__name__}; use equivarify for other modules"
            )
        first, *others = layers
        self.layers = nn.Sequential(
            Equivarified(first, action), *(ByElement(layer, len(action)) for layer in others)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, ...] -> [batch, c, group, ...]`."""
        y: Tensor = self.layers(x)
        return y


def equivarify(module: nn.Module, action: str | FiniteGroup | GroupAction) -> Equivarified:
    """Make any network equivariant under a finite group: F^(x)(g) = F(g^-1 x).

    Args:
        module: F, applied sample by sample, `[batch, ...] -> [batch, ...]`; shared, not copied.
        action: of the group on the inputs; a group of `symlearn.groups` or its name ("p4", "p4m", "c2",
            "d4", ...) acts on square images.

    Returns:
        A module `[batch, ...] -> [batch, c, group, ...]`.

    Raises:
        ValueError: an unknown group.
    """
    return Equivarified(module, action_of(action))


def equivarify_layers(layers: nn.Sequential, action: str | FiniteGroup | GroupAction) -> EquivarifiedLayers:
    """The same layer by layer: equal to `equivarify(layers, action)`, every code a function on the group.

    Args:
        layers: a chain, each layer applied sample by sample; shared, not copied.
        action: as for `equivarify`.

    Returns:
        A module with the outputs of `equivarify`, `[batch, c, group, ...]`.

    Raises:
        ValueError: an unknown group, no layers.
    """
    return EquivarifiedLayers(layers, action_of(action))
