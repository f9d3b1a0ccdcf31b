"""Invariance at the input, as far as the evidence wants it: outputs averaged over transformed copies.

    f(x) = sum_k w_k network(T_k x),    T_k = exp(sum_d u_kd r_d G_d),    u_kd in [-1, 1], w_k = 1 / copies

with generators G and ranges r of `transforms.py` (Benton et al. 2020; Immer et al. 2022). Ranges are declared
hyperparameters: the gradient of the evidence goes through the copies, u fixed. Mirror images are exact:
with probabilities p every copy is there mirrored and not, with p and 1 - p as factors of its weight.

u is a Latin hypercube: along every d each of `copies` equal intervals has one point. In `eval` mode, and so
for the evidence, points are the intervals' middles in a fixed order (of 256 drawn orders the least
correlated), the same for all images. A step on the weights draws order and place within the intervals anew,
for the batch: of a generator seeded by how many steps there were, which travels in the `state_dict`.

Copies are resampled alike (`resampling.py`), the untransformed one included. The curvature of the averaged
output is told to kfac by `copy_weights` (`kfac.Averages`).

Axes: batch, copy (mirrored or not the slow one), c, h, w, transform, classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.layers.declared import Hyperparameter, hyperparameters_of
from symlearn.layers.resampling import resample
from symlearn.layers.transforms import ActsOn, Transform, expect_images, parse_transforms

ORDERS = 256  # of which the least correlated is taken


def strata(orders: Tensor, within: Tensor | float) -> Tensor:
    """Points u in [-1, 1] from numbers of intervals `[..., copy, transform]` and places in them, 0 to 1."""
    return 2 * (orders + within) / orders.shape[-2] - 1


def fixed_points(copies: int, transforms: int, seed: int) -> Tensor:
    """Points u `[copy, transform]` float64: the intervals' middles, in the least correlated of the orders."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(seed)
        orders = torch.rand(ORDERS, copies, transforms, generator=generator).argsort(1).double()
    points = strata(orders, 0.5)
    products = (points.mT @ points).triu(1).abs().flatten(1)
    return points[int(products.amax(1).argmin())] if transforms > 1 else points[0]


def drawn_points(copies: int, transforms: int, seed: int) -> Tensor:
    """Points u `[copy, transform]` float64: intervals in a random order, places within them drawn."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(seed)
        orders = torch.rand(copies, transforms, generator=generator).argsort(0).double()
        within = torch.rand(copies, transforms, generator=generator, dtype=torch.float64)
    return strata(orders, within)


class OrbitAverage(nn.Module):
    """A network's outputs averaged over transformed copies, `[batch, c, h, w] -> [batch, classes]`.

    Args:
        network: `[batch, c, h, w] -> [batch, classes]`.
        transforms: names with commas, each with the range it starts with or without: "rotation:30,flip-x".
        copies: K, besides mirror images; each mirror doubles them.
        learn: whether the evidence learns the ranges; they stay as they start otherwise.
        seed: of the points u.

    Raises:
        ValueError: no or unknown transforms, ranges out of bounds, fewer than two copies; at an image whose
            shape does not go with the transforms.
    """

    points: Tensor

    def __init__(
        self,
        network: nn.Module,
        transforms: str | Sequence[str],
        copies: int = 8,
        *,
        learn: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        started = parse_transforms(transforms)
        if copies < 2:
            raise ValueError(f"an average takes 2 copies or more, got {copies}; one has no range")
        self.network = network
        self.transforms = tuple(started)
        self.learn, self.seed, self.drawn = learn, seed, 0
        self.ranges = nn.Module()
        for transform, reading in started.items():
            value = torch.tensor(transform.scale.value(reading), dtype=torch.get_default_dtype())
            self.ranges.register_buffer(transform.name, value)
        moving = len(self.moving)
        self.each = copies if moving else 1
        self.register_buffer("points", fixed_points(self.each, moving, seed), persistent=False)

    @property
    def moving(self) -> tuple[Transform, ...]:
        """Those with a range."""
        return tuple(t for t in self.transforms if t.acts_on != "mirror")

    @property
    def mirrors(self) -> tuple[Transform, ...]:
        """Those with a probability."""
        return tuple(t for t in self.transforms if t.acts_on == "mirror")

    @property
    def alpha(self) -> int | None:
        """Width multiplier of the network, where it has one."""
        return getattr(self.network, "alpha", None)

    def value(self, transform: Transform) -> Tensor:
        """The unconstrained value behind a range."""
        return self.ranges.get_buffer(transform.name)

    def readings(self) -> Mapping[Transform, float]:
        """Every range, or probability, in its own units."""
        return {t: float(t.scale.read(self.value(t).detach().double())) for t in self.transforms}

    def copy_weights(self) -> Tensor:
        """Weights `[copy]`; differentiable in the mirrors' probabilities."""
        weights = self.points.new_full((self.each,), 1 / self.each)
        for transform in reversed(self.mirrors):
            p = transform.scale.amplitude(self.value(transform)).to(weights.dtype)
            weights = torch.kron(torch.stack([1 - p, p]), weights)
        return weights

    def _points(self) -> Tensor:
        if not self.training:
            return self.points
        self.drawn += 1
        drawn = drawn_points(self.each, len(self.moving), 1_000_003 * (self.seed + 1) + self.drawn)
        return drawn.to(self.points)

    def _maps(self, acts_on: ActsOn, points: Tensor) -> Tensor | None:
        """T_k `[copy, 3, 3]` or `[copy, 4, 4]`; None where no transform acts on these."""
        chosen = [t for t in self.moving if t.acts_on == acts_on]
        if not chosen:
            return None
        columns = [self.moving.index(t) for t in chosen]
        amplitudes = torch.stack([t.scale.amplitude(self.value(t)) for t in chosen]).to(points.dtype)
        generators = torch.stack([t.matrix for t in chosen]).to(points)
        sums = torch.einsum("kd,d,dij->kij", points[:, columns], amplitudes, generators)
        return torch.linalg.matrix_exp(sums)

    def maps(self) -> tuple[list[int], Tensor | None, Tensor | None]:
        """What `transformed` takes: mirrored axes, maps of places, maps of colours; drawn anew in `train`."""
        points = self._points() if self.moving else self.points
        axes = [t.axis for t in self.mirrors]
        return axes, self._maps("places", points), self._maps("colours", points)

    def copies_of(self, x: Tensor) -> Tensor:
        """T_k x, `[batch, c, h, w] -> [batch, copy, c, h, w]`."""
        if x.dim() != 4:
            raise ValueError(f"expected images [batch, c, h, w], got {list(x.shape)}")
        expect_images(self.transforms, x.shape[1], (x.shape[2], x.shape[3]))
        return transformed(x, *self.maps())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        copies = self.copies_of(x)
        f = self.network(copies.flatten(0, 1))
        weights = self.copy_weights().to(f.dtype)
        return torch.einsum("bk...,k->b...", f.reshape(-1, len(weights), *f.shape[1:]), weights)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The ranges, where they are learned, and what the network declares."""
        own = {
            f"ranges.{t.name}": Hyperparameter(
                self.value(t), t.scale.read, "range", t.bounds, moves_inputs=True
            )
            for t in self.transforms
            if self.learn
        }
        within = {f"network.{name}": one for name, one in hyperparameters_of(self.network).items()}
        return {**own, **within}

    def get_extra_state(self) -> dict[str, Any]:
        """How many points were drawn, for the `state_dict`."""
        return {"drawn": self.drawn}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.drawn = int(state["drawn"])

    def extra_repr(self) -> str:
        """Ranges in words, for printing."""
        return "; ".join(t.told(reading) for t, reading in self.readings().items())


def transformed(x: Tensor, axes: Sequence[int], places: Tensor | None, colours: Tensor | None) -> Tensor:
    """Copy images: mirrored along every subset of axes, resampled, recoloured.

    Args:
        x: `[batch, c, h, w]`.
        axes: that are mirrored.
        places: maps `[copy, 3, 3]` as `resample` takes them, or None.
        colours: maps `[copy, 4, 4]` of deviations from an image's mean colour, or None.

    Returns:
        `[batch, copy, c, h, w]`: all maps for the first subset of mirrored axes, the empty one, then for the
        next.
    """
    versions = [x]
    for axis in reversed(axes):
        versions = versions + [version.flip(axis) for version in versions]
    groups = []
    for version in versions:
        copies = version.unsqueeze(1) if places is None else resample(version, places)
        groups.append(copies if colours is None else recoloured(copies, colours.to(x.dtype)))
    return torch.cat(groups, 1)


def recoloured(copies: Tensor, maps: Tensor) -> Tensor:
    """Copies `[batch, copy or 1, c, h, w]` whose deviations from their mean colours are mapped."""
    mean = copies.mean((3, 4), keepdim=True)
    deviations = (copies - mean).expand(-1, len(maps), -1, -1, -1)
    moved = torch.einsum("kij,bkjhw->bkihw", maps[:, :3, :3], deviations)
    return moved + mean + maps[:, :3, 3, None, None]


def network_within(model: nn.Module) -> nn.Module:
    """The network under an average, or the model itself."""
    return model.network if isinstance(model, OrbitAverage) else model
