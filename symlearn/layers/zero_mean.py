"""Functions of mean zero and mean square 1: along them filters may deviate from a shared one.

A filter that may differ by group element h, or by place v, is a shared part plus a deviation

    theta(h) = shared + sum_j e_j(h) psi_j        mean_h e_j = 0, mean_h e_j e_k = [j = k]

so the parts are orthogonal, mean_h |theta(h)|^2 = |shared|^2 + sum_j |psi_j|^2, and a prior precision means
the same for both. Under one Gaussian prior for all psi_j the choice of the basis changes nothing.

Axes: function (j), group (h), h, w.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def on_elements(order: int) -> Tensor:
    """All of them on the elements of a group: Helmert's contrasts, each element against those before it.

    Args:
        order: number of elements.

    Returns:
        `[order - 1, order]`, float64.
    """
    rows = torch.arange(1, order, dtype=torch.float64).unsqueeze(1)
    columns = torch.arange(order, dtype=torch.float64)
    contrasts = (columns < rows).double() - rows * (columns == rows)
    return contrasts * (order / (rows * (rows + 1))).sqrt()


def on_places(size: tuple[int, int], frequencies: int) -> Tensor:
    """The slowest ones on a grid: products of cosines, cos(pi i (row + 1/2) / h) and the same of columns.

    Args:
        size: (h, w).
        frequencies: i and j are less than this, and than h and w; the constant i = j = 0 is left out.

    Returns:
        `[function, h, w]`, float64; no function on a grid of one place.
    """

    def waves(length: int) -> Tensor:
        places = (torch.arange(length, dtype=torch.float64) + 0.5) * math.pi / length
        i = torch.arange(min(frequencies, length), dtype=torch.float64).unsqueeze(1)
        return (1 + (i > 0).double()).sqrt() * torch.cos(i * places)

    rows, columns = (waves(length) for length in size)
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)[1:]
