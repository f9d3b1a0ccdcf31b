"""Circular harmonics on rings: filters that turn by any angle without being resampled.

A filter is a sum of harmonics with Gaussian rings as radial profiles (Weiler, Hamprecht & Storath 2018;
Weiler & Cesa 2019). With (row, column) = rho (cos phi, sin phi),

    theta(rho, phi) = sum_{ring, m} R_ring(rho) [u cos(m phi) + v sin(m phi)],
    R_ring(rho)     = exp(-(rho - r)^2 / (2 s^2)) / norm

An element h that turns by the angle a, after a mirror of columns where det h = -1, moves it by moving the
coefficients of every ring and frequency: a rotation of the pair, which a mirror conjugates first,

    theta(h^-1 x):    (u, v)  ->  (cos(m a) u - det sin(m a) v,  sin(m a) u + det cos(m a) v)

That is exact on the plane. What is inexact is what a grid does to it: sampling aliases, and a k x k support
cuts the outermost ring. Both are kept small by the choice of functions:

    rings       r = (k - 1)/2, (k - 3)/2, ... >= 0
    width       s = 0.6 taps, and 0.45 for the outermost, which must end before the support does
    frequency   m <= 2 r, and m <= r + 1 on the outermost ring (rounded down); m = 0 alone at the centre

On white noise blurred by a Gaussian of one pixel the relative error of any function by itself is then 0.15
at most (k = 3, 5, 7, 9); that of a ring's next frequency is nearly twice as large or more. `group_conv.py`
has the errors of layers.

    k             2   3   4   5   7   9
    coefficients  3   6   8  13  24  39

Functions are scaled so that their values on the k x k taps have a mean square sum of 1 over the pair: weights
of variance v then give filters of expected energy (coefficients) v, as free taps do.

Axes: group, tap, coefficient (u and v of a pair side by side), row-column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from symlearn.groups import FiniteGroup, on_cpu

INNER, OUTERMOST = 0.6, 0.45  # widths of rings, in taps


@dataclass(frozen=True)
class Harmonic:
    """One ring at one frequency: a pair of functions, or one of frequency 0.

    Attributes:
        radius: r, in taps.
        width: s, in taps.
        frequency: m.
    """

    radius: float
    width: float
    frequency: int

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return 2 if self.frequency else 1

    def sampled(self, points: Tensor) -> Tensor:
        """Values at points `[point, 2]` (row, column) about the centre, `[point, size]`, not scaled."""
        rho, phi = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
        ring = torch.exp(-(rho - self.radius).square() / (2 * self.width**2))
        if not self.frequency:
            return ring.unsqueeze(1)
        ring = ring * (rho > 1e-9)  # no direction at the centre
        angles = self.frequency * phi
        return torch.stack([ring * torch.cos(angles), ring * torch.sin(angles)], 1)

    def moved(self, matrix: Tensor) -> Tensor:
        """D `[size, size]`: the coefficients of theta(h^-1 x) from those of theta(x); h is `[2, 2]`."""
        if not self.frequency:
            return torch.ones(1, 1, dtype=torch.float64)
        angle = self.frequency * math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))
        det = round(float(torch.linalg.det(matrix)))
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.tensor([[cos, -det * sin], [sin, det * cos]], dtype=torch.float64)


def harmonics(kernel_size: int) -> list[Harmonic]:
    """The harmonics of a k x k support, inner rings first; see the module's notation."""
    outermost = (kernel_size - 1) / 2
    radii = [outermost - i for i in range(int(outermost), 0, -1)]
    found = [Harmonic(r, INNER, m) for r in radii for m in range(math.floor(2 * r) + 1)]
    highest = math.floor(outermost + 1) if outermost else 0
    return found + [Harmonic(outermost, OUTERMOST, m) for m in range(highest + 1)]


def tap_places(kernel_size: int) -> Tensor:
    """The taps' places about the centre, row by row, `[tap, 2]`."""
    axis = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)


@on_cpu
def sampled_basis(kernel_size: int) -> Tensor:
    """The functions at the taps, scaled, `[tap, coefficient]` float64."""
    places = tap_places(kernel_size)
    functions = [harmonic.sampled(places) for harmonic in harmonics(kernel_size)]
    return torch.cat([f / f.square().sum(0).mean().sqrt() for f in functions], 1)


@on_cpu
def moved_basis(group: FiniteGroup, kernel_size: int) -> Tensor:
    """T `[group, tap, coefficient]` float64: theta(h^-1 t) = sum_s T[h, t, s] weight(s)."""
    basis, functions = sampled_basis(kernel_size), harmonics(kernel_size)
    turns = [torch.block_diag(*[f.moved(matrix) for f in functions]) for matrix in group.matrices]
    return torch.stack([basis @ turn for turn in turns])
