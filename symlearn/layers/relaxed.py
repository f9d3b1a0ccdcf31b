"""A relaxed layer: a sum of paths on the same input, each with prior precisions of its own.

Order (van der Ouderaa et al. 2023, section 3): sum the paths that keep full resolution; subsample that sum
once where the layer strides, one choice a sample; add the paths that map straight to the output size; divide
by `divisor`, the number of paths at the start. The network applies the nonlinearity.

With a group path every map carries the group's axis, `[batch, c, group, h, w]`; the paths on the plane then
work on its c x group channels, and the subsampling makes one choice for all elements.

Switching paths off or on (`path_sum.py`) leaves the divisor alone, so that the other paths are not rescaled;
it travels in the `state_dict` too.

Axes: batch, c_in, c_out, size (t; h, w; d, h, w).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.kinds import shown
from symlearn.layers.conv import circular_conv
from symlearn.layers.merged import merged
from symlearn.layers.path_sum import Change, PathSum, seeded
from symlearn.layers.polyphase import PolyphaseSubsample2d
from symlearn.layers.registry import (
    PathOptions,
    PathShape,
    expect_axes,
    group_of_paths,
    parse_paths,
    path_kind,
)
from symlearn.layers.sizes import Size, expect_map, sides


class RelaxedLayer2d(PathSum):
    """A sum of paths, `[batch, c_in, *size] -> [batch, c_out, *size / stride]`.

    With a group path, `[batch, c_in, group, h, w] -> [batch, c_out, group, h / stride, w / stride]`, images
    alone.

    Args:
        c_in: input channels.
        c_out: output channels.
        in_size: h, (h, w), (t,) or (d, h, w), of the input.
        paths: a sum of path names such as "f-fc+conv".
        stride: 1, or 2 by polyphase subsampling.
        options: what the paths leave to the user; None takes the defaults.

    Raises:
        ValueError: an unknown path, one that is not for maps of this kind, another stride, an odd size under
            stride 2, an input of another shape.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        in_size: Size,
        paths: str | tuple[str, ...] = "f-fc+conv",
        stride: int = 1,
        options: PathOptions | None = None,
    ) -> None:
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        size = sides(in_size)
        if any(side % stride for side in size):
            raise ValueError(f"stride 2 needs an even size, got {shown(size)}; resize the input")
        out_size = tuple(side // stride for side in size)
        names = parse_paths(paths)
        expect_axes(names, size)
        group = group_of_paths(names)
        seed = int(torch.randint(2**31, (), device="cpu"))
        built = {}
        for name in names:
            copies = len(group) if group is not None and path_kind(name).group is None else 1
            shape = PathShape(c_in * copies, c_out * copies, size, out_size, options or PathOptions())
            built[name] = seeded(name, seed, partial(path_kind(name).build, shape))
        super().__init__(built)
        self.c_in, self.c_out, self.stride = c_in, c_out, stride
        self.in_size, self.out_size, self.group = size, out_size, group
        self.subsample = PolyphaseSubsample2d(axes=len(size)) if stride == 2 else nn.Identity()
        self.divisor = len(names)

    @property
    def members(self) -> int:
        """Length of the maps' group axis; 1 without one."""
        return 1 if self.group is None else len(self.group)

    def start_search(self) -> None:
        """Switch to the most symmetric path alone, undivided."""
        self.set_active([max(self.path_names, key=lambda name: path_kind(name).symmetry)])
        self.divisor = 1

    def part_of_sum(self) -> float:
        """Root mean square that each active path needs for the layer's output to have 1."""
        return self.divisor / len(self.active) ** 0.5

    def changes(self) -> list[Change]:
        """Adding any absent path, and removing any but the last."""
        absent = [name for name in self.paths if name not in self.active]
        return [*((name, "add") for name in absent), *super().changes()]

    def through(self, name: str, x: Tensor) -> Tensor:
        """One path's output; a path on the plane sees the group's elements as channels."""
        if path_kind(name).group is not None:
            return self.path(name)(x)
        return self.on_group(self.path(name)(self.on_plane(x)))

    def on_plane(self, x: Tensor) -> Tensor:
        """A map with the group's elements as channels."""
        return x if self.group is None else x.flatten(1, 2)

    def on_group(self, y: Tensor) -> Tensor:
        """The way back, of an output."""
        return y if self.group is None else y.unflatten(1, (self.c_out, self.members))

    def _sum(self, x: Tensor, full_resolution: bool) -> Tensor | None:
        names = [name for name in self.active if path_kind(name).full_resolution is full_resolution]
        alone, together = merged({name: self.paths[name] for name in names})
        outputs = [self.through(name, x) for name in alone]
        outputs += [self.on_group(circular_conv(self.on_plane(x), *filters)) for filters in together]
        return sum(outputs[1:], outputs[0]) if outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *size] -> [batch, c_out, *size / stride]`."""
        if self.group is None:
            expect_map(x, self.c_in, self.in_size)
        elif tuple(x.shape[1:]) != (self.c_in, self.members, *self.in_size):
            h, w = self.in_size
            raise ValueError(
                f"expected a map [batch, {self.c_in}, {self.members}, {h}, {w}], got {list(x.shape)}; build "
                "the layer for the size it is used at"
            )
        full, direct = self._sum(x, True), self._sum(x, False)
        parts = [
            part for part in (None if full is None else self.subsample(full), direct) if part is not None
        ]
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return total if self.divisor == 1 else total / self.divisor

    def get_extra_state(self) -> dict[str, Any]:
        """Active paths and divisor, for the `state_dict`."""
        return {**super().get_extra_state(), "divisor": self.divisor}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        super().set_extra_state(state)
        self.divisor = int(state["divisor"])

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix; stride 1 only. For tests.

        Returns:
            `[c_out * x, c_in * x]` of x places, the sum over the paths that are switched on.

        Raises:
            ValueError: the layer strides, and so is not linear.
        """
        if self.stride != 1:
            raise ValueError("a layer with polyphase stride is not linear")
        dense = [self.path(name).to_dense(self.in_size) for name in self.active]
        return torch.stack(dense).sum(0) / self.divisor

    def extra_repr(self) -> str:
        """Channels, sizes and active paths, for printing."""
        return (
            f"{self.c_in}, {self.c_out}, in_size={self.in_size}, stride={self.stride}, active={self.active}"
        )
