"""Bases of the linear maps that commute with a group: W rho_in(g) = rho_out(g) W for every element g.

    W = sum_k c_k B_k,    tr(B_k^T B_l) = delta_kl

so that a Gaussian prior on c is the one on W, projected onto the maps that commute (Finzi, Welling & Wilson
2021, section 4, who solve for the null space of the same constraints, one a generator; Ravanbakhsh, Schneider
& Poczos 2017 for permutations). Two ways to a basis:

*Signed permutations*, (g x)_i = s_i x[p_i] on the input and t, q on the output: the constraint of a generator
is W[q_o, p_i] = t_o s_i W[o, i], so W is constant up to signs on the orbits of pairs (o, i), and zero on an
orbit that returns to a pair with the other sign. B_k is one orbit over the root of its size; kept is the
number of the orbit of every pair.

*Other matrices*: the null space of sum_g C_g^T C_g, with C_g vec(W) = vec(rho_out(g) W - W rho_in(g)).

The invariant vectors, for biases, are the maps from one number that does not move.

Axes: k (basis), d_out, d_in, c (copies of the vectors, alike), batch, point (output), generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.groups import on_cpu
from symlearn.layers.generators import Action, SignedPermutations, trivial_action
from symlearn.layers.one_group import elements
from symlearn.layers.orbits import components, orbits_of_pairs

MOST_PAIRS = 2048  # d_out * d_in of matrices that are no signed permutations


class CommutantBasis(nn.Module):
    """A basis of the maps from d_in to d_out numbers that commute.

    Its coefficients fall into parts, each of which alone writes some of the output's points.

    Attributes:
        d_in: length of the input's vectors.
        d_out: length of the output's.
        parts: of every part, its output points `[point]` and where its coefficients lie, (start, stop).
    """

    d_in: int
    d_out: int
    parts: list[tuple[list[int], tuple[int, int]]]

    def __len__(self) -> int:
        return self.parts[-1][1][1] if self.parts else 0

    def matrix(self, coefficients: Tensor) -> Tensor:
        """W `[d_out, d_in, c]` from coefficients `[k, c]`."""
        raise NotImplementedError

    def rows(self, part: int, x: Tensor) -> Tensor:
        """(B_k x)[point] of a part, `[batch, c, point, k]`, of x `[batch, c, d_in]`."""
        raise NotImplementedError

    def step_of_output(self) -> float:
        """How far outputs move on average where inputs are +-1 and all coefficients move by 1, at most."""
        return float(self.matrix(torch.ones(len(self), 1, dtype=torch.float64)).abs().sum()) / self.d_out


class OrbitBasis(CommutantBasis):
    """Of signed permutations: `index [d_out, d_in]` is the orbit of every pair, in d_out d_in whole numbers.

    Attributes:
        index: `[d_out, d_in]`; of pairs on which W is zero, any.
        sign: `[d_out, d_in]` +-1 or 0; None where all are 1.
        sizes: `[k]`, pairs an orbit.
    """

    index: Tensor
    sizes: Tensor
    sign: Tensor | None

    @on_cpu
    def __init__(self, action_in: SignedPermutations, action_out: SignedPermutations) -> None:
        super().__init__()
        self.d_in, self.d_out = action_in.d, action_out.d
        label, sign = orbits_of_pairs(action_in, action_out)
        of_output = components(self.d_out, list(action_out.index.numpy()))
        there = sign != 0
        by_part, first = np.unique(
            np.stack([np.broadcast_to(of_output[:, None], label.shape)[there], label[there]]), axis=1,
            return_index=True,
        )  # fmt: skip
        order = np.lexsort((first, by_part[0]))
        number = np.zeros(label.max() + 1, np.int64)
        number[by_part[1, order]] = np.arange(len(order))
        index = number[label]
        self.parts, stop = [], 0
        for orbit in range(of_output.max() + 1):
            start, stop = stop, stop + int((by_part[0] == orbit).sum())
            points = np.flatnonzero(of_output == orbit)
            if stop > start:
                index[points] = np.where(there[points], index[points], start)
                self.parts.append((points.tolist(), (start, stop)))
        self.register_buffer("index", torch.from_numpy(index), persistent=False)
        sizes = np.bincount(index[there], minlength=len(order))
        self.register_buffer("sizes", torch.from_numpy(sizes), persistent=False)
        signs = torch.from_numpy(sign.astype(np.int8))
        self.register_buffer("sign", None if bool((sign == 1).all()) else signs, persistent=False)

    def matrix(self, coefficients: Tensor) -> Tensor:
        """See `CommutantBasis`."""
        scaled = coefficients * self.sizes.to(coefficients.dtype).rsqrt().unsqueeze(1)
        w = F.embedding(self.index, scaled)
        return w if self.sign is None else w * self.sign.unsqueeze(2)

    def rows(self, part: int, x: Tensor) -> Tensor:
        """See `CommutantBasis`."""
        points, (start, stop) = self.parts[part]
        width = stop - start
        places = torch.arange(len(points), device=x.device).unsqueeze(1) * width
        into = (places + self.index[points] - start).flatten()  # where a pair is summed, [point * d_in]
        moved = x.flatten(0, 1).T.expand(len(points), -1, -1)  # [point, d_in, batch * c]
        if self.sign is not None:
            moved = moved * self.sign[points].unsqueeze(2)
        summed = moved.new_zeros(len(points) * width, moved.shape[2])
        summed = summed.index_add(0, into, moved.flatten(0, 1))
        roots = self.sizes[start:stop].to(x.dtype).rsqrt()
        return summed.T.reshape(*x.shape[:2], len(points), width) * roots


class DenseBasis(CommutantBasis):
    """Of any finite group of matrices: `members [k, d_out, d_in]`.

    Raises:
        ValueError: more than `MOST_PAIRS` pairs of an output and an input.
    """

    members: Tensor

    @on_cpu
    def __init__(self, action_in: Action, action_out: Action) -> None:
        super().__init__()
        self.d_in, self.d_out = action_in.d, action_out.d
        pairs = self.d_in * self.d_out
        if pairs > MOST_PAIRS:
            raise ValueError(
                f"maps from {self.d_in} to {self.d_out} numbers have {pairs} entries, and matrices that are "
                f"no signed permutations are taken up to {MOST_PAIRS}; give permutations, or fewer numbers"
            )
        self.exact = null_space(action_in, action_out)
        self.parts = [(list(range(self.d_out)), (0, len(self.exact)))] if len(self.exact) else []
        self.register_buffer("members", self.exact.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DenseBasis:
        """As `nn.Module`; a change of type starts from float64."""
        super()._apply(fn, recurse)
        self.members = self.exact.to(self.members)
        return self

    def matrix(self, coefficients: Tensor) -> Tensor:
        """See `CommutantBasis`."""
        return torch.einsum("kvx,kc->vxc", self.members.to(coefficients), coefficients)

    def rows(self, part: int, x: Tensor) -> Tensor:
        """See `CommutantBasis`."""
        return torch.einsum("kvx,ncx->ncvk", self.members, x)


def null_space(action_in: Action, action_out: Action) -> Tensor:
    """Solve for the maps that commute with every element of a group of matrices.

    Their number is checked against the mean of tr rho_out(g) tr rho_in(g) over the group.

    Returns:
        An orthonormal basis `[k, d_out, d_in]`, float64; k is 0 where only the zero map commutes.
    """
    eye_in, eye_out = (torch.eye(a.d, dtype=torch.float64) for a in (action_in, action_out))
    total = torch.zeros(action_in.d * action_out.d, action_in.d * action_out.d, dtype=torch.float64)
    for a, b in zip(action_in.matrices(), action_out.matrices(), strict=True):
        constraint = torch.kron(b, eye_in) - torch.kron(eye_out, a.T.contiguous())  # on W, row by row
        total += constraint.T @ constraint
    of_in, of_out = elements(action_in, action_out)
    values, vectors = torch.linalg.eigh(total)
    count = float((of_in.diagonal(dim1=1, dim2=2).sum(1) * of_out.diagonal(dim1=1, dim2=2).sum(1)).mean())
    k = round(count)
    assert abs(count - k) < 1e-6, "characters give no whole number"
    assert bool((values[:k] < 1e-9).all()), "characters and null space differ"
    return vectors[:, :k].T.reshape(k, action_out.d, action_in.d).contiguous()


def commutant(action_in: Action, action_out: Action) -> CommutantBasis:
    """A basis of the maps that commute with the two actions."""
    if isinstance(action_in, SignedPermutations) and isinstance(action_out, SignedPermutations):
        return OrbitBasis(action_in, action_out)
    return DenseBasis(action_in, action_out)


def invariants(action: Action) -> CommutantBasis:
    """A basis of the vectors that no element moves, as maps from one number."""
    return commutant(trivial_action(1, len(action)), action)
