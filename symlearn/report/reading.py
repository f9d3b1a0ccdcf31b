"""How to read a run's results: `report.json` and `metrics.jsonl`, as `json` loads them.

The table, the page and every figure see a run only through these functions, so that what counts as
absent, switched off or not measured is decided once.

Notation: P is a path's number of parameters, gamma (`effective_parameters`) the part of them that the data
determines, `normalised` = gamma / P, `relative` = normalised / sum of the layer's normalised values; all
of them are pure numbers. A layer's effective type is its path of largest relative value
[L: van der Ouderaa, Immer, van der Wilk 2023, Table 4].

A number that was not computed is `null` in the JSON; NaN and infinities are read as the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
Layer = Mapping[str, Any]
Metrics = Sequence[Mapping[str, Any]]

HEAD_PATH = "linear"  # the one path of the layers after the features
AVERAGED = "network."  # what the layers of a network under an average over images are called by
SWITCHED_OFF_BELOW = 0.5  # effective parameters; less than half of one is none


def finite(value: object) -> float | None:
    """The number, or None where there is none: missing, null, NaN, infinite or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def tensor_place(name: str, report: Report | None = None) -> tuple[str, str]:
    """Where a tensor or a declared hyperparameter belongs, as the report says.

    Reports of earlier versions do not say; for them, and without one, `<layer>.paths.<path>.<...>` is what
    relaxed layers call their own; any other tensor belongs to its module, a head of the report or "other".

    Returns:
        (layer, path); the path is "linear" for heads, "other" where nothing is known.
    """
    told = ((report or {}).get("tensors") or {}).get(name)
    if told is not None:
        return str(told[0]), str(told[1])
    layer, separator, rest = name.partition(".paths.")
    if separator:
        return layer, rest.split(".", 1)[0]
    module = name.rpartition(".")[0]
    heads = {layer["name"] for layer in head_layers(report or {})}
    return module or name, HEAD_PATH if module in heads else "other"


def cyclic_turns(path: str) -> int:
    """How many rotations a bank named `cyclic-<angle>` has of every filter; 1 for any other path."""
    angle = path.removeprefix("cyclic-")
    return 360 // int(angle) if path != angle and angle.isdecimal() and int(angle) else 1


def layer_number(name: str) -> int | None:
    """3 for `layers.3`; None for a layer that is not named by its depth."""
    stem, _, number = name.removeprefix(AVERAGED).rpartition(".")
    return int(number) if stem == "layers" and number.isdecimal() else None


def layer_label(name: str) -> str:
    """`layers.3` as "layer 3", `head.0` as "head 0", the network itself as that, any other name as it is."""
    if not name:
        return "network"
    name = name.removeprefix(AVERAGED)
    stem, _, number = name.rpartition(".")
    singular = {"layers": "layer", "head": "head"}.get(stem)
    return f"{singular} {number}" if singular and number.isdecimal() else name


def body_layers(report: Report) -> list[Layer]:
    """The layers with paths to choose from, in order of depth."""
    return [layer for layer in report.get("layers") or [] if set(layer["paths"]) != {HEAD_PATH}]


def head_layers(report: Report) -> list[Layer]:
    """The Linear layers after the features, which have the single path `linear`."""
    return [layer for layer in report.get("layers") or [] if set(layer["paths"]) == {HEAD_PATH}]


def path_names(report: Report) -> list[str]:
    """Every path of the run, the configured ones first, then any other that a layer has."""
    found = [path for layer in body_layers(report) for path in layer["paths"]]
    return list(dict.fromkeys([*(report.get("paths") or []), *found]))


def path_entry(layer: Layer, path: str) -> Mapping[str, Any] | None:
    """The numbers of one path of a layer; None where the layer does not have it (never added, or removed)."""
    entry = layer["paths"].get(path)
    return None if entry is None or entry.get("present") is False else entry


def present_paths(layer: Layer) -> dict[str, Mapping[str, Any]]:
    """The paths that the layer has, with their numbers."""
    return {path: entry for path in layer["paths"] if (entry := path_entry(layer, path)) is not None}


def effective_parameters(layer: Layer) -> float | None:
    """Gamma of the whole layer, summed over its present paths; None where nothing was measured."""
    values = [finite(entry.get("effective_parameters")) for entry in present_paths(layer).values()]
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None


def is_switched_off(layer: Layer) -> bool:
    """Whether the data determines nothing in this layer: gamma was measured and is about 0."""
    gamma = effective_parameters(layer)
    return gamma is not None and gamma < SWITCHED_OFF_BELOW


def top_path(layer: Layer) -> str | None:
    """The path that gives the layer its effective type; None where it is switched off or not measured."""
    if is_switched_off(layer):
        return None
    relative = {path: finite(entry.get("relative")) for path, entry in present_paths(layer).items()}
    known = {path: value for path, value in relative.items() if value is not None}
    return max(known, key=known.__getitem__) if known else None


def proposals_of(report: Report) -> list[Mapping[str, Any]]:
    """What the search proposed, in the order of the trials; empty for the other methods."""
    return list((report.get("selection") or {}).get("proposals") or [])


def removals_of(report: Report) -> list[Mapping[str, Any]]:
    """What was taken out at the end of the fit, in order; empty where nothing was."""
    return list((report.get("selection") or {}).get("removals") or [])


def train_examples(report: Report | None) -> int | None:
    """Number of training examples, the unit of "per example"; None where the report does not say."""
    number = finite((report or {}).get("train_examples"))
    return int(number) if number else None
