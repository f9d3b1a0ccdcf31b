"""Images seen through affine maps, smoothed alike wherever a pixel comes from.

    y(p) = sum_j x(j) beta(q_1 - j_1) beta(q_2 - j_2),    q = M p,    beta the cubic B-spline,

for output pixels p and matrices M on (x, y, 1), from the image's centre in units of its side (sqrt(h w)).
There is no prefilter, so this smooths, and on purpose: the variance of beta's weights is 1/3 pixel^2 along
each axis at every q, on pixels as between them, so that the identity blurs as much as any other map and blur
says nothing about which it was. (Bilinear weights have a variance of f (1 - f) at a fraction f between
pixels: none for the identity.) It is twice differentiable in M. Beyond the border an image goes on with its
nearest pixel: no value that it does not have, no edge that it did not have.

Where a picture must stay sharp, `interpolate` prefilters: it takes coefficients c of which the same sum gives
x at every pixel, c = A^-1 x along each axis, A tridiagonal with 2/3 and 1/6, and 5/6 in its corners, since
beyond the border the nearest pixel goes on (Unser 1999). Then the identity is exact, and a map smooths by
what it moves; values may overshoot those of the image a little.

The 16 weights of a place come from four bilinear look-ups (Sigg & Hadwiger 2005): with the weights w_0 ..
w_3 of an axis' neighbours i-1 .. i+2, those at i-1 + w_1/(w_0+w_1) and i+1 + w_3/(w_2+w_3).

Axes: batch, copy, c, h, w, look (4 look-ups), xy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sources(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where output pixels come from, `[copy, h, w, xy]` from the first pixel, by matrices `[copy, 3, 3]`."""
    side = math.sqrt(height * width)
    y = torch.arange(height, dtype=matrices.dtype, device=matrices.device) - (height - 1) / 2
    x = torch.arange(width, dtype=matrices.dtype, device=matrices.device) - (width - 1) / 2
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    pixels = torch.stack([columns, rows, torch.full_like(rows, side)], -1)
    centre = matrices.new_tensor([(width - 1) / 2, (height - 1) / 2])
    return torch.einsum("kij,hwj->khwi", matrices[:, :2], pixels) + centre


def axis_looks(q: Tensor) -> tuple[Tensor, Tensor]:
    """Places `[..., 2]` of an axis' two linear look-ups, and their weights, for positions q `[...]`."""
    whole = q.detach().floor()
    t = q - whole
    w0, w3 = (1 - t) ** 3 / 6, t**3 / 6
    w1, w2 = 2 / 3 - t**2 + t**3 / 2, 1 / 6 + (t + t**2 - t**3) / 2
    places = torch.stack([whole - 1 + w1 / (w0 + w1), whole + 1 + w3 / (w2 + w3)], -1)
    return places, torch.stack([w0 + w1, w2 + w3], -1)


def looks(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A grid `[copy, look * h, w, xy]` for `F.grid_sample`, and weights `[copy, look, h, w]`."""
    q = sources(matrices, height, width)
    (x, across), (y, down) = axis_looks(q[..., 0]), axis_looks(q[..., 1])
    pairs = [(i, j) for i in range(2) for j in range(2)]
    sides = matrices.new_tensor([width, height])
    places = torch.stack([torch.stack([x[..., i], y[..., j]], -1) for i, j in pairs], 1)
    weights = torch.stack([across[..., i] * down[..., j] for i, j in pairs], 1)
    return ((2 * places + 1) / sides - 1).flatten(1, 2), weights


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Images `[batch, c, h, w]` through maps `[copy, 3, 3]`, the same for all: `[batch, copy, c, h, w]`."""
    batch, channels, height, width = images.shape
    copies = len(matrices)
    grid, weights = (found.to(images.dtype) for found in looks(matrices, height, width))
    planes = images.reshape(1, batch * channels, height, width).expand(copies, -1, -1, -1)
    found = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    smooth = (found.reshape(copies, batch * channels, 4, height, width) * weights.unsqueeze(1)).sum(2)
    return smooth.reshape(copies, batch, channels, height, width).transpose(0, 1)


def coefficients(images: Tensor) -> Tensor:
    """Spline coefficients of images `[batch, c, h, w]`, of which `resample` gives the images at pixels."""
    down, across = (torch.linalg.inv(at_pixels(n)).to(images) for n in images.shape[-2:])
    return torch.einsum("ij,bcjk,lk->bcil", down, images, across)


def at_pixels(n: int) -> Tensor:
    """A `[n, n]` float64: an axis' values at its pixels from its coefficients; see the module."""
    with torch.device("cpu"):
        near = torch.full((n - 1,), 1 / 6, dtype=torch.float64)
        matrix = torch.diag(near, 1) + torch.diag(near, -1)
        return matrix + torch.diag(1 - matrix.sum(1))


def interpolate(images: Tensor, matrices: Tensor) -> Tensor:
    """`resample` without its smoothing: cubic splines through every pixel, the identity exact."""
    return resample(coefficients(images), matrices)
