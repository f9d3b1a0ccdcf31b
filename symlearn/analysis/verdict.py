"""The verdict in words: which layers became convolutional, which stayed mixed, which are switched off.

A layer is named after its top path (largest relative effective dimension) where that path holds at least
`CLEAR_FROM` of it, otherwise it is mixed; where the whole layer has about no effective parameters it is
switched off.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from symlearn.analysis.reading import (
    Layer,
    Report,
    body_layers,
    finite,
    is_switched_off,
    layer_label,
    layer_number,
    path_names,
    present_paths,
    top_path,
)
from symlearn.analysis.wording import percent

CLEAR_FROM = 0.6  # relative effective dimension of the top path
KEPT_FROM = 0.05  # share of a layer's effective parameters above which a lesser path is mentioned


class State(Enum):
    """What can be said of a layer."""

    CLEAR = "clear"
    MIXED = "mixed"
    SWITCHED_OFF = "switched off"
    NOT_MEASURED = "not measured"


def layer_state(layer: Layer) -> State:
    """What can be said of a layer, from its present paths."""
    if is_switched_off(layer):
        return State.SWITCHED_OFF
    path = top_path(layer)
    if path is None:
        return State.NOT_MEASURED
    relative = finite(layer["paths"][path]["relative"])
    return State.CLEAR if relative is not None and relative >= CLEAR_FROM else State.MIXED


def layer_verdict(layer: Layer, report: Report | None = None) -> str:
    """A layer's verdict in a word or two: "CONV", "mixed: CONV", "switched off"; a dash if there is none.

    There is none where nothing was measured, or where the network of the report learned nothing.
    """
    if report is not None and without_verdict(report):
        return "–"
    effective_type = str(layer.get("effective_type") or top_path(layer) or "").upper()
    return {
        State.CLEAR: effective_type,
        State.MIXED: f"mixed: {effective_type}",
        State.SWITCHED_OFF: "switched off",
        State.NOT_MEASURED: "–",
    }[layer_state(layer)]


def verdict(report: Report) -> str:
    """One sentence on what the data made of the layers (the heads apart).

    For example "Layers 0–3 became convolutional; layer 4 fully connected."
    """
    layers = body_layers(report)
    states = {layer["name"]: layer_state(layer) for layer in layers}
    if not layers:
        return "The report lists no layer with paths to choose from."
    if set(states.values()) == {State.NOT_MEASURED}:
        return "No effective parameters were computed, so nothing says which paths the data needs."
    if without_verdict(report):
        return nothing_learned(report["training"])
    if set(states.values()) == {State.SWITCHED_OFF}:
        return "Every layer is switched off: the prior precisions outran the weights and the run collapsed."
    paths = path_names(report)
    clear: dict[str, list[Layer]] = {}  # adjective -> the layers it fits, in order of depth
    for layer in layers:
        if states[layer["name"]] is State.CLEAR:
            clear.setdefault(_adjective(top_path(layer) or "", paths), []).append(layer)
    if len(paths) == 1:
        clauses = [f"only the path {paths[0]}, so there was nothing to choose"]
    else:
        clauses = [
            f"{_who(members, len(layers))} {'' if at else 'became '}{adjective}"
            for at, (adjective, members) in enumerate(clear.items())
        ]
    for state in (State.MIXED, State.SWITCHED_OFF, State.NOT_MEASURED):
        members = [layer for layer in layers if states[layer["name"]] is state]
        if members:
            verb = "stayed" if state is State.MIXED else "are" if len(members) > 1 else "is"
            shares = f" ({_parts(members[0])})" if state is State.MIXED and len(members) == 1 else ""
            clauses.append(f"{_who(members, len(layers))} {verb} {state.value}{shares}")
    sentence = "; ".join(clauses)
    kept = [words for layer in layers if states[layer["name"]] is State.CLEAR for words in _kept(layer)]
    return sentence[0].upper() + sentence[1:] + "." + "".join(f" {words}." for words in kept)


def without_verdict(report: Report) -> bool:
    """Whether the network is no better than the constant predictor: its layers mean nothing then."""
    return (report.get("training") or {}).get("learned") is False


def setbacks_sentence(report: Report) -> str | None:
    """What the guard of the fit took back, and which state was kept; None where there was nothing."""
    training = report.get("training") or {}
    setbacks = training.get("setbacks") or []
    if not setbacks:
        return None
    words = []
    for setback in setbacks[:3]:
        layers = setback.get("layers") or []
        where = f" ({_and([layer_label(name) for name in layers])} silent)" if layers else ""
        words.append(f"in epoch {setback.get('epoch')}{where} {setback.get('reason')}")
    more = f"; and {len(setbacks) - 3} times more" if len(setbacks) > 3 else ""
    return (
        f"Taken back, with half the learning rate: {'; '.join(words)}{more}. The state kept is that of epoch "
        f"{training.get('epoch')}."
    )


def nothing_learned(training: Mapping[str, Any]) -> str:
    """Why no layer has a verdict, and what was tried."""
    tried = [str(start.get("start")) for start in training.get("starts") or []]
    again = f" Tried: {'; '.join(tried)}." if len(tried) > 1 else ""
    loss, constant = finite(training.get("train_loss")), finite(training.get("constant_loss"))
    if loss is not None and constant is not None and loss < 0.95 * constant:
        return (
            "No layer has a verdict: the evidence prefers the constant predictor, which answers every image "
            f"alike, to what the network learned; more images or epochs may change that.{again}"
        )
    return (
        "Nothing was learned, so no layer has a verdict: the network is no better than the constant "
        f"predictor, which answers every image alike.{again}"
    )


def _who(layers: list[Layer], total: int) -> str:
    """Layers in words: "all 5 layers", "layer 4", "layers 0–3", "layers 0, 2 and 4", "block1 and block2"."""
    if len(layers) == total > 1:
        return f"all {total} layers"
    numbers = [number for layer in layers if (number := layer_number(layer["name"])) is not None]
    if len(numbers) < len(layers):
        return _and([layer_label(layer["name"]) for layer in layers])
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [
        word
        for run in runs
        for word in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(number) for number in run])
    ]
    return f"layer{'s' if len(layers) > 1 else ''} {_and(words)}"


def _kept(layer: Layer) -> list[str]:
    """What a layer keeps in other paths than its top one, by raw share of effective parameters.

    The effective type goes by gamma per parameter, which says little of a path with many parameters.
    """
    top = top_path(layer)
    shares = {p: finite(e.get("share")) or 0.0 for p, e in present_paths(layer).items() if p != top}
    words = [
        f"{percent(share)} of its effective parameters in {path}"
        for path, share in shares.items()
        if share >= KEPT_FROM
    ]
    return [f"{_who([layer], 0)} keeps {' and '.join(words)}".capitalize()] if words else []


def _parts(layer: Layer) -> str:
    """Relative values of all but the slight paths, such as "conv 55 %, f-fc 45 %", largest first."""
    relative = {path: finite(entry.get("relative")) or 0.0 for path, entry in present_paths(layer).items()}
    ordered = sorted((path for path in relative if relative[path] >= 0.05), key=lambda path: -relative[path])
    return ", ".join(f"{path} {percent(relative[path])}" for path in ordered)


def _adjective(path: str, paths: list[str]) -> str:
    """What a layer is whose top path this is; paths that would read alike get their name added."""
    described = _description(path)
    alike = [other for other in paths if _description(other) == described]
    return described if len(alike) < 2 else f"{described} ({path})"


def _description(path: str) -> str:
    group, _, variant = path.removeprefix("gconv-").partition(":")
    if path.startswith("gconv-"):
        return f"group-convolutional ({group}{', ' + variant if variant else ''})"
    named = {"fc": "fully connected", "f-fc": "fully connected", "s-fc": "fully connected"}
    named |= {"conv": "convolutional", "s-conv": "convolutional", "free": "free of rotations"}
    if path.startswith("cyclic-"):
        return f"cyclic ({path.removeprefix('cyclic-')}°)"
    return named.get(path, f"dominated by {path}")


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
