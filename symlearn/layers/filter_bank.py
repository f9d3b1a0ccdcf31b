"""Filters moved by every element of a group, as one bank for an ordinary convolution (Cohen & Welling 2016).

    spatial   bank(h, t)    = theta(h^-1 t)            filters on the plane
    regular   bank(h, g, t) = theta(h^-1 g, h^-1 t)    filters on the group and the plane

For groups that permute grid points a bank is one gather by a precomputed permutation; otherwise the taps are
interpolated by precomputed matrices inside a disc.

Axes: channels (any leading axes), group (h), member (g), tap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symlearn.groups import FiniteGroup
from symlearn.layers.kept import Kept


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


class FilterBank(nn.Module):
    """The bank of a filter over a k x k support.

    Args:
        group: whose elements move the filters.
        kernel_size: k.
        regular: whether the filter has a group axis (`[..., member * tap]`), or only taps (`[..., tap]`).
    """

    index: Tensor
    inverse: Tensor
    members: Tensor
    taps: Tensor

    def __init__(self, group: FiniteGroup, kernel_size: int, regular: bool) -> None:
        super().__init__()
        self.group, self.kernel_size, self.regular = group, kernel_size, regular
        points = kernel_size**2
        self.exact = group.exact
        if self.exact:
            index = group.grid_permutation(kernel_size)
            if regular:
                moved = group.regular_permutation()  # [group, member]
                index = (moved.unsqueeze(2) * points + index.unsqueeze(1)).flatten(1)
            self.register_buffer("index", index, persistent=False)
            self.register_buffer("inverse", index.argsort(1), persistent=False)
        else:
            self.register_buffer("members", group.regular_permutation(), persistent=False)
            self.register_buffer("taps", group.grid_action(kernel_size), persistent=False)
        self._kept = Kept()

    @property
    def size(self) -> int:
        """Number of entries of a filter."""
        return self.kernel_size**2 * (len(self.group) if self.regular else 1)

    def forward(self, weight: Tensor, filter_axes: int) -> Tensor:
        """Turn every filter of a weight, whose last axes make up a filter, by every element.

        Kept while gradients are off and the weight stays what it is.

        Returns:
            The bank `[..., group, entry]`.
        """
        return self._kept.get((weight,), lambda: self.build(weight.flatten(-filter_axes)))

    def build(self, weight: Tensor) -> Tensor:
        """`[..., entry] -> [..., group, entry]`."""
        if self.exact:
            return Permuted.apply(weight, self.index, self.inverse)
        taps = self.taps.to(weight.dtype)
        if not self.regular:
            return torch.einsum("...s,hts->...ht", weight, taps)
        moved = weight.unflatten(-1, (len(self.group), -1))[..., self.members, :]  # [..., group, member, tap]
        return torch.einsum("...hgs,hts->...hgt", moved, taps).flatten(-2)

    def turn(self, rows: Tensor, element: int) -> Tensor:
        """T_h^T a: patches `[..., entry]` as the weight itself meets them under one element."""
        if self.exact:
            return rows[..., self.inverse[element]]
        return rows @ self.matrix(element).to(rows.dtype)

    def turn_covariance(self, covariance: Tensor, element: int) -> Tensor:
        """T_h^T C T_h for every pair of channels, `[..., c * entry, c * entry]`: patches' to weights'."""
        channels = covariance.shape[-1] // self.size
        blocks = covariance.unflatten(-1, (channels, self.size)).unflatten(-3, (channels, self.size))
        turned = self.turn(self.turn(blocks, element).transpose(-1, -3), element).transpose(-1, -3)
        return turned.flatten(-2).flatten(-3, -2)

    def matrix(self, element: int) -> Tensor:
        """T_h `[entry, entry]`: bank(h, .) = T_h weight."""
        eye = torch.eye(self.size, dtype=torch.float64, device=next(self.buffers()).device)
        return self.build(eye)[:, element].mT
