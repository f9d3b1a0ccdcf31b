"""Initial weights at which every sum of paths hands on a signal of the same size, at any depth and width.

A sum divided by its number of paths loses a factor 1/sqrt(paths) in every layer, paths between anchors lose
more, and average pooling and the heads' small weights the rest; after six layers almost nothing of the image
reaches the logits, and gradients that small lose against the prior. So one pass of synthetic images (white
and smooth noise, of a generator of its own) finds for every path the factor at which its layer's output has
a root mean square of 1, and for the last layer the one at which logits spread by `SPREAD` over images (layer-
sequential unit variance, Mishkin & Matas 2016).

Factors are powers of two, which multiply without rounding. So a network whose other paths are switched off
comes out bit for bit as one that was built of the remaining paths alone.

Axes: batch, c, size (t; h, w; d, h, w), classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.125  # of the logits over images
IMAGES = 64
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of axes


def synthetic_images(channels: int, size: tuple[int, ...]) -> Tensor:
    """Noise `[batch, c, *size]` of mean 0, variance 1: white and smooth in turn, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(IMAGES, channels, *size, generator=generator)
    coarse = torch.randn(IMAGES, channels, *(max(s // 4, 1) for s in size), generator=generator)
    smooth = F.interpolate(coarse, size, mode=SMOOTH[len(size)], align_corners=False)
    even = torch.arange(IMAGES).reshape(-1, 1, *[1] * len(size)) % 2 == 0
    images = torch.where(even, white, white + 2 * smooth)
    return (images - images.mean()) / images.std()


def power_of_two(wanted: float, found: float) -> float:
    """The power of two nearest to wanted / found; 1 where there is no signal at all."""
    usable = found > 0 and math.isfinite(found)
    return 2.0 ** round(math.log2(wanted / found)) if usable else 1.0


def root_mean_square(y: Tensor) -> float:
    """Over all entries, in float64."""
    return float(y.double().square().mean().sqrt())


def untouched(network: nn.Module) -> bool:
    """Whether no bias has moved from zero yet: scaling layers then changes no more than the scale."""
    return all(not bool(p.any()) for name, p in network.named_parameters() if name.endswith("bias"))
