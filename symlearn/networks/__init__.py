"""Networks by name, and `build_model`.

`build_model("f-fc+conv", network="ten-layer", ...)` builds what `symlearn fit --network` picks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from symlearn.config import ModelConfig
from symlearn.layers.registry import PathOptions
from symlearn.layers.sizes import Size, pair
from symlearn.networks.ten_layer import SMALL, TEN_LAYER, RelaxedNetwork

NETWORKS: dict[str, Callable[..., RelaxedNetwork]] = {
    "ten-layer": partial(RelaxedNetwork, TEN_LAYER),
    "small": partial(RelaxedNetwork, SMALL),
}


def default_network(size: Size) -> str:
    """`ten-layer` from 32 x 32 up, `small` below."""
    return "ten-layer" if min(pair(size)) >= 32 else "small"


def build_model(
    paths: str | tuple[str, ...] = "f-fc+conv",
    *,
    network: str | None = None,
    alpha: int | None = None,
    in_channels: int = 1,
    size: Size = 32,
    classes: int = 10,
    **options: Any,
) -> RelaxedNetwork:
    """Build a network of relaxed layers, `[batch, in_channels, h, w] -> [batch, classes]`.

    Args:
        paths: a sum of path names such as "f-fc+conv".
        network: "ten-layer" or "small"; None chooses by size.
        alpha: width multiplier (None: 10 for ten-layer, 4 for small).
        in_channels: channels of the image.
        size: h, or (h, w), of the image.
        classes: number of outputs.
        **options: what the paths leave to the user: kernel_size, anchors, lengthscale, learn,
            lengthscale_precision (`PathOptions`).

    Raises:
        ValueError: an unknown network or path, or a size its strides do not divide.
    """
    name = network or default_network(size)
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(NETWORKS)}")
    known = {field.name for field in fields(PathOptions)}
    if set(options) - known:
        raise ValueError(f"unknown option {sorted(set(options) - known)}; choose from {sorted(known)}")
    return NETWORKS[name](
        paths,
        alpha=alpha,
        in_channels=in_channels,
        size=size,
        classes=classes,
        options=PathOptions(**options),
    )


def configured_model(chosen: ModelConfig, in_channels: int, size: Size, classes: int) -> RelaxedNetwork:
    """The network that the `[model]` table of a configuration describes; as `build_model`."""
    return build_model(
        chosen.paths,
        network=chosen.network,
        alpha=chosen.alpha,
        in_channels=in_channels,
        size=size,
        classes=classes,
        **chosen.path_options,
    )
