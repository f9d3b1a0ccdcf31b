"""What was found, in plain words: for people who skip tables.

    cares      what does not matter to the network: how far images may be transformed, and what does not
               matter in which layers, by the verdicts of the evidence
    ranges     what the evidence says of less and of more than the learned ranges
    measured   how many answers survive a transformation, and how far images can go
    sure       how clear the evidence was
    unknown    what it leaves open: undecided layers, no verdicts, nothing learned, one seed

Everything is read from report.json and the measurements of found.json; nothing is claimed that is in neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from symlearn.layers.registry import known_kind
from symlearn.layers.transforms import TRANSFORMS
from symlearn.report.found_reading import Found, curves_of
from symlearn.report.reading import (
    Layer,
    Report,
    body_layers,
    finite,
    layer_label,
    path_names,
    proposals_of,
)
from symlearn.report.remarks import ranges_sentence
from symlearn.report.sentence import (
    decided,
    nothing_learned,
    sample_sentence,
    setbacks_sentence,
    verdict_sentence,
    who,
    without_verdict,
)
from symlearn.report.wording import action_phrase, count, percent, signed
from symlearn.selection.verdict import SHARED, UNDECIDED

FLAT = 2.0  # nats that a curve rises by at least, before it says anything of a range


def said(report: Report, found: Found) -> dict[str, list[str]]:
    """The sentences of found.json by what they are about; see the module's notation.

    Args:
        report: of the run.
        found: found.json, or as much of it as there is: `ranges`, `symmetries`, `edges`.

    Returns:
        Sentences by `cares`, `ranges`, `measured`, `sure`, `unknown`; lists that may be empty.
    """
    if without_verdict(report):
        why = nothing_learned(report["training"])
        after = "What is measured below is of these weights alone; it says nothing of the data."
        return {"cares": [why], "ranges": [], "measured": [], "sure": [], "unknown": [after]}
    ranges = ranges_sentence(report)
    return {
        "cares": [*([] if ranges is None else [ranges]), *_cares(report)],
        "ranges": [_judged(entry, points) for entry, points in curves_of(found)],
        "measured": [*_answers(found), *_edges(found)],
        "sure": _sure(report),
        "unknown": _unknown(report),
    }


def paragraph(sentences: Mapping[str, Sequence[str]]) -> str:
    """All of them, one after the other."""
    return " ".join(one for part in sentences.values() for one in part)


def matters(symmetry: str) -> str:
    """What a verdict means to someone who looks at images."""
    if symmetry == "none":
        return "it matters where something is"
    if symmetry == "shifts":
        return "it does not matter where in the image something is"
    if SHARED in symmetry:
        return f"what does not matter is shared by {' and '.join(symmetry.split(SHARED))}"
    turned = _turns(symmetry)
    if turned is None:
        return f"{symmetry} of the image do not matter"
    return f"it matters neither where in the image something is nor whether it is {turned}"


def _turns(group: str) -> str | None:
    """What the elements of a group do, in words; None for a group of another kind."""
    if group in ("p4", "p4m"):
        return "turned by a quarter" + (" or mirrored" if group == "p4m" else "")
    match = re.fullmatch(r"([cd])(\d+)", group)
    if match is None:
        return None
    step, mirrored = 360 / int(match[2]), match[1] == "d"
    if match[2] == "1":
        return "mirrored" if mirrored else None
    return f"turned by a multiple of {step:g}°" + (" or mirrored" if mirrored else "")


def _cares(report: Report) -> list[str]:
    layers, paths = body_layers(report), path_names(report)
    if not layers:
        return [
            "The network has no layer with several paths, so there was nothing for the evidence to choose; "
            "what it cares about is only measured."
        ]
    if len(paths) == 1:
        kind = known_kind(paths[0])
        built = f": {matters(kind.commutes_with)}, in every layer" if kind is not None else ""
        return [f"There was one path only, {paths[0]}, and so nothing to choose. Built in, not found{built}."]
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        if decided(layer) and layer["verdict"]["symmetry"] != UNDECIDED:
            groups.setdefault(str(layer["verdict"]["symmetry"]), []).append(layer)
    if not groups:
        return [verdict_sentence(report)]
    clauses = [f"in {_which(members, len(layers))} {matters(name)}" for name, members in groups.items()]
    sentence = "; ".join(clauses)
    return [f"{sentence[0].upper()}{sentence[1:]}."]


def _sure(report: Report) -> list[str]:
    asked = [
        (layer["name"], path, removal)
        for layer in body_layers(report)
        if decided(layer)
        for path, removal in (layer["verdict"].get("removals") or {}).items()
        if path in layer["verdict"]["needed"] and finite(removal.get("delta_log_evidence")) is not None
    ]
    found = []
    if asked:
        name, path, removal = min(asked, key=lambda one: _clearness(one[2]))
        low, high = removal["interval"]
        least = "the one path" if len(asked) == 1 else f"the least clear of {len(asked)} paths"
        found.append(
            f"How sure: {least} that the evidence was found to need by taking it out is {path} of "
            f"{plain_label(name)}; without it the log evidence changes by "
            f"{signed(removal['delta_log_evidence'])} nats (90 % interval {signed(low)} to {signed(high)})."
        )
    last = [p for p in proposals_of(report) if p.get("round") == proposals_of(report)[-1].get("round")]
    tried = [p for p in last if finite(p.get("delta_log_evidence")) is not None]
    if tried and not any(p.get("accepted") for p in last):
        best = max(tried, key=lambda p: float(p["delta_log_evidence"]))
        interval = best.get("interval")
        within = f" (90 % interval {signed(interval[0])} to {signed(interval[1])})" if interval else ""
        found.append(
            f"The search ended when none of {len(last)} further changes was worth it: the best, "
            f"{action_phrase(best)} in {plain_label(str(best.get('layer')))}, changed the log evidence by "
            f"{signed(best['delta_log_evidence'])} nats{within}."
        )
    return found


def _clearness(removal: Mapping[str, Any]) -> float:
    """Loss in half widths of its interval."""
    low, high = removal["interval"]
    return -float(removal["delta_log_evidence"]) / max((high - low) / 2, 1e-9)


def _unknown(report: Report) -> list[str]:
    layers, found = body_layers(report), []
    several = len(path_names(report)) > 1
    open_ = [one for one in layers if decided(one) and one["verdict"]["symmetry"] == UNDECIDED]
    silent = [one for one in layers if not decided(one)]
    if several and open_:
        found.append(
            f"Not known: of {_which(open_, len(layers))} the evidence could not decide; the difference lies "
            "within its noise."
        )
    if several and silent and len(silent) < len(layers):
        found.append(f"Not known: {_which(silent, len(layers))}, of which no path was tried without.")
    found += [one for one in (setbacks_sentence(report), sample_sentence(report)) if one is not None]
    if report.get("seed") is not None:
        moved = "; another may put the same thing into other layers" if any(map(decided, layers)) else ""
        found.append(f"All of this is one fit, of seed {report['seed']}{moved}.")
    return found


def plain_label(name: str) -> str:
    """A layer as readers call it; one that is named by a bare number is said to be a layer."""
    label = layer_label(name)
    return f"layer {label}" if label.isdecimal() else label


def _which(members: list[Layer], total: int) -> str:
    """Layers in words, as `who`, those of bare numbers too."""
    if any(layer_label(layer["name"]).isdecimal() for layer in members) and len(members) < total:
        return _and([plain_label(layer["name"]) for layer in members])
    return who(members, total)


def _judged(entry: Mapping[str, Any], points: Sequence[tuple[float, float]]) -> str:
    """What the evidence says of less and of more of a range than was learned."""
    transform = TRANSFORMS[str(entry["transform"])]
    at, here = min(points, key=lambda p: abs(p[0] - float(entry["range"])))
    heights = [height for _, height in points]
    if max(heights) - min(heights) < FLAT:
        return (
            f"At these weights the log evidence hardly depends on how far images are {transform.verb} (by "
            f"less than {FLAT:g} nats), so how far is not known."
        )
    ends = dict.fromkeys(point for point in (points[0], points[-1]) if point[0] != at)
    parts = [f"{_higher(height - here)} where images are {transform.told(far)}" for far, height in ends]
    told = f"At these weights the log evidence is {' and '.join(parts)}."
    best, top = max(points, key=lambda p: p[1])
    if top - here > FLAT and best not in (points[0][0], points[-1][0]):
        told += f" It is highest, by {count(top - here)} nats, where they are {transform.told(best)}."
    return told


def _higher(nats: float) -> str:
    """A difference of log evidence in words."""
    return f"{count(abs(nats))} nats {'higher' if nats > 0 else 'lower'}"


def _answers(found: Found) -> list[str]:
    symmetries = found.get("symmetries")
    if not symmetries:
        return []
    network = symmetries["network"]
    words = {m["name"]: m["words"] for m in symmetries["motions"]}
    where = f"{symmetries['answer_images']} {symmetries['set']} images"
    if network["same"]:
        ordered = sorted(network["same"].items(), key=lambda one: -one[1])
        parts = [f"{percent(value)} when {words[name]}" for name, value in ordered]
        parts[0] = parts[0].replace(" when", " keep their answer when", 1)
        return [f"Measured on {where}: {_and(parts)}."]
    errors = {name: value for name, value in network["fitted"].items() if value is not None}
    if not errors:
        return []
    parts = [
        f"{percent(value)} when {words[name]}" for name, value in sorted(errors.items(), key=lambda e: e[1])
    ]
    return [f"Measured on {where}, its outputs change, in parts of how much they differ, by {_and(parts)}."]


def _edges(found: Found) -> list[str]:
    measured = found.get("edges")
    if not measured:
        return []
    parts = [f"{one['verb']} by {one['words']}" for one in measured["transforms"] if one["words"] is not None]
    if not parts:
        return [
            f"Of {measured['images']} {measured['set']} images half or more never change their answer, "
            "however far they are moved: look whether the network tells images apart at all."
        ]
    return [
        f"Half of {measured['images']} {measured['set']} images give another answer by the time they are "
        f"{_or(parts)}, in the direction where that comes first."
    ]


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
