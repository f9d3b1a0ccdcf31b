"""Networks by name, and `build_model`.

`build_model("f-fc+conv", network="ten-layer", ...)` builds what `symlearn fit --network` picks: a network of
relaxed layers, one on a single group, or an unfolded one. The latter have options of their own besides
(dropout, padding, tied layers), for those who build the class itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from torch import nn

from symlearn.config import ModelConfig
from symlearn.kinds import of_size
from symlearn.layers.orbit_average import OrbitAverage
from symlearn.layers.registry import PathOptions, parse_paths, path_kind
from symlearn.layers.sizes import Size, sides
from symlearn.layers.transforms import expect_images, parse_transforms
from symlearn.networks.all_cnn import AllCNN
from symlearn.networks.gcnn import RotatedMnistNetwork
from symlearn.networks.resnet44 import ResNet44
from symlearn.networks.ten_layer import SMALL, TEN_LAYER, RelaxedNetwork
from symlearn.networks.unfolded import UnfoldedNetwork
from symlearn.networks.unread import expect_given_read, expect_read

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "ten-layer": partial(RelaxedNetwork, TEN_LAYER),
    "small": partial(RelaxedNetwork, SMALL),
    "p4cnn": RotatedMnistNetwork,
    "p4cnn-rotation-pooling": partial(RotatedMnistNetwork, rotation_pooling="every"),
    "all-cnn": AllCNN,
    "resnet44": ResNet44,
    "unfolded": UnfoldedNetwork,
    "unfolded-published": partial(UnfoldedNetwork, published=True),
    "unfolded-dense": partial(UnfoldedNetwork, dense=True),
    "unfolded-dense-once": partial(UnfoldedNetwork, dense=True, layers=1, step=1.0),
    "unfolded-dense-published": partial(UnfoldedNetwork, dense=True, published=True),
}

ANY_AXES = frozenset({"ten-layer", "small"})  # of places: signals and volumes as well
ON_ONE_GROUP = frozenset({"p4cnn", "p4cnn-rotation-pooling", "all-cnn", "resnet44"})


def default_network(size: Size) -> str:
    """`ten-layer` where every side is 32 or more, `small` below."""
    return "ten-layer" if min(sides(size)) >= 32 else "small"


def build_model(
    paths: str | tuple[str, ...] = "f-fc+conv",
    *,
    network: str | None = None,
    alpha: int | None = None,
    in_channels: int = 1,
    size: Size = 32,
    classes: int = 10,
    **options: Any,
) -> nn.Module:
    """Build a network by its name.

    Args:
        paths: a sum of path names such as "f-fc+conv"; the networks on one group take one, "conv" or
            "gconv-<group>"; the unfolded ones a sum of banks such as "free+cyclic-90".
        network: of relaxed layers, "ten-layer" or "small"; on one group, "p4cnn", "p4cnn-rotation-pooling",
            "all-cnn" or "resnet44"; "unfolded", "unfolded-dense", the authors' variants of both,
            "unfolded-published" and "unfolded-dense-published", and "unfolded-dense-once", a single
            iteration of step 1. None chooses one of relaxed layers by size.
        alpha: width multiplier (None: 10 for ten-layer, 4 for small); of the networks on one group, the
            channels of the first layer (None: as published for the group); of unfolded ones, filters a bank
            (None: 60).
        in_channels: channels of the image.
        size: h, or (h, w), of the image; (t,) of a signal, (d, h, w) of a volume, which ten-layer and small
            take, of paths fc, f-fc, s-fc, conv and s-conv.
        classes: number of outputs.
        **options: what the paths leave to the user: kernel_size, anchors, lengthscale, learn,
            lengthscale_precision, generator_offset (`PathOptions`). What no path reads is refused, and so is
            any of the networks on one group, whose filters have sizes of their own.

    Returns:
        A network `[batch, in_channels, *size] -> [batch, classes]` with weights drawn from torch's global
        generator, all its paths switched on.

    Raises:
        ValueError: an unknown network, path or option; a path, a size or an option that the network does not
            take.
    """
    name = network or default_network(size)
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(NETWORKS)}")
    known = {field.name for field in fields(PathOptions)}
    if set(options) - known:
        raise ValueError(f"unknown option {sorted(set(options) - known)}; choose from {sorted(known)}")
    if len(sides(size)) != 2 and name not in ANY_AXES:
        raise ValueError(
            f"the network {name} is not for {of_size(sides(size))}; choose from {', '.join(sorted(ANY_AXES))}"
        )
    expect_given_read(options, *reading(name, parse_paths(paths)))
    return NETWORKS[name](
        paths,
        alpha=alpha,
        in_channels=in_channels,
        size=size,
        classes=classes,
        options=PathOptions(**options),
    )


def reading(network: str | None, paths: Sequence[str]) -> tuple[Sequence[str], str]:
    """The paths whose options a network reads, none on one group, and what messages call it."""
    return ((), f"the network {network}") if network in ON_ONE_GROUP else (paths, " + ".join(paths))


def expect_used(chosen: ModelConfig) -> None:
    """Refuse keys of a `[model]` table that neither its network nor one of its paths reads.

    Raises:
        ValueError: such a key, set to something else than its default.
    """
    expect_read(chosen, *reading(chosen.network, parse_paths(chosen.paths)))


def configured_model(chosen: ModelConfig, in_channels: int, size: Size, classes: int) -> nn.Module:
    """Build the network that the `[model]` table of a configuration describes.

    Returns:
        As `build_model`, inside an `OrbitAverage` if the table names transforms.

    Raises:
        ValueError: as `build_model` and `averaged`.
    """
    model = build_model(
        chosen.paths,
        network=chosen.network,
        alpha=chosen.alpha,
        in_channels=in_channels,
        size=size,
        classes=classes,
        **read_options(chosen),
    )
    return averaged(model, chosen, in_channels, size)


def averaged(model: nn.Module, chosen: ModelConfig, in_channels: int, size: Size) -> nn.Module:
    """Average a network over the transformed images that a configuration names.

    Returns:
        An `OrbitAverage` around the network; the network itself if none are named.

    Raises:
        ValueError: unknown transforms, ranges out of bounds, transforms that do not go with the images, or
            invariances to learn and none named.
    """
    learn = chosen.learn == "invariances"
    if chosen.transforms is None:
        if learn:
            raise ValueError(
                "learn is 'invariances', but no transforms are named; give some, such as rotation,translation"
            )
        return model
    expect_images(tuple(parse_transforms(chosen.transforms)), in_channels, sides(size))
    return OrbitAverage(model, chosen.transforms, chosen.copies, learn=learn)


def read_options(chosen: ModelConfig, paths: Sequence[str] | None = None) -> dict[str, Any]:
    """Those of a configuration's options that paths read, its own if not given; it has all of them."""
    read, _ = reading(chosen.network, parse_paths(chosen.paths) if paths is None else paths)
    kinds = [path_kind(path) for path in read]
    options = {
        name: value
        for name, value in chosen.path_options.items()
        if any(name in kind.options for kind in kinds)
    }
    if "learn" in options:
        options["learn"] = tuple(
            what for what in options["learn"] if any(what in kind.learns for kind in kinds)
        )
    return options
