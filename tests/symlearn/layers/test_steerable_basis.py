"""Circular harmonics: what they are at any place, and that the grid hardly aliases each of them.

Axes: group, tap, coefficient, point.
"""

from __future__ import annotations

import math

import pytest
import torch
from oracles import assert_close, harmonic_values
from torch import Tensor

from symlearn.groups import cyclic, dihedral
from symlearn.layers.steerable_basis import Harmonic, harmonics, moved_basis, sampled_basis, tap_places

SIZES = (2, 3, 4, 5, 7, 9)


@pytest.mark.parametrize("group", [cyclic(5), cyclic(8), cyclic(12), dihedral(3), dihedral(6)], ids=str)
@pytest.mark.parametrize("k", SIZES)
def test_moved_functions_are_the_functions_at_the_turned_places(k: int, group) -> None:
    """By coefficients, and by complex powers where h^-1 takes every tap."""
    found, places = moved_basis(group, k), tap_places(k).numpy()
    for element, matrix in enumerate(group.matrices.numpy()):
        expected = torch.from_numpy(harmonic_values(k, places @ matrix))
        assert_close(found[element], expected, 1e-12, f"element {element} of {group.name}, {k}x{k}")
    assert torch.equal(found[0], sampled_basis(k)), "the identity moves something"


@pytest.mark.parametrize("k", SIZES)
def test_functions_have_unit_norm(k: int) -> None:
    squares, at = sampled_basis(k).square().sum(0), 0
    for harmonic in harmonics(k):
        mean = float(squares[at : at + harmonic.size].mean())
        assert mean == pytest.approx(1.0, abs=1e-12), f"{harmonic}: mean square sum {mean}"
        at += harmonic.size
    assert at == len(squares)


def aliasing(k: int, harmonic: Harmonic, turn: float, blur: float) -> float:
    """Expected relative error of one pair of functions, turned by an angle in radians; closed form."""
    matrix = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]).double()
    taps = tap_places(k)

    def energy(values: Tensor, places: Tensor) -> float:
        distances = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
        return float(torch.trace(values.T @ torch.exp(-distances.square() / (4 * blur**2)) @ values))

    still, sources = harmonic.sampled(taps), taps @ matrix
    both = torch.cat([harmonic.sampled(sources), -still])
    return math.sqrt(max(energy(both, torch.cat([sources, taps])), 0) / energy(still, taps))


@pytest.mark.parametrize("k", [3, 5, 7, 9])
def test_frequencies_end_where_aliasing_begins(k: int) -> None:
    """One pixel of blur: 0.15 at most for every function, and nearly twice as much for a ring's next one."""
    turns = [math.pi / 6, math.pi / 4, 2 * math.pi / 5]
    highest: dict[float, tuple[Harmonic, float]] = {}
    for harmonic in harmonics(k):
        error = max(aliasing(k, harmonic, turn, 1.0) for turn in turns)
        assert error < 0.155, f"{harmonic}: {error:.3f}"
        highest[harmonic.radius] = (harmonic, error)
    for radius, (harmonic, error) in highest.items():
        following = Harmonic(radius, harmonic.width, harmonic.frequency + 1)
        if radius > 0:
            found = max(aliasing(k, following, turn, 1.0) for turn in turns)
            assert found > 1.6 * error and found > 0.145, f"{following}: {found:.3f}, before it {error:.3f}"


def test_no_function_has_a_direction_at_the_centre() -> None:
    for k in (3, 5, 7):
        basis, at = sampled_basis(k)[k * k // 2], 0
        for harmonic in harmonics(k):
            if harmonic.frequency:
                assert float(basis[at : at + 2].abs().max()) == 0, f"{harmonic}"
            at += harmonic.size
