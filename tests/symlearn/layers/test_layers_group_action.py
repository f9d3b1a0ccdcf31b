"""Actions of finite groups: tables, laws, kernels and quotients, and what is refused.

Axes: batch, c, group, coset, h, w, d.
"""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from oracles import assert_close, assert_refused
from torch import Tensor
from toys import noise

from symlearn.groups import FiniteGroup, cyclic, find_group
from symlearn.layers import GroupAction, group_map_action, image_action, matrix_action

C4 = [[(g + h) % 4 for h in range(4)] for g in range(4)]


def permutation_matrices(n: int) -> Tensor:
    """All permutations of n things as matrices, the identity first."""
    return torch.stack([torch.eye(n)[list(order)] for order in itertools.permutations(range(n))])


def shift_action(n: int) -> GroupAction:
    """C_n by cyclic shifts of the last axis, from a table and a function."""
    table = [[(g + h) % n for h in range(n)] for g in range(n)]
    return GroupAction(table, lambda x, k: x.roll(k, -1), f"shifts by {n}")


def quarter_turns_of_c8() -> GroupAction:
    """C_8 through quarter turns: elements 0 and 4 move nothing."""
    table = [[(g + h) % 8 for h in range(8)] for g in range(8)]
    return GroupAction(table, lambda x, k: x.rot90(k, (-2, -1)), "c8")


ACTIONS = {
    "images p4, odd": (image_action("p4"), (2, 5, 5)),
    "images p4m, even": (image_action("p4m"), (1, 6, 6)),
    "images d1": (image_action("d1"), (1, 4, 4)),
    "group maps p4m": (group_map_action("p4m"), (2, 8, 3, 3)),
    "permutations of 4": (matrix_action(permutation_matrices(4), "s4"), (3, 4)),
    "shifts": (shift_action(5), (2, 5)),
    "quarter turns of c8": (quarter_turns_of_c8(), (1, 3, 3)),
    "functions on p4m": (image_action("p4m").on_functions(), (2, 8, 3)),
    "functions on s3, a number each": (matrix_action(permutation_matrices(3)).on_functions(), (6,)),
    "quotient of c8": (quarter_turns_of_c8().quotient([0, 4]), (1, 3, 3)),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_laws(name: str) -> None:
    """The identity moves nothing, and one element after another moves as their product; both exactly."""
    action, shape = ACTIONS[name]
    action.check(shape, tolerance=0)
    x = noise(3, *shape)
    for g, inverse in enumerate(action.inverse):
        assert torch.equal(action.move(action.move(x, g), inverse), x), f"{name}: element {g} and back"


def test_functions_on_the_group_are_moved_as_defined() -> None:
    """(h y)(g) = y(h^-1 g)."""
    action = image_action("p4m")
    functions, y = action.on_functions(), noise(2, 3, 8)
    for h, g in itertools.product(range(8), repeat=2):
        source = int(action.product[action.inverse[h], g])
        assert torch.equal(functions.move(y, h)[:, :, g], y[:, :, source]), f"element {g} moved by {h}"


def test_matrices_give_the_table_of_their_products() -> None:
    matrices = permutation_matrices(4).double()
    action = matrix_action(matrices)
    for g, h in itertools.product(range(24), repeat=2):
        assert_close(matrices[action.product[g, h]], matrices[g] @ matrices[h], 0, f"{g} times {h}")
    turns = matrix_action(cyclic(5).matrices, "c5")
    assert torch.equal(turns.product, cyclic(5).product)
    assert turns.move(noise(2, 7, 2).float(), 1).dtype == torch.float32


class TestQuotient:
    """G / K, where K acts trivially."""

    def test_kernel_is_found(self) -> None:
        assert quarter_turns_of_c8().kernel((1, 3, 3)) == (0, 4)
        assert image_action("p4m").kernel((1, 3, 3)) == (0,)
        assert image_action("p4").kernel((1, 1, 1)) == (0, 1, 2, 3), "one pixel turns into itself"

    def test_cosets_become_the_elements(self) -> None:
        quotient = quarter_turns_of_c8().quotient([4, 0])
        assert torch.equal(quotient.product, torch.tensor(C4))
        x = noise(2, 1, 3, 3)
        for k in range(4):
            assert torch.equal(quotient.move(x, k), x.rot90(k, (-2, -1)))

    def test_the_sign_of_permutations(self) -> None:
        """S_3 acts by its sign on numbers; what is left of it has two elements."""
        faithful = matrix_action(permutation_matrices(3))
        signs = torch.linalg.det(permutation_matrices(3)).round()
        action = GroupAction(faithful.product, lambda x, g: x * signs[g], "signs")
        action.check((1,))
        assert len(action.kernel((1,))) == 3
        quotient = action.quotient(action.kernel((1,)))
        assert len(quotient) == 2
        quotient.check((1,))

    def test_trivial_kernel_changes_nothing(self) -> None:
        action = image_action("p4m")
        assert torch.equal(action.quotient([0]).product, action.product)


def test_pickle() -> None:
    for action in (image_action("p4m"), image_action("p4").quotient([0]), image_action("p4").on_functions()):
        again = pickle.loads(pickle.dumps(action))
        assert torch.equal(again.product, action.product), repr(action)


REFUSED = {
    "no square table": (lambda: GroupAction([[0, 1]], torch.roll), "[group, group]"),
    "real numbers": (lambda: GroupAction(torch.eye(2), torch.roll), "whole numbers"),
    "no elements": (lambda: GroupAction(torch.zeros(0, 0, dtype=torch.int64), torch.roll), "[0, 0]"),
    "not a permutation": (lambda: GroupAction([[0, 1], [0, 1]], torch.roll, "two"), "column 0"),
    "identity elsewhere": (lambda: GroupAction([[1, 0], [0, 1]], torch.roll), "element 0"),
    "not associative": (
        lambda: GroupAction(
            [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]], torch.roll
        ),
        "(g h) k",
    ),
    "element not there": (lambda: image_action("p4").quotient([0, 7]), "elements 0 to 3"),
    "no subgroup": (lambda: image_action("p4").quotient([0, 1]), "no subgroup"),
    "a coset, not a subgroup": (lambda: image_action("p4").quotient([1, 3]), "no subgroup"),
    "not normal": (lambda: image_action("p4m").quotient([0, 4]), "no normal subgroup"),
    "matrices not square": (lambda: matrix_action(torch.ones(2, 2, 3)), "[2, 2, 3]"),
    "two equal matrices": (lambda: matrix_action(torch.eye(2).expand(2, 2, 2)), "the same"),
    "not closed": (lambda: matrix_action(cyclic(5).matrices[:3], "part of c5"), "times matrix"),
    "identity not first": (lambda: matrix_action([[[-1.0]], [[1.0]]]), "element 0"),
    "vectors of another length": (
        lambda: matrix_action(cyclic(3).matrices).move(noise(2, 3), 1),
        "[batch, ..., 2]",
    ),
    "functions on another group": (
        lambda: image_action("p4").on_functions().move(noise(2, 3, 8), 1),
        "4 elements",
    ),
    "moves that are not the table's": (
        lambda: GroupAction(C4, lambda x, k: x.roll(2 * k + (k > 0), -1), "rolls").check((5,)),
        "element 1",
    ),
    "an identity that moves": (
        lambda: GroupAction(C4, lambda x, k: x.roll(k + 1, -1), "rolls").check((4,)),
        "identity",
    ),
    "a shape that changes": (lambda: image_action("p4").check((1, 3, 4)), "square"),
    "another shape": (lambda: GroupAction([[0]], lambda x, k: x[:, :1], "cut").check((3,)), "keep it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input(name: str) -> None:
    assert_refused(*REFUSED[name])


def test_groups_are_taken_as_they_are() -> None:
    own = FiniteGroup("half", [[[1, 0], [0, 1]], [[-1, 0], [0, -1]]])
    x = noise(1, 1, 4, 4)
    assert torch.equal(image_action(own).move(x, 1), x.flip(-2, -1))
    assert image_action("p4").name == find_group("p4").name == "p4"
