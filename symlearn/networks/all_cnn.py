"""All-CNN-C (Springenberg et al. 2015) on a group, as Cohen & Welling (2016, Table 2) trained it on CIFAR-10.

Convolutions of 3 x 3 with a, a, a (stride 2), 2a, 2a, 2a (stride 2) and 2a channels, then of 1 x 1 with 2a
and `classes`, each with batch normalisation and ReLU; the outputs are the means of the last layer over the
group and all places. Paths as in `gcnn.py`.

    paths        a  parameters  published
    conv        96   1,370,996     1.37 M
    gconv-p4    48   1,370,372     1.37 M
    gconv-p4m   32   1,219,252     1.22 M

A strided 3 x 3 convolution on a map of even size reads it off centre, so turning the image changes what it
reads: the published networks are only approximately equivariant. Here the convolution is computed at full
resolution and subsampled by polyphase components, which is exact for quarter turns and mirrors with either
padding and, with circular padding, for shifts too.

Axes: batch, c, group, h, w, classes.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.groups import FiniteGroup
from symlearn.layers.coset_pool import CosetPool2d
from symlearn.layers.registry import PathOptions
from symlearn.layers.sizes import Size, expect_map
from symlearn.networks.gcnn import (
    ConvNormReLU,
    expect_counts,
    expect_square,
    group_conv,
    network_group,
    width_for,
)

PUBLISHED = {1: 96, 4: 48, 8: 32}  # channels of the first layers by |group|; for p4m sqrt(8) taken as 3
WIDTHS = (1, 1, 1, 2, 2, 2, 2, 2)  # of the layers before the last, in multiples of the first
KERNELS = (3, 3, 3, 3, 3, 3, 3, 1)
STRIDES = (1, 1, 2, 1, 1, 2, 1, 1)
DROPOUT = {0: 0.2, 3: 0.5, 6: 0.5}  # before these layers


def first_width(group: FiniteGroup) -> int:
    """The published number of channels for the group; for others 96 / sqrt(|group|)."""
    return PUBLISHED.get(len(group), width_for(96, group))


class AllCNN(nn.Module):
    """All-CNN-C, `[batch, in_channels, h, w] -> [batch, classes]`.

    Args:
        paths: "conv" or "gconv-<group>".
        alpha: channels of the first three layers; None takes the published number for the group.
        in_channels: channels of the image.
        size: h, or (h, w), of the image: multiples of 4, and square where the group turns rows into columns.
        classes: number of outputs.
        options: none has any effect: the filters' sizes are the network's own.
        padding_mode: "zeros" (published) or "circular", which makes the outputs invariant to circular shifts.
        dropout: whether to drop 20 % of the input and half of the maps that strided layers put out, as
            published.

    Raises:
        ValueError: another path or padding, a size the strides do not divide, a count that is not positive,
            an input of another shape.
    """

    def __init__(
        self,
        paths: str | tuple[str, ...] = "conv",
        alpha: int | None = None,
        in_channels: int = 3,
        size: Size = 32,
        classes: int = 10,
        options: PathOptions | None = None,
        *,
        padding_mode: Literal["zeros", "circular"] = "zeros",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.group = network_group(paths)
        self.alpha = first_width(self.group) if alpha is None else alpha
        expect_counts(alpha=self.alpha, in_channels=in_channels, classes=classes)
        self.in_channels, self.dropout = in_channels, dropout
        self.size = expect_halved_twice(self.group, size)
        expect_padding(padding_mode)
        layers, c_in = [], in_channels
        for index, (width, kernel_size, stride) in enumerate(zip(WIDTHS, KERNELS, STRIDES, strict=True)):
            c_out = width * self.alpha
            conv = group_conv(c_in, c_out, kernel_size, self.group, padding_mode, lift=index == 0)
            layers.append(ConvNormReLU(conv, stride))
            c_in = c_out
        layers.append(ConvNormReLU(group_conv(c_in, classes, 1, self.group, padding_mode)))
        self.layers = nn.ModuleList(layers)
        self.pool = CosetPool2d(self.group, "mean")

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in_channels, h, w] -> [batch, classes]`."""
        expect_map(x, self.in_channels, self.size)
        for index, layer in enumerate(self.layers):
            if self.dropout and index in DROPOUT:
                x = F.dropout(x, DROPOUT[index], self.training)
            x = layer(x)
        return self.pool(x).mean((2, 3))


def expect_halved_twice(group: FiniteGroup, size: Size) -> tuple[int, int]:
    """(h, w) of an image that the network halves twice."""
    h, w = expect_square(group, size)
    if h % 4 or w % 4:
        raise ValueError(
            f"the network halves the image twice, so its sides must be multiples of 4, got {h}x{w}; "
            "resize the images"
        )
    return h, w


def expect_padding(padding_mode: str) -> None:
    """Refuse what would shrink the maps."""
    if padding_mode not in ("zeros", "circular"):
        raise ValueError(f"padding_mode must be 'zeros' or 'circular', got {padding_mode!r}")
