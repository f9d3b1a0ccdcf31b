"""Stride 2 that commutes with circular shifts: adaptive polyphase subsampling (Chaman & Dokmanic 2021).

Of the four polyphase components of a map (rows from 0 or 1, columns from 0 or 1, every second one) the one of
largest norm is kept, chosen for every sample by itself over all its channels, group elements and places. A
shift of the input permutes the components and shifts them, so it shifts the result.

The choice must not fall back on the component's index, which a shift changes, and norms often tie (blank
images, saturated activations). So keys are compared in turn, each within a relative 1e-9: the l-infinity
norm; the l2 norm; for group maps a signature that rotations and mirrors keep; at last a signature that any
other arrangement than a shift changes (see `symmetric_signature` and `signature`). Components that still tie
are shifts of each other.

Axes: batch, c, group, h, w, component.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Norm = Literal["inf", "2"]
TIE = 1e-9


def components(plane: Tensor) -> Tensor:
    """The polyphase components `[batch, component, h/2, w/2]` of a plane `[batch, h, w]`."""
    return torch.stack([plane[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def symmetric_signature(planes: Tensor) -> Tensor:
    """A number `[batch, component]` of group maps that shifts, rotations and mirrors of the map keep."""
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


def signature(planes: Tensor) -> Tensor:
    """A number for every component that shifts of it keep and any other arrangement changes.

    sum_x exp(m(x) / scale), m = the component's channels in unequal weights, filtered circularly by an
    unequal filter as large as the map (one weight a row distance times one a column distance).

    Returns:
        `[batch, component]`, float64.
    """
    planes = planes.flatten(1, -3)
    s = components(
        torch.einsum("bchw,c->bhw", planes.double(), irrational(planes.shape[1], 1, planes.device))
    )
    h, w = s.shape[-2:]
    mixed = mixing(h, 1001, s.device) @ s @ mixing(w, 2001, s.device).T
    scale = mixed.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.exp(mixed / scale.clamp_min(1e-300)).sum((2, 3))


def largest(key: Tensor, among: Tensor) -> Tensor:
    """Which candidates `[batch, component]` have a key within `TIE` of the candidates' largest."""
    top = torch.where(among, key, -torch.inf).amax(1, keepdim=True)
    return among & (key >= top - TIE * top.abs())


def keys(x: Tensor, norm: Norm) -> Iterator[Tensor]:
    """What is compared in turn, `[batch, component]` float64 each."""
    planes = x.flatten(1, -3)  # [batch, c (x group), h, w]
    if norm == "inf":
        yield components(planes.abs().amax(1)).amax((2, 3)).double()
    yield components(planes.square().sum(1).double()).sum((2, 3))
    if x.dim() == 5:
        yield symmetric_signature(x)
    yield signature(x)


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


def choose(x: Tensor, norm: Norm = "inf") -> Tensor:
    """Index `[batch]` of each sample's component of largest norm; see the module's notation for ties."""
    x = x.detach()
    candidates = torch.ones(x.shape[0], 4, dtype=torch.bool, device=x.device)  # `len` would fix the batch
    for key in keys(x, norm):
        candidates = largest(key, candidates)
        if decided(candidates):
            break
    return candidates.to(torch.uint8).argmax(1)


def pick(x: Tensor, component: Tensor) -> Tensor:
    """The component `[batch]` of every sample: `[batch, ..., h, w] -> [batch, ..., h/2, w/2]`, one gather."""
    h, w = x.shape[-2:]
    rows = torch.arange(0, h, 2, device=x.device) * w
    columns = torch.arange(0, w, 2, device=x.device)
    start = component // 2 * w + component % 2
    places = start[:, None] + (rows[:, None] + columns).flatten()  # [batch, h/2 * w/2]
    flat = x.flatten(1, -3).flatten(2)
    index = places.unsqueeze(1).expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).reshape(*x.shape[:-2], h // 2, w // 2)


class PolyphaseSubsample2d(nn.Module):
    """Stride-2 subsampling, `[batch, c, h, w] -> [batch, c, h/2, w/2]`, exactly shift-equivariant.

    Group maps `[batch, c, group, h, w]` keep one choice for all group elements together. A gather, so that
    `vmap`, `torch.compile` and `torch.export` work.

    Args:
        norm: "inf" (default) or "2".

    Raises:
        ValueError: an unknown norm; an odd h or w, whose polyphase components have unequal sizes.
    """

    def __init__(self, norm: Norm = "inf") -> None:
        super().__init__()
        if norm not in ("inf", "2"):
            raise ValueError(f"norm must be 'inf' or '2', got {norm!r}")
        self.norm: Norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, ..., h, w] -> [batch, ..., h/2, w/2]`."""
        h, w = x.shape[-2:]
        if h % 2 or w % 2:
            raise ValueError(
                f"stride 2 on a {h}x{w} map is not shift-equivariant; use even sizes (resize or pad)"
            )
        return pick(x, choose(x, self.norm))

    def extra_repr(self) -> str:
        """The norm, for printing."""
        return f"norm={self.norm!r}"
