"""Pooling over a group, or over the cosets of a subgroup (Cohen & Welling 2016, section 6).

Axes: batch, c, group, coset, h, w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from symlearn.groups import FiniteGroup, group_of


class CosetPool2d(nn.Module):
    """The largest or the mean value over a group, `[batch, c, group, h, w] -> [batch, c, h, w]`.

    The result turns with the input as an image does. With a subgroup K, over each coset g K:
    `-> [batch, c, coset, h, w]`, cosets in the order of `FiniteGroup.cosets`.

    Args:
        group: a group or its name.
        reduce: "max" or "mean".
        subgroup: numbers of the elements of K; None pools over the whole group.

    Raises:
        ValueError: an unknown reduction, elements that are no subgroup, an input of another shape.
    """

    cosets: Tensor

    def __init__(
        self,
        group: str | FiniteGroup = "p4",
        reduce: Literal["max", "mean"] = "max",
        subgroup: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if reduce not in ("max", "mean"):
            raise ValueError(f"reduce must be 'max' or 'mean', got {reduce!r}")
        self.group, self.reduce, self.subgroup = group_of(group), reduce, subgroup
        elements = range(len(self.group)) if subgroup is None else subgroup
        self.register_buffer("cosets", self.group.cosets(list(elements)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, group, h, w] -> [batch, c, h, w]`, or `[batch, c, coset, h, w]` with a subgroup."""
        if x.dim() != 5 or x.shape[2] != len(self.group):
            raise ValueError(f"expected a map [batch, c, {len(self.group)}, h, w], got {list(x.shape)}")
        if self.subgroup is None:
            return x.amax(2) if self.reduce == "max" else x.mean(2)
        members = torch.stack([x[:, :, coset] for coset in self.cosets.unbind()], 2)
        return members.amax(3) if self.reduce == "max" else members.mean(3)

    def extra_repr(self) -> str:
        """Group and reduction, for printing."""
        return f"group={self.group.name!r}, reduce={self.reduce!r}"


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch normalisation of group maps `[batch, c, group, h, w]`: one mean, variance and affine a channel.

    Statistics are shared by the group's elements, so that it commutes with the group; arguments as
    `nn.BatchNorm3d`.
    """
