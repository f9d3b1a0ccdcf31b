"""Filters moved by every element of a group, as one bank for an ordinary convolution (Cohen & Welling 2016).

    spatial   bank(h, t)    = theta(h^-1 t)            filters on the plane
    regular   bank(h, g, t) = theta(h^-1 g, h^-1 t)    filters on the group and the plane

Where a group permutes the taps, theta is the k x k taps and a bank is one gather by a precomputed
permutation: exact. Otherwise theta is given by the coefficients of circular harmonics, which every element
moves among themselves, and the moved functions are sampled at the taps (`steerable_basis.py`): exact up to
what the grid aliases.

Axes: channels (any leading axes), group (h), member (g), tap, coefficient; entry (of a filter of the bank,
member * tap), d (of a weight, member * tap or member * coefficient).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.groups import FiniteGroup
from symlearn.layers.kept import Kept
from symlearn.layers.steerable_basis import moved_basis


class Gather(torch.autograd.Function):
    """What the two maps below share: both keep their permutations `[group, d]` for the way back."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep the permutations."""
        _, index, inverse = inputs
        ctx.save_for_backward(index, inverse)


class Permuted(Gather):
    """`w [..., d] -> [..., group, d]`, out(h, j) = w(index[h, j]), each index[h] a permutation.

    Its adjoint is a gather too, by the inverse permutations; the generic one would scatter.
    """

    @staticmethod
    def forward(w: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        """One gather."""
        return w.index_select(-1, index.flatten()).unflatten(-1, index.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint, itself differentiable."""
        index, inverse = ctx.saved_tensors
        return PermutedAdjoint.apply(g, index, inverse), None, None


class PermutedAdjoint(Gather):
    """`g [..., group, d] -> [..., d]`, out(i) = sum_h g(h, inverse[h, i])."""

    @staticmethod
    def forward(g: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        """One gather and one sum."""
        d = inverse.shape[1]
        places = inverse + d * torch.arange(len(inverse), device=inverse.device).unsqueeze(1)
        return g.flatten(-2).index_select(-1, places.flatten()).unflatten(-1, inverse.shape).sum(-2)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint, itself differentiable."""
        index, inverse = ctx.saved_tensors
        return Permuted.apply(w, index, inverse), None, None


class FilterBank(nn.Module, ABC):
    """The bank of a filter over a k x k support.

    Args:
        group: whose elements move the filters.
        kernel_size: k.
        regular: whether the filter has a group axis, or only a spatial one.
        spatial: the last axes of a weight, those over space.

    Attributes:
        axes: those of a weight that make up one filter, the members first where there are any.
        entries: of a filter of the bank.
    """

    def __init__(self, group: FiniteGroup, kernel_size: int, regular: bool, spatial: tuple[int, ...]) -> None:
        super().__init__()
        self.group, self.kernel_size, self.regular = group, kernel_size, regular
        members = (len(group),) if regular else ()
        self.axes = (*members, *spatial)
        self.entries = math.prod(members) * kernel_size**2
        self._kept = Kept()

    @property
    def size(self) -> int:
        """Number of weights of a filter."""
        return math.prod(self.axes)

    def forward(self, weight: Tensor) -> Tensor:
        """Turn every filter of a weight `[..., *axes]` by every element.

        Kept while gradients are off and the weight stays what it is.

        Returns:
            The bank `[..., group, entry]`.
        """
        return self._kept.get((weight,), lambda: self.build(weight.flatten(-len(self.axes))))

    @abstractmethod
    def build(self, weight: Tensor) -> Tensor:
        """`[..., d] -> [..., group, entry]`."""

    @abstractmethod
    def turn(self, rows: Tensor, element: int) -> Tensor:
        """T_h^T a: patches `[..., entry] -> [..., d]`, as the weight itself meets them under one element."""

    def turn_covariance(self, covariance: Tensor, element: int) -> Tensor:
        """T_h^T C T_h for every pair of channels, `[c * entry, c * entry] -> [c * d, c * d]`."""
        channels = covariance.shape[-1] // self.entries
        blocks = covariance.unflatten(-1, (channels, -1)).unflatten(-3, (channels, -1))
        turned = self.turn(self.turn(blocks, element).transpose(-1, -3), element).transpose(-1, -3)
        return turned.flatten(-2).flatten(-3, -2)


class PermutedBank(FilterBank):
    """Of free taps `[..., (member,) k, k]`, for elements that only permute them."""

    index: Tensor
    inverse: Tensor

    def __init__(self, group: FiniteGroup, kernel_size: int, regular: bool) -> None:
        super().__init__(group, kernel_size, regular, (kernel_size, kernel_size))
        alone = torch.zeros(len(group), 1, dtype=torch.long)  # a single tap stays where it is
        index = alone if kernel_size == 1 else group.grid_permutation(kernel_size)
        if regular:
            moved = group.regular_permutation()  # [group, member]
            index = (moved.unsqueeze(2) * kernel_size**2 + index.unsqueeze(1)).flatten(1)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse", index.argsort(1), persistent=False)

    def build(self, weight: Tensor) -> Tensor:
        """See `FilterBank`."""
        return Permuted.apply(weight, self.index, self.inverse)

    def turn(self, rows: Tensor, element: int) -> Tensor:
        """See `FilterBank`."""
        return rows[..., self.inverse[element]]


class SteerableBank(FilterBank):
    """Of coefficients `[..., (member,) coefficient]` of circular harmonics, for any element."""

    members: Tensor
    basis: Tensor

    def __init__(self, group: FiniteGroup, kernel_size: int, regular: bool) -> None:
        basis = moved_basis(group, kernel_size)  # [group, tap, coefficient]
        super().__init__(group, kernel_size, regular, (basis.shape[2],))
        self.register_buffer("members", group.regular_permutation(), persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def build(self, weight: Tensor) -> Tensor:
        """See `FilterBank`."""
        basis = self.basis.to(weight.dtype)
        if not self.regular:
            return torch.einsum("...s,hts->...ht", weight, basis)
        moved = weight.unflatten(-1, (len(self.group), -1))[..., self.members, :]  # [..., group, member, s]
        return torch.einsum("...hgs,hts->...hgt", moved, basis).flatten(-2)

    def turn(self, rows: Tensor, element: int) -> Tensor:
        """See `FilterBank`."""
        basis = self.basis[element].to(rows.dtype)
        if not self.regular:
            return rows @ basis
        turned = rows.unflatten(-1, (len(self.group), -1)) @ basis  # [..., member, coefficient]
        return turned[..., self.members[element].argsort(), :].flatten(-2)


def filter_bank(group: FiniteGroup, kernel_size: int, regular: bool) -> FilterBank:
    """The bank of a group: of free taps wherever its elements permute them, of harmonics otherwise."""
    kind = PermutedBank if group.exact or kernel_size == 1 else SteerableBank
    return kind(group, kernel_size, regular)
