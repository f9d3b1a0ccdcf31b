"""A user's convolution with further paths beside it.

    y = conv(x) + sum of the added paths(x)

The path `conv` is the convolution itself, with its stride, padding, dilation, groups and weights; the added
paths (`fc`, `f-fc`, `s-fc`) map straight to its output's size and start with an output of zero, so that
relaxing changes nothing. A search starts from the convolution alone.

Axes: batch, c_in, c_out, size (t; h, w; d, h, w).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from kfac import evaluated
from symlearn.layers.path_sum import Change, PathSum, seeded
from symlearn.layers.registry import PathOptions, PathShape, path_kind
from symlearn.layers.sizes import Size, expect_map, sides

CONV = "conv"


def expect_added(names: tuple[str, ...]) -> None:
    """Refuse paths that cannot stand beside a user's convolution.

    Raises:
        ValueError: an unknown path, one that does not map straight to the output's size, or one named twice.
    """
    for name in names:
        if path_kind(name).full_resolution:
            raise ValueError(
                f"path {name!r} cannot be added to a convolution of yours; choose any of fc, f-fc, s-fc"
            )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected one or more different paths of fc, f-fc, s-fc, got {list(names)}")


class RelaxedConv2d(PathSum):
    """A convolution and fully connected paths, `[batch, c_in, *size] -> [batch, c_out, *size']`.

    Args:
        conv: an `nn.Conv1d`, `2d` or `3d`; becomes the path `conv` as it is.
        in_size: h, (h, w), (t,) or (d, h, w), of its input.
        added: names of the paths beside it.
        options: what the paths leave to the user; None takes the defaults.

    Raises:
        ValueError: an added path that does not map straight to the output's size; an input of another shape.
    """

    def __init__(
        self, conv: _ConvNd, in_size: Size, added: tuple[str, ...], options: PathOptions | None = None
    ) -> None:
        expect_added(added)
        size = sides(in_size, len(conv.kernel_size))
        with torch.no_grad(), evaluated(conv):  # hooks of a user's may change state in training
            out = conv(conv.weight.new_zeros(1, conv.in_channels, *size)).shape[2:]
        shape = PathShape(conv.in_channels, conv.out_channels, size, tuple(out), options or PathOptions())
        seed = int(torch.randint(2**31, (), device="cpu"))
        built = {name: seeded(name, seed, partial(path_kind(name).build, shape)) for name in added}
        super().__init__({CONV: conv, **built})
        self.in_size, self.out_size = size, shape.out_size
        for name in added:
            self.paths[name].to(conv.weight)
            self.path(name).scale_output_(0.0)

    def start_search(self) -> None:
        """Switch to the convolution alone."""
        self.set_active([CONV])

    def changes(self) -> list[Change]:
        """Adding any absent path, and removing any but the last."""
        absent = [name for name in self.paths if name not in self.active]
        return [*((name, "add") for name in absent), *super().changes()]

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *size] -> [batch, c_out, *size']`."""
        first, *others = self.active
        if CONV not in self.active or others:
            expect_map(x, self.paths[CONV].in_channels, self.in_size)  # type: ignore[arg-type]
        y: Tensor = self.path(first)(x)
        for name in others:
            y = y + self.path(name)(x)
        return y

    def extra_repr(self) -> str:
        """Sizes and active paths, for printing."""
        return f"in_size={self.in_size}, out_size={self.out_size}, active={self.active}"
