"""G-CNN layers: convolutions over a finite group of rotations and mirrors (Cohen & Welling 2016).

Maps on the group are `[batch, c, group, h, w]`. With h, g group elements and t filter taps:

    lifting    y(c_out, h, x) = sum_{c_in, t}    theta(c_out, c_in, h^-1 t)          x(c_in, x + t)
    full       y(c_out, h, x) = sum_{c_in, g, t} theta(c_out, c_in, h^-1 g, h^-1 t)  x(c_in, g, x + t)
    pointwise  y(c_out, h, x) = sum_{c_in, t}    theta(c_out, c_in, h^-1 t)          x(c_in, h, x + t)
    channel    y(c, h, x)     = sum_t            theta(c, h^-1 t)                    x(c, h, x + t)
    mixing     y(c, h, x)     = sum_g            theta(c, h^-1 g)                    x(c, g, x)

`separable` is channel, then full with one tap; `depthwise-separable` is channel, mixing, then pointwise with
one tap (van der Ouderaa et al. 2023, Table 7). Every stage has a bias, shared over the group. Each stage is
one `conv2d` with a bank of moved filters.

p4, p4m and other groups of quarter turns and mirrors are exactly equivariant, to them and (circular padding)
to shifts; their filters are free taps. The filters of other groups (C_6, C_8, D_6, ...) are sums of
circular harmonics, which turn by any angle, sampled at the taps (`steerable_basis.py`); a weight then holds
coefficients in place of the taps. Their quarter turns, half turns and mirrors of rows or columns are exact,
the other elements up to what the grid aliases. Largest expected relative error of an untrained layer over
C_5, C_6, C_8, C_12 and D_6 and three seeds (experiments/gcnn/fine_rotations.py), on white noise blurred by a
Gaussian, in pixels; in brackets that of bilinearly interpolated taps:

    k              3             5             7             9
    not blurred    0.33 (0.65)   0.26 (0.71)   0.19 (0.75)   0.19 (0.67)
    0.75           0.11 (0.50)   0.08 (0.59)   0.06 (0.60)   0.06 (0.50)
    1              0.05 (0.47)   0.04 (0.57)   0.03 (0.59)   0.03 (0.46)
    2              0.02 (0.44)   0.02 (0.55)   0.02 (0.67)   0.02 (0.43)

Nonlinearities make maps less smooth: with three layers and ReLU 0.25, 0.13, 0.11, 0.09 at one pixel.

Axes: batch, c_in, c_out, group (h), member (g), h, w, tap, coefficient.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.groups import FiniteGroup, group_of
from symlearn.layers.conv import wrap
from symlearn.layers.dense import given_size, matrix_of
from symlearn.layers.filter_bank import filter_bank
from symlearn.layers.sizes import Size, expect_channels, pair
from symlearn.layers.spatial_filters import SpatialFilters

PaddingMode = Literal["circular", "zeros", "valid"]
Variant = Literal["full", "separable", "depthwise-separable", "pointwise"]


class GroupStage(nn.Module):
    """One convolution with a bank of moved filters; subclasses say how the bank and the maps are laid out.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: k.
        group: a group or its name.
        padding_mode: "circular" and "zeros" keep the map's size, "valid" does not pad.
        bias: whether there is one, `[c_out]`, shared over the group.

    Raises:
        ValueError: a count that is not positive, an unknown group or padding mode, an even kernel with
            padding; an input of another shape.
    """

    regular = False  # whether filters have a group axis
    per_channel = False  # whether every channel has a filter of its own and nothing is summed over channels

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int = 3,
        group: str | FiniteGroup = "p4",
        padding_mode: PaddingMode = "circular",
        bias: bool = True,
    ) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        if not isinstance(kernel_size, int) or kernel_size < 1:
            raise ValueError(f"kernel_size must be a positive integer, got {kernel_size!r}")
        if padding_mode not in ("circular", "zeros", "valid"):
            raise ValueError(f"padding_mode must be 'circular', 'zeros' or 'valid', got {padding_mode!r}")
        if kernel_size % 2 == 0 and padding_mode != "valid":
            raise ValueError(
                f"a {kernel_size}x{kernel_size} filter cannot be padded alike on both sides, so turning it "
                "would shift the map; use an odd kernel_size, or padding_mode='valid'"
            )
        self.c_in, self.c_out, self.kernel_size = c_in, c_out, kernel_size
        self.group, self.padding_mode = group_of(group), padding_mode
        self.bank = filter_bank(self.group, kernel_size, self.regular)
        self.weight = nn.Parameter(torch.empty(*self.filter_axes(), *self.bank.axes))
        self.bias = nn.Parameter(torch.zeros(self.biases())) if bias else None
        self.reset_parameters()

    def filter_axes(self) -> tuple[int, ...]:
        """Axes of the weight before those of one filter, the output channels first."""
        return (self.c_out,) if self.per_channel else (self.c_out, self.c_in)

    def biases(self) -> int:
        """Number of biases."""
        return self.c_out

    def reset_parameters(self) -> None:
        """Kaiming-uniform for ReLU by the number of summands; biases zero."""
        bound = math.sqrt(6 / self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def moved(self) -> Tensor:
        """The filters moved by every element, `[c_out, c_in, group, entry]` or `[c, group, entry]`."""
        return self.bank(self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Refuse filters that earlier versions turned by interpolating their taps.

        Raises:
            ValueError: a weight of k x k taps for a group that now has coefficients.
        """
        stored, own = state_dict.get(f"{prefix}weight"), self.weight
        if isinstance(stored, Tensor) and stored.dim() == own.dim() + 1:
            raise ValueError(
                f"{prefix}weight is {list(stored.shape)}, {self.group.name} filters as earlier versions "
                f"interpolated them; they are now harmonics' coefficients, {list(own.shape)}: fit again"
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    @property
    def pad(self) -> int:
        """Padding on every side."""
        return 0 if self.padding_mode == "valid" else self.kernel_size // 2

    def wrapped(self, x: Tensor) -> Tensor:
        """The planes with their circular padding; zeros are left to the convolution."""
        if self.padding_mode == "circular" and self.pad:
            return wrap(wrap(x, self.pad, self.pad, 2), self.pad, self.pad, 3)
        return x

    @property
    def zeros(self) -> int:
        """Zeros that the convolution puts on every side."""
        return self.pad if self.padding_mode == "zeros" else 0

    def expect(self, x: Tensor, group_axis: bool) -> None:
        """Refuse maps of another shape."""
        wanted = [self.c_in, *([len(self.group)] if group_axis else [])]
        if x.dim() != 3 + len(wanted) or list(x.shape[1:-2]) != wanted:
            shape = ", ".join(str(s) for s in wanted)
            raise ValueError(f"expected a map [batch, {shape}, h, w], got {list(x.shape)}")
        h, w = x.shape[-2:]
        if h != w and float(self.group.matrices[:, 0, 1].abs().max()) > 1e-9:
            raise ValueError(f"{self.group.name} turns maps, so they must be square, got {h}x{w}")
        if min(h, w) + 2 * self.pad < self.kernel_size:
            k = self.kernel_size
            raise ValueError(
                f"a {h}x{w} map is smaller than the {k}x{k} filter; pad it, or use a smaller one"
            )

    def layout(self, x: Tensor) -> Tensor:
        """The map as the channels of a plane, `[batch, channels, h, w]`."""
        return x.flatten(1, 2)

    def convolve(self, planes: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with the bank, on wrapped planes; `[batch, c_out, group, h, w]`."""
        raise NotImplementedError

    def apply_to(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The map with a given bias."""
        return self.convolve(self.wrapped(self.layout(x)), bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, group, h, w] -> [batch, c_out, group, h', w']`."""
        self.expect(x, group_axis=True)
        return self.apply_to(x, self.bias)

    def expanded(self, bias: Tensor | None) -> Tensor | None:
        """A bias `[c_out]` for every element, `[c_out * group]`."""
        return None if bias is None else bias.repeat_interleave(len(self.group))

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.weight.mul_(factor)

    def spatial_filters(self) -> list[SpatialFilters]:
        """The filters on the plane, those of all members one by one."""
        k = self.kernel_size
        return [SpatialFilters("", self.moved()[..., 0, :].reshape(-1, k, k))] if k > 1 else []

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix between flattened maps. For tests.

        Returns:
            `[outputs, inputs]`, maps flattened with the group axis where they have one.

        Raises:
            ValueError: `in_size` is missing.
        """
        shape = self.in_shape(pair(given_size(in_size)))
        return matrix_of(lambda x: self.apply_to(x, None), shape, self.weight)

    def in_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one input of this size."""
        return (self.c_in, len(self.group), *size)

    def extra_repr(self) -> str:
        """Channels, filter size, group and padding, for printing."""
        return (
            f"{self.c_in}, {self.c_out}, kernel_size={self.kernel_size}, group={self.group.name!r}, "
            f"padding_mode={self.padding_mode!r}"
        )


class LiftingConv2d(GroupStage):
    """From the plane to the group, `[batch, c_in, h, w] -> [batch, c_out, group, h', w']`.

    Weight `[c_out, c_in, k, k]`, or `[c_out, c_in, coefficient]`. Arguments and errors as `GroupStage`.
    """

    def layout(self, x: Tensor) -> Tensor:
        """See `GroupStage`."""
        return x

    def convolve(self, planes: Tensor, bias: Tensor | None) -> Tensor:
        """See `GroupStage`."""
        k = self.kernel_size
        bank = self.moved().transpose(1, 2).flatten(0, 1).unflatten(2, (k, k))
        return F.conv2d(planes, bank, self.expanded(bias), padding=self.zeros).unflatten(
            1, (self.c_out, len(self.group))
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, h, w] -> [batch, c_out, group, h', w']`."""
        self.expect(x, group_axis=False)
        return self.apply_to(x, self.bias)

    def in_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """See `GroupStage`."""
        return (self.c_in, *size)


class FullGroupConv2d(GroupStage):
    """On the group, summed over all of it; weight `[c_out, c_in, member, k, k]`, or `[..., coefficient]`."""

    regular = True

    def plane_bank(self) -> Tensor:
        """The moved filters as those of a convolution on the plane, `[c_out * group, c_in * group, k, k]`."""
        k, n = self.kernel_size, len(self.group)
        bank = self.moved().transpose(1, 2)  # [c_out, group, c_in, member * tap]
        return bank.reshape(self.c_out * n, self.c_in * n, k, k)

    def convolve(self, planes: Tensor, bias: Tensor | None) -> Tensor:
        """See `GroupStage`."""
        y = F.conv2d(planes, self.plane_bank(), self.expanded(bias), padding=self.zeros)
        return y.unflatten(1, (self.c_out, len(self.group)))


class PointwiseGroupConv2d(GroupStage):
    """On the group, every element by itself; weight as of `LiftingConv2d`."""

    def layout(self, x: Tensor) -> Tensor:
        """See `GroupStage`; the channels of an element lie side by side."""
        return x.transpose(1, 2).flatten(1, 2)

    def convolve(self, planes: Tensor, bias: Tensor | None) -> Tensor:
        """See `GroupStage`."""
        k, n = self.kernel_size, len(self.group)
        bank = self.moved().permute(2, 0, 1, 3).flatten(0, 1).unflatten(2, (k, k))
        expanded = self.expanded(bias)
        if expanded is not None:
            expanded = expanded.unflatten(0, (-1, n)).T.flatten()
        y = F.conv2d(planes, bank, expanded, padding=self.zeros, groups=n)
        return y.unflatten(1, (n, self.c_out)).transpose(1, 2)


class ChannelConv2d(GroupStage):
    """On the plane, every channel and element by itself; weight `[c, k, k]`, or `[c, coefficient]`."""

    per_channel = True

    def convolve(self, planes: Tensor, bias: Tensor | None) -> Tensor:
        """See `GroupStage`."""
        k, n = self.kernel_size, len(self.group)
        bank = self.moved().flatten(0, 1).unflatten(1, (1, k, k))
        return F.conv2d(
            planes, bank, self.expanded(bias), padding=self.zeros, groups=self.c_in * n
        ).unflatten(1, (self.c_out, n))


class ChannelMixing(GroupStage):
    """On the group, every channel and place by itself; weight `[c, member, 1, 1]`."""

    regular, per_channel = True, True

    def convolve(self, planes: Tensor, bias: Tensor | None) -> Tensor:
        """See `GroupStage`."""
        n = len(self.group)
        bank = self.moved().flatten(0, 1).unflatten(1, (n, 1, 1))
        return F.conv2d(planes, bank, self.expanded(bias), padding=self.zeros, groups=self.c_in).unflatten(
            1, (self.c_out, n)
        )


class GroupConv2d(nn.Module):
    """A group convolution, `[batch, c_in, group, h, w] -> [batch, c_out, group, h', w']`.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: k.
        group: a group or its name.
        variant: "full", "separable", "depthwise-separable" or "pointwise"; see the module's notation.
        padding_mode: "circular" and "zeros" keep the map's size, "valid" does not pad.
        bias: whether every stage has one.

    Raises:
        ValueError: as `GroupStage`, or an unknown variant.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int = 3,
        group: str | FiniteGroup = "p4",
        variant: Variant = "full",
        padding_mode: PaddingMode = "circular",
        bias: bool = True,
    ) -> None:
        super().__init__()
        group = group_of(group)
        spatial = (kernel_size, group, padding_mode, bias)
        one_tap = (1, group, padding_mode, bias)
        stages: list[GroupStage]
        if variant == "full":
            stages = [FullGroupConv2d(c_in, c_out, *spatial)]
        elif variant == "pointwise":
            stages = [PointwiseGroupConv2d(c_in, c_out, *spatial)]
        elif variant == "separable":
            stages = [ChannelConv2d(c_in, c_in, *spatial), FullGroupConv2d(c_in, c_out, *one_tap)]
        elif variant == "depthwise-separable":
            stages = [
                ChannelConv2d(c_in, c_in, *spatial),
                ChannelMixing(c_in, c_in, *one_tap),
                PointwiseGroupConv2d(c_in, c_out, *one_tap),
            ]
        else:
            raise ValueError(
                f"unknown variant {variant!r}; choose 'full', 'separable', 'depthwise-separable' or "
                "'pointwise'"
            )
        self.group, self.variant = group, variant
        self.stages = nn.ModuleList(stages)

    @property
    def in_order(self) -> list[GroupStage]:
        """The stages, first to last."""
        return cast(list[GroupStage], list(self.stages))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, group, h, w] -> [batch, c_out, group, h', w']`."""
        for stage in self.in_order:
            x = stage(x)
        return x

    def plane_filters(self) -> tuple[Tensor, Tensor | None] | None:
        """Bank and bias of the full convolution; None for other variants and borders. See `merged.py`."""
        stage = self.in_order[0]
        if not isinstance(stage, FullGroupConv2d) or stage.padding_mode != "circular":
            return None
        return stage.plane_bank(), stage.expanded(stage.bias)

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        for stage in self.in_order:
            stage.reset_parameters()

    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.in_order[-1].scale_output_(factor)

    def spatial_filters(self) -> list[SpatialFilters]:
        """The filters of the stage that looks at the plane."""
        return self.in_order[0].spatial_filters()

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix between flattened maps. For tests."""
        size = given_size(in_size)
        first, *others = self.in_order
        dense, shrink = first.to_dense(size), first.kernel_size - 1 - 2 * first.pad
        for stage in others:
            dense = stage.to_dense((size[0] - shrink, size[1] - shrink)) @ dense
        return dense
