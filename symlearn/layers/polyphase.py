"""Stride 2 that commutes with circular shifts: adaptive polyphase subsampling (Chaman & Dokmanic 2021).

Of the four polyphase components of a map (rows from 0 or 1, columns from 0 or 1, every second one) the one of
largest norm is kept, chosen for every sample by itself over all its channels, group elements and places. A
shift of the input permutes the components and shifts them, so it shifts the result.

The choice must not fall back on the component's index, which a shift changes, and norms often tie (blank
images, saturated activations). So the key has three parts, each told apart within a relative 1e-9: the
l-infinity norm, the l2 norm, and a third-order signature of the arrangement,

    sum_x (s(x) + neighbours of s at x)^3,    s = sum over channels with unequal weights,

with neighbours right and below; for group maps with all four alike and no weights on the group axis, so that
the choice follows rotations and mirrors as well.

Axes: batch, c, group, h, w, component.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["inf", "2"]
TIE = 1e-9


def components(x: Tensor) -> Tensor:
    """The polyphase components `[batch, component, ..., h/2, w/2]` of `[batch, ..., h, w]`."""
    return torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def signature(parts: Tensor) -> Tensor:
    """A number `[batch, component]` that shifts keep and rearrangements change; see the module's notation."""
    weights = torch.linspace(1.0, 2.0, parts.shape[2], dtype=parts.dtype, device=parts.device)
    group = parts.dim() == 6  # [batch, component, c, group, h, w]
    planes = parts.sum(3) if group else parts
    s = torch.einsum("bkchw,c->bkhw", planes, weights).double()
    right, below = s.roll(-1, 3), s.roll(-1, 2)
    if group:
        mixed = s + 0.7 * (right + below + s.roll(1, 3) + s.roll(1, 2))
    else:
        mixed = s + 0.7 * right + 0.4 * below
    return mixed.pow(3).sum((2, 3))


def largest(key: Tensor, among: Tensor) -> Tensor:
    """Which candidates `[batch, component]` have a key within `TIE` of the candidates' largest."""
    top = torch.where(among, key, -torch.inf).amax(1, keepdim=True)
    return among & (key >= top - TIE * top.abs())


def choose(parts: Tensor, norm: Norm = "inf") -> Tensor:
    """Index `[batch]` of each sample's component of largest norm; see the module's notation for ties."""
    parts = parts.detach()
    flat = parts.flatten(2)
    candidates = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
    if norm == "inf":
        candidates = largest(flat.abs().amax(2), candidates)
    candidates = largest(torch.linalg.vector_norm(flat, dim=2, dtype=torch.float64), candidates)
    return torch.where(candidates, signature(parts), -torch.inf).argmax(1)


class PolyphaseSubsample2d(nn.Module):
    """Stride-2 subsampling, `[batch, c, h, w] -> [batch, c, h/2, w/2]`, exactly shift-equivariant.

    Group maps `[batch, c, group, h, w]` keep one choice for all group elements together. A gather with no
    branch on data: `vmap`, `torch.compile` and `torch.export` work.

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
                f"stride 2 on a {h}x{w} map is not shift-equivariant; use even sizes (resize or pad the input)"
            )
        parts = components(x)
        index = choose(parts, self.norm).reshape(-1, *[1] * (parts.dim() - 1))
        return parts.take_along_dim(index, 1).squeeze(1)

    def extra_repr(self) -> str:
        """The norm, for printing."""
        return f"norm={self.norm!r}"
