"""Generators of some groups that exchange points of a line, or places of a map of h rows and w columns.

Permutations p act by (g x)_i = x[p_i]; places are numbered row by row. Each function gives the generators of
the whole group, at most four, at any size: what `register_symmetry` and `SymmetricLinear` take.

Axes: generator, point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symlearn.groups import on_cpu


@on_cpu
def any_order(n: int) -> Tensor:
    """Every order of n points, S_n: the rotation by one and one exchange, `[generator, n]`."""
    one = torch.arange(n)
    swap = one.clone()
    swap[:2] = swap[:2].flip(0)
    return torch.stack([one.roll(-1), swap])


@on_cpu
def rotations_of(n: int) -> Tensor:
    """The n rotations of a line of n points that closes, C_n, `[1, n]`."""
    return torch.arange(n).roll(-1).unsqueeze(0)


@on_cpu
def rows_in_any_order(h: int, w: int) -> Tensor:
    """S_h on whole rows, `[generator, h * w]`."""
    return torch.arange(h * w).reshape(h, w)[any_order(h)].flatten(1)


@on_cpu
def columns_in_any_order(h: int, w: int) -> Tensor:
    """S_w on whole columns, `[generator, h * w]`."""
    return torch.arange(h * w).reshape(h, w)[:, any_order(w)].transpose(0, 1).flatten(1)


@on_cpu
def rows_and_columns(h: int, w: int) -> Tensor:
    """S_h on rows and S_w on columns, their product, `[generator, h * w]`."""
    return torch.cat([rows_in_any_order(h, w), columns_in_any_order(h, w)])


@on_cpu
def places_in_any_order(h: int, w: int) -> Tensor:
    """S_hw: a map is a set of places, `[generator, h * w]`."""
    return any_order(h * w)


@on_cpu
def circular_shifts(h: int, w: int) -> Tensor:
    """C_h x C_w: shifts down and right that come back on the other side, `[generator, h * w]`."""
    places = torch.arange(h * w).reshape(h, w)
    return torch.stack([places.roll(-1, 0), places.roll(-1, 1)]).flatten(1)


@on_cpu
def turns_and_mirrors(h: int, w: int) -> Tensor:
    """The turns and mirrors of a grid: eight of a square, four of a rectangle, `[generator, h * w]`."""
    places = torch.arange(h * w).reshape(h, w)
    turned = torch.rot90(places) if h == w else places.flip(0, 1)
    return torch.stack([turned.flatten(), places.flip(1).flatten()])
