"""From raw images to what the network sees, the same for training and for files that come later.

Raw images [n, c, h, w] (signals [n, c, t], volumes [n, c, d, h, w]) of the source's own size are put in the
middle of a black canvas, the canvas is resized to the network's size, and each channel is normalised,
(x - mean) / std, with mean and std (population) of the *training* images as the network's size shows them,
after the task's transform.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from symlearn.data import warps
from symlearn.data.warps import ImageSize
from symlearn.kinds import LETTERS, kind_of, layout, shown

_CHUNK = 4096  # images summed at once, at most
_NUMBERS = 2**24  # of a chunk


@dataclass(frozen=True)
class Preprocessing:
    """Sizes in pixels, (h, w), and statistics by channel in raw units; writes itself to JSON.

    `source_size` is None where an image's label depends on its place on the canvas, so that only whole
    canvases can be understood.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_size: ImageSize | None
    canvas: ImageSize
    size: ImageSize

    def __post_init__(self) -> None:
        """Check what a file may have brought."""
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"preprocessing: {len(self.mean)} means but {len(self.std)} stds; "
                "expected one of each a channel"
            )
        if not all(map(math.isfinite, [*self.mean, *self.std])) or min(self.std) <= 0:
            raise ValueError(
                f"preprocessing: mean {self.mean}, std {self.std}; expected finite numbers, std above 0"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise raw images `[n, c, h, w]`.

        Images of the source's own size are placed and resized, images of the network's size are taken as they
        are, and images of the canvas's size are resized.

        Returns:
            float32 `[n, c, *size]`, with the mean and scale of the training images taken out.

        Raises:
            ValueError: images of another size, of other channels, or not floating point.
        """
        kind, axes = kind_of(self.size), len(self.size)
        if images.ndim != 2 + axes or images.shape[1] != len(self.mean):
            expected = layout(axes, f"n, {len(self.mean)}")
            raise ValueError(f"{kind} have shape {list(images.shape)}; expected {expected}, as in training")
        if not images.is_floating_point():
            raise ValueError(
                f"{kind} are {images.dtype}; expected float, in the units of the training {kind}"
            )
        got = tuple(images.shape[2:])
        if got not in (self.source_size, self.size, self.canvas):
            known = dict.fromkeys(
                size for size in (self.source_size, self.canvas, self.size) if size is not None
            )
            expected = " or ".join(map(shown, known))
            raise ValueError(
                f"{kind} are {shown(got)}; expected {expected}, as in training; resize them first"
            )
        images = images.float()
        if got == self.source_size:
            images = warps.resize(warps.place_centred(images, self.canvas), self.size)
        elif got != self.size:
            images = warps.resize(images, self.size)
        return self.normalise(images)

    def normalise(self, images: Tensor) -> Tensor:
        """(x - mean) / std by channel, of any size."""
        return (images - _by_channel(self.mean, images)) / _by_channel(self.std, images)

    @property
    def black(self) -> tuple[float, ...]:
        """What a black pixel (raw 0) becomes, by channel: the `fill` of `augment`."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {key: list(value) if value is not None else None for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`; ValueError where keys or types differ."""
        expected = {field.name for field in fields(cls)}
        if not isinstance(plain, dict) or set(plain) != expected:
            got = sorted(plain) if isinstance(plain, dict) else type(plain).__name__
            raise ValueError(f"preprocessing has {got}; expected the keys {sorted(expected)}")
        try:
            mean, std = (tuple(float(number) for number in plain[key]) for key in ("mean", "std"))
            source_size = None if plain["source_size"] is None else _size(plain["source_size"])
            return cls(mean, std, source_size, _size(plain["canvas"]), _size(plain["size"]))
        except TypeError as error:
            raise ValueError(
                "preprocessing holds a value of the wrong type; expected what to_dict wrote"
            ) from error


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population std by channel of [n, c, h, w], in two float64 passes; std 1 if constant."""
    return statistics_of(lambda: images.split(chunk_size(images.shape[1:])))


def chunk_size(shape: Sequence[int]) -> int:
    """How many images [c, h, w] are summed at once; both passes, and both ways of reading, sum alike."""
    return max(min(_CHUNK, _NUMBERS // math.prod(shape)), 1)


def statistics_of(chunks: Callable[[], Iterable[Tensor]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`channel_statistics` of images that come in chunks [batch, c, h, w], read twice."""
    count, sums = 0, []
    for chunk in chunks():
        count += chunk[:, 0].numel()
        sums.append(_over_all_but_channels(chunk.double()))
    mean = torch.stack(sums).sum(0) / count
    squares = [
        _over_all_but_channels(chunk.double().sub_(_by_channel(mean, chunk)).square_()) for chunk in chunks()
    ]
    std = (torch.stack(squares).sum(0) / count).sqrt()
    constant = (
        std <= torch.finfo(torch.float32).eps * mean.abs()
    )  # what float32 cannot tell from no variation
    for channel in constant.nonzero().flatten().tolist():
        warnings.warn(
            f"channel {channel} of the training images is constant ({mean[channel]:.4g}); it is shifted "
            "but not scaled",
            stacklevel=4,
        )
    return tuple(mean.tolist()), tuple(std.masked_fill(constant, 1.0).tolist())


def _over_all_but_channels(images: Tensor) -> Tensor:
    return images.sum(dim=(0, *range(2, images.ndim)))


def _by_channel(numbers: tuple[float, ...] | Tensor, images: Tensor) -> Tensor:
    if not isinstance(numbers, Tensor):
        numbers = torch.tensor(numbers, dtype=images.dtype, device=images.device)
    return numbers.reshape(-1, *[1] * (images.ndim - 2))


def _size(sides: Sequence[int]) -> ImageSize:
    size = tuple(int(side) for side in sides)
    if len(size) not in LETTERS:
        raise ValueError(f"preprocessing holds the size {list(size)}; expected one, two or three numbers")
    return size
