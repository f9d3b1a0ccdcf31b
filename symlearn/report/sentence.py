"""The verdict in words: what every layer became, going by the paths that the evidence needs.

`selection/verdict.py` decides which those are.

Relative effective dimension, the paper's measure, is no verdict: it goes by the parameter, and a path of
many parameters cannot win it. Where it names another type, the sentence says so. By it alone a layer is named
after its top path where that holds at least `CLEAR_FROM` of it, otherwise mixed.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from symlearn.layers.registry import known_kind, path_kind
from symlearn.report.reading import (
    Layer,
    Report,
    body_layers,
    finite,
    is_switched_off,
    layer_label,
    layer_number,
    path_names,
    present_paths,
    proposals_of,
    removals_of,
    top_path,
)
from symlearn.report.wording import count, percent

CLEAR_FROM = 0.6  # relative effective dimension of the top path


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
    """What a layer commutes with, in a word.

    Returns:
        "shifts", "p4", "nearly p4", "none", "undecided"; a dash where the network learned nothing; "not
        asked" where no path was tried without (see `decided`).
    """
    if report is not None and without_verdict(report):
        return "–"
    if layer_state(layer) is State.NOT_MEASURED and not decided(layer):
        return "–"
    if not decided(layer):
        return "not asked"
    near = layer["verdict"].get("nearly")
    return f"nearly {near}" if near else str(layer["verdict"]["symmetry"])


def decided(layer: Layer) -> bool:
    """Whether the evidence was asked about the layer, and answered: needed or unneeded, or both."""
    entry = layer.get("verdict") or {}
    return bool(entry.get("needed") or entry.get("removals"))


def verdict_sentence(report: Report) -> str:
    """Say what the evidence made of the layers (the heads apart).

    Where no path was tried without (a fit by MAP, a short one, one of an earlier version), it says so, and
    what the paper's measure says.

    Returns:
        A sentence or a few, such as "Layers 0–3 became convolutional; layer 4 fully connected."
    """
    layers = body_layers(report)
    if not layers:
        return "The report lists no layer with paths to choose from."
    if all(layer_state(layer) is State.NOT_MEASURED for layer in layers):
        return "No effective parameters were computed, so nothing says which paths the data needs."
    if without_verdict(report):
        return nothing_learned(report["training"])
    paths = path_names(report)
    if len(paths) == 1:
        return " ".join([f"Only the path {paths[0]}, so there was nothing to choose.", *_hardly_used(layers)])
    method = (report.get("selection") or {}).get("method")
    if method == "none":
        return (
            "No layer has a verdict: weights were fitted by MAP at fixed prior precisions, and no evidence "
            "was maximised; effective parameters are those at these precisions."
        )
    if not any(decided(layer) for layer in layers):
        why = "No path was tried without, so no layer has a verdict by evidence."
        return f"{why} {_by_dimension(layers, paths)}"
    groups: dict[str, list[Layer]] = {}  # phrase -> the layers it fits, in order of depth
    for layer in layers:
        groups.setdefault(_became(layer, paths), []).append(layer)
    clauses, first = [], True
    for phrase, members in groups.items():
        if phrase.startswith("undecided") or phrase == "not asked":
            verb = "are" if len(members) > 1 else "is"
            clauses.append(f"{who(members, len(layers))} {verb} {phrase}")
        else:
            clauses.append(f"{who(members, len(layers))} {'became ' if first else ''}{phrase}")
            first = False
    sentence = "; ".join(clauses)
    said = [f"{sentence[0].upper()}{sentence[1:]}.", *_other_measure(layers), *_hardly_used(layers)]
    return " ".join(said)


def _became(layer: Layer, paths: list[str]) -> str:
    """What a layer became: its least symmetric needed path, and which others are needed beside it."""
    if not decided(layer):
        return "not asked"
    entry = layer["verdict"]
    needed = sorted(entry["needed"], key=_symmetry)
    if entry["symmetry"] == "undecided" or not needed:
        open_ = [_adjective(path, paths) for path in sorted(entry["undecided"], key=_symmetry)]
        surely = f" ({_and([_adjective(path, paths) for path in needed])} for certain)" if needed else ""
        between = f" whether {'or '.join(f'{word} ' for word in open_)}is needed" if open_ else ""
        return f"undecided{between.rstrip()}{surely}"
    if entry.get("nearly"):
        return _nearly(entry, needed, paths)
    exactly = "exactly " if _exact(entry) else ""
    first, *others = (exactly + _adjective(path, paths) for path in needed)
    all_ = "both" if len(others) == 1 else "all"
    return f"{first} beside {_and(others)}, {all_} needed" if others else first


def _exact(entry: Mapping[str, Any]) -> bool:
    """Whether the layer might have deviated from what it commutes with, and need not."""
    kinds = {answer: [known_kind(path) for path in entry[answer]] for answer in ("needed", "unneeded")}
    refused = {kind.deviates_from for kind in kinds["unneeded"] if kind and kind.deviates_from}
    return entry["symmetry"] in refused and not any(kind and kind.deviates_from for kind in kinds["needed"])


def _nearly(entry: Mapping[str, Any], needed: list[str], paths: list[str]) -> str:
    """A layer of needed deviations that are small beside the paths which they deviate from."""
    deviating = [path for path in needed if (kind := known_kind(path)) and kind.deviates_from]
    others = _and([_adjective(path, paths) for path in needed if path not in deviating])
    part = f"{percent(entry.get('deviation'))} of the map"
    return f"nearly {others} ({part} {_and([_adjective(path, paths) for path in deviating])})"


def _symmetry(path: str) -> int:
    try:
        return path_kind(path).symmetry
    except ValueError:  # a report may name what this version does not know
        return 0


def _other_measure(layers: list[Layer]) -> list[str]:
    """Where the paper's measure, relative effective dimension, names another type than the evidence."""
    other: dict[str, list[Layer]] = {}
    for layer in layers:
        top = top_path(layer)
        if top is None or not decided(layer) or layer["verdict"]["symmetry"] == "undecided":
            continue
        if top in layer["verdict"]["needed"] and layer["verdict"].get("nearly"):
            continue
        if top not in layer["verdict"]["needed"] or _symmetry(top) > min(
            map(_symmetry, layer["verdict"]["needed"])
        ):
            other.setdefault(str(layer.get("effective_type") or top.upper()), []).append(layer)
    if not other:
        return []
    words = "; ".join(f"{who(members, 0)} {kind}" for kind, members in other.items())
    return [f"By relative effective dimension, which goes by the parameter, {words} instead."]


def _hardly_used(layers: list[Layer]) -> list[str]:
    """Layers that pass their input on with about no effective parameters, though the network learned."""
    quiet = [layer for layer in layers if is_switched_off(layer)]
    if not quiet:
        return []
    subject, verb = who(quiet, 0), "pass" if len(quiet) > 1 else "passes"
    return [f"{subject[0].upper()}{subject[1:]} {verb} signals on with next to no effective parameters."]


def _by_dimension(layers: list[Layer], paths: list[str]) -> str:
    """What relative effective dimension says, the paper's measure, which is no verdict."""
    states = {layer["name"]: layer_state(layer) for layer in layers}
    clear: dict[str, list[Layer]] = {}
    for layer in layers:
        if states[layer["name"]] is State.CLEAR:
            clear.setdefault(_adjective(top_path(layer) or "", paths), []).append(layer)
    clauses = [
        f"{who(members, len(layers))} {'' if at else 'look '}{adjective}"
        for at, (adjective, members) in enumerate(clear.items())
    ]
    clauses = [c.replace(" look ", " looks ") if c.startswith("layer ") else c for c in clauses]
    for state, verb in ((State.MIXED, ("is", "are")), (State.SWITCHED_OFF, ("has", "have"))):
        members = [layer for layer in layers if states[layer["name"]] is state]
        if members:
            shares = f" ({_parts(members[0])})" if state is State.MIXED and len(members) == 1 else ""
            words = "mixed" if state is State.MIXED else "next to no effective parameters"
            clauses.append(f"{who(members, len(layers))} {verb[len(members) > 1]} {words}{shares}")
    return f"By relative effective dimension, the paper's measure, {'; '.join(clauses)}."


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


def sample_sentence(report: Report) -> str | None:
    """From how many images the evidence is, and how sure that makes it; None where it is from all."""
    sample = report.get("evidence_sample") or {}
    images, of = sample.get("images"), sample.get("of")
    error = finite((sample.get("standard_error") or {}).get("log_marginal_likelihood"))
    if images is None or of is None or error is None:
        return None
    asked = [*removals_of(report), *proposals_of(report)]
    most = max((int(one["images"]) for one in asked if one.get("images")), default=int(images))
    grew = f", decisions from up to {most:,}" if most > images else ""
    return (
        f"The evidence is estimated from {images:,} of {of:,} images, ± {count(error)} nats (one standard "
        f"error){grew}; differences are paired, and their intervals include what that leaves open."
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


def who(layers: list[Layer], total: int) -> str:
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
    kind = known_kind(path)
    return (kind.words if kind else "") or f"dominated by {path}"


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
