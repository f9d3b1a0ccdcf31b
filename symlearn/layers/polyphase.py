"""Stride 2 that commutes with circular shifts: adaptive polyphase subsampling (Chaman & Dokmanic 2021).

Of the polyphase components of a map (every second place along every axis, from 0 or 1: two of a signal, four
of an image, eight of a volume) the one of largest norm is kept, chosen for every sample by itself over all
its channels, group elements and places. A shift of the input permutes the components and shifts them, so it
shifts the result.

The choice must not fall back on the component's index, which a shift changes, and norms often tie (blank
images, saturated activations). So keys are compared in turn, each within a relative 1e-9: the l-infinity
norm; the l2 norm; for group maps a signature that rotations and mirrors keep; at last a signature that any
other arrangement than a shift changes (see `symmetric_signature` and `signature`). Components that still tie
are shifts of each other.

Axes: batch, c, group, size (t; h, w; d, h, w), component.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from symlearn.kinds import LETTERS, shown

Norm = Literal["inf", "2"]
TIE = 1e-9


def components(plane: Tensor) -> Tensor:
    """The polyphase components `[batch, component, *size / 2]` of one channel `[batch, *size]`."""
    starts = itertools.product((0, 1), repeat=plane.dim() - 1)
    return torch.stack([plane[(slice(None), *(slice(at, None, 2) for at in start))] for start in starts], 1)


def over_places(x: Tensor) -> tuple[int, ...]:
    """The axes of places of components `[batch, component, *size / 2]`."""
    return tuple(range(2, x.dim()))


def symmetric_signature(planes: Tensor) -> Tensor:
    """A number `[batch, component]` of group maps that shifts, rotations and mirrors of the map keep.

    Args:
        planes: group maps of images, `[batch, c, group, h, w]`.
    """  # noqa: DOC201, the first line says it
    s = components(planes.double().sum((1, 2)))
    mixed = s + 0.7 * (s.roll(-1, 3) + s.roll(-1, 2) + s.roll(1, 3) + s.roll(1, 2))
    return mixed.pow(3).sum((2, 3))


@cache
def _irrational(count: int, start: int) -> np.ndarray:
    return 1 + 0.5 * np.sin(np.arange(start, start + count, dtype=np.float64) ** 2)


@cache
def _circulant(size: int, start: int) -> np.ndarray:
    return _irrational(size, start)[(np.arange(size)[:, None] - np.arange(size)) % size]


def irrational(count: int, start: int, device: torch.device) -> Tensor:
    """Fixed numbers in [0.5, 1.5] without small integer relations among them, `[count]` float64."""
    return torch.as_tensor(_irrational(count, start), device=device)


def mixing(size: int, start: int, device: torch.device) -> Tensor:
    """A circulant matrix `[size, size]` of such numbers, float64."""
    return torch.as_tensor(_circulant(size, start), device=device)


def filtered(s: Tensor) -> Tensor:
    """Components `[batch, component, *size / 2]` filtered circularly by an unequal filter as large as they.

    The filter is a product of one weight a distance along every axis.

    Returns:
        The same shape.
    """
    *leading, last = s.shape[2:]
    for axis, side in enumerate(leading):  # every axis but the last from the left, the last from the right
        rows = s if axis + 2 == s.dim() - 2 else s.flatten(axis + 3)
        s = (mixing(side, 1001 + 1000 * axis, s.device) @ rows).reshape(s.shape)
    return s @ mixing(last, 1001 + 1000 * len(leading), s.device).T


def signature(planes: Tensor) -> Tensor:
    """A number for every component that shifts of it keep and any other arrangement changes.

    sum_x exp(m(x) / scale), m = the component's channels in unequal weights, filtered circularly by an
    unequal filter as large as the map.

    Args:
        planes: `[batch, c, *size]`.

    Returns:
        `[batch, component]`, float64.
    """
    weights = irrational(planes.shape[1], 1, planes.device)
    mixed = filtered(components(torch.einsum("bc...,c->b...", planes.double(), weights)))
    scale = mixed.square().mean(tuple(range(1, mixed.dim())), keepdim=True).sqrt()
    return torch.exp(mixed / scale.clamp_min(1e-300)).sum(over_places(mixed))


def largest(key: Tensor, among: Tensor) -> Tensor:
    """Which candidates `[batch, component]` have a key within `TIE` of the candidates' largest."""
    top = torch.where(among, key, -torch.inf).amax(1, keepdim=True)
    return among & (key >= top - TIE * top.abs())


def keys(x: Tensor, norm: Norm, axes: int) -> Iterator[Tensor]:
    """What is compared in turn, `[batch, component]` float64 each."""
    planes = x.flatten(1, -1 - axes)  # [batch, c (x group), *size]
    if norm == "inf":
        found = components(planes.abs().amax(1))
        yield found.amax(over_places(found)).double()
    found = components(planes.square().sum(1).double())
    yield found.sum(over_places(found))
    if x.dim() > 2 + axes:
        yield symmetric_signature(x)
    yield signature(planes)


def decided(candidates: Tensor) -> bool:
    """Whether one candidate is left of every sample, so that later comparisons can be spared.

    On a CPU that saves most of the comparisons. A GPU would have to wait for the answer, and `vmap`, compiled
    and exported networks cannot branch.

    Returns:
        True where it is known to be so; False where it is not, or a branch on data must not be taken.
    """
    if candidates.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    try:
        return bool((candidates.sum(1) == 1).all())
    except RuntimeError:  # under vmap
        return False


def choose(x: Tensor, norm: Norm = "inf", axes: int = 2) -> Tensor:
    """Index `[batch]` of each sample's component of largest norm; see the module's notation for ties.

    Args:
        x: `[batch, c, *size]` or, of images, `[batch, c, group, h, w]`.
        norm: that is compared.
        axes: how many axes of places there are.
    """  # noqa: DOC201, the first line says it
    x = x.detach()
    # `len` would fix the batch
    candidates = torch.ones(x.shape[0], 2**axes, dtype=torch.bool, device=x.device)
    for key in keys(x, norm, axes):
        candidates = largest(key, candidates)
        if decided(candidates):
            break
    return candidates.to(torch.uint8).argmax(1)


def pick(x: Tensor, component: Tensor, axes: int = 2) -> Tensor:
    """The component `[batch]` of every sample, `[batch, ..., *size] -> [batch, ..., *size / 2]`: a gather."""
    size = x.shape[-axes:]
    start = torch.zeros_like(component)
    offsets = torch.zeros(1, dtype=torch.int64, device=x.device)
    step = 1  # between neighbours along the axis, the last axis first
    for axis, side in enumerate(reversed(size)):
        start = start + component // 2**axis % 2 * step
        along = torch.arange(0, side, 2, device=x.device) * step
        offsets = (along[:, None] + offsets).flatten()
        step = step * side
    places = start[:, None] + offsets  # [batch, *size / 2]
    flat = x.flatten(1, -1 - axes).flatten(2)
    index = places.unsqueeze(1).expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).reshape(*x.shape[:-axes], *(side // 2 for side in size))


class PolyphaseSubsample2d(nn.Module):
    """Stride-2 subsampling, `[batch, c, *size] -> [batch, c, *size / 2]`, exactly shift-equivariant.

    Group maps of images, `[batch, c, group, h, w]`, keep one choice for all group elements together. A
    gather, so that `vmap`, `torch.compile` and `torch.export` work.

    Args:
        norm: "inf" (default) or "2".
        axes: 1 for signals `[batch, c, t]`, 2 for images, 3 for volumes `[batch, c, d, h, w]`.

    Raises:
        ValueError: an unknown norm or number of axes; an odd side, whose polyphase components have unequal
            sizes; an input of fewer axes.
    """

    def __init__(self, norm: Norm = "inf", axes: int = 2) -> None:
        super().__init__()
        if norm not in ("inf", "2"):
            raise ValueError(f"norm must be 'inf' or '2', got {norm!r}")
        if axes not in LETTERS:
            raise ValueError(f"axes must be 1, 2 or 3, got {axes!r}")
        self.norm: Norm = norm
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, ..., *size] -> [batch, ..., *size / 2]`."""
        size = x.shape[-self.axes :]
        if any(side % 2 for side in size):
            raise ValueError(
                f"stride 2 on a {shown(size)} map is not shift-equivariant; use even sizes (resize or pad)"
            )
        return pick(x, choose(x, self.norm, self.axes), self.axes)

    def extra_repr(self) -> str:
        """The norm, and the number of axes where there are not two, for printing."""
        return f"norm={self.norm!r}" + ("" if self.axes == 2 else f", axes={self.axes}")
