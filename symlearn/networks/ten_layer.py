"""Networks of relaxed layers with a linear head.

`ten_layer` is the network of van der Ouderaa et al. 2023, Table 6: eight relaxed layers of 1,2,2,4,4,8,8,16
times alpha channels, strides 1,2,1,2,1,2,2,2, 3 x 3 filters; then Linear 16 alpha -> 64 alpha, ReLU,
Linear 64 alpha -> classes. `small` is its relative for 16 x 16 frames. Inputs larger than the strides
reduce to one place end in an average over what is left. With a group path in the mixture the image is lifted
once, by repeating it over the group, and the maps are averaged over the group before the head.

Axes: batch, c, size (t of signals; h, w; d, h, w of volumes), classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symlearn.kinds import kind_of, shown
from symlearn.layers.coset_pool import CosetPool2d
from symlearn.layers.declared import Hyperparameter, hyperparameters_within
from symlearn.layers.registry import PathOptions, expect_axes, group_of_paths, parse_paths
from symlearn.layers.relaxed import RelaxedLayer2d
from symlearn.layers.sizes import Size, sides
from symlearn.networks.start_scale import (
    SPREAD,
    power_of_two,
    root_mean_square,
    synthetic_images,
    untouched,
)


@dataclass(frozen=True)
class Plan:
    """Widths and strides of a network; widths are multiples of alpha."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    hidden: int
    alpha: int


TEN_LAYER = Plan((1, 2, 2, 4, 4, 8, 8, 16), (1, 2, 1, 2, 1, 2, 2, 2), hidden=64, alpha=10)
SMALL = Plan((1, 1, 2, 2, 4, 8), (1, 1, 2, 1, 2, 1), hidden=8, alpha=4)


class RelaxedNetwork(nn.Module):
    """Relaxed layers with ReLU, an average over the places that are left, and a two-layer linear head.

    `[batch, c, *size] -> [batch, classes]`.

    Args:
        plan: widths and strides.
        paths: a sum of path names such as "f-fc+conv", the same in every layer.
        alpha: width; None takes the plan's own.
        in_channels: channels of the image.
        size: h, or (h, w), of the image; (t,) of a signal, (d, h, w) of a volume.
        classes: number of outputs.
        options: what the paths leave to the user; None takes the defaults.

    Raises:
        ValueError: an unknown path; a size that the strides do not divide; a count that is not positive.
    """

    def __init__(
        self,
        plan: Plan,
        paths: str | tuple[str, ...],
        alpha: int | None = None,
        in_channels: int = 1,
        size: Size = 32,
        classes: int = 10,
        options: PathOptions | None = None,
    ) -> None:
        super().__init__()
        alpha = plan.alpha if alpha is None else alpha
        for name, value in (("alpha", alpha), ("in_channels", in_channels), ("classes", classes)):
            if value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value}")
        self.alpha, self.in_channels = alpha, in_channels
        left = sides(size)
        reduction = 2 ** sum(stride == 2 for stride in plan.strides)
        if any(s % reduction for s in left):
            kind = kind_of(left)
            nearest = shown([-(-s // reduction) * reduction for s in left])
            raise ValueError(
                f"the network halves the {kind[:-1]} {reduction.bit_length() - 1} times, so its sides must "
                f"be multiples of {reduction}, got {shown(left)}; resize the {kind}, say to {nearest}"
                f"{' (option size)' if kind == 'images' else ''}"
            )
        names = parse_paths(paths)
        expect_axes(names, left)
        layers, c_in = [], in_channels
        for width, stride in zip(plan.channels, plan.strides, strict=True):
            layer = RelaxedLayer2d(c_in, width * alpha, left, names, stride, options)
            layers.append(layer)
            c_in, left = width * alpha, layer.out_size
        self.layers = nn.ModuleList(layers)
        self.over_places = tuple(range(2, 2 + len(left)))
        self.group = group_of_paths(names)
        self.pool = nn.Identity() if self.group is None else CosetPool2d(self.group, "mean")
        self.head = nn.Sequential(
            nn.Linear(c_in, plan.hidden * alpha), nn.ReLU(), nn.Linear(plan.hidden * alpha, classes)
        )
        for linear in self.linears:
            nn.init.zeros_(linear.bias)
        self.settle_scale()

    @property
    def linears(self) -> tuple[nn.Linear, nn.Linear]:
        """The head's two linear layers."""
        first, _, last = self.head
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        return first, last

    @torch.no_grad()
    def settle_scale(self) -> None:
        """Scale untouched initial weights so that the signal keeps its size; see `start_scale.py`."""
        layers = [layer for layer in self.layers if isinstance(layer, RelaxedLayer2d)]
        first, last = self.linears
        if first.weight.is_meta or not untouched(self):
            return
        x = self.lifted(synthetic_images(self.in_channels, layers[0].in_size).to(first.weight))
        for layer in layers:
            for name in layer.active:
                size = root_mean_square(layer.through(name, x))
                layer.path(name).scale_output_(power_of_two(layer.part_of_sum(), size))
            x = layer(x).relu()
        x = self.pooled(x)
        first.weight.mul_(power_of_two(1.0, root_mean_square(first(x))))
        spread = float(self.head(x).double().std(0).mean())
        last.weight.mul_(power_of_two(SPREAD, spread))

    @torch.no_grad()
    def redraw(self, seed: int) -> None:
        """Draw all initial values anew, in place; which paths are on stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in self.layers:
                assert isinstance(layer, RelaxedLayer2d)
                for path in layer.paths.values():
                    path.reset_parameters()  # type: ignore[operator]
            for linear in self.linears:
                linear.reset_parameters()
                nn.init.zeros_(linear.bias)
        self.settle_scale()

    def lifted(self, x: Tensor) -> Tensor:
        """The image at every element of the group, once: `[batch, c, h, w] -> [batch, c, group, h, w]`."""
        return x if self.group is None else x.unsqueeze(2).expand(-1, -1, len(self.group), -1, -1)

    def pooled(self, x: Tensor) -> Tensor:
        """The average over group and places, `[batch, c]`."""
        return (x if self.group is None else self.pool(x)).mean(self.over_places)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, *size] -> [batch, classes]`."""
        x = self.lifted(x)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(self.pooled(x))

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What the evidence learns besides precisions, declared by the layers; none of it is a parameter."""
        return hyperparameters_within(self)
