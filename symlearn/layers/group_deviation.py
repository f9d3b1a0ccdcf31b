"""What a group convolution may lack: filters that differ by orientation, without what they share.

    y(c_out, h, x) = sum_{j, c_in, g, t} e_j(h) psi_j(c_out, c_in, h^-1 g, h^-1 t) x(c_in, g, x + t)
                     + sum_j e_j(h) b_j(c_out)

A relaxed group convolution (Wang, Walters & Yu 2022: filters sum_l w_l psi_l with weights w_l on the group)
whose weights are all functions e_j on the group of mean zero (`zero_mean.py`), |group| - 1 of them. Beside
a group convolution of the same group, whose filter is theta(h^-1 g, h^-1 t) at every h, the sum has any
filter at every h, and the two parts are orthogonal. With psi and b at zero the sum is exactly equivariant.

As in `group_conv.py`, `full` reads all members g of the group, `pointwise` g = h alone. Weights beside those
of a convolution between all orientation channels, c_in c_out |group|^2 k^2 of them: 1 - 1 / |group| as many,
and pointwise that over |group|. The map is linear in psi: no product of factors, and beside a group
convolution one `conv2d` computes both (`merged.py`).

Axes: batch, c_in, c_out, group (h), member (g), function (j), h, w, tap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symlearn.groups import FiniteGroup
from symlearn.layers.group_conv import FullGroupConv2d, GroupStage, PaddingMode, PointwiseGroupConv2d
from symlearn.layers.zero_mean import on_elements


class GroupDeviationStage(GroupStage):
    """What both forms share: filters that are combined by functions on the group.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: k.
        group: a group or its name.
        padding_mode: as of `GroupStage`.
        bias: whether there is one, `[c_out * function]`.

    Raises:
        ValueError: as `GroupStage`; a group of one element.
    """

    functions: Tensor

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int = 3,
        group: str | FiniteGroup = "p4",
        padding_mode: PaddingMode = "circular",
        bias: bool = True,
    ) -> None:
        super().__init__(c_in, c_out, kernel_size, group, padding_mode, bias)
        self.register_buffer("functions", on_elements(len(self.group)), persistent=False)

    def filter_axes(self) -> tuple[int, ...]:
        """See `GroupStage`: `[c_out, function, c_in]`."""
        if len(self.group) == 1:
            raise ValueError(
                f"{self.group.name} has one element, so nothing can deviate from it; use a larger group"
            )
        return (self.c_out, len(self.group) - 1, self.c_in)

    def biases(self) -> int:
        """See `GroupStage`."""
        return self.c_out * (len(self.group) - 1)

    def moved(self) -> Tensor:
        """See `GroupStage`."""
        return torch.einsum("jh,ojihe->oihe", self.functions.to(self.weight.dtype), super().moved())

    def expanded(self, bias: Tensor | None) -> Tensor | None:
        """See `GroupStage`."""
        if bias is None:
            return None
        return (bias.unflatten(0, (self.c_out, -1)) @ self.functions.to(bias.dtype)).flatten()


class GroupDeviation2d(GroupDeviationStage, FullGroupConv2d):
    """The full form, `[batch, c_in, group, h, w] -> [batch, c_out, group, h', w']`.

    Weight `[c_out, function, c_in, member, k, k]`, or `[..., coefficient]`. Arguments and errors as
    `GroupDeviationStage`.
    """

    def plane_filters(self) -> tuple[Tensor, Tensor | None] | None:
        """Bank and bias as those of a convolution on the plane; None for other borders. See `merged.py`."""
        return (self.plane_bank(), self.expanded(self.bias)) if self.padding_mode == "circular" else None


class PointwiseGroupDeviation2d(GroupDeviationStage, PointwiseGroupConv2d):
    """Every element by itself; weight `[c_out, function, c_in, k, k]`, or `[..., coefficient]`."""
