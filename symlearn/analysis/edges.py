"""How far an image can go before the network says something else of it, and the images at that edge.

An image goes along exp(s a G) for a generator G of `layers.transforms`, amplitudes a from 0 to `FAR` and both
directions s, interpolated by cubic splines through every pixel, borders going on with their nearest pixel.
What is positive is counterclockwise, to the right, downwards, larger, brighter, of more contrast.
The edge is the first of STEPS amplitudes at which the answer is another, halved HALVINGS times towards the
one before, in the direction where it comes first. An answer is the likeliest class; of a regression, it is
another once an output has moved by half of the standard deviation that outputs have over the images.

Between steps an answer may change and change back, and answers may return beyond the edge: the edge is how
far all steps kept it.

Axes: batch, copy, c, h, w, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kfac import evaluated
from symlearn.layers.orbit_average import recoloured
from symlearn.layers.resampling import interpolate
from symlearn.layers.transforms import TRANSFORMS, Transform, expect_images

FAR = {  # in each transform's own units: beyond it little of an image is left
    "rotation": 180.0,
    "translation-x": 0.5,
    "translation-y": 0.5,
    "scale": 2.0,
    "hue": 180.0,
    "brightness": 2.0,
    "contrast": 4.0,
}
STEPS, HALVINGS = 12, 3
MOVED = 0.5  # standard deviations of a regression's outputs


@dataclass(frozen=True)
class Edge:
    """Where the answer to one image changes.

    Attributes:
        amplitude: what multiplies the generator, with its direction; None: nowhere up to `FAR`.
        certain: the largest amplitude, without direction, up to which every step kept the answer both ways.
    """

    amplitude: float | None
    certain: float


def edge_transforms(channels: int, size: tuple[int, int]) -> list[Transform]:
    """Those of `FAR` that make sense for images."""
    found = []
    for name in FAR:
        try:
            expect_images([TRANSFORMS[name]], channels, size)
        except ValueError:
            continue
        found.append(TRANSFORMS[name])
    return found


def moved(x: Tensor, transform: Transform, amplitudes: Sequence[float]) -> Tensor:
    """Every image by every amplitude, `[batch, c, h, w] -> [batch, copy, c, h, w]`; mirrors by none."""
    if transform.acts_on == "mirror":
        return x.flip(transform.axis).unsqueeze(1).expand(-1, len(amplitudes), -1, -1, -1)
    forward = 1 if transform.acts_on == "colours" else -1  # maps of places say where a pixel comes from
    scaled = forward * torch.as_tensor(amplitudes, dtype=torch.float64)[:, None, None] * transform.matrix
    maps = torch.linalg.matrix_exp(scaled).to(x)
    return recoloured(x.unsqueeze(1), maps) if transform.acts_on == "colours" else interpolate(x, maps)


def one_by_one(x: Tensor, transform: Transform, amplitudes: Sequence[float]) -> Tensor:
    """Every image by its own amplitude, `[batch, c, h, w]`."""
    pairs = zip(x.split(1), amplitudes, strict=True)
    return torch.cat([moved(image, transform, [amplitude])[:, 0] for image, amplitude in pairs])


def changed(f: Tensor, at_rest: Tensor, scale: Tensor | None) -> Tensor:
    """Compare answers with those at rest, from outputs `[batch, classes]`.

    Args:
        f: outputs of moved images.
        at_rest: of the images as they are.
        scale: standard deviations of a regression's outputs `[classes]`; None: they are logits.

    Returns:
        Whether each is another, `[batch]`.
    """
    if scale is None:
        return f.argmax(1) != at_rest.argmax(1)
    return ((f - at_rest).abs() > MOVED * scale).any(1)


@torch.no_grad()
def edges(model: nn.Module, x: Tensor, transform: Transform, classes: bool) -> list[Edge]:
    """Where the answers to images change along a transform.

    Args:
        model: `[batch, c, h, w] -> [batch, classes]`.
        x: images; of a regression, two at least.
        transform: which way; not a mirror.
        classes: whether outputs are logits of classes.

    Returns:
        An edge an image.
    """
    far = transform.amplitude(FAR[transform.name])
    with evaluated(model):
        at_rest = model(x)
        scale = None if classes else at_rest.std(0)

        def other(which: Tensor, images: Tensor) -> Tensor:
            return changed(model(images), at_rest[which], scale)

        last = torch.zeros(len(x), dtype=torch.float64)  # up to which both directions keep the answer
        first = torch.full((len(x),), float("nan"), dtype=torch.float64)
        for step in range(1, STEPS + 1):
            waiting = first.isnan().nonzero().flatten()
            if not len(waiting):
                break
            amplitude = far * step / STEPS
            copies = moved(x[waiting], transform, [amplitude, -amplitude])
            ways = torch.stack([other(waiting, copies[:, way]) for way in (0, 1)], 1)
            for at, (plus, minus) in zip(waiting.tolist(), ways.tolist(), strict=True):
                if plus or minus:
                    first[at] = amplitude if plus else -amplitude
                else:
                    last[at] = amplitude
        reached = (~first.isnan()).nonzero().flatten()
        for _ in range(HALVINGS if len(reached) else 0):
            middle = (first[reached].abs() + last[reached]) / 2 * first[reached].sign()
            gone = other(reached, one_by_one(x[reached], transform, middle.tolist())).cpu()
            first[reached] = torch.where(gone, middle, first[reached])
            last[reached] = torch.where(gone, last[reached], middle.abs())
    found = zip(first.tolist(), last.tolist(), strict=True)
    return [Edge(None if amplitude != amplitude else amplitude, certain) for amplitude, certain in found]


def told(transform: Transform, amplitude: float, side: float) -> str:
    """An amount in words, of translations in pixels, for images of a side sqrt(h w)."""
    if transform.generator and transform.of:
        return f"{amplitude * side:+.1f} px".replace("-", "−")
    return transform.scale.amount(amplitude)


def middle_edge(found: Sequence[Edge]) -> float | None:
    """The median over images of how far they may go; None where half of them may go anywhere."""
    far = sorted(float("inf") if edge.amplitude is None else abs(edge.amplitude) for edge in found)
    middle = far[(len(far) - 1) // 2]
    return None if middle == float("inf") else middle


def spread_out(labels: Tensor | None, count: int, rank: Callable[[int], bool]) -> list[int]:
    """Numbers of images to show: of different classes first, of those that `rank` prefers first.

    Returns:
        Up to `count` numbers, in the order of their classes where there are some.
    """
    if labels is None:
        return list(range(count))
    order = sorted(range(len(labels)), key=lambda at: not rank(at))
    chosen: dict[int, int] = {}
    for at in order:
        chosen.setdefault(int(labels[at]), at)
    rest = [at for at in order if at not in chosen.values()]
    return [*[chosen[label] for label in sorted(chosen)], *rest][:count]
