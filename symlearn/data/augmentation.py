"""Random flips and shifts of a training batch, drawn for every sample by itself.

For the steps on the weights only: curvature, evidence and tests see the images as they are. Images are
[batch, c, h, w] and already normalised, so `fill` is what black became by channel (`Preprocessing.black`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    flip: bool = True,
    shift: int = 4,
    fill: float | Sequence[float] | Tensor = 0.0,
) -> Tensor:
    """Mirror each image left-right with probability ½ and shift it by up to `shift` pixels along each axis.

    Args:
        images: [batch, c, h, w], on any device.
        generator: the only source of randomness; on any device.
        flip: whether to mirror.
        shift: largest shift in pixels; each in -shift..shift is equally likely, down and right apart.
        fill: value of the pixels that come from outside, one number or one a channel, [c].

    Returns:
        New images of the same shape, dtype and device.

    Raises:
        ValueError: images without four axes, a shift outside 0..min(h, w) - 1, a fill that fits no channels.
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {list(images.shape)}; expected [batch, c, h, w]")
    batch, c, h, w = images.shape
    if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < min(h, w):
        raise ValueError(
            f"shift is {shift!r}; expected whole pixels from 0 to {min(h, w) - 1} for images of {h}x{w}"
        )
    outside = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)
    if len(outside) not in (1, c):
        raise ValueError(f"fill has {len(outside)} values; expected one, or one for each of the {c} channels")
    row = torch.arange(h, device=images.device).expand(batch, h)
    column = torch.arange(w, device=images.device).expand(batch, w)
    if shift:
        offset = torch.randint(-shift, shift + 1, (2, batch, 1), generator=generator, device=generator.device)
        down, right = offset.to(images.device)
        row, column = row - down, column - right
    inside = ((row >= 0) & (row < h))[:, :, None] & ((column >= 0) & (column < w))[:, None, :]
    if flip:
        mirrored = torch.rand(batch, 1, generator=generator, device=generator.device) < 0.5
        column = torch.where(mirrored.to(images.device), w - 1 - column, column)
    pixel = row.clamp(0, h - 1)[:, :, None] * w + column.clamp(0, w - 1)[:, None, :]
    moved = images.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, c, -1)).view_as(images)
    return torch.where(inside[:, None], moved, outside)
