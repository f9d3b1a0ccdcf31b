"""Gaussian priors on weights, and who shares a precision with whom.

A prior N(0, 1/delta) sits on every weight; `structure` says which tensors share one delta:

- `tensor`: every parameter tensor has its own (the reference code);
- `path`: all tensors of a layer's path share one (van der Ouderaa et al. 2023, Table 4);
- `scalar`: one for the whole network.

Precisions are kept as float64 log delta, bounded to [LOG_MIN, LOG_MAX]; beyond, a path is off for every
purpose and a larger delta would only lose digits.

Axes: group (of tensors that share a precision).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from symlearn.layers.structure import layer_paths

PriorStructure = Literal["tensor", "path", "scalar"]
LOG_MIN, LOG_MAX = -12.0, 18.0


def tensor_groups(
    model: nn.Module, structure: PriorStructure, left_out: Collection[str] = ()
) -> dict[str, str]:
    """Which tensors share a prior precision.

    Args:
        model: the network.
        structure: which tensors share a group.
        left_out: tensors that the evidence does not see; each is a group of its own, which nothing moves.

    Returns:
        The name of every parameter's group, by parameter name, in the model's order.

    Raises:
        ValueError: an unknown structure.
    """
    if structure not in ("tensor", "path", "scalar"):
        raise ValueError(f"unknown prior structure {structure!r}; choose 'tensor', 'path' or 'scalar'")
    groups = {}
    for layer in layer_paths(model):
        for path, names in layer.paths.items():
            for name in names:
                groups[name] = {"tensor": name, "path": f"{layer.name}.{path}", "scalar": "all"}[structure]
    groups.update({name: f"left out: {name}" for name in left_out})
    return {name: groups[name] for name, _ in model.named_parameters()}


class PriorPrecision:
    """Log precisions by group.

    Args:
        groups: the group of every tensor, as `tensor_groups` gives it.
        initial: the precision every group starts with.

    Raises:
        ValueError: `initial` is not positive.
    """

    def __init__(self, groups: Mapping[str, str], initial: float = 1.0) -> None:
        if not (initial > 0 and math.isfinite(initial)):
            raise ValueError(f"a prior precision must be positive and finite, got {initial}")
        self.groups = dict(groups)
        self.initial = initial
        self.log: dict[str, Tensor] = {}
        for group in groups.values():
            self.set_log(group, math.log(initial))

    def by_tensor(self) -> dict[str, Tensor]:
        """Delta of every tensor: exp of its group's log delta (differentiable if that is)."""
        return {name: self.log[group].exp() for name, group in self.groups.items()}

    def floats(self) -> dict[str, float]:
        """Delta of every tensor as plain numbers."""
        return {name: math.exp(float(self.log[group])) for name, group in self.groups.items()}

    def set_log(self, group: str, value: float) -> None:
        """Set one group's log delta, kept within the bounds."""
        self.log[group] = torch.tensor(min(max(value, LOG_MIN), LOG_MAX), dtype=torch.float64)

    def keep_within(self, before: Mapping[str, float], stride: float) -> None:
        """Bring every log precision to within `stride` of what it was, as `state` gave it."""
        for group, value in before.items():
            self.set_log(group, min(max(float(self.log[group]), value - stride), value + stride))

    def groups_within(self, names: set[str]) -> set[str]:
        """Groups that these tensors make up alone: no other tensor shares their precision."""
        return {self.groups[n] for n in names} - {g for n, g in self.groups.items() if n not in names}

    def reset(self, names: set[str]) -> None:
        """Put the groups that these tensors make up alone back to the initial precision."""
        for group in self.groups_within(names):
            self.set_log(group, math.log(self.initial))

    def state(self) -> dict[str, float]:
        """Log precisions as plain numbers, for checkpoints."""
        return {group: float(value) for group, value in self.log.items()}

    def load(self, state: Mapping[str, float]) -> None:
        """Restore what `state` gave.

        Raises:
            ValueError: the groups differ.
        """
        if set(state) != set(self.log):
            raise ValueError("the saved prior precisions belong to another network or prior structure")
        for group, value in state.items():
            self.log[group] = torch.tensor(value, dtype=torch.float64)
