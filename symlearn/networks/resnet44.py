"""ResNet44 on a group, for CIFAR-10 (He et al. 2016; Cohen & Welling 2016, Table 2).

A 3 x 3 convolution; three stages of seven residual blocks of two 3 x 3 convolutions each, the second and
third stage at half the resolution of the one before; then batch normalisation, ReLU, the means over the group
and all places, and a linear layer. Blocks are of the later kind (He et al., Identity Mappings): batch
normalisation and ReLU come before each convolution,

    x + conv2(relu(norm2(conv1(relu(norm1(x))))))

Where the width changes the shortcut is a 1 x 1 convolution over the group: zero padding in its place (He et
al.'s option A) would leave 2,625,834 and 2,608,239 parameters, not the published numbers. Paths as in
`gcnn.py`.

    paths             widths  parameters  published
    conv         32, 64, 128   2,636,074     2.64 M
    gconv-p4     16, 32,  64   2,631,834          -
    gconv-p4m    11, 23,  45   2,618,543     2.62 M

Convolutions have no bias: batch normalisation would cancel it. The authors' linear layer reads every group
element by itself, so that their outputs change under the group; the mean makes ours invariant.

**Stride.** conv1 of a strided block is computed at full resolution; then its output and the block's input are
subsampled by the same polyphase component, chosen for every sample from both side by side. Two choices could
differ, and add maps that lie a pixel apart. With either padding this commutes with quarter turns and mirrors,
with circular padding also with shifts; a strided convolution does neither.

Axes: batch, c, group, h, w, classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from symlearn.groups import FiniteGroup
from symlearn.layers.coset_pool import CosetPool2d, GroupBatchNorm2d
from symlearn.layers.group_conv import PaddingMode
from symlearn.layers.polyphase import choose, pick
from symlearn.layers.registry import PathOptions
from symlearn.layers.sizes import Size, expect_map
from symlearn.networks.all_cnn import expect_halved_twice, expect_padding
from symlearn.networks.gcnn import expect_counts, group_conv, network_group, width_for

WIDTHS = (32, 64, 128)
BLOCKS = 7  # of every stage


class ResidualBlock(nn.Module):
    """Two 3 x 3 group convolutions beside a shortcut.

    `[batch, c_in, group, h, w] -> [batch, c_out, group, h / stride, w / stride]`.

    Args:
        c_in: input channels.
        c_out: output channels.
        group: the group.
        padding_mode: "zeros" or "circular".
        stride: 1, or 2 by polyphase subsampling.
    """

    def __init__(
        self, c_in: int, c_out: int, group: FiniteGroup, padding_mode: PaddingMode, stride: int = 1
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm1 = GroupBatchNorm2d(c_in)
        self.conv1 = group_conv(c_in, c_out, 3, group, padding_mode)
        self.norm2 = GroupBatchNorm2d(c_out)
        self.conv2 = group_conv(c_out, c_out, 3, group, padding_mode)
        self.shortcut = nn.Identity() if c_in == c_out else group_conv(c_in, c_out, 1, group, padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, group, h, w] -> [batch, c_out, group, h / stride, w / stride]`."""
        y = self.conv1(self.norm1(x).relu())
        if self.stride == 2:
            component = choose(torch.cat([x, y], 1))
            x, y = pick(x, component), pick(y, component)
        return self.shortcut(x) + self.conv2(self.norm2(y).relu())


class ResNet44(nn.Module):
    """ResNet44, `[batch, in_channels, h, w] -> [batch, classes]`.

    Args:
        paths: "conv" or "gconv-<group>".
        alpha: channels of the first stage; None, or the published number for the group, takes 32, 64 and 128
            divided by sqrt(|group|) and rounded one by one, any other is doubled from stage to stage.
        in_channels: channels of the image.
        size: h, or (h, w), of the image: multiples of 4, and square where the group turns rows into columns.
        classes: number of outputs.
        options: none has any effect: the filters' sizes are the network's own.
        padding_mode: "zeros" (published) or "circular", which makes the outputs invariant to circular shifts.

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
    ) -> None:
        super().__init__()
        self.group = network_group(paths)
        widths = [width_for(w, self.group) for w in WIDTHS]
        if alpha is not None and alpha != widths[0]:
            widths = [alpha, 2 * alpha, 4 * alpha]
        self.alpha = widths[0]
        expect_counts(alpha=self.alpha, in_channels=in_channels, classes=classes)
        self.in_channels, self.size = in_channels, expect_halved_twice(self.group, size)
        expect_padding(padding_mode)
        self.stem = group_conv(in_channels, widths[0], 3, self.group, padding_mode, lift=True)
        blocks, c_in = [], widths[0]
        for stage, c_out in enumerate(widths):
            for index in range(BLOCKS):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(ResidualBlock(c_in, c_out, self.group, padding_mode, stride))
                c_in = c_out
        self.blocks = nn.ModuleList(blocks)
        self.norm = GroupBatchNorm2d(c_in)
        self.pool = CosetPool2d(self.group, "mean")
        self.head = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in_channels, h, w] -> [batch, classes]`."""
        expect_map(x, self.in_channels, self.size)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(self.norm(x).relu()).mean((2, 3)))
