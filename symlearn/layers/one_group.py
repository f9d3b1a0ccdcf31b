"""Whether two actions are those of one finite group, and the list of its elements where they are matrices.

Two actions, on an input and on an output, are those of one group if its k-th generator acts by the k-th of
either list, and if one side tells all elements apart: every word in the generators that does nothing there
does nothing on the other side. (The other side may tell fewer apart: an invariant tells none.)

Of permutations the orders of three groups say so, that of the input, of the output and of both side by side;
where one side's points map onto the other's, nothing need be counted. Other matrices are listed.

Axes: generator, element, d (d_in, d_out).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from symlearn.layers.generators import Action, Given, SignedPermutations, read_action, trivial_action
from symlearn.layers.orbits import maps_onto

MOST_ELEMENTS = 4096  # of a group of matrices that are no signed permutations
SAME = 1e-6  # elements closer than this, relative to the generators' size, are one


def read_actions(
    generators_in: Given | None,
    generators_out: Given | None,
    d_in: int | None = None,
    d_out: int | None = None,
) -> tuple[Action, Action]:
    """Read the actions on input and output, and check that they are of one finite group.

    Args:
        generators_in: of the action on the input; None: nothing moves.
        generators_out: the same of the output, generator by generator of the same elements.
        d_in: length of the input's vectors, where nothing moves; otherwise a check.
        d_out: the same of the output.

    Returns:
        (action on the input, action on the output), of equally many generators; identities where nothing
        moves.

    Raises:
        ValueError: generators that make no finite group, lengths that do not match, actions of two groups.
    """
    read = [
        None if generators is None else read_action(generators, f"the {side}'s action")
        for generators, side in ((generators_in, "input"), (generators_out, "output"))
    ]
    count = max((len(action) for action in read if action is not None), default=1)
    found: list[Action] = []
    for action, d, side in zip(read, (d_in, d_out), ("input", "output"), strict=True):
        if action is None and (d is None or d < 1):
            raise ValueError(f"nothing says how long the {side}'s vectors are; give d_{side[:-3]}")
        known = trivial_action(d or 1, count) if action is None else action
        if d is not None and known.d != d:
            raise ValueError(
                f"the {side}'s action is on vectors of length {known.d}, and the {side} has {d}; give "
                f"generators on {d}"
            )
        found.append(known)
    action_in, action_out = found
    if len(action_in) != len(action_out):
        raise ValueError(
            f"the input's action has {len(action_in)} generators and the output's {len(action_out)}; give "
            "both of every generator, the identity where it does nothing"
        )
    if None not in read and generators_in is not generators_out:
        expect_one_group(action_in, action_out)
    return action_in, action_out


def expect_one_group(action_in: Action, action_out: Action) -> None:
    """Refuse actions neither of which tells all elements apart that the generators make together.

    Raises:
        ValueError: so it is, or the generators make too many elements.
    """
    if isinstance(action_in, SignedPermutations) and isinstance(action_out, SignedPermutations):
        points = action_in.on_points(), action_out.on_points()
        if maps_onto(*points) or maps_onto(*points[::-1]):
            return
        sides = [action.index.tolist() for action in points]
        both = [[*a, *(points[0].d + i for i in b)] for a, b in zip(*sides, strict=True)]
        on_in, on_out, together = order(sides[0]), order(sides[1]), order(both)
    else:
        of_in, of_out = elements(action_in, action_out)
        on_in, on_out = (len(distinct(marks_of([side]), SAME)) for side in (of_in, of_out))
        together = len(of_in)
    if together not in (on_in, on_out):
        raise ValueError(
            f"the two actions are not of one group: the generators make {on_in} elements on the input, "
            f"{on_out} on the output and {together} together, so words in them that do nothing on one side "
            "move the other; give the same elements on both sides"
        )


def order(permutations: list[list[int]]) -> int:
    """How many permutations these make (Schreier and Sims' algorithm)."""
    from sympy.combinatorics import Permutation, PermutationGroup  # slow to load

    return int(PermutationGroup([Permutation(p) for p in permutations]).order())


def elements(action_in: Action, action_out: Action) -> tuple[Tensor, Tensor]:
    """List all elements of a group of matrices.

    Returns:
        `[element, d_in, d_in]` and `[element, d_out, d_out]`, float64, in the same order, the identity first.

    Raises:
        ValueError: more than `MOST_ELEMENTS`.
    """
    given = action_in.matrices(), action_out.matrices()
    tolerance = SAME * float(marks_of(given).abs().max())
    steps = with_powers(given, tolerance)
    newest = tuple(torch.eye(m.shape[1], dtype=torch.float64)[None] for m in steps)
    found = [newest]
    marks = marks_of(newest)
    while len(newest[0]):
        made = [torch.einsum("gij,ejk->geik", s, n).flatten(0, 1) for s, n in zip(steps, newest, strict=True)]
        pool = torch.cat([marks, marks_of(made)])
        if len(marks) > MOST_ELEMENTS or not pool.isfinite().all():
            raise ValueError(
                f"the generators make more than {MOST_ELEMENTS} elements; give those of a finite group of at "
                "most so many, in float64, or permutations, which may make any number"
            )
        kept = distinct(pool, tolerance)
        marks, new = pool[kept], kept[len(marks) :] - len(marks)  # what was there comes first
        newest = (made[0][new], made[1][new])
        found.append(newest)
    return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])


def with_powers(sides: tuple[Tensor, Tensor], tolerance: float) -> tuple[Tensor, Tensor]:
    """Generators with their powers 2, 4, 8, ..., so that long cycles are walked in few steps."""
    powers = [sides]
    for _ in range(MOST_ELEMENTS.bit_length() - 1):
        powers.append((powers[-1][0] @ powers[-1][0], powers[-1][1] @ powers[-1][1]))
    whole = torch.cat([a for a, _ in powers]), torch.cat([b for _, b in powers])
    marks = marks_of(whole)
    if not marks.isfinite().all():
        return sides  # refused later, as too many elements
    first = distinct(marks, tolerance)
    return whole[0][first], whole[1][first]


def marks_of(sides: Sequence[Tensor]) -> Tensor:
    """Multiply elements by fixed random vectors, to tell them apart without comparing whole matrices.

    Args:
        sides: matrices of the same elements, `[element, d, d]` each.

    Returns:
        Four numbers an element, `[element, 4]`.
    """
    flat = torch.cat([m.flatten(1) for m in sides], 1)
    probes = torch.randn(flat.shape[1], 4, generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
    return flat @ probes


def distinct(marks: Tensor, tolerance: float) -> Tensor:
    """Find the first of every set of equal marks `[element, 4]`.

    Equal ones differ by rounding alone, and so lie side by side in the order of their first number.

    Returns:
        Places of the first ones among the elements, ascending, int64.
    """
    order = marks[:, 0].argsort()
    apart = (marks[order].diff(dim=0).abs().amax(1) > tolerance).long()
    sets = torch.cat([apart.new_zeros(1), apart.cumsum(0)])
    first = torch.full((int(sets[-1]) + 1,), len(marks)).scatter_reduce(0, sets, order, "amin")
    return first.sort().values
