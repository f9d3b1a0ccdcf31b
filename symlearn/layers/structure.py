"""Which parameter belongs to which layer and path, and how much it sums: read from the modules, not names.

Axes: none; this file handles names only.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from symlearn.layers.declared import hyperparameters_of
from symlearn.layers.path_sum import PathSum
from symlearn.layers.registry import path_kind

LINEAR = "linear"


@dataclass(frozen=True)
class LayerPaths:
    """One layer's parameters.

    Attributes:
        name: the module's name in the model.
        index: position among the listed layers.
        relaxed: whether it has paths to choose from (False: a plain layer, its one path `linear`).
        paths: parameter names of every declared path, whether switched on or not.
    """

    name: str
    index: int
    relaxed: bool
    paths: dict[str, tuple[str, ...]]


def layer_paths(model: nn.Module) -> list[LayerPaths]:
    """The layers of a model in order: relaxed layers with their paths, then whatever else owns parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: list[LayerPaths] = []
    taken: set[str] = set()
    for module_name, module in model.named_modules():
        if isinstance(module, PathSum):
            paths = {
                path: tuple(names[id(p)] for p in part.parameters() if names[id(p)] not in taken)
                for path, part in module.paths.items()
            }
            found.append(LayerPaths(module_name, len(found), True, paths))
            taken.update(name for group in paths.values() for name in group)
    for module_name, module in model.named_modules():
        own = tuple(names[id(p)] for p in module.parameters(recurse=False) if names[id(p)] not in taken)
        if own:
            found.append(LayerPaths(module_name, len(found), False, {LINEAR: own}))
            taken.update(own)
    return found


def fan_ins(model: nn.Module) -> dict[str, int]:
    """How many inputs one output of every weight sums over.

    A module may say its weight's own, as an attribute `fan_in`; otherwise it is `weight[0].numel()`.

    Returns:
        The number by parameter name; 1 for vectors.
    """
    found: dict[str, int] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for module in model.modules():
        own = getattr(module, "fan_in", None)
        for parameter in module.parameters(recurse=False):
            fan_in = 1 if parameter.dim() < 2 else own if isinstance(own, int) else parameter[0].numel()
            found.setdefault(names[id(parameter)], max(fan_in, 1))
    return found


def effective_type_of(path: str) -> str:
    """The upper-case type a layer gets when `path` holds most of it."""
    return "LINEAR" if path == LINEAR else path_kind(path).effective_type


def relaxed_layers(model: nn.Module) -> dict[str, PathSum]:
    """The layers with paths to choose from, by name and in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PathSum)}


def paths_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the paths that a network's layers have to choose from."""
    return tuple(dict.fromkeys(p for layer in relaxed_layers(model).values() for p in layer.path_names))


def tensor_places(model: nn.Module) -> dict[str, tuple[str, str]]:
    """The (layer, path) of every parameter and of every hyperparameter that a path declares."""
    places = {
        name: (layer.name, path)
        for layer in layer_paths(model)
        for path, names in layer.paths.items()
        for name in names
    }
    for layer_name, layer in relaxed_layers(model).items():
        for path, part in layer.paths.items():
            for key in hyperparameters_of(part):
                places[f"{layer_name}.paths.{path}.{key}".removeprefix(".")] = (layer_name, path)
    return places
