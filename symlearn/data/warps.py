"""Geometry of image batches: frames, resizing, rotation, scaling, shifts and quarter turns. Pure functions.

Notation: images are float [batch, c, h, w] in raw values (0 is black), rows grow downwards, sizes are (h, w)
in pixels. Every warp has one parameter a sample, leaves the size as it is and fills with black what comes
from outside. Positive angles turn counterclockwise as the image is displayed, like `torch.rot90`. The centre
is the true one, ((h - 1)/2, (w - 1)/2), also for even sizes. Frames and resizing take signals [batch, c, t]
and volumes [batch, c, d, h, w] as well.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ImageSize = tuple[int, ...]  # (h, w); of signals (t,), of volumes (d, h, w)


def place(images: Tensor, canvas: ImageSize, top: Tensor, left: Tensor) -> Tensor:
    """Put each image on a black canvas [batch, c, *canvas], its first pixel at (top, left), int64 [batch]."""
    h, w = images.shape[-2:]
    row = torch.arange(canvas[0]) - top[:, None]
    column = torch.arange(canvas[1]) - left[:, None]
    return _gather(images, row, column, (row >= 0) & (row < h), (column >= 0) & (column < w))


def place_centred(images: Tensor, canvas: ImageSize) -> Tensor:
    """Put each image in the middle of a black canvas [batch, c, *canvas]; an odd rest is below and right."""
    size = images.shape[2:]
    if tuple(size) == canvas:
        return images
    pads: list[int] = []
    for outer, inner in zip(reversed(canvas), reversed(size), strict=True):  # F.pad takes the last axis first
        rest = outer - inner
        pads += [rest // 2, rest - rest // 2]
    return F.pad(images, pads)


def resize(images: Tensor, size: ImageSize) -> Tensor:
    """Resize to [batch, c, *size], linear along every axis with antialiasing.

    torch filters two axes at once and no other number: a signal is a row, the planes of a volume are resized
    before its depth.

    Returns:
        The images themselves where they have the size already.
    """
    if tuple(images.shape[2:]) == size:
        return images
    if len(size) == 1:
        return _resize_planes(images.unsqueeze(2), (1, *size)).squeeze(2)
    if len(size) == 2:
        return _resize_planes(images, size)
    planes = _resize_planes(images.flatten(1, 2), size[1:]).flatten(2)  # [batch, c * d, h * w]
    columns = planes.unflatten(1, (images.shape[1], -1))
    return _resize_planes(columns, (size[0], columns.shape[3])).unflatten(3, size[1:])


def _resize_planes(planes: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift each image by whole pixels, int64 [batch] (negative: up, left)."""
    h, w = images.shape[-2:]
    return place(images, (h, w), down, right)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate each image about its centre by `angle` in radians, float [batch]; bilinear."""
    cos, sin = angle.cos(), angle.sin()
    # output place (x, y), y downwards, is filled from R(-angle) of it in axes with y upwards
    return _warp(images, torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2))


def rescale(images: Tensor, factor: Tensor) -> Tensor:
    """Enlarge (factor > 1) or shrink (factor < 1) each image about its centre, float [batch]; bilinear."""
    return _warp(images, torch.eye(2).to(factor) / factor[:, None, None])


def quarter_turn(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each square image by `turns` · 90°, int64 [batch] in 0..3; exact, a permutation of pixels."""
    turned = images.clone()
    for k in (1, 2, 3):
        chosen = turns == k
        turned[chosen] = torch.rot90(images[chosen], k, dims=(-2, -1))
    return turned


def _gather(images: Tensor, row: Tensor, column: Tensor, row_inside: Tensor, column_inside: Tensor) -> Tensor:
    """Pixels (row, column) of each image, int64 [batch, h'] and [batch, w'], black where not inside."""
    batch, c, h, w = images.shape
    place_in_image = row.clamp(0, h - 1)[:, :, None] * w + column.clamp(0, w - 1)[:, None, :]
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    picked = images.flatten(2).gather(2, place_in_image.flatten(1)[:, None].expand(-1, c, -1))
    return picked.view(batch, c, *inside.shape[1:]) * inside[:, None]


def _warp(images: Tensor, source_of: Tensor) -> Tensor:
    """Fill place p = (x, y), in pixels from the centre, from place `source_of` p, float [batch, 2, 2]."""
    h, w = images.shape[-2:]
    half = torch.tensor([w, h], dtype=source_of.dtype) / 2  # grid_sample measures in half widths and heights
    theta = source_of * half / half[:, None]
    theta = torch.cat([theta, theta.new_zeros(len(theta), 2, 1)], dim=-1).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
