"""Paths that are convolutions of the same map, computed as the one convolution that their sum is.

    theta_1 * x + theta_2 * x = (theta_1 + theta_2) * x

where both filters have one support and wrap around: a layer of conv and gconv-p4 then costs what gconv-p4
alone costs. Curvature needs what passes through every path, and so do a user's hooks; a path that is watched
is computed by itself.

Axes: batch, c_in, c_out, group, size, k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

PlaneFilters = tuple[Tensor, Tensor | None]  # [c_out, c_in, *k] and a bias [c_out]


@runtime_checkable
class HasPlaneFilters(Protocol):
    """A path that is one convolution with circular padding, the group's elements counted as channels."""

    def plane_filters(self) -> PlaneFilters | None:
        """Filters `[c_out * group, c_in * group, *k]` and bias; None where it is no such thing."""


def watched(path: nn.Module) -> bool:
    """Whether something looks at what passes through the path or a part of it."""
    if global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks:
        return True
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in path.modules()
    )


def plane_filters(path: nn.Module) -> PlaneFilters | None:
    """The filters that do what a path does, where one convolution with them could stand for it.

    A subclass does not inherit the claim: its `forward` may do something else.

    Returns:
        As `HasPlaneFilters.plane_filters`; None too for a path that makes no such claim, or has hooks, which
        would not see a call.
    """
    if "plane_filters" not in vars(type(path)) or watched(path):
        return None
    assert isinstance(path, HasPlaneFilters)
    return path.plane_filters()


def merged(paths: Mapping[str, nn.Module]) -> tuple[list[str], list[PlaneFilters]]:
    """Sort paths into those that are computed by themselves and those that one convolution stands for.

    Returns:
        Names of the former, and of the latter a weight and a bias a support that at least two share, summed.
    """
    alone: list[str] = []
    by_support: dict[torch.Size, list[tuple[str, PlaneFilters]]] = {}
    for name, path in paths.items():
        filters = plane_filters(path) if len(paths) > 1 else None
        if filters is None:
            alone.append(name)
        else:
            by_support.setdefault(filters[0].shape[2:], []).append((name, filters))
    together = []
    for members in by_support.values():
        if len(members) == 1:
            alone.append(members[0][0])
            continue
        weights, biases = zip(*(filters for _, filters in members), strict=True)
        there = [bias for bias in biases if bias is not None]
        together.append((sum(weights[1:], weights[0]), sum(there[1:], there[0]) if there else None))
    return alone, together
