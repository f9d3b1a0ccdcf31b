"""A run made up by hand: quadrant digits, a search that kept one F-FC path in the last of five layers."""

import math
from collections.abc import Callable
from typing import Any

import pytest


def _path_numbers(
    parameters: int, gamma: float | None, relative: float | None, share: float | None
) -> dict[str, Any]:
    """One path's entry; a None makes its numbers those of a run without curvature."""
    return {
        "parameters": parameters,
        "effective_parameters": gamma,
        "normalised": None if gamma is None else gamma / parameters,
        "relative": relative,
        "share": share,
        "weight_norm": 3.217,
        "prior_precision": {"weight": 2.0, "bias": 8.0},
    }


def _layer(index: int, paths: dict[str, tuple[int, float] | None]) -> dict[str, Any]:
    """A layer from `{path: (P, gamma)}`; None is a path that the search removed."""
    normalised = {
        name: gamma / size for name, numbers in paths.items() if numbers for size, gamma in [numbers]
    }
    total, gammas = sum(normalised.values()), sum(numbers[1] for numbers in paths.values() if numbers)
    entries: dict[str, Any] = {}
    for name, numbers in paths.items():
        if numbers is None:
            entries[name] = _path_numbers(10, 0.0, 0.0, 0.0) | {"present": False}
        else:
            size, gamma = numbers
            entries[name] = _path_numbers(
                size, gamma, normalised[name] / total if total else 0.0, gamma / gammas if gammas else 0.0
            )
    top = max(normalised, key=normalised.__getitem__)
    return {
        "name": f"layers.{index}",
        "index": index,
        "effective_type": top.partition(":")[0].removeprefix("f-").removesuffix("-p4").upper(),
        "paths": entries,
    }


def _decided(
    layer: dict[str, Any],
    symmetry: str,
    needed: str = "",
    unneeded: str = "",
    undecided: str = "",
    **deltas: float,
) -> dict[str, Any]:
    """The layer with a verdict; `deltas` by path, with "_" for "-"."""
    removals = {
        path.replace("_", "-"): {
            "delta_log_evidence": delta,
            "interval": [delta - 4, delta + 4],
            "probability_needed": 1.0 if delta < -4 else 0.2,
        }
        for path, delta in deltas.items()
    }
    answers = {"needed": needed.split(), "unneeded": unneeded.split(), "undecided": undecided.split()}
    return {**layer, "verdict": {"symmetry": symmetry, **answers, "removals": removals}}


def _report(layers: list[dict[str, Any]], paths: list[str], **changes: Any) -> dict[str, Any]:
    """A report of these layers, two Linear layers after them and no proposals, with `changes` on top."""
    heads = [
        {
            "name": f"head.{at}",
            "index": len(layers) + at,
            "effective_type": "LINEAR",
            "paths": {"linear": _path_numbers(size, gamma, 1.0, 1.0)},
        }
        for at, size, gamma in ((0, 4160, 211.4), (2, 2600, 388.0))
    ]
    return {
        "schema": 2,
        "data": "digits",
        "task": "quadrant",
        "paths": paths,
        "network": "small",
        "train_examples": 1400,
        "parameters": 81_234,
        "log_marginal_likelihood": -2590.0,
        "test": {"accuracy": 0.947, "nll": 0.2012, "ece": 0.0213},
        "laplace": None,
        "selection": {"method": "gradient", "proposals": []},
        "layers": [*layers, *heads],
    } | changes


def _proposal(
    round_: int, layer: int, action: str, path: str, delta: float, accepted: bool
) -> dict[str, Any]:
    """One line of the search."""
    return {
        "round": round_,
        "layer": f"layers.{layer}",
        "path": path,
        "action": action,
        "delta_log_evidence": delta,
        "accepted": accepted,
        "halfway": 0.5 * delta,
        "noise": 12.5,
        "interval": [delta - 36, delta + 36],
    }


def _removal(round_: int, paths: tuple[tuple[str, str], ...], delta: float, removed: bool) -> dict[str, Any]:
    """One removal at the end of a fit."""
    return {
        "round": round_,
        "paths": [list(pair) for pair in paths],
        "delta_log_evidence": delta,
        "interval": [delta - 4, delta + 4],
        "probability_needed": 1.0 if delta < -4 else 0.2,
        "removed": removed,
    }


@pytest.fixture
def make_layer() -> Callable[..., dict[str, Any]]:
    """`make_layer(index, {"conv": (P, gamma), "f-fc": None})`: a layer's entry."""
    return _layer


@pytest.fixture
def decided() -> Callable[..., dict[str, Any]]:
    """`decided(layer, symmetry, needed, unneeded, undecided, **deltas)`: the layer with a verdict."""
    return _decided


@pytest.fixture
def make_report() -> Callable[..., dict[str, Any]]:
    """`make_report(layers, paths, **changes)`: a whole report."""
    return _report


@pytest.fixture
def make_proposal() -> Callable[..., dict[str, Any]]:
    """`make_proposal(round, layer, action, path, delta, accepted)`: a line of the search."""
    return _proposal


@pytest.fixture
def search_report() -> dict[str, Any]:
    """Layers 0–3 CONV (F-FC removed from two of them, never listed in one), layer 4 F-FC."""
    layers = [
        _layer(0, {"f-fc": (4_128, 0.2), "conv": (80, 61.3)}),
        _layer(1, {"conv": (1_168, 402.0), "f-fc": None}),
        _layer(2, {"conv": (2_320, 655.1)}),
        _layer(3, {"f-fc": None, "conv": (4_640, 801.4)}),
        _layer(4, {"f-fc": (16_448, 1_204.0), "conv": (9_248, 40.2)}),
    ]
    layers = [
        _decided(layers[0], "shifts", "conv", "f-fc", conv=-900.0, f_fc=0.5),
        *(
            _decided(layer, "shifts", "conv", "f-fc" if "f-fc" in layer["paths"] else "")
            for layer in layers[1:4]
        ),
        _decided(layers[4], "none", "f-fc conv", f_fc=-1204.0, conv=-410.0),
    ]
    first = [
        _proposal(1, at, "add", "f-fc", delta, at == 4)
        for at, delta in enumerate((760.2, 805, 812.9, 930, 1640))
    ]
    second = [
        _proposal(2, at, "add", "f-fc", delta, False) for at, delta in enumerate((-20.5, 3.1, -8.0, -31.7))
    ]
    second.append(_proposal(2, 4, "remove", "conv", -410.0, False))
    removals = [
        _removal(0, (("layers.0", "conv"),), -900.0, False),
        _removal(0, (("layers.0", "f-fc"),), 0.5, True),
        _removal(1, (("layers.4", "f-fc"),), -1204.0, False),
        _removal(1, (("layers.4", "conv"),), -410.0, False),
    ]
    selection = {"method": "search", "proposals": [*first, *second], "removals": removals}
    return _report(layers, ["f-fc", "conv"], selection=selection)


@pytest.fixture
def map_report() -> dict[str, Any]:
    """A MAP run: no curvature, so no effective parameters and no evidence."""
    layer = {
        "name": "layers.0",
        "index": 0,
        "effective_type": None,
        "paths": {
            "f-fc": _path_numbers(4_128, None, None, None),
            "conv": _path_numbers(80, None, float("nan"), None),
        },
    }
    report = _report(
        [layer],
        ["f-fc", "conv"],
        log_marginal_likelihood=None,
        test={"accuracy": 0.88, "nll": 0.62, "ece": None},
        selection={"method": "none", "proposals": []},
    )
    for head in report["layers"][1:]:
        head["paths"]["linear"] = _path_numbers(4160, None, None, None)
    return report


@pytest.fixture
def search_metrics() -> list[dict[str, Any]]:
    """Sixty epochs in four phases; F-FC of layer 4 enters in round 1, evidence every fifth epoch."""
    rows = []
    for epoch in range(60):
        phase = ("strict start", "round 1", "round 2", "anneal")[min(epoch // 15, 3)]
        tensors = {
            f"layers.{at}.paths.conv.{leaf}": 2.0 + at for at in range(5) for leaf in ("weight", "bias")
        }
        if epoch >= 15:
            for place, leaf in enumerate(("theta1", "theta2", "bias1", "bias2")):
                tensors[f"layers.4.paths.f-fc.{leaf}"] = 300.0 * math.exp(-epoch / 10) + 0.1 * (place + 1)
        tensors |= {f"head.{at}.{leaf}": 1.0 + epoch / 10 for at in (0, 2) for leaf in ("weight", "bias")}
        with_evidence = epoch % 5 == 4
        rows.append(
            {
                "epoch": epoch,
                "step": 11 * (epoch + 1),
                "train_loss": 2.6 * math.exp(-epoch / 12) + 0.03,
                "train_accuracy": 1 - 0.9 * math.exp(-epoch / 9),
                "test_accuracy": 0.95 - 0.87 * math.exp(-epoch / 9),
                "test_nll": 0.3,
                "log_marginal_likelihood": -1400 * (1.85 + 1.7 * math.exp(-epoch / 14))
                if with_evidence
                else None,
                "seconds": 0.5 * (epoch + 1),
                "phase": phase,
                "prior_precision": tensors if with_evidence else None,
            }
        )
    return rows
