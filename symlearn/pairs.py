"""A data set in memory: inputs and targets, and its batches in order.

Axes: batch, c, h, w.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

Pairs = tuple[Tensor, Tensor]


def batches(data: Pairs, size: int) -> Iterator[Pairs]:
    """The data in order, `size` at a time."""
    for start in range(0, len(data[0]), size):
        yield data[0][start : start + size], data[1][start : start + size]
