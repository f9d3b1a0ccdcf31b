"""Rotated filters: exact quarter turns, scipy's spline elsewhere, gradients in the angle, measured errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from oracles import assert_close
from toys import noise

from symlearn.groups import find_group
from symlearn.layers.rotation import disc, rotate, rotation_error, rotation_matrices


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 5])
def test_quarter_turns_only_move_taps(k: int, quarters: int) -> None:
    filters = noise(4, 2, k, k)
    turned = rotate(filters, 90.0 * quarters)
    assert torch.equal(turned, torch.rot90(filters, quarters, (-2, -1)))
    for f in (filters[0, 0], filters[3, 1]):
        expected = scipy.ndimage.rotate(f.numpy(), 90 * quarters, reshape=False, order=0)
        if k > 1:
            assert np.allclose(rotate(f, 90.0 * quarters).numpy(), expected), "direction differs from scipy's"
    group = find_group("p4")
    image = filters.reshape(8, 1, k, k)
    assert_close(
        rotate(image, 90.0 * quarters), group.act_on_image(image, quarters % 4), 1e-14, "p4's quarter turns"
    )


@pytest.mark.parametrize("k", [2, 3, 7, 8, 28])
@pytest.mark.parametrize("degrees", [60.0, 45.0, -17.3, 121.0])
def test_other_angles_are_scipys_spline_inside_the_disc(k: int, degrees: float) -> None:
    image = noise(k, k, seed=k)
    expected = scipy.ndimage.rotate(image.numpy(), degrees, reshape=False, order=3, mode="mirror")
    inside = disc(k).reshape(k, k)
    assert_close(rotate(image, degrees), torch.from_numpy(expected) * inside, 1e-12, "against scipy")


@pytest.mark.parametrize("k", [7, 8])
def test_interpolation_is_exact_at_quarter_turns(k: int) -> None:
    filters, inside = noise(3, k, k), disc(k).reshape(k, k)
    for degrees in (0.0, 90.0, 270.0):
        found = rotate(filters, torch.tensor(degrees))
        assert_close(found, rotate(filters, degrees) * inside, 1e-12, f"{degrees} degrees")


@pytest.mark.parametrize("k", [3, 8])
@pytest.mark.parametrize("degrees", [0.0, 12.0, 60.0, 90.0])
def test_gradient_in_the_angle(k: int, degrees: float) -> None:
    filters, other, step = noise(2, k, k), noise(2, k, k, seed=1), 1e-4
    angle = torch.tensor(degrees, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((rotate(filters, angle) * other).sum(), angle)
    ends = [
        (rotate(filters, torch.tensor(degrees + s, dtype=torch.float64)) * other).sum() for s in (-step, step)
    ]
    assert_close(found, (ends[1] - ends[0]) / (2 * step), 1e-6, "gradient")


def test_smooth_filters_survive_a_round_of_turns() -> None:
    """And white noise loses much: the error of interpolation is that of the highest frequencies."""
    axis = torch.arange(8, dtype=torch.float64) - 3.5
    radius = axis.square()[:, None] + axis.square()
    bump = torch.exp(-radius / 8) * (1 + 0.5 * axis[:, None] - 0.2 * axis)
    rough = noise(200, 8, 8)
    for degrees, n in ((60.0, 6), (45.0, 8)):
        smooth, hard = rotation_error(bump, degrees, n), rotation_error(rough, degrees, n)
        assert smooth.identity < 0.2 and abs(smooth.norm - 1) < 0.03, smooth
        assert 0.5 < hard.identity < 0.8 and 0.8 < hard.norm < 0.9, hard
    exact = rotation_error(rough, 90.0, 4)
    assert exact.identity == 0.0 and math.isclose(exact.norm, 1.0)


def test_matrices_turn_one_after_the_other() -> None:
    """The angles of a batch are independent, and a disc stays a disc."""
    both = rotation_matrices(torch.tensor([60.0, 45.0]), 7)
    for degrees, matrix in zip((60.0, 45.0), both, strict=True):
        filters = noise(7, 7)
        assert_close(
            (matrix @ filters.flatten()).unflatten(0, (7, 7)), rotate(filters, degrees), 1e-12, "R w"
        )
    centred = torch.where(disc(7), 1.0, 0.0).double()
    outside = ~disc(7)
    assert float((both @ centred)[:, outside].abs().max()) == 0.0


def test_only_square_filters_are_turned() -> None:
    with pytest.raises(ValueError, match=r"square filters .*\[3, 4\]"):
        rotate(noise(3, 4), 90.0)
