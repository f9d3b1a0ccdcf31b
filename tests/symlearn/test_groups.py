"""Finite groups: axioms, actions on images and on the group, cosets, interpolated rotations, groups of one's own.

Axes: group, point, batch, c, h, w.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from oracles import assert_close
from scipy import ndimage
from torch import Tensor

from symlearn import groups
from symlearn.groups import FiniteGroup, cyclic, dihedral, find_group, group_of, register_group
from symlearn.layers import GroupConv2d, RelaxedLayer2d
from symlearn.layers.registry import path_kind

ORDERS = {"p4": 4, "p4m": 8, "c1": 1, "c2": 2, "c3": 3, "c6": 6, "d1": 2, "d3": 6, "d6": 12}
EXACT = {"p4", "p4m", "c1", "c2", "d1"}
SUBGROUPS = {
    "p4": [(0,), (0, 2), (0, 1, 2, 3)],
    "p4m": [(0,), (0, 2), (0, 4), (0, 5), (0, 1, 2, 3), (0, 2, 4, 6), (0, 2, 5, 7), tuple(range(8))],
    "c6": [(0, 3), (0, 2, 4)],
    "d6": [(0, 3), (0, 6), (0, 2, 4), (0, 2, 4, 7, 9, 11), tuple(range(6))],
}


def images(*shape: int, seed: int = 0) -> Tensor:
    """Random float64 maps of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ORDERS)
class TestAxioms:
    """The multiplication table is that of a group, and that of the matrices."""

    def test_order(self, name: str) -> None:
        group = find_group(name)
        assert len(group) == ORDERS[name], f"{name} has {len(group)} elements"
        assert (group.name, repr(group)) == (name, f"FiniteGroup({name!r}, {ORDERS[name]} elements)")

    def test_closure(self, name: str) -> None:
        group = find_group(name)
        everyone = list(range(len(group)))
        for g in everyone:
            assert sorted(group.product[g].tolist()) == everyone, f"row {g} of the table is no permutation"
            assert sorted(group.product[:, g].tolist()) == everyone, f"column {g} is no permutation"
        for g, h in itertools.product(everyone, everyone):
            product = group.matrices[g] @ group.matrices[h]
            found = group.matrices[group.product[g, h]]
            assert_close(found, product, 1e-12, f"matrix of element {g} times element {h}")

    def test_identity(self, name: str) -> None:
        group = find_group(name)
        everyone = torch.arange(len(group))
        assert torch.equal(group.matrices[0], torch.eye(2, dtype=torch.float64)), "element 0 moves points"
        assert torch.equal(group.product[0], everyone), "the identity from the left changes elements"
        assert torch.equal(group.product[:, 0], everyone), "the identity from the right changes elements"

    def test_inverse(self, name: str) -> None:
        group = find_group(name)
        for g, inverse in enumerate(group.inverse.tolist()):
            assert int(group.product[g, inverse]) == 0, f"{g} times its inverse {inverse}"
            assert int(group.product[inverse, g]) == 0, f"the inverse {inverse} times {g}"
            assert_close(group.matrices[inverse], group.matrices[g].T, 1e-12, f"inverse of element {g}")

    def test_associativity(self, name: str) -> None:
        table = find_group(name).product
        for g, h, k in itertools.product(range(len(table)), repeat=3):
            left, right = int(table[table[g, h], k]), int(table[g, table[h, k]])
            assert left == right, f"({g} {h}) {k} = {left}, but {g} ({h} {k}) = {right}"

    def test_regular_representation(self, name: str) -> None:
        """(h f)(g) = f(h^-1 g), and moving by k and then by h is moving by h k."""
        group = find_group(name)
        order, f = group.regular_permutation(), images(len(group))
        for h, g in itertools.product(range(len(group)), repeat=2):
            source = group.matrices[h].T @ group.matrices[g]
            assert_close(group.matrices[order[h, g]], source, 1e-12, f"source of {g} under {h}")
        for h, k in itertools.product(range(len(group)), repeat=2):
            twice, once = f[order[k]][order[h]], f[order[group.product[h, k]]]
            assert torch.equal(twice, once), f"by {k}, then by {h}, is not by their product"


@pytest.mark.parametrize("name", ORDERS)
def test_exactness_is_known(name: str) -> None:
    group = find_group(name)
    assert group.exact is (name in EXACT), f"{name}: exact is {group.exact}"
    quarters = [bool((m.abs().amax(1) > 1 - 1e-9).all()) for m in group.matrices]
    assert [group.permutes(g) for g in range(len(group))] == quarters


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 12])
def test_numbering(n: int) -> None:
    """The k-th element of C_n turns by 360 k / n degrees; D_n goes on with the mirror of left and right."""
    turns, both = cyclic(n), dihedral(n)
    step = math.radians(360 / n)
    mirror = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    for k in range(n):
        cos, sin = math.cos(k * step), math.sin(k * step)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        assert_close(turns.matrices[k], turn, 1e-8, f"turn {k} of c{n}")
        assert_close(both.matrices[k], turn, 1e-8, f"turn {k} of d{n}")
        assert_close(both.matrices[n + k], turn @ mirror, 1e-8, f"turn {k} of the mirror in d{n}")


def test_labels() -> None:
    """What each element does, in words; mirrored first."""
    quarters = ["0°", "90°", "180°", "270°"]
    mirrored = ["mirror", "mirror, 90°", "mirror, 180°", "mirror, 270°"]
    assert find_group("p4").labels == quarters
    assert find_group("p4m").labels == quarters + mirrored
    assert find_group("c3").labels == ["0°", "120°", "240°"]
    assert find_group("c7").labels[1] == "51.4°"
    assert find_group("d1").labels == ["0°", "mirror"]
    assert half_planes().labels == ["0°", "mirror, 180°", "mirror", "180°"]
    for name in ORDERS:
        assert len(set(find_group(name).labels)) == ORDERS[name], f"two elements of {name} share a label"


def test_names() -> None:
    assert find_group("p4") is find_group("p4"), "looking up a name twice builds two groups"
    assert torch.equal(find_group("p4").product, find_group("c4").product)
    assert torch.equal(find_group("p4m").product, find_group("d4").product)
    own = cyclic(5)
    assert group_of(own) is own and group_of("c5").name == "c5"
    assert len(find_group("c99")) == 99


@pytest.mark.parametrize("size", range(1, 10))
class TestExactActions:
    """Quarter turns and mirrors move the points of any square grid, odd or even, without a rounding error."""

    def test_quarter_turns_are_those_of_torch(self, size: int) -> None:
        group, x = find_group("p4"), images(2, 3, size, size)
        for k in range(4):
            assert torch.equal(group.act_on_image(x, k), x.rot90(k, (-2, -1))), f"{k} quarter turns"

    def test_mirrors_are_those_of_torch(self, size: int) -> None:
        group, x = find_group("p4m"), images(2, 3, size, size)
        for k in range(4):
            assert torch.equal(group.act_on_image(x, k), x.rot90(k, (-2, -1))), f"{k} quarter turns"
            mirrored = x.flip(-1).rot90(k, (-2, -1))
            assert torch.equal(group.act_on_image(x, 4 + k), mirrored), f"mirror, then {k} quarter turns"
        assert torch.equal(find_group("c2").act_on_image(x, 1), x.flip(-2, -1)), "the half turn of c2"
        assert torch.equal(find_group("d1").act_on_image(x, 1), x.flip(-1)), "the mirror of d1"

    @pytest.mark.parametrize("name", sorted(EXACT))
    def test_homomorphism(self, size: int, name: str) -> None:
        group, x = find_group(name), images(2, size, size)
        for g, h in itertools.product(range(len(group)), repeat=2):
            twice = group.act_on_image(group.act_on_image(x, h), g)
            once = group.act_on_image(x, int(group.product[g, h]))
            assert torch.equal(twice, once), f"by {h}, then by {g}, is not by their product"

    @pytest.mark.parametrize("name", sorted(EXACT))
    def test_permutations(self, size: int, name: str) -> None:
        group, x = find_group(name), images(size * size)
        index, action = group.grid_permutation(size), group.grid_action(size)
        for g in range(len(group)):
            assert sorted(index[g].tolist()) == list(range(size**2)), f"element {g} is no permutation"
            assert torch.equal(action[g] @ x, x[index[g]]), f"element {g}: matrix and index disagree"

    @pytest.mark.parametrize("name", sorted(EXACT))
    def test_action_on_group_maps(self, size: int, name: str) -> None:
        """(h x)(g, p) = x(h^-1 g, h^-1 p), a homomorphism too."""
        group = find_group(name)
        x = images(2, 3, len(group), size, size)
        for h in range(len(group)):
            moved = group.act_on_regular(x, h)
            for g in range(len(group)):
                source = int(group.product[group.inverse[h], g])
                expected = group.act_on_image(x[:, :, source], h)
                assert torch.equal(moved[:, :, g], expected), f"element {g} moved by {h}"
            for k in range(len(group)):
                twice = group.act_on_regular(group.act_on_regular(x, k), h)
                once = group.act_on_regular(x, int(group.product[h, k]))
                assert torch.equal(twice, once), f"by {k}, then by {h}, is not by their product"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["p4m", "c6"])
def test_actions_keep_dtype_and_leading_axes(name: str, dtype: torch.dtype) -> None:
    group = find_group(name)
    for shape in ((5, 5), (3, 5, 5), (2, 3, 5, 5), (2, 3, len(group), 5, 5)):
        x = images(*shape).to(dtype)
        for g in range(len(group)):
            y = group.act_on_image(x, g)
            assert (y.dtype, y.shape) == (dtype, x.shape), f"element {g} on {shape}"
            alone = group.act_on_image(x.reshape(-1, 5, 5)[-1], g)
            assert_close(y.reshape(-1, 5, 5)[-1].double(), alone.double(), 1e-6, f"element {g} on {shape}")


@pytest.mark.parametrize("name", SUBGROUPS)
class TestCosets:
    """Left cosets g K."""

    def test_partition(self, name: str) -> None:
        group = find_group(name)
        for elements in SUBGROUPS[name]:
            cosets = group.cosets(elements)
            assert cosets.shape == (len(group) // len(elements), len(elements)), f"cosets of {elements}"
            assert sorted(cosets.flatten().tolist()) == list(range(len(group))), f"cosets of {elements}"
            assert tuple(cosets[0].tolist()) == tuple(elements), f"{elements} does not come first"

    def test_are_left_cosets(self, name: str) -> None:
        group = find_group(name)
        for elements in SUBGROUPS[name]:
            for coset in group.cosets(elements).tolist():
                for g, other in itertools.product(coset, coset):
                    step = int(group.product[group.inverse[g], other])
                    assert step in elements, f"{g} and {other} share a coset of {elements}, {step} apart"

    def test_subgroups_are_groups(self, name: str) -> None:
        group = find_group(name)
        for elements in SUBGROUPS[name]:
            part = group.subgroup(elements)
            assert part.name == f"subgroup of {name}" and len(part) == len(elements)
            for g, h in itertools.product(range(len(part)), repeat=2):
                expected = int(group.product[elements[g], elements[h]])
                assert elements[part.product[g, h]] == expected, f"{g} times {h} in {elements}"


WRONG_SUBGROUPS = {
    "without the identity": ((1, 3), "first element of 'subgroup of p4m' must be the identity"),
    "identity not first": ((2, 0), "first element of 'subgroup of p4m' must be the identity"),
    "not closed": ((0, 1), "not closed: element 1 times element 1 is missing"),
    "two mirrors": ((0, 4, 5), "not closed"),
    "one twice": ((0, 2, 2), "two elements of 'subgroup of p4m' are the same"),
    "empty": ((), r"a group needs matrices \[group, 2, 2\]"),
}


@pytest.mark.parametrize("case", WRONG_SUBGROUPS)
def test_what_is_no_subgroup_is_refused(case: str) -> None:
    elements, message = WRONG_SUBGROUPS[case]
    group = find_group("p4m")
    with pytest.raises(ValueError, match=message):
        group.subgroup(elements)
    with pytest.raises(ValueError, match=message):
        group.cosets(elements)


def smooth_image(size: int) -> Tensor:
    """Two Gaussian bumps well inside the disc, `[h, w]`, a tenth of the grid wide."""
    centre = (size - 1) / 2
    rows, columns = np.meshgrid(np.arange(size) - centre, np.arange(size) - centre, indexing="ij")
    bump = np.exp(-((rows - size / 6) ** 2 + (columns - size / 12) ** 2) / (2 * (size / 10) ** 2))
    other = np.exp(-((rows + size / 8) ** 2 + (columns - size / 5) ** 2) / (2 * (size / 10) ** 2))
    return torch.from_numpy(bump - 0.5 * other)


def disc(size: int, radius: float) -> Tensor:
    """Mask `[h, w]` of the points within a radius of the centre."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return axis[:, None].square() + axis[None, :].square() <= radius**2


INTERPOLATED = ("c3", "c5", "c6", "c8", "d3", "d6")


class TestInterpolatedActions:
    """Rotations between quarter turns: bilinear inside the largest disc."""

    @pytest.mark.parametrize("size", [4, 7, 12, 17])
    @pytest.mark.parametrize("name", INTERPOLATED)
    def test_rows_are_interpolation_weights(self, name: str, size: int) -> None:
        group = find_group(name)
        action = group.grid_action(size)
        inner, outer = disc(size, (size - 1) / 2 - 1e-9).flatten(), ~disc(size, size / 2).flatten()
        for g in range(len(group)):
            if group.permutes(g):
                continue
            total = action[g].sum(1)
            assert float(action[g].min()) >= 0, f"element {g} has negative weights"
            assert float((total[inner] - 1).abs().max()) < 1e-12, f"element {g}: weights do not add up to 1"
            assert float(total.max()) < 1 + 1e-12, f"element {g}: weights add up to more than 1"
            assert float(total[outer].sum()) == 0, f"element {g} writes outside the disc"
            assert int((action[g] > 0).sum(1).max()) <= 4, f"element {g} mixes more than four points"

    @pytest.mark.parametrize("size", [8, 9])
    def test_exact_elements_stay_exact(self, size: int) -> None:
        """The half turn of C_6, and the mirror of D_6, keep every point, corners too."""
        x = images(2, size, size)
        assert torch.equal(find_group("c6").act_on_image(x, 3), x.flip(-2, -1)), "half turn of c6"
        assert torch.equal(find_group("d6").act_on_image(x, 6), x.flip(-1)), "mirror of d6"
        assert torch.equal(find_group("c8").act_on_image(x, 2), x.rot90(1, (-2, -1))), "quarter turn of c8"

    @pytest.mark.parametrize(
        ("name", "size", "measured"),
        [  # bilinear interpolation blurs at every turn: by less on a finer grid, as its spacing squared
            ("c3", 16, 0.132),
            ("c3", 33, 0.0346),
            ("c6", 16, 0.236),
            ("c6", 33, 0.0649),
            ("c8", 16, 0.275),
            ("c8", 33, 0.0825),
        ],
    )
    def test_a_full_turn_is_nearly_the_identity(self, name: str, size: int, measured: float) -> None:
        group, x = find_group(name), smooth_image(size).flatten()
        turned, turn = x, group.grid_action(size)[1]
        for _ in range(len(group)):
            turned = turn @ turned
        error = float((turned - x).norm() / x.norm())
        assert error == pytest.approx(measured, rel=0.02), f"{name} on {size}x{size}: off by {error:.4f}"

    @pytest.mark.parametrize("size", [16, 17, 32, 33])
    @pytest.mark.parametrize("n", [3, 5, 6, 7, 8])
    def test_rotations_are_those_of_scipy(self, n: int, size: int) -> None:
        """Inside the disc, where neither meets the border: on noise, so that nothing is smoothed over."""
        group, x = cyclic(n), images(size, size)
        interior = disc(size, size / 2 - 2)
        for g in range(n):
            found = group.act_on_image(x, g)
            expected = torch.from_numpy(
                ndimage.rotate(x.numpy(), 360 * g / n, reshape=False, order=1, prefilter=False)
            )
            assert_close(found[interior], expected[interior], 1e-10, f"turn {g} of c{n} on {size}x{size}")

    def test_group_maps_turn_their_elements_too(self) -> None:
        group, x = find_group("d3"), images(2, 2, 6, 9, 9)
        for h, g in itertools.product(range(6), range(6)):
            source = int(group.product[group.inverse[h], g])
            expected = group.act_on_image(x[:, :, source], h)
            assert_close(group.act_on_regular(x, h)[:, :, g], expected, 1e-14, f"element {g} moved by {h}")


def half_planes(name: str = "flips") -> FiniteGroup:
    """A group of one's own: up and down, left and right, both."""
    return FiniteGroup(name, [[[1, 0], [0, 1]], [[-1, 0], [0, 1]], [[1, 0], [0, -1]], [[-1, 0], [0, -1]]])


@pytest.fixture
def flips() -> Iterator[FiniteGroup]:
    """The group of two mirrors under the name `flips`, forgotten again afterwards."""
    group = half_planes()
    register_group(group)
    yield group
    del groups._KNOWN["flips"]
    find_group.cache_clear()


class TestOwnGroups:
    """Groups that users define."""

    def test_are_found_by_name(self, flips: FiniteGroup) -> None:
        assert find_group("flips") is flips and group_of("flips") is flips
        assert path_kind("gconv-flips:pointwise").group is flips
        assert flips.exact and flips.inverse.tolist() == [0, 1, 2, 3]
        with pytest.raises(ValueError, match=r"unknown group 'p5'; choose p4, p4m, c<n>, d<n>, flips"):
            find_group("p5")

    def test_serve_as_a_path(self, flips: FiniteGroup) -> None:
        torch.manual_seed(0)
        layer = RelaxedLayer2d(2, 3, 6, "gconv-flips+gconv-flips:separable", stride=2).double()
        assert layer.group is flips
        assert isinstance(layer.path("gconv-flips"), GroupConv2d)
        x = images(4, 2, 4, 6, 6)
        y = layer(x).detach()
        assert y.shape == (4, 3, 4, 3, 3)
        for g in range(4):
            found = layer(flips.act_on_regular(x, g)).detach()
            assert_close(found, flips.act_on_regular(y, g), 1e-12, f"the layer under element {g}")

    def test_are_forgotten_by_the_fixture(self) -> None:
        assert "flips" not in groups._KNOWN
        with pytest.raises(ValueError, match="unknown group 'flips'"):
            find_group("flips")

    def test_a_name_that_was_unknown_can_be_registered(self, request: pytest.FixtureRequest) -> None:
        with pytest.raises(ValueError, match="unknown group 'flips'"):
            find_group("flips")
        flips = request.getfixturevalue("flips")
        assert find_group("flips") is flips, "the failed look-up was remembered"

    @pytest.mark.parametrize("name", ["p4", "p4m", "c3", "d12", "Flips", "two-mirrors", "a:b", "4p", ""])
    def test_wrong_names_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"cannot register a group as {name!r}; use other lower-case"):
            register_group(half_planes(name))
        assert name not in groups._KNOWN


ROOT = math.sqrt(0.5)
EYE, TURN, HALF = [[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]]
WRONG_MATRICES = {
    "a single matrix": (EYE, r"a group needs matrices \[group, 2, 2\], got \[2, 2\]"),
    "three by three": (torch.eye(3)[None], r"got \[1, 3, 3\]"),
    "none": (torch.zeros(0, 2, 2), r"got \[0, 2, 2\]"),
    "a stretch": ([EYE, [[2, 0], [0, 0.5]]], "elements of 'own' must be orthogonal matrices"),
    "not a number": ([EYE, [[math.nan, 0], [0, 1]]], "orthogonal"),
    "the identity later": ([HALF, EYE], "first element of 'own' must be the identity"),
    "one twice": ([EYE, HALF, HALF], "two elements of 'own' are the same"),
    "a turn alone": ([EYE, TURN], "'own' is not closed: element 1 times element 1 is missing"),
    "two mirrors": ([EYE, [[1, 0], [0, -1]], [[0, 1], [1, 0]]], "not closed: element [12] times element"),
    "an eighth of a turn": ([EYE, [[ROOT, -ROOT], [ROOT, ROOT]]], "not closed"),
}


@pytest.mark.parametrize("case", WRONG_MATRICES)
def test_matrices_that_are_no_group_are_refused(case: str) -> None:
    matrices, message = WRONG_MATRICES[case]
    with pytest.raises(ValueError, match=message):
        FiniteGroup("own", matrices)


@pytest.mark.parametrize("name", ["p5", "c0", "d0", "c100", "c-1", "c", "d", "C4", "", "p4 ", "o2"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown group {name!r}; choose p4, p4m, c<n>, d<n>"):
        find_group(name)


def test_wrong_maps_are_refused() -> None:
    group = find_group("p4")
    with pytest.raises(ValueError, match="p4 acts on square maps, got 4x5"):
        group.act_on_image(torch.zeros(1, 1, 4, 5), 1)
    with pytest.raises(ValueError, match="p4 acts on square maps, got 5x4"):
        group.act_on_regular(torch.zeros(1, 1, 4, 5, 4), 1)
    with pytest.raises(ValueError, match="c6 has elements that do not permute grid points; use grid_action"):
        find_group("c6").grid_permutation(5)
