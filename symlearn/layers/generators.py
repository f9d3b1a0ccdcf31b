"""Groups given by example: generators, as permutations or matrices, and what they make.

A generator g acts on vectors x `[d]`. A permutation p `[d]` acts by (g x)_i = x[p_i], a matrix M `[d, d]` by
(g x)_i = sum_j M_ij x_j. A matrix with one entry +-1 in every row and column is a signed permutation,
(g x)_i = s_i x[p_i], and is kept as one: those need no list of the group's elements and may be large. Other
matrices may be any invertible ones. Whether two actions are those of one group: `one_group.py`.

Axes: generator, d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Generators = Tensor | Sequence[Sequence[int]] | Sequence[Tensor] | Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True, eq=False)
class SignedPermutations:
    """Generators (g x)_i = sign[g, i] x[index[g, i]].

    Attributes:
        index: `[generator, d]` int64.
        sign: `[generator, d]` int64, +-1.
    """

    index: Tensor
    sign: Tensor

    @property
    def d(self) -> int:
        """Length of the vectors."""
        return self.index.shape[1]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def signed(self) -> bool:
        """Whether any sign is negative."""
        return bool((self.sign < 0).any())

    def matrices(self) -> Tensor:
        """`[generator, d, d]` float64."""
        eye = torch.eye(self.d, dtype=torch.float64)
        return eye[self.index] * self.sign[:, :, None]

    def on_points(self) -> SignedPermutations:
        """Without signs: on the d points, or, where signs change, on the 2 d points (i, +) and (i, -)."""
        if not self.signed:
            return self
        positive = self.index + self.d * (self.sign < 0)
        negative = self.index + self.d * (self.sign > 0)
        both = torch.cat([positive, negative], 1)
        return SignedPermutations(both, torch.ones_like(both))


@dataclass(frozen=True, eq=False)
class Matrices:
    """Generators as invertible matrices `[generator, d, d]`, float64."""

    given: Tensor

    @property
    def d(self) -> int:
        """Length of the vectors."""
        return self.given.shape[1]

    def __len__(self) -> int:
        return len(self.given)

    def matrices(self) -> Tensor:
        """`[generator, d, d]` float64."""
        return self.given


Action = SignedPermutations | Matrices
Given = Generators | SignedPermutations | Matrices  # what is read, or was read before


def trivial_action(d: int, generators: int = 1) -> SignedPermutations:
    """Generators that do nothing on vectors of length d."""
    index = torch.arange(d).expand(generators, d)
    return SignedPermutations(index, torch.ones_like(index))


def product_action(first: Action, second: Action) -> Action:
    """Of the product of two groups on pairs (i, j) = i d_j + j: the first's generators, then the second's."""
    m, n = first.d, second.d
    if isinstance(first, SignedPermutations) and isinstance(second, SignedPermutations):
        of_first = first.index[:, :, None] * n + torch.arange(n)
        of_second = torch.arange(m)[:, None] * n + second.index[:, None]
        signs = first.sign[:, :, None].expand_as(of_first), second.sign[:, None].expand_as(of_second)
        return SignedPermutations(
            torch.cat([of_first.flatten(1), of_second.flatten(1)]), torch.cat([s.flatten(1) for s in signs])
        )
    eyes = [torch.eye(d, dtype=torch.float64) for d in (m, n)]
    made = [torch.kron(g, eyes[1]) for g in first.matrices()]
    return Matrices(torch.stack([*made, *(torch.kron(eyes[0], g) for g in second.matrices())]))


def read_action(generators: Given, side: str) -> Action:
    """Read generators in any of the forms above.

    Args:
        generators: one or more, all on vectors of one length: permutations `[d]`, or matrices `[d, d]`.
        side: what messages call it, such as "the input's action".

    Returns:
        The action, checked: `SignedPermutations` where every generator is one, also if given as matrices.
        What was read before is returned as it is.

    Raises:
        ValueError: none, of different lengths, no permutation, a singular matrix.
    """
    if isinstance(generators, SignedPermutations | Matrices):
        return generators
    given = [g if isinstance(g, Tensor) else torch.from_numpy(np.array(g)) for g in generators]
    if not given:
        raise ValueError(f"{side} has no generators; give one or more, or None where nothing moves")
    shapes = {tuple(g.shape) for g in given}
    if len(shapes) > 1 or given[0].dim() not in (1, 2) or not given[0].numel():
        raise ValueError(
            f"{side} needs generators of one form, permutations [d] or matrices [d, d], got shapes "
            f"{sorted(shapes)}"
        )
    if given[0].dim() == 1:
        return read_permutations(torch.stack(given), side)
    return read_matrices(torch.stack([g.to(torch.float64) for g in given]), side)


def read_permutations(index: Tensor, side: str) -> SignedPermutations:
    """Read permutations `[generator, d]`.

    Returns:
        Their action, all signs +1.

    Raises:
        ValueError: a generator that is none.
    """
    d = index.shape[1]
    if not index.is_floating_point() and index.dtype != torch.bool:
        wrong = (index.sort(1).values != torch.arange(d)).any(1)
        if not wrong.any():
            return SignedPermutations(index.long(), torch.ones_like(index, dtype=torch.int64))
        bad = int(wrong.int().argmax())
    else:
        bad = 0
    raise ValueError(
        f"generator {bad} of {side} is no permutation of 0 to {d - 1}: {shown(index[bad])}; name every "
        "place once, as whole numbers"
    )


def read_matrices(given: Tensor, side: str) -> Action:
    """Read matrices `[generator, d, d]`.

    Returns:
        `SignedPermutations` if all of them are such, else `Matrices` that hold those given.

    Raises:
        ValueError: matrices that are not square, not finite or singular.
    """
    if given.shape[1] != given.shape[2]:
        raise ValueError(f"{side} needs square matrices [d, d], got {list(given.shape[1:])}")
    if not given.isfinite().all():
        raise ValueError(f"{side} has a matrix with entries that are not finite; correct it")
    size = given.abs()
    if bool(((size == 1) | (size == 0)).all() & (size.sum(1) == 1).all() & (size.sum(2) == 1).all()):
        return SignedPermutations(size.argmax(2), given.sum(2).long())
    singular = torch.linalg.svdvals(given)
    flat = singular[:, -1] <= 1e-10 * singular[:, 0]
    if flat.any():
        raise ValueError(
            f"generator {int(flat.int().argmax())} of {side} is a singular matrix; the elements of a group "
            "can be undone, so give invertible ones"
        )
    return Matrices(given)


def shown(numbers: Tensor) -> str:
    """A few numbers in one line."""
    first = ", ".join(f"{value:g}" for value in numbers[:12].tolist())
    return f"[{first}{', ...' if len(numbers) > 12 else ''}]"
