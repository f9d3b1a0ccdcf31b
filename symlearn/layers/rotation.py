"""Rotated filters: (R_theta w)(x) = w(M_theta^-1 x) about the centre of a k x k support.

M_theta turns the row axis towards the column axis, so positive angles are those of `torch.rot90`, of
`scipy.ndimage.rotate` and of `symlearn.groups`. Multiples of 90 degrees move taps onto taps and are exact.
Other angles interpolate: with cubic B-splines beta and the taps' values extended by mirroring,

    w(y) = sum_j c(j) beta(y_1 - j_1) beta(y_2 - j_2),    c such that w is right at every tap,

which is linear in w and twice differentiable in theta (Unser 1999; the spline of `scipy.ndimage` of order 3,
`mode="mirror"`). Rotated filters are zero outside the disc of diameter k, since turns move the corners out of
the support. The centre is that of the support, between taps where k is even.

Interpolation is not a group action: R_theta^n with n theta = 360 degrees is the identity only roughly, and
norms shrink. `rotation_error` measures both. Relative errors of n single steps on white noise inside the
disc, the hardest filters there are, and the norm left after one step (a smooth edge: 0.12, and 0.996):

              60 degrees, n = 6      45 degrees, n = 8
    k = 7         0.69, 0.82                0.69, 0.84
    k = 8         0.71, 0.83                0.62, 0.86

Axes: row, column, tap (of k * k, row by row), point, turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

QUARTER = 90.0  # degrees
SUPPORT = 2  # half the width of a cubic B-spline, in taps


def is_quarter(degrees: float) -> bool:
    """Whether an angle is a multiple of 90 degrees."""
    return degrees % QUARTER == 0


def cubic_spline(x: Tensor) -> Tensor:
    """beta(x), the cubic B-spline."""
    near = 2 / 3 - x.square() + x.abs() ** 3 / 2
    far = (2 - x.abs()).clamp_min(0) ** 3 / 6
    return torch.where(x.abs() < 1, near, far)


@cache
def spline_coefficients(k: int) -> Tensor:
    """Coefficients of an axis' k taps at places -SUPPORT .. k - 1 + SUPPORT.

    Taps beyond the axis are mirrored at its first and last one.

    Returns:
        `[place, tap]`, float64, on the CPU.
    """
    with torch.device("cpu"):
        places = torch.arange(-SUPPORT, k + SUPPORT)
        folded = places.abs() % max(2 * (k - 1), 1)
        mirrored = F.one_hot(torch.minimum(folded, (2 * (k - 1) - folded).abs()), k).double()
        taps = torch.arange(k)
        at_taps = cubic_spline((taps.unsqueeze(1) - places).double()) @ mirrored  # [tap, tap]
        return torch.linalg.solve(at_taps, mirrored, left=False)


def axis_weights(positions: Tensor, k: int) -> Tensor:
    """Weights `[point, tap]` of an axis' k taps at positions `[point]`, in taps from the first."""
    coefficients = spline_coefficients(k).to(positions.device)
    places = torch.arange(-SUPPORT, k + SUPPORT, dtype=torch.float64, device=positions.device)
    return cubic_spline(positions.unsqueeze(1) - places) @ coefficients


def centred_taps(k: int, device: torch.device | None = None) -> Tensor:
    """The taps' places (row, column) from the centre, `[tap, 2]` float64."""
    axis = torch.arange(k, dtype=torch.float64, device=device) - (k - 1) / 2
    return torch.cartesian_prod(axis, axis)


def disc(k: int, device: torch.device | None = None) -> Tensor:
    """Whether a tap lies in the disc of diameter k, `[tap]`."""
    return centred_taps(k, device).square().sum(1) <= (k / 2) ** 2


def rotation_matrices(degrees: Tensor, k: int) -> Tensor:
    """R `[turn, tap, tap]` float64 of angles `[turn]`, interpolated and masked; differentiable in them."""
    radians = torch.deg2rad(degrees.double())
    cos, sin = radians.cos(), radians.sin()
    matrices = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    sources = centred_taps(k, degrees.device) @ matrices + (k - 1) / 2  # [turn, tap, 2], M^-1 x
    rows, columns = (axis_weights(sources[..., axis].flatten(), k) for axis in (0, 1))
    found = torch.einsum("pi,pj->pij", rows, columns).reshape(len(degrees), k * k, k * k)
    return found * disc(k, degrees.device).unsqueeze(1)


def rotate(filters: Tensor, degrees: float | Tensor) -> Tensor:
    """Turn filters `[..., k, k]` by an angle: exactly if it is a number that 90 divides, else interpolated.

    A tensor is always interpolated.

    Returns:
        Filters of the same shape and type, differentiable in them and in an angle that is a tensor.

    Raises:
        ValueError: filters that are not square.
    """
    k = expect_square_filters(filters)
    if not isinstance(degrees, Tensor):
        if is_quarter(degrees):
            return torch.rot90(filters, round(degrees / QUARTER), (-2, -1))
        degrees = torch.tensor(degrees, dtype=torch.float64, device=filters.device)
    matrix = rotation_matrices(degrees.reshape(1), k)[0].to(filters.dtype)
    return (filters.flatten(-2) @ matrix.mT).unflatten(-1, (k, k))


def expect_square_filters(filters: Tensor) -> int:
    """Refuse filters that cannot be turned.

    Returns:
        The side k of filters `[..., k, k]`.

    Raises:
        ValueError: filters that are not square.
    """
    if filters.dim() < 2 or filters.shape[-1] != filters.shape[-2]:
        raise ValueError(f"only square filters [..., k, k] can be turned, got {list(filters.shape)}")
    return int(filters.shape[-1])


@dataclass(frozen=True)
class RotationError:
    """What interpolation costs, both relative to the filters inside the disc.

    Attributes:
        identity: ||R_theta^n w - w|| / ||w||, all n turns one after the other.
        norm: ||R_theta w|| / ||w||; 1 is kept.
    """

    identity: float
    norm: float


@torch.no_grad()
def rotation_error(filters: Tensor, degrees: float, turns: int) -> RotationError:
    """The error of turning filters `[..., k, k]` by an angle, `turns` times in a row."""
    k = expect_square_filters(filters)
    inside = filters.double()
    if not is_quarter(degrees):
        inside = inside * disc(k, filters.device).reshape(k, k)
    turned, once = inside, rotate(inside, degrees)
    for _ in range(turns):
        turned = rotate(turned, degrees)
    scale = inside.norm().clamp_min(1e-300)
    return RotationError(float((turned - inside).norm() / scale), float(once.norm() / scale))
