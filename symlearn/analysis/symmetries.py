"""Symmetries measured on a network, layer by layer, and beside it on the same network before its training.

    error(T) = ||f(T x) - T f(x)|| / ||f(x) - mean of f||,

the worst over the versions of a motion T (`motions.py`), the mean by channel over images and places: 0 is
exact, and 1 means that T changes the outputs as much as they differ at all. (`equivariance.py` divides by
||f(x)||, in which what all images share counts; an untrained network, whose outputs hardly differ, looks
invariant by that.) Of the whole network, whose outputs have no places, T f(x) is f(x), so it is an error of
invariance; of classes there are also the shares of images that keep their answer and whose answer is right.

Measured are relaxed layers, the maps that a network names itself, or else its modules with weights that map
images to images; each at its own inputs.

Axes: batch, c, group, h, w, classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kfac import evaluated
from symlearn.analysis.equivariance import IMAGES, HasMeasuredMaps, group_to_measure
from symlearn.analysis.motions import MOTIONS, Motion
from symlearn.groups import FiniteGroup
from symlearn.layers.equivarify import EquivariantMap
from symlearn.layers.orbit_average import network_within
from symlearn.layers.structure import relaxed_layers

ANSWERED = 100  # images whose answers are compared
MOST = 20  # layers that are measured, the first ones
CHUNK = 50


def layers_to_measure(model: nn.Module) -> dict[str, nn.Module]:
    """Relaxed layers, the maps that the network names, or its modules with weights, by name and in order."""
    network = network_within(model)
    if isinstance(network, HasMeasuredMaps):
        return dict(network.measured_maps())
    found: dict[str, nn.Module] = dict(relaxed_layers(model))
    return found or {
        name: module
        for name, module in model.named_modules()
        if name and not [*module.children()] and [*module.parameters(recurse=False)]
    }


def inputs_of_layers(model: nn.Module, x: Tensor, layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What every layer is given when images go through the network, where it maps maps to maps.

    Returns:
        `[batch, c, h, w]` or `[batch, c, group, h, w]` by name, of the first call; for maps that a network
        names itself, the images.
    """
    if isinstance(network_within(model), HasMeasuredMaps):
        return dict.fromkeys(layers, x)
    inputs: dict[str, Tensor] = {}

    def note(name: str, given: tuple[Any, ...], output: Any) -> None:
        maps = len(given) == 1 and all(isinstance(m, Tensor) and m.dim() in (4, 5) for m in (*given, output))
        if maps:
            inputs.setdefault(name, given[0])

    hooks = [
        layer.register_forward_hook(lambda _, given, output, name=name: note(name, given, output))
        for name, layer in layers.items()
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: inputs[name] for name in layers if name in inputs}


def error(module: nn.Module, x: Tensor, y: Tensor, motion: Motion, group: FiniteGroup) -> float | None:
    """The error of a module under a motion, for inputs x and their outputs y; None where y is constant."""
    spread = motion.spread(y)
    if spread <= 1e-6 * float(y.norm()):
        return None
    size = (int(x.shape[-2]), int(x.shape[-1]))
    gaps = [
        motion.gap(module(motion.move(x, version, group)), y, version, group, size)
        for version in range(motion.versions)
    ]
    return max(gaps) / spread


def refusal(motion: Motion, module: nn.Module, x: Tensor, y: Tensor, group: FiniteGroup) -> str | None:
    """Why a motion is not measured on a layer, or None."""
    if isinstance(module, EquivariantMap):
        return "its outputs are functions on a group, in frames of their own"
    if any(maps.dim() == 5 and maps.shape[2] != len(group) for maps in (x, y)):
        return f"its maps have other orientations than {group.name}"
    return motion.refusal(x, group) or motion.refusal(y, group)


@torch.no_grad()
def layer_errors(model: nn.Module, x: Tensor) -> dict[str, dict[str, Any]]:
    """Errors of every layer at its own inputs.

    Returns:
        By layer: `errors` and `floors` by motion, None where outputs are constant; `reasons` why a motion was
        not measured.
    """
    group, layers = group_to_measure(model), layers_to_measure(model)
    found = {}
    with evaluated(model):
        inputs = inputs_of_layers(model, x, layers)
        for name, maps in list(inputs.items())[:MOST]:
            module = layers[name]
            y = module(maps)
            reasons = {m.name: why for m in MOTIONS if (why := refusal(m, module, maps, y, group))}
            measured = [m for m in MOTIONS if m.name not in reasons]
            found[name] = {
                "errors": {m.name: error(module, maps, y, m, group) for m in measured},
                "floors": {m.name: m.floor(y) if m.spread(y) else None for m in measured},
                "reasons": reasons,
            }
    return found


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs `[batch, classes]`, a chunk at a time."""
    return torch.cat([model(part) for part in x.split(CHUNK)])


@torch.no_grad()
def network_errors(model: nn.Module, x: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Errors of invariance of the whole network.

    Args:
        model: `[batch, c, h, w] -> [batch, classes]`.
        x: images.
        labels: of classes, or None for a regression.

    Returns:
        `errors` and `reasons` by motion; of classes, `same` and `accuracy` as shares of the images by motion,
        the mean over its versions, and `accuracy_unmoved`.
    """
    group = group_to_measure(model)
    found: dict[str, Any] = {
        "errors": {},
        "reasons": {},
        "same": {},
        "accuracy": {},
        "accuracy_unmoved": None,
    }
    with evaluated(model):
        y = outputs(model, x)
        if labels is not None:
            found["accuracy_unmoved"] = share(y.argmax(1) == labels)
        for motion in MOTIONS:
            if (why := motion.refusal(x, group)) is not None:
                found["reasons"][motion.name] = why.replace("its maps", "images")
                continue
            moved = [outputs(model, motion.move(x, v, group)) for v in range(motion.versions)]
            spread = motion.spread(y)
            constant = spread <= 1e-6 * float(y.norm())
            gap = max(float((f - y).norm()) for f in moved)
            found["errors"][motion.name] = None if constant else gap / spread
            if labels is not None:
                answers = torch.stack([f.argmax(1) for f in moved])
                found["same"][motion.name] = share(answers == y.argmax(1))
                found["accuracy"][motion.name] = share(answers == labels)
    return found


def share(true: Tensor) -> float:
    """How many are true, from 0 to 1."""
    return float(true.double().mean())


@torch.no_grad()
def measured_symmetries(
    model: nn.Module, untrained: nn.Module | None, x: Tensor, labels: Tensor | None
) -> dict[str, Any]:
    """The `symmetries` of found.json; see the module's notation.

    Args:
        model: the fitted network.
        untrained: the same network with fresh weights, or None where there is none.
        x: images `[batch, c, h, w]`; layers are measured on the first `IMAGES`, answers on all.
        labels: their classes, or None for a regression.

    Returns:
        `motions`, `layers` with `fitted`, `untrained` and `floors` by motion and `reasons`, how many layers
        were `left_out`, and of the `network` the same with `same` and `accuracy`.

    Raises:
        ValueError: inputs that are no images.
    """
    if x.dim() != 4:
        raise ValueError(f"expected images [batch, c, h, w], got {list(x.shape)}; only those are moved")
    few = x[:IMAGES]
    fitted, answers = layer_errors(model, few), network_errors(model, x, labels)
    before = {} if untrained is None else layer_errors(untrained, few)
    answers_before = None if untrained is None else network_errors(untrained, x, labels)
    with evaluated(model):
        every = len(inputs_of_layers(model, few[:1], layers_to_measure(model)))
    return {
        "motions": [{"name": m.name, "words": m.words, "interpolated": m.interpolated} for m in MOTIONS],
        "layer_images": len(few),
        "answer_images": len(x),
        "left_out": every - len(fitted),
        "layers": [
            {
                "name": name,
                "fitted": one["errors"],
                "untrained": before[name]["errors"] if name in before else {},
                "floors": one["floors"],
                "reasons": one["reasons"],
            }
            for name, one in fitted.items()
        ],
        "network": {
            "fitted": answers["errors"],
            "untrained": answers_before["errors"] if answers_before else {},
            "reasons": answers["reasons"],
            "same": answers["same"],
            "same_untrained": answers_before["same"] if answers_before else {},
            "accuracy": answers["accuracy"],
            "accuracy_unmoved": answers["accuracy_unmoved"],
        },
    }
