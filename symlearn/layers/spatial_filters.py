"""What a layer's weights look like over space, for figures.

Axes: filter, size (t; h, w; d, h, w), anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, eq=False)
class SpatialFilters:
    """Filters of one weight tensor.

    Attributes:
        part: which tensor of the layer, such as "theta1"; "" for the only one.
        values: `[filter, *size]`.
        anchors: places between which they are interpolated, `[anchor, axis]` such as (row, column), or None.
        lengthscale: of the interpolation, in grid spacings, or None.
        turns: how many filters in a row are one filter's rotations.
    """

    part: str
    values: Tensor
    anchors: Tensor | None = None
    lengthscale: float | None = None
    turns: int = 1


@runtime_checkable
class HasSpatialFilters(Protocol):
    """A layer that can show its filters."""

    def spatial_filters(self) -> list[SpatialFilters]:
        """One entry a weight tensor with a spatial axis."""
