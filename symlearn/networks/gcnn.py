"""Networks on one finite group, and those of Cohen & Welling (2016, section 8.1) for rotated MNIST.

Every convolution of such a network is over the same group, said by its one path: `conv` stands for the
translations alone (Z2; the trivial group `c1`), `gconv-p4`, `gconv-p4m`, `gconv-<group>` for a full group
convolution. The first layer lifts, the others map `[batch, c, group, h, w]` to maps of that kind, and the
outputs do not change when the image is turned. That is exact for groups of quarter turns and mirrors; the
filters of others are harmonics, which turn exactly but are sampled on the grid (`layers/group_conv.py` says
what that costs).

`RotatedMnistNetwork`, 28 x 28 -> 10 outputs: six 3 x 3 convolutions and one of 4 x 4, none padded, each but
the last with batch normalisation and ReLU; 2 x 2 max pooling after the second; the largest value over the
group at the end (P4CNN), or after every layer (P4CNNRotationPooling).

    network                paths      channels  pooled over the group  parameters
    Z2CNN                  conv             20  -                          21,630
    P4CNN                  gconv-p4         10  at the end                 24,620
    P4CNNRotationPooling   gconv-p4         20  in every layer             21,630

The paper prints no counts for these; others who compare with it quote about 22 and 25 thousand. A convolution
has no bias where batch normalisation follows it and would cancel it.

Axes: batch, c, group, h, w, classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.groups import FiniteGroup, find_group
from symlearn.layers.coset_pool import CosetPool2d, GroupBatchNorm2d
from symlearn.layers.group_conv import FullGroupConv2d, GroupStage, LiftingConv2d, PaddingMode
from symlearn.layers.polyphase import PolyphaseSubsample2d
from symlearn.layers.registry import FAMILY, PathOptions, parse_paths
from symlearn.layers.sizes import Size, expect_map, pair

RotationPooling = Literal["last", "every"]

Z2_DROPOUT = 0.3  # of the authors' Z2CNN; they found P4CNN better without


def network_group(paths: str | tuple[str, ...]) -> FiniteGroup:
    """The group a network is built on, from its one path; the trivial one for `conv`.

    Returns:
        The trivial group c1 for `conv`, otherwise that of the group convolution.

    Raises:
        ValueError: a sum of paths, or a path that is neither `conv` nor a full group convolution.
    """
    names = parse_paths(paths)
    group, _, variant = names[0].removeprefix(FAMILY).partition(":")
    if names == ("conv",):
        return find_group("c1")
    if len(names) > 1 or not names[0].startswith(FAMILY) or variant not in ("", "full"):
        raise ValueError(
            f"this network has one path, conv or gconv-<group> such as gconv-p4 or gconv-p4m, got "
            f"{'+'.join(names)!r}; sums and other paths need the networks ten-layer and small"
        )
    return find_group(group)


def expect_counts(**counts: int) -> None:
    """Refuse counts that are not positive."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value}")


def expect_square(group: FiniteGroup, size: Size) -> tuple[int, int]:
    """(h, w) of the image, square where the group turns rows into columns."""
    h, w = pair(size)
    if h != w and float(group.matrices[:, 0, 1].abs().max()) > 1e-9:
        raise ValueError(f"{group.name} turns rows into columns, so images must be square, got {h}x{w}")
    return h, w


def width_for(published: int, group: FiniteGroup) -> int:
    """Channels that leave about as many parameters as the plain network's: divided by sqrt(|group|)."""
    return round(published / math.sqrt(len(group)))


def group_conv(
    c_in: int,
    c_out: int,
    kernel_size: int,
    group: FiniteGroup,
    padding_mode: PaddingMode,
    lift: bool = False,
    bias: bool = False,
) -> GroupStage:
    """A convolution over the group, from an image where it lifts."""
    kind = LiftingConv2d if lift else FullGroupConv2d
    return kind(c_in, c_out, kernel_size, group, padding_mode, bias)


class ConvNormReLU(nn.Module):
    """A group convolution, subsampled where it strides, then batch normalisation and ReLU.

    `[batch, c_in, group, h, w] -> [batch, c_out, group, h', w']`, from `[batch, c_in, h, w]` where the
    convolution lifts.

    Args:
        conv: the convolution.
        stride: 1, or 2 by polyphase subsampling of the full-resolution map.
    """

    def __init__(self, conv: GroupStage, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv
        self.subsample = PolyphaseSubsample2d() if stride == 2 else nn.Identity()
        self.norm = GroupBatchNorm2d(conv.c_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, group, h, w] -> [batch, c_out, group, h', w']`."""
        return self.norm(self.subsample(self.conv(x))).relu()


class RotatedMnistNetwork(nn.Module):
    """Z2CNN, P4CNN and P4CNNRotationPooling, `[batch, in_channels, h, w] -> [batch, classes]`.

    Args:
        paths: "conv" (Z2CNN) or "gconv-<group>".
        alpha: channels of every layer but the last; None takes 20, divided by sqrt(|group|) where maps keep
            the group's axis.
        in_channels: channels of the image.
        size: h, or (h, w), of the image: even, square, 22 or more. The last filters cover what is left of the
            map, h/2 - 10: 4 x 4 at 28.
        classes: number of outputs.
        options: none has any effect: the filters' sizes are the network's own.
        rotation_pooling: "last" (P4CNN) or "every" layer is pooled over the group, by its largest value.
        dropout: probability after every hidden layer but the one that is pooled; None takes the published
            0.3 for Z2CNN and none for the others.

    Raises:
        ValueError: another path, a size the layers do not fit, a count that is not positive, an input of
            another shape.
    """

    def __init__(
        self,
        paths: str | tuple[str, ...] = "gconv-p4",
        alpha: int | None = None,
        in_channels: int = 1,
        size: Size = 28,
        classes: int = 10,
        options: PathOptions | None = None,
        *,
        rotation_pooling: RotationPooling = "last",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if rotation_pooling not in ("last", "every"):
            raise ValueError(f"rotation_pooling must be 'last' or 'every', got {rotation_pooling!r}")
        self.group, every = network_group(paths), rotation_pooling == "every"
        if alpha is None:
            alpha = 20 if every else width_for(20, self.group)
        expect_counts(alpha=alpha, in_channels=in_channels, classes=classes)
        self.alpha, self.in_channels = alpha, in_channels
        self.size = h, w = pair(size)
        if h != w or h % 2 or h < 22:
            raise ValueError(
                f"the network needs square images with an even side of 22 pixels or more (28 as published), "
                f"got {h}x{w}; resize the images"
            )
        self.dropout = (Z2_DROPOUT if len(self.group) == 1 else 0.0) if dropout is None else dropout

        def conv(
            c_in: int, c_out: int, kernel_size: int, first: bool = False, bias: bool = False
        ) -> GroupStage:
            return group_conv(c_in, c_out, kernel_size, self.group, "valid", first or every, bias)

        layers: list[nn.Module] = [ConvNormReLU(conv(in_channels, alpha, 3, first=True))]
        layers += [ConvNormReLU(conv(alpha, alpha, 3)) for _ in range(5)]
        if every:
            layers = [nn.Sequential(layer, CosetPool2d(self.group, "max")) for layer in layers]
        self.layers = nn.ModuleList(layers)
        self.top = conv(alpha, classes, h // 2 - 10, bias=True)
        self.pool = CosetPool2d(self.group, "max")

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in_channels, h, w] -> [batch, classes]`."""
        expect_map(x, self.in_channels, self.size)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == 1:  # over the plane alone, whether there is a group's axis or not
                x = F.max_pool3d(x, (1, 2, 2))
                continue
            x = F.dropout(x, self.dropout, self.training)
        return self.pool(self.top(x)).flatten(1)
