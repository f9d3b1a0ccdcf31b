"""`planted-cyclic-45`, `-60`, `-90`: what is true of them by construction, over every turn.

Axes: rosette, turn, h, w.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from symlearn.data import load_data
from symlearn.data.planted_banks import ANGLES, PARTS, SIDE, rosette, rosettes, turned_parts
from symlearn.layers.cyclic_bank import Rotations

every_angle = pytest.mark.parametrize("angle", ANGLES)


def parts(angle: int, offset: float = 0.0) -> np.ndarray:
    """All parts of a set, `[rosette, turn, h * w]`, each turned by an offset more."""
    turns = [k * angle + offset for k in range(360 // angle)]
    return np.array([[rosette(index, turn).ravel() for turn in turns] for index in range(rosettes(angle))])


@every_angle
def test_a_set_has_as_many_parts_as_a_bank_of_its_angle_has_filters(angle: int) -> None:
    found = parts(angle)
    assert found.shape[0] * found.shape[1] == PARTS
    assert np.allclose(np.linalg.norm(found, axis=-1), 1)


@every_angle
def test_turned_by_any_element_a_set_stays_itself_and_keeps_its_classes(angle: int) -> None:
    before = parts(angle)
    for k in range(360 // angle):
        assert np.allclose(parts(angle, k * angle), np.roll(before, -k, axis=1), atol=1e-12), k


@every_angle
@pytest.mark.parametrize("other", ANGLES)
def test_turned_by_less_a_set_is_another(angle: int, other: int) -> None:
    """Half its angle, or that of a set whose turns are none of its own: parts that it has not."""
    offset = angle / 2 if other == angle else other
    if offset % angle:
        found = np.einsum("rtp,qsp->rtqs", parts(angle, offset), parts(angle))
        assert found.max() < 0.65, f"{angle} turned by {offset:g}: correlation {found.max():.2f}"


def test_no_rosette_is_a_turn_of_another() -> None:
    turned = np.array([[rosette(i, degrees).ravel() for degrees in range(0, 360, 3)] for i in range(6)])
    found = np.abs(np.einsum("ip,jtp->ijt", turned[:, 0], turned)).max(-1)
    assert found[~np.eye(6, dtype=bool)].max() < 0.6


@pytest.mark.parametrize("index", range(6))
def test_quarter_turns_are_those_of_the_grid(index: int) -> None:
    for degrees in (0, 45, 60):
        turned = rosette(index, degrees + 90)
        assert np.allclose(turned, np.rot90(rosette(index, degrees)), atol=1e-12), degrees


@every_angle
def test_one_basis_filter_a_rosette_is_a_bank_of_all_parts(angle: int) -> None:
    """To the error of interpolation; turned the other way round it is not."""
    basis = torch.from_numpy(np.array([rosette(index, 0) for index in range(rosettes(angle))]))
    bank = Rotations(SIDE, 360 // angle)(basis).flatten(2).numpy()
    found = parts(angle)
    right = np.linalg.norm(bank - found, axis=-1).max()
    assert right < 0.15, f"{right:.3f} of the part's norm"
    assert np.linalg.norm(bank[:, ::-1] - found, axis=-1).max() > 0.5


@every_angle
def test_no_class_can_be_read_off_linearly(angle: int) -> None:
    assert np.abs(parts(angle).mean(1)).max() < 0.02 * np.abs(parts(angle)).max(), "means over turns vanish"


@every_angle
def test_the_class_is_that_of_the_most_similar_part(angle: int) -> None:
    x, y = turned_parts(angle, 300, 3)
    similar = np.einsum("np,rtp->nrt", x.reshape(len(x), -1), parts(angle)).max(-1).argmax(-1)
    assert (similar == y).mean() > 0.97 and set(y.tolist()) == set(range(rosettes(angle)))


def test_images_are_seeded() -> None:
    (x, _), (again, _) = (turned_parts(60, 40, 3) for _ in range(2))
    assert x.shape == (40, SIDE, SIDE) and x.dtype == np.float32
    assert np.array_equal(x, again) and not np.array_equal(x, turned_parts(60, 40, 4)[0])


def test_another_angle_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown angle 30; expected one of 45, 60, 90"):
        turned_parts(30, 10, 0)


@every_angle
def test_they_are_sources(angle: int) -> None:
    splits = load_data(f"planted-cyclic-{angle}", limit=20, test_limit=10)
    assert splits.classes == rosettes(angle) and splits.train.tensors[0].shape == (20, 1, SIDE, SIDE)
