"""Finite groups that act on batches of anything: a multiplication table, and how an element moves a batch.

Elements are numbered from 0, the identity. An element h moves x to h x, sample by sample; the identity moves
nothing, and g (h x) = (g h) x. A function on the group is a tensor `[batch, c, group, ...]`
(`[batch, group]` where there is no c), moved by (h y)(g) = y(h^-1 g), its regular representation.

    image_action(group)        (h x)(p)    = x(h^-1 p)           on `[batch, c, h, w]`
    group_map_action(group)    (h x)(g, p) = x(h^-1 g, h^-1 p)   on `[batch, c, group, h, w]`
    matrix_action(matrices)    (h x)_i     = sum_j M(h)_ij x_j   on the last axis
    action.on_functions()      (h y)(g)    = y(h^-1 g)           on functions on the group
    action.quotient(kernel)    (h K) x     = h x                 where K acts trivially (Bao & Song, App. A)

Axes: batch, c, group (element), coset, member, h, w, d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from symlearn.groups import FiniteGroup, group_of, on_cpu

Move = Callable[[Tensor, int], Tensor]  # (x, element) -> element x, of the same shape

SEED = 0
SAMPLES = 2  # of the noise that laws are checked on


def group_axis(y: Tensor) -> int:
    """The group's axis of a function on the group: after batch and channels."""
    return min(2, y.dim() - 1)


class GroupAction:
    """A finite group and how its elements act on batches.

    Args:
        product: `[group, group]`, the number of g h; the identity is 0.
        move: from `x [batch, ...]` and an element's number to h x, of the same shape.
        name: what messages call it.

    Attributes:
        product: `[group, group]` int64.
        inverse: `[group]`, the numbers of g^-1, a list.

    That `move` obeys the table is the user's word; `check` puts it to the test.

    Raises:
        ValueError: a table that is no group's.
    """

    @on_cpu
    def __init__(
        self, product: Tensor | Sequence[Sequence[int]], move: Move, name: str = "the group"
    ) -> None:
        self.product, self.move, self.name = torch.as_tensor(product), move, name
        n = len(self.product) if self.product.dim() else 0
        if list(self.product.shape) != [n, n] or not n or self.product.is_floating_point():
            raise ValueError(
                f"{name} needs a multiplication table of whole numbers [group, group], got "
                f"{self.product.dtype} {list(self.product.shape)}; entry [g, h] is the number of g h"
            )
        everyone = torch.arange(n)
        for table, line in ((self.product, "row"), (self.product.T, "column")):
            wrong = (table.sort(1).values != everyone).any(1)
            if wrong.any():
                raise ValueError(
                    f"the table of {name} is no group's: {line} {int(wrong.int().argmax())} should hold "
                    f"every number from 0 to {n - 1} once; correct it"
                )
        if not (torch.equal(self.product[0], everyone) and torch.equal(self.product[:, 0], everyone)):
            raise ValueError(f"element 0 of {name} must be the identity; number the elements so")
        if not torch.equal(self.product[self.product], self.product[:, self.product]):
            raise ValueError(f"the table of {name} is no group's: (g h) k and g (h k) differ; correct it")
        self.inverse: list[int] = (self.product == 0).int().argmax(1).tolist()

    def __len__(self) -> int:
        return len(self.product)

    def __repr__(self) -> str:
        return f"GroupAction({self.name!r}, {len(self)} elements)"

    def noise(self, in_shape: Sequence[int]) -> Tensor:
        """Standard normal float64 `[batch, *in_shape]`, always the same."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(SAMPLES, *in_shape, generator=generator, dtype=torch.float64)

    @on_cpu
    def check(self, in_shape: Sequence[int], tolerance: float = 1e-6) -> None:
        """Check on noise that every two elements move one after another as their product does.

        Args:
            in_shape: of one sample.
            tolerance: the largest difference allowed.

        Raises:
            ValueError: two elements that do not, an identity that moves, a shape that changes.
        """
        x = self.noise(in_shape)
        moved = [self.move(x, g) for g in range(len(self))]
        if any(y.shape != x.shape for y in moved):
            raise ValueError(f"{self.name} changes the shape of {list(in_shape)}; an action must keep it")
        if float((moved[0] - x).abs().max()) > tolerance:
            raise ValueError(f"the identity of {self.name} (element 0) moves its input; it must not")
        for g in range(len(self)):
            for h in range(len(self)):
                gap = float((self.move(moved[h], g) - moved[int(self.product[g, h])]).abs().max())
                if not gap <= tolerance:
                    raise ValueError(
                        f"{self.name} is no action on {list(in_shape)}: element {h} and then {g} move an "
                        f"input {gap:.2g} away from where their product {int(self.product[g, h])} does; "
                        "correct the table or the moves"
                    )

    @on_cpu
    def kernel(self, in_shape: Sequence[int]) -> tuple[int, ...]:
        """The elements that act trivially on samples of a shape, found on noise."""
        x = self.noise(in_shape)
        return tuple(g for g in range(len(self)) if torch.equal(self.move(x, g), x))

    @on_cpu
    def cosets(self, kernel: Sequence[int]) -> Tensor:
        """The cosets g K of a normal subgroup K.

        Returns:
            Numbers of elements, int64 `[coset, member]`, ordered by their smallest, K itself first.

        Raises:
            ValueError: the elements are no subgroup, or not a normal one.
        """
        members = sorted(set(kernel))
        if not members or not 0 <= members[0] <= members[-1] < len(self):
            raise ValueError(
                f"{self.name} has elements 0 to {len(self) - 1}, got {list(kernel)}; give numbers of these"
            )
        left, right = self.product[:, members].sort(1).values, self.product[members].T.sort(1).values
        if members[0] or len(left.unique(dim=0)) * len(members) != len(self):
            raise ValueError(f"{members} is no subgroup of {self.name}; add the identity and all products")
        if not torch.equal(left, right):
            raise ValueError(
                f"{members} is no normal subgroup of {self.name}, so it is not what acts trivially; find "
                "that by kernel(in_shape)"
            )
        return left.unique(dim=0)

    @on_cpu
    def quotient(self, kernel: Sequence[int]) -> GroupAction:
        """The action of G / K, for a normal subgroup K whose elements act trivially.

        Returns:
            An action whose element k is the k-th row of `cosets(kernel)` and moves as that row's first member
            does.

        Raises:
            ValueError: as `cosets`.
        """
        cosets = self.cosets(kernel)
        coset_of = torch.empty(len(self), dtype=torch.int64)
        coset_of[cosets] = torch.arange(len(cosets))[:, None].expand_as(cosets)
        first = cosets[:, 0]
        move = partial(moved_by_representative, self.move, first.tolist())
        return GroupAction(coset_of[self.product[first][:, first]], move, f"{self.name} / {len(cosets[0])}")

    def on_functions(self) -> GroupAction:
        """The same group on functions on it, `[batch, c, group, ...]`: (h y)(g) = y(h^-1 g)."""
        order = self.product[self.inverse]
        return GroupAction(self.product, partial(moved_function, order), self.name)


def moved_by_representative(move: Move, representatives: list[int], x: Tensor, element: int) -> Tensor:
    """What the representative of a coset does."""
    return move(x, representatives[element])


def moved_function(order: Tensor, y: Tensor, element: int) -> Tensor:
    """Move a function on a group, `[batch, c, group, ...]` or `[batch, group]`, by one element.

    Returns:
        (h y)(g) = y(h^-1 g), of the same shape; `order [group, group]` holds the numbers of h^-1 g.

    Raises:
        ValueError: a group's axis of another length.
    """
    axis = group_axis(y)
    if y.dim() < 2 or y.shape[axis] != len(order):
        raise ValueError(
            f"expected a function on {len(order)} elements, [batch, c, {len(order)}, ...] or [batch, "
            f"{len(order)}], got {list(y.shape)}"
        )
    return y.index_select(axis, order[element].to(y.device))


def moved_by_matrix(matrices: Tensor, x: Tensor, element: int) -> Tensor:
    """Move vectors `[batch, ..., d]` by one of the matrices M `[group, d, d]`.

    Returns:
        M(h) x, of the shape and type of x.

    Raises:
        ValueError: another d.
    """
    d = matrices.shape[-1]
    if x.shape[-1] != d:
        raise ValueError(f"expected vectors [batch, ..., {d}], got {list(x.shape)}")
    return x @ matrices[element].to(x).T


def image_action(group: str | FiniteGroup) -> GroupAction:
    """A group's rotations and mirrors as an action on square images `[batch, c, h, w]`.

    Returns:
        An action that is exact for quarter turns and mirrors; other rotations interpolate, so that they are
        an action only up to that error.
    """
    group = group_of(group)
    return GroupAction(group.product, group.act_on_image, group.name)


def group_map_action(group: str | FiniteGroup) -> GroupAction:
    """The same of maps on the group, `[batch, c, group, h, w]`, such as G-CNN layers make."""
    group = group_of(group)
    return GroupAction(group.product, group.act_on_regular, group.name)


@on_cpu
def matrix_action(
    matrices: Tensor | Sequence[Sequence[Sequence[float]]], name: str = "the group"
) -> GroupAction:
    """A group of different matrices as an action on the last axis.

    Returns:
        An action with the elements in the order of `matrices`, whose table of products is worked out from
        them.

    Raises:
        ValueError: matrices of another shape, not different, not closed, or without the identity first.
    """
    given = torch.as_tensor(matrices, dtype=torch.float64)
    if given.dim() != 3 or given.shape[1] != given.shape[2] or not len(given):
        raise ValueError(f"{name} needs matrices [group, d, d], got {list(given.shape)}")
    flat = given.flatten(1)
    products = torch.einsum("aij,bjk->abik", given, given).flatten(2)
    same = (products.unsqueeze(2) - flat).abs().amax(3) < 1e-6  # [group, group, group]
    if (same.sum(2) > 1).any():
        raise ValueError(f"two matrices of {name} are the same; give each once")
    if (same.sum(2) < 1).any():
        g, h = divmod(int((~same.any(2)).int().argmax()), len(given))
        raise ValueError(f"{name} is not closed: matrix {g} times matrix {h} is missing; add it")
    return GroupAction(same.int().argmax(2), partial(moved_by_matrix, given), name)


def action_of(action: str | FiniteGroup | GroupAction) -> GroupAction:
    """The action itself; a group or its name acts on square images."""
    return action if isinstance(action, GroupAction) else image_action(action)
