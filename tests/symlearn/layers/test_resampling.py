"""Images through affine maps: exact where they must be, and close to the truth where that is known.

Axes: batch, copy, c, h, w.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import noise

from symlearn.layers.resampling import coefficients, interpolate, resample

EYE = torch.eye(3, dtype=torch.float64)
SIZES = [(1, 5), (2, 2), (7, 4), (8, 8), (9, 9)]


def turn(degrees: float) -> Tensor:
    """A map of places that turns images, `[1, 3, 3]`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]], dtype=torch.float64)


def waves(size: int, angle: float = 0.0) -> Tensor:
    """A smooth image `[1, 1, size, size]`, turned by an angle without any resampling."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = cos * x + sin * y, -sin * x + cos * y
    return (torch.cos(0.5 * u) + torch.sin(0.3 * v + 0.2))[None, None]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_identity_is_exact(size: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    off = float((interpolate(x, EYE[None])[:, 0] - x).abs().max())
    assert off < 1e-12, f"the identity moved pixels by {off:.1e}"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_coefficients_undo_the_smoothing(size: tuple[int, int]) -> None:
    x = noise(1, 2, *size)
    assert torch.allclose(resample(coefficients(x), EYE[None])[:, 0], x, atol=1e-12)
    if min(size) > 1:
        assert float((resample(x, EYE[None])[:, 0] - x).abs().max()) > 0.05, "the plain one smooths"


@pytest.mark.parametrize("size", [7, 8])
def test_quarter_turns_permute_pixels(size: int) -> None:
    x = noise(2, 1, size, size)
    found = {k: interpolate(x, turn(sign * 90))[:, 0] for k, sign in ((1, -1), (3, 1))}
    for k, y in found.items():
        other = torch.rot90(x, k, (-2, -1))
        assert min(float((y - other).abs().max()), float((y - torch.rot90(x, -k, (-2, -1))).abs().max())) < (
            1e-9
        ), f"a turn by {k} quarters is no permutation of pixels"


@pytest.mark.parametrize("degrees", [-20.0, 7.0, 33.0])
def test_smooth_images_turn_as_they_should(degrees: float) -> None:
    """Inside; at the border the truth goes on and the image does not."""
    found = interpolate(waves(25), turn(degrees))[:, 0]
    truth = waves(25, math.radians(degrees))
    middle = (..., slice(6, 19), slice(6, 19))
    off = float((found - truth)[middle].norm() / truth[middle].norm())
    assert off < 2e-3, f"off by {off:.1e} at {degrees}°"


def test_float32_stays() -> None:
    assert interpolate(noise(1, 1, 5, 5).float(), EYE[None]).dtype == torch.float32
