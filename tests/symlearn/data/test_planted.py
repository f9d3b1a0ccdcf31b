"""`planted-eighths`: smooth shapes, turned without a grid in between.

Axes: h, w.
"""

from __future__ import annotations

import numpy as np
import pytest

from symlearn.data.planted import SIDE, planted_images, smooth_shape

CENTRE = np.full(2, (SIDE - 1) / 2)


@pytest.mark.parametrize("label", range(4))
def test_quarter_turns_are_those_of_the_grid(label: int) -> None:
    for eighths in range(8):
        turned = smooth_shape(label, CENTRE, eighths + 2)
        assert np.allclose(turned, np.rot90(smooth_shape(label, CENTRE, eighths)), atol=1e-12), eighths


@pytest.mark.parametrize("label", range(4))
def test_shapes_move_with_their_centre(label: int) -> None:
    there = smooth_shape(label, CENTRE + np.array([2, -1]), 3)
    expected = np.roll(smooth_shape(label, CENTRE, 3), (2, -1), (0, 1))
    assert np.allclose(there[2:, :-1], expected[2:, :-1], atol=1e-12)


def test_an_eighth_of_a_turn_keeps_distances_to_the_centre() -> None:
    """By hand, of the L: from its corner three pixels down and left of the centre, at 45 degrees straight
    down, distance sqrt(18)."""
    centre = np.array([7.0, 7.0])
    row = 7 + 18**0.5
    turned = smooth_shape(0, centre + np.array([round(row) - row, 0.0]), 1)  # the corner onto a pixel
    assert turned[round(row), 7] == pytest.approx(2.0, abs=1e-12), "the corner is not where the turn takes it"


def test_no_shape_is_a_turn_of_another() -> None:
    shapes = np.array([[smooth_shape(label, CENTRE, k) for k in range(8)] for label in range(4)])
    for one in range(4):
        for other in range(one):
            gaps = np.linalg.norm(shapes[one, 0] - shapes[other], axis=(1, 2)) / np.linalg.norm(
                shapes[one, 0]
            )
            assert gaps.min() > 0.3, f"shapes {one} and {other}: {gaps.min():.2f}"


def test_images_are_seeded_and_hold_every_class() -> None:
    (x, y), (again, _) = (planted_images("eighths", 60, 3) for _ in range(2))
    assert x.shape == (60, SIDE, SIDE) and x.dtype == np.float32
    assert np.array_equal(x, again) and set(y.tolist()) == {0, 1, 2, 3}
    assert not np.array_equal(x, planted_images("eighths", 60, 4)[0])
