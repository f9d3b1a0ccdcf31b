"""Gaussian priors on weights, and who shares a precision with whom.

A prior N(0, 1/delta) sits on every weight; `structure` says which tensors share one delta:

- `tensor`: every parameter tensor has its own (the reference code);
- `path`: all tensors of a layer's path share one (van der Ouderaa et al. 2023, Table 4);
- `scalar`: one for the whole network.

Precisions are kept as float64 log delta, bounded to [LOG_MIN, LOG_MAX]; beyond, a path is off for every
purpose and a larger delta would only lose digits.

No prior is learned to be wider than `WIDEST` times the scale sqrt(2 / fan-in) at which rectified layers hand
on a signal of the same size (He et al. 2015). Where classes can be separated nothing else holds a precision:
the softmax saturates, the GGN and with it gamma go to zero, and delta = gamma / ||theta||^2 follows its own
effect down, to an evidence of zero nats with no effective parameters. No Gaussian is meant by that: the true
evidence tends to the log of the volume of weights that separate the data. The bound keeps the evidence from
running away; that weights do not saturate before the first update is the guard's work (`training/guard.py`).
Precisions of networks that do not saturate stay at about half of this width or below: they do not feel it.

Axes: group (of tensors that share a precision).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from symlearn.layers.structure import fan_ins, layer_paths

PriorStructure = Literal["tensor", "path", "scalar"]
LOG_MIN, LOG_MAX = -12.0, 18.0
WIDEST = 10.0


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


def widest_priors(model: nn.Module, input_scale: float = 1.0) -> dict[str, float]:
    """How wide priors may be learned; see the module's notation.

    Args:
        model: the network.
        input_scale: root mean square of its inputs; where it is below 1, weights have to make up for it.

    Returns:
        The least precision of every tensor's prior, by parameter name.
    """
    return {
        name: fan_in * min(input_scale, 1.0) ** 2 / (2 * WIDEST**2) for name, fan_in in fan_ins(model).items()
    }


class PriorPrecision:
    """Log precisions by group.

    Args:
        groups: the group of every tensor, as `tensor_groups` gives it.
        initial: the precision every group starts with.
        least: the least precision of a tensor's prior, by name; a group goes by the least of its tensors',
            and by `initial` where that is less.

    Raises:
        ValueError: `initial` is not positive.
    """

    def __init__(
        self, groups: Mapping[str, str], initial: float = 1.0, least: Mapping[str, float] | None = None
    ) -> None:
        if not (initial > 0 and math.isfinite(initial)):
            raise ValueError(f"a prior precision must be positive and finite, got {initial}")
        self.groups = dict(groups)
        self.initial = initial
        self.log_least: dict[str, float] = {}
        for name, group in self.groups.items():
            given = math.log(least[name]) if least is not None and name in least else LOG_MIN
            bound = max(min(given, math.log(initial)), LOG_MIN)
            self.log_least[group] = min(bound, self.log_least.get(group, bound))
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
        least = self.log_least[group]
        self.log[group] = torch.tensor(min(max(value, least), LOG_MAX), dtype=torch.float64)

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
