"""Layers of any finite group: commuting with every element, as many weights as characters say, refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from contracts import LayerCase, LayerContract
from oracles import assert_close, assert_refused
from torch import Tensor

from symlearn.layers import SymmetricLinear, SymmetricLinear2d
from symlearn.layers.commutant import DenseBasis, OrbitBasis, commutant, invariants
from symlearn.layers.exchanges import (
    any_order,
    circular_shifts,
    columns_in_any_order,
    places_in_any_order,
    rotations_of,
    rows_and_columns,
    rows_in_any_order,
    turns_and_mirrors,
)
from symlearn.layers.generators import Matrices, read_action
from symlearn.layers.one_group import MOST_ELEMENTS, elements, read_actions


def matrices_of(generators: Any) -> Tensor:
    """Generators as matrices `[generator, d, d]`."""
    return read_action(generators, "the action").matrices()


def group(generators_in: Any, generators_out: Any) -> list[tuple[Tensor, Tensor]]:
    """Every element on both sides, by breadth first: an oracle apart from the package's own list."""
    steps = list(zip(matrices_of(generators_in), matrices_of(generators_out), strict=True))
    start = tuple(torch.eye(len(m), dtype=torch.float64) for m in steps[0])
    found, queue = {}, [start]
    while queue:
        a, b = queue.pop()
        key = tuple((torch.cat([a.flatten(), b.flatten()]) * 1000).round().int().tolist())
        if key not in found:
            found[key] = (a, b)
            queue += [(s @ a, t @ b) for s, t in steps]
    return list(found.values())


def hyperoctahedral(n: int) -> list[list[list[float]]]:
    """Signed permutations of n points: S_n, and one sign."""
    flip = torch.eye(n)
    flip[0, 0] = -1
    return [*torch.eye(n)[any_order(n)].tolist(), flip.tolist()]


def signs(generators: list[list[list[float]]]) -> list[list[list[float]]]:
    """The determinants, a group's action on one number."""
    return [[[float(torch.linalg.det(torch.tensor(m)))]] for m in generators]


def turned(n: int, mirror: bool = False) -> list[list[list[float]]]:
    """The plane's turn by 360 / n degrees, and a mirror."""
    c, s = math.cos(2 * math.pi / n), math.sin(2 * math.pi / n)
    return [[[c, -s], [s, c]], *([[[1.0, 0.0], [0.0, -1.0]]] if mirror else [])]


@dataclass(frozen=True)
class Case:
    """A group on both sides.

    Attributes:
        name: a readable id.
        on_in, on_out: generators.
        order: elements it makes together.
        known: coefficients, where the count is known by heart.
    """

    name: str
    on_in: Any
    on_out: Any
    order: int
    known: int | None = None

    def __str__(self) -> str:
        return self.name


S3_ON_PAIRS = [  # of unordered pairs 01, 02, 12 under the generators of any_order(3)
    [2, 0, 1],
    [0, 2, 1],
]
SHEARED = [[[0.0, -1.0], [1.0, -1.0]]]  # order 3, not orthogonal

CASES = [
    *(Case(f"shifts of {n}", rotations_of(n), rotations_of(n), n, n) for n in (1, 2, 5, 8)),
    *(Case(f"any order of {n}", any_order(n), any_order(n), math.factorial(n), 2) for n in (2, 3, 5)),
    Case("any order of 4, one output", any_order(4), [[0], [0]], 24, 1),
    Case("rows and columns, 3x4", rows_and_columns(3, 4), rows_and_columns(3, 4), 144, 4),
    Case("rows, 4x3", rows_in_any_order(4, 3), rows_in_any_order(4, 3), 24, 18),
    Case("columns, 2x5", columns_in_any_order(2, 5), columns_in_any_order(2, 5), 120, 8),
    *(Case(f"turns and mirrors, {n}x{n}", *[turns_and_mirrors(n, n)] * 2, 8) for n in (2, 3, 4, 5)),
    Case("mirrors of 3x4", turns_and_mirrors(3, 4), turns_and_mirrors(3, 4), 4),
    Case("shifts, 3x4", circular_shifts(3, 4), circular_shifts(3, 4), 12, 12),
    Case("set of places, 2x2", places_in_any_order(2, 2), places_in_any_order(2, 2), 24, 2),
    *(Case(f"signed, {n}", hyperoctahedral(n), hyperoctahedral(n), 2**n * math.factorial(n), 1) for n in (2, 3)),
    Case("signed, with a turn of signs", [[[0, -1], [1, 0]]], [[[0, -1], [1, 0]]], 4, 2),
    Case("exchange to its sign", [[1, 0]], [[[-1.0]]], 2, 1),
    Case("points to unordered pairs", any_order(3), S3_ON_PAIRS, 6, 2),
    Case("turns of the plane, 5", turned(5), turned(5), 5, 2),
    Case("turns and mirrors of the plane, 7", turned(7, True), turned(7, True), 14, 1),
    Case("a sheared turn", SHEARED, turned(3), 3, 2),
    Case("points to the plane", rotations_of(5), turned(5), 5, 2),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
class TestEveryGroup:
    """The laws of a layer of a group."""

    def layer(self, case: Case, dtype: torch.dtype) -> SymmetricLinear:
        """Drawn, with a bias that is not zero."""
        torch.manual_seed(1)
        layer = SymmetricLinear(case.on_in, case.on_out, c_in=2, c_out=3).to(dtype)
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
        return layer

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
    def test_commutes_with_every_element(self, case: Case, dtype: torch.dtype, tolerance: float) -> None:
        layer, every = self.layer(case, dtype), group(case.on_in, case.on_out)
        assert len(every) == case.order
        x = torch.randn(3, 2, layer.d_in, dtype=dtype)
        y = layer(x).detach()
        moved = [layer(x @ a.to(dtype).T).detach() - y @ b.to(dtype).T for a, b in every]
        worst = max(float(gap.abs().max()) for gap in moved) / float(y.abs().max())
        assert worst <= tolerance, f"{worst:.1e}"

    def test_as_many_weights_as_the_character_formula(self, case: Case) -> None:
        """Burnside: the mean of tr rho_in tr rho_out over the group, and of tr rho_out for the bias."""
        layer, every = self.layer(case, torch.float64), group(case.on_in, case.on_out)
        traces = torch.tensor([[float(a.trace()), float(b.trace())] for a, b in every])
        assert len(layer.basis) == round(float(traces.prod(1).mean())) and layer.weight.shape[1:] == (2, 3)
        assert len(layer.bias_basis) == round(float(traces[:, 1].mean()))
        assert case.known in (None, len(layer.basis))

    def test_basis_is_orthonormal_and_complete(self, case: Case) -> None:
        """W W^T of the basis is the mean of rho_out (x) rho_in over the group where those are orthogonal."""
        basis = self.layer(case, torch.float64).basis
        flat = basis.matrix(torch.eye(len(basis), dtype=torch.float64)).flatten(0, 1).T
        assert_close(flat @ flat.T, torch.eye(len(basis), dtype=torch.float64), 1e-12, "Gram matrix")
        every = group(case.on_in, case.on_out)
        if case.on_in is not SHEARED:
            mean = torch.stack([torch.kron(b, a) for a, b in every]).mean(0)
            assert_close(flat.T @ flat, mean, 1e-12, "projector")

    def test_rows_are_the_map(self, case: Case) -> None:
        """sum_k theta_k (B_k x)(v), the rows that curvature uses."""
        layer = self.layer(case, torch.float64)
        x = torch.randn(4, 2, layer.d_in, dtype=torch.float64)
        y = torch.zeros(4, 3, layer.d_out, dtype=torch.float64)
        for part, (points, (start, stop)) in enumerate(layer.basis.parts):
            a = layer.basis.rows(part, x)
            y[:, :, points] += torch.einsum("ncvk,kco->nov", a, layer.weight[start:stop].detach())
        assert_close(y, (layer(x) - layer(0 * x)).detach(), 1e-12, "rows")


PLACES = {
    "rows": (rows_in_any_order, None),
    "rows and channels": (rows_in_any_order, any_order(2)),
    "shifts": (circular_shifts, None),
    "channels": (None, any_order(2)),
    "signed channels": (turns_and_mirrors, hyperoctahedral(2)),
}


def map_cases() -> list[LayerCase]:
    """The path of every group at two sizes, to the same size and, with places still, to another."""
    found = []
    for name, (places, channels) in PLACES.items():
        for h, w in ((3, 4), (5, 5)):

            def build(places=places, channels=channels, size=(h, w)) -> SymmetricLinear2d:
                on = None if places is None else places(*size)
                return SymmetricLinear2d(2, 4, size, size, on, on, channels)

            wrong = ((3, h, w), (2, h + 1, w), (2, h))
            found.append(LayerCase(f"{name} {h}x{w}", build, (2, h, w), (4, h, w), wrong_shapes=wrong))
    one = LayerCase("channels to 2x2", lambda: SymmetricLinear2d(4, 2, (3, 4), 2, channels=any_order(2)), (4, 3, 4), (2, 2, 2))  # fmt: skip
    return [*found, one]


@pytest.mark.parametrize("case", map_cases(), ids=str)
class TestSymmetricLinear2d(LayerContract):
    """The path."""


@pytest.mark.parametrize("name", PLACES)
def test_maps_commute_with_places_and_channels(name: str) -> None:
    """Every product of an element on places with one on channels."""
    places, channels = PLACES[name]
    h, w = (3, 3) if name == "signed channels" else (3, 4)
    on = None if places is None else places(h, w)
    torch.manual_seed(0)
    layer = SymmetricLinear2d(4, 2, (h, w), (h, w), on, on, channels).double()
    if layer.linear.bias is not None:  # signs leave none
        torch.nn.init.normal_(layer.linear.bias)
    x = torch.randn(2, 4, h, w, dtype=torch.float64)
    still = [torch.arange(h * w).tolist()]
    on_places = [a for a, _ in group(on if on is not None else still, on if on is not None else still)]
    on_channels = (
        [a for a, _ in group(channels, channels)] if channels is not None else [torch.eye(2).double()]
    )

    def moved(y: Tensor, p: Tensor, c: Tensor) -> Tensor:
        """By an element on places `[p, p]` and one on pairs of channels `[2, 2]`."""
        apart = y.flatten(2).unflatten(1, (-1, 2))
        return torch.einsum("vx,ij,nmjx->nmiv", p, c, apart).flatten(1, 2).unflatten(2, (h, w))

    for p, c in itertools.product(on_places, on_channels):
        assert_close(layer(moved(x, p, c)).detach(), moved(layer(x), p, c).detach(), 1e-12, name)


def test_deep_sets_by_heart() -> None:
    """S_n: theta_1 on the point itself and theta_2 on the others, scaled by the roots of n and n (n - 1)."""
    layer = SymmetricLinear(any_order(4), any_order(4), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]).reshape(2, 1, 1))
    expected = torch.full((4, 4), 3 / math.sqrt(12), dtype=torch.float64).fill_diagonal_(1.0)
    assert_close(layer.to_dense().detach(), expected, 1e-14, "W")


def test_both_bases_span_the_same_maps() -> None:
    """Orbits, and the null space of the same permutations as matrices."""
    on = read_action(turns_and_mirrors(3, 3), "the action")
    orbits, dense = commutant(on, on), DenseBasis(Matrices(on.matrices()), Matrices(on.matrices()))
    assert isinstance(orbits, OrbitBasis) and len(orbits) == len(dense)
    flat = [b.matrix(torch.eye(len(b), dtype=torch.float64)).flatten(0, 1) for b in (orbits, dense.double())]
    assert_close(flat[0] @ flat[0].T, flat[1] @ flat[1].T, 1e-12, "projectors")


def test_large_groups_need_no_list() -> None:
    """S_60 on 60 points and 8! x 8! on 64 places: nobody counts their elements one by one."""
    assert len(SymmetricLinear(any_order(60), any_order(60)).basis) == 2
    assert len(SymmetricLinear(rows_and_columns(8, 8), rows_and_columns(8, 8).clone()).basis) == 4


def test_closure_stops_at_its_bound() -> None:
    turn = turned(MOST_ELEMENTS)
    assert len(elements(*read_actions(turn, turn))[0]) == MOST_ELEMENTS


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no permutation": (
        lambda: SymmetricLinear([[0, 1, 1]], None, d_out=1),
        "generator 0 of the input's action is no permutation of 0 to 2",
    ),
    "no whole numbers": (lambda: SymmetricLinear([[0.0, 1.0]], None, d_out=1), "as whole numbers"),
    "singular": (
        lambda: SymmetricLinear([[[1.0, 2.0], [2.0, 4.0]]], None, d_out=1),
        "generator 0 of the input's action is a singular matrix",
    ),
    "not finite": (lambda: SymmetricLinear([[[math.nan]]], None, d_out=1), "not finite"),
    "not square": (lambda: SymmetricLinear([[[1.0, 2.0]]], None, d_out=1), "square matrices"),
    "infinite order": (
        lambda: SymmetricLinear([[[1.0, 1.0], [0.0, 1.0]]], None, d_out=1),
        f"more than {MOST_ELEMENTS} elements",
    ),
    "a turn that never returns": (lambda: SymmetricLinear(turned(math.pi), turned(math.pi)), "more than"),
    "no generators": (lambda: SymmetricLinear([], None, d_out=1), "no generators"),
    "mixed": (lambda: SymmetricLinear([[0, 1], [0, 1, 2]], None, d_out=1), "of one form"),
    "another number of generators": (
        lambda: SymmetricLinear(any_order(3), rotations_of(3)),
        "has 2 generators and the output's 1",
    ),
    "other relations": (
        lambda: SymmetricLinear(rotations_of(2), rotations_of(3)),
        "2 elements on the input, 3 on the output and 6 together",
    ),
    "other relations of matrices": (lambda: SymmetricLinear(turned(4), turned(6)), "12 together"),
    "other relations, mixed": (lambda: SymmetricLinear(rotations_of(2), turned(3)), "6 together"),
    "no length": (lambda: SymmetricLinear(rotations_of(3), None), "give d_out"),
    "another length": (lambda: SymmetricLinear(rotations_of(3), None, d_in=4, d_out=1), "length 3, and the input has 4"),
    "nothing commutes": (
        lambda: SymmetricLinear(hyperoctahedral(3), signs(hyperoctahedral(3))),
        "no map from 3 to 1 numbers but zero commutes",
    ),
    "too many pairs": (lambda: SymmetricLinear([torch.eye(50) * 1.5], None, d_out=50), "entries"),
    "input of another shape": (lambda: SymmetricLinear(any_order(3), any_order(3))(torch.zeros(2, 4)), "[2, 4]"),
    "copies of another number": (
        lambda: SymmetricLinear(any_order(3), any_order(3), c_in=2)(torch.zeros(2, 3)),
        "expected vectors [batch, 2, 3]",
    ),
    "channels that do not divide": (
        lambda: SymmetricLinear2d(3, 4, 4, 4, channels=any_order(2)),
        "exchanges 2 channels, and the layer has 3 in",
    ),
    "places of another size": (
        lambda: SymmetricLinear2d(1, 1, 4, 4, rows_in_any_order(3, 3), rows_in_any_order(3, 3)),
        "length 9, and the input has 16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(name: str) -> None:
    call, words = WRONG[name]
    assert_refused(call, words)


@pytest.mark.parametrize(("on_in", "on_out"), [(rotations_of(4), rotations_of(2)), (rotations_of(2), rotations_of(4))])  # fmt: skip
def test_a_quotient_is_an_action_of_the_group(on_in: Tensor, on_out: Tensor) -> None:
    """C_4 acts on two points, its square doing nothing there; either way round."""
    assert len(SymmetricLinear(on_in, on_out).basis) == 2


def test_sign_leaves_no_bias() -> None:
    layer = SymmetricLinear(hyperoctahedral(2), hyperoctahedral(2))
    assert layer.bias is None and len(invariants(read_action(hyperoctahedral(2), ""))) == 0


def test_weights_of_another_group_are_refused() -> None:
    """The same number of weights, and another map."""
    shifts = SymmetricLinear(rotations_of(4), rotations_of(4))
    other = SymmetricLinear([[1, 3, 0, 2]], [[1, 3, 0, 2]])
    assert {n: p.shape for n, p in shifts.named_parameters()} == {
        n: p.shape for n, p in other.named_parameters()
    }
    assert_refused(lambda: other.load_state_dict(shifts.state_dict()), "learned with another group")


def test_initial_outputs_keep_their_size() -> None:
    """Twice the inputs' variance for independent inputs, by many draws."""
    torch.manual_seed(0)
    squares = []
    for _ in range(100):
        layer = SymmetricLinear(rows_and_columns(4, 4), rows_and_columns(4, 4), c_in=3, c_out=2, bias=False)
        squares.append(float(layer(torch.randn(20, 3, 16)).detach().square().mean()))
    assert sum(squares) / len(squares) == pytest.approx(2, rel=0.15)
