"""What a convolution reads of its input: patches over one, two or three axes of places, and their sums.

A window moves over a padded map `[batch, c_in, *size]`; at every place it reads a patch of c_in * tap values,
taps row by row within a channel. Where maps wrap around, the sum of outer products of all patches follows
from the correlations of channels at the differences of taps alone.

Axes: batch, c_in, size (t; h, w; d, h, w), tap, place.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight
from torch.nn.modules.conv import _ConvNd


def wrapped(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Circular padding of one axis by any amount, also beyond its size (where `F.pad` stops)."""
    if before == after == 0:
        return x
    size = x.shape[dim]
    return x.index_select(dim, torch.arange(-before, size + after, device=x.device) % size)


@dataclass(frozen=True)
class Window:
    """What a convolution reads of its input, over one, two or three axes of places.

    Attributes:
        kernel_size: a number an axis, such as (h, w).
        stride: the same; ones if not given.
        dilation: the same; ones if not given.
        groups: channel groups.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        pads: before and after every axis, the last axis first (left, right, top, bottom), as `F.pad` takes
            them; none if not given.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "zeros"
    pads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what is not given."""
        axes = len(self.kernel_size)
        for name, default in (("stride", (1,) * axes), ("dilation", (1,) * axes), ("pads", (0, 0) * axes)):
            object.__setattr__(self, name, getattr(self, name) or default)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Padding (before, after) of every axis, the first axis first."""
        return list(zip(self.pads[-2::-2], self.pads[::-2], strict=True))

    def padded(self, x: Tensor) -> Tensor:
        """The input with its padding, `[batch, c_in, *size]`."""
        if self.padding_mode == "circular":
            for dim, (before, after) in enumerate(self.sides, 2):
                x = wrapped(x, before, after, dim)
            return x
        if not any(self.pads):
            return x
        return F.pad(x, self.pads, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def patches(self, x: Tensor) -> Tensor:
        """Every window's values.

        `F.unfold` cuts two axes; a third is cut before, as views whose taps count as channels and whose
        places count as data, and a signal has one row.

        Returns:
            `[batch, c_in * tap, place]`.
        """
        x = self.padded(x)
        if len(self.kernel_size) == 1:
            return F.unfold(
                x.unsqueeze(2), (1, *self.kernel_size), (1, *self.dilation), stride=(1, *self.stride)
            )
        if len(self.kernel_size) == 2:
            return F.unfold(x, self.kernel_size, self.dilation, stride=self.stride)
        span = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        cut = x.unfold(2, span, self.stride[0])[..., :: self.dilation[0]]
        rows = rearrange(cut, "batch c depth h w tap -> (batch depth) (c tap) h w")
        flat = F.unfold(rows, self.kernel_size[1:], self.dilation[1:], stride=self.stride[1:])
        return rearrange(flat, "(batch depth) d place -> batch d (depth place)", batch=len(x))

    def is_circular_correlation(self, x: Tensor) -> bool:
        """Whether every output place sees a circular window and there are as many outputs as inputs."""
        same = all(sum(pads) == k - 1 for pads, k in zip(self.sides, self.kernel_size, strict=True))
        plain = self.groups == 1 and set(self.stride) == set(self.dilation) == {1}
        return self.padding_mode == "circular" and plain and same


def window_of(module: _ConvNd) -> Window:
    """The window of a plain convolution, in its own padding mode."""
    return Window(
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(module.dilation),
        module.groups,
        module.padding_mode,
        tuple(module._reversed_padding_repeated_twice),
    )


WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def lag_correlation(x: Tensor, *kernel: int) -> Tensor:
    """Correlation of channels at lags on circular maps `[batch, c, *size]`.

    Along the first axis the lags are 0 .. k - 1, along the others 1 - k .. k - 1. This sum is the gradient of
    a convolution's weight, and computed as such. On maps so small that lags repeat, each is computed once, as
    a matrix product.

    Returns:
        sum_p x(c, p) x(c', p + lag), summed over the batch, `[c, c', k_h, 2 k_w - 1]` for two axes.
    """
    channels, size = x.shape[1], x.shape[2:]
    spread = (kernel[0], *(2 * k - 1 for k in kernel[1:]))
    if all(n >= lags for n, lags in zip(size, spread, strict=True)):
        wide = wrapped(x, 0, kernel[0] - 1, 2)
        for dim, k in enumerate(kernel[1:], 3):
            wide = wrapped(wide, k - 1, k - 1, dim)
        return WEIGHT_GRADIENTS[len(size)](wide, (channels, channels, *spread), x)
    planes = x.transpose(0, 1)
    flat, dims = planes.flatten(1), tuple(range(2, x.dim()))
    steps = [range(kernel[0]), *(range(1 - k, k) for k in kernel[1:])]
    lags = [tuple(d % n for d, n in zip(lag, size, strict=True)) for lag in itertools.product(*steps)]
    products = {lag: flat @ planes.roll([-d for d in lag], dims).flatten(1).T for lag in set(lags)}
    return torch.stack([products[lag] for lag in lags], -1).unflatten(-1, spread)


def circular_patch_gram(x: Tensor, *kernel: int) -> Tensor:
    """Sum of outer products of all circular patches of maps `[batch, c_in, *size]`, a kernel side an axis.

    sum_x x(c, x+t) x(c', x+t') depends on t' - t alone, so prod_i (2 k_i - 1) lags, half of them by symmetry,
    stand for the (prod_i k_i)^2 pairs of taps.

    Returns:
        `[c_in * tap, c_in * tap]`, taps row by row within a channel.
    """
    axes = len(kernel)
    forward = lag_correlation(x, *kernel)  # [c, c', lag >= 0, lag, ...]
    # the lag -t of (c, c') is the lag t of (c', c)
    backward = forward[:, :, 1:].flip(*range(2, 2 + axes)).transpose(0, 1)
    by_lag = torch.cat([backward, forward], 2)
    index: list[Any] = [slice(None), slice(None)]
    for axis, k in enumerate(kernel):
        taps = torch.arange(k, device=x.device)
        shape = [1] * (2 * axes)
        shape[axis] = shape[axes + axis] = k
        index.append((taps[None, :] - taps[:, None] + k - 1).reshape(shape))  # [tap, tap'], in by_lag
    pairs = by_lag[tuple(index)]  # [c1, c2, *tap, *tap']
    return pairs.movedim(1, 1 + axes).flatten(0, axes).flatten(1)
