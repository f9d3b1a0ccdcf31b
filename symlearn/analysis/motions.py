"""What is done to images and maps to see whether a network notices, a few versions of each.

    shifts          circular, by SHIFTS; what leaves at one side enters at the other              exact
    quarter turns   by 90, 180 and 270 degrees, of square maps                                     exact
    mirrors         left to right, top to bottom                                                   exact
    small turns     by SMALL_TURN degrees either way                                        interpolated
    scales          by SCALE and one over it                                                interpolated

Interpolation is that of cubic splines through every pixel (`layers.resampling.interpolate`), and only places
inside a disc of diameter DISC sides count, into which no map brings anything from beyond the border. What the
resampling alone errs by is `floor`: how far there and back again is from where it began.

On maps with orientations `[batch, c, group, h, w]` a turn or a mirror moves these too, as an element of the
group; one that is no element of the group has no action there, and is not measured.

Axes: batch, c, group, h, w.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from symlearn.analysis.equivariance import SHIFTS, distance, shifted
from symlearn.groups import FiniteGroup, rotation
from symlearn.layers.resampling import interpolate

SMALL_TURN = 10.0  # degrees
SCALE = 1.1
DISC = 0.8  # diameter of the places that count, in sides


class Motion(ABC):
    """One kind of transformation.

    Attributes:
        name: as the JSON calls it.
        words: what happens to an image.
        interpolated: whether pixels fall between pixels.
        versions: how many of the kind are tried.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    interpolated: ClassVar[bool] = False
    versions: ClassVar[int]

    def refusal(self, maps: Tensor, group: FiniteGroup) -> str | None:
        """Why maps cannot be moved so, or None."""
        return None

    @abstractmethod
    def move(self, maps: Tensor, version: int, group: FiniteGroup) -> Tensor:
        """Maps `[batch, c, h, w]` or `[batch, c, group, h, w]`, moved; outputs without places stay."""

    def gap(
        self, found: Tensor, maps: Tensor, version: int, group: FiniteGroup, size: tuple[int, int]
    ) -> float:
        """||found - moved maps||, for a module of inputs of this size."""
        return float((found - self.move(maps, version, group)).norm())

    def spread(self, maps: Tensor) -> float:
        """How far maps are from their mean over images and places, channel by channel."""
        axes = [axis for axis in range(maps.dim()) if axis != 1]
        return float((maps - maps.mean(axes, keepdim=True)).norm())

    def floor(self, maps: Tensor) -> float:
        """What moving maps errs by itself, relative to their spread."""
        return 0.0


class Shifts(Motion):
    """Circular shifts; an output of fewer places may shift by whatever fits best."""

    name, words, versions = "shifts", "shifted by 1 to 3 pixels", len(SHIFTS)

    def move(self, maps: Tensor, version: int, group: FiniteGroup) -> Tensor:
        """Rolled."""
        return shifted(maps, SHIFTS[version])

    def gap(
        self, found: Tensor, maps: Tensor, version: int, group: FiniteGroup, size: tuple[int, int]
    ) -> float:
        """By `equivariance.distance`."""
        return distance(found, maps, SHIFTS[version], size)


class Permuted(Motion):
    """Turns and mirrors that only permute pixels."""

    matrices: ClassVar[tuple[Sequence[Sequence[float]], ...]]
    moves: ClassVar[tuple[Callable[[Tensor], Tensor], ...]]

    def element(self, group: FiniteGroup, version: int) -> int | None:
        """The number of the group's element, or None."""
        wanted = torch.tensor(self.matrices[version], dtype=torch.float64)
        distances = (group.matrices - wanted).flatten(1).norm(dim=1)
        return int(distances.argmin()) if float(distances.min()) < 1e-6 else None

    def refusal(self, maps: Tensor, group: FiniteGroup) -> str | None:
        """Orientations of another group."""
        if maps.dim() == 5 and any(self.element(group, v) is None for v in range(self.versions)):
            return f"its maps have the orientations of {group.name}, which {self.name} are no part of"
        return None

    def move(self, maps: Tensor, version: int, group: FiniteGroup) -> Tensor:
        """Permuted."""
        if maps.dim() == 5:
            element = self.element(group, version)
            assert element is not None
            return group.act_on_regular(maps, element)
        return self.moves[version](maps) if maps.dim() == 4 else maps


class QuarterTurns(Permuted):
    """By 90, 180 and 270 degrees."""

    name, words, versions = "quarter turns", "turned by 90°, 180° or 270°", 3
    matrices = (rotation(1 / 4), rotation(2 / 4), rotation(3 / 4))
    moves = tuple(partial(torch.rot90, k=k, dims=(-2, -1)) for k in (1, 2, 3))

    def refusal(self, maps: Tensor, group: FiniteGroup) -> str | None:
        """Maps that are not square, too."""
        if maps.dim() >= 4 and maps.shape[-1] != maps.shape[-2]:
            return "its maps are not square"
        return super().refusal(maps, group)


class Mirrors(Permuted):
    """Left to right, top to bottom."""

    name, words, versions = "mirrors", "mirrored left to right or top to bottom", 2
    matrices = (((1.0, 0.0), (0.0, -1.0)), ((-1.0, 0.0), (0.0, 1.0)))
    moves = tuple(partial(torch.flip, dims=(axis,)) for axis in (-1, -2))

    def refusal(self, maps: Tensor, group: FiniteGroup) -> str | None:
        """Group maps that are not square, too."""
        if maps.dim() == 5 and maps.shape[-1] != maps.shape[-2]:
            return "its maps are not square"
        return super().refusal(maps, group)


class Resampled(Motion):
    """Maps that are interpolated."""

    interpolated = True
    versions = 2

    @abstractmethod
    def matrix(self, version: int) -> Tensor:
        """`[3, 3]` float64, as `resampling` takes it."""

    def move(self, maps: Tensor, version: int, group: FiniteGroup) -> Tensor:
        """Interpolated, orientations one by one."""
        return self._through(maps, self.matrix(version))

    def _through(self, maps: Tensor, matrix: Tensor) -> Tensor:
        if maps.dim() < 4:
            return maps
        planes = maps.flatten(1, -3)
        return interpolate(planes, matrix.to(planes).unsqueeze(0))[:, 0].reshape(maps.shape)

    def gap(
        self, found: Tensor, maps: Tensor, version: int, group: FiniteGroup, size: tuple[int, int]
    ) -> float:
        """Inside the disc."""
        return float(inside(found - self.move(maps, version, group)).norm())

    def spread(self, maps: Tensor) -> float:
        """Inside the disc."""
        axes = [axis for axis in range(maps.dim()) if axis != 1]
        return float(inside(maps - maps.mean(axes, keepdim=True)).norm())

    def floor(self, maps: Tensor) -> float:
        """There and back again, the worst version."""
        scale = max(self.spread(maps), 1e-300)
        there = [(self._through(maps, m), m) for m in map(self.matrix, range(self.versions))]
        back = [self._through(moved, torch.linalg.inv(m)) for moved, m in there]
        return max(float(inside(found - maps).norm()) / scale for found in back)


class SmallTurns(Resampled):
    """Either way."""

    name, words = "small turns", f"turned by ±{SMALL_TURN:g}°"

    def refusal(self, maps: Tensor, group: FiniteGroup) -> str | None:
        """Orientations, which such a turn lies between."""
        if maps.dim() == 5 and maps.shape[2] > 1:
            return f"its maps have the orientations of {group.name}, which small turns lie between"
        return None

    def matrix(self, version: int) -> Tensor:
        """A turn about the centre."""
        angle = math.radians(SMALL_TURN) * (1, -1)[version]
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.tensor([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=torch.float64)


class Scales(Resampled):
    """Larger and smaller about the centre."""

    name, words = "scales", f"scaled by ×{SCALE:g} or ×{1 / SCALE:.2f}"

    def matrix(self, version: int) -> Tensor:
        """Places come from nearer the centre, or from farther away."""
        factor = SCALE ** (-1, 1)[version]
        return torch.diag(torch.tensor([factor, factor, 1], dtype=torch.float64))


MOTIONS: tuple[Motion, ...] = (Shifts(), QuarterTurns(), Mirrors(), SmallTurns(), Scales())


def inside(maps: Tensor) -> Tensor:
    """Maps `[..., h, w]` with zeros outside the disc; outputs `[batch, classes]` as they are."""
    if maps.dim() < 4:
        return maps
    h, w = maps.shape[-2:]
    rows, columns = (torch.arange(n, device=maps.device) - (n - 1) / 2 for n in (h, w))
    distances = (rows.unsqueeze(1).square() + columns.square()).sqrt()
    return maps * (distances <= max(DISC * min(h, w) / 2, 0.75))
