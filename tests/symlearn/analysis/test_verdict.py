"""The verdict's sentences, case by case."""

from collections.abc import Callable
from typing import Any

import pytest

from symlearn.analysis.reading import tensor_place, top_path
from symlearn.analysis.verdict import State, layer_state, layer_verdict, verdict

Make = Callable[..., dict[str, Any]]

CONV, FC = {"conv": (100, 90.0), "f-fc": (1000, 3.0)}, {"conv": (100, 1.0), "f-fc": (1000, 700.0)}
DEAD = {"conv": (100, 0.1), "f-fc": (1000, 0.2)}
MIXED = {"conv": (100, 55.0), "f-fc": (1000, 450.0)}

CASES = {
    "all one type": ([CONV] * 5, "All 5 layers became convolutional."),
    "all but the last": ([CONV] * 4 + [FC], "Layers 0–3 became convolutional; layer 4 fully connected."),
    "not in one run": (
        [FC, CONV, FC, CONV],
        "Layers 0 and 2 became fully connected; layers 1 and 3 convolutional.",
    ),
    "two runs": (
        [CONV] * 3 + [FC] + [CONV],
        "Layers 0–2 and 4 became convolutional; layer 3 fully connected.",
    ),
    "one mixed": (
        [MIXED, CONV],
        "Layer 1 became convolutional; layer 0 stayed mixed (conv 55 %, f-fc 45 %).",
    ),
    "all mixed": ([MIXED] * 3, "All 3 layers stayed mixed."),
    "one dead": ([CONV, CONV, DEAD], "Layers 0 and 1 became convolutional; layer 2 is switched off."),
    "two dead": ([DEAD, CONV, DEAD], "Layer 1 became convolutional; layers 0 and 2 are switched off."),
    "collapsed": (
        [DEAD] * 3,
        "Every layer is switched off: the prior precisions outran the weights and the run collapsed.",
    ),
}


@pytest.mark.parametrize(("layers", "sentence"), CASES.values(), ids=CASES.keys())
def test_verdict_names_every_layer(
    layers: list[dict[str, tuple[int, float]]], sentence: str, make_layer: Make, make_report: Make
) -> None:
    report = make_report([make_layer(at, paths) for at, paths in enumerate(layers)], ["f-fc", "conv"])
    assert verdict(report) == sentence


def test_verdict_of_a_searched_run_ignores_removed_paths(search_report: dict[str, Any]) -> None:
    assert verdict(search_report) == "Layers 0–3 became convolutional; layer 4 fully connected."
    assert [layer_verdict(layer) for layer in search_report["layers"][:5]] == ["CONV"] * 4 + ["FC"]


def test_verdict_says_when_nothing_was_measured(map_report: dict[str, Any]) -> None:
    assert "No effective parameters were computed" in verdict(map_report)
    assert layer_state(map_report["layers"][0]) is State.NOT_MEASURED


def test_verdict_claims_no_choice_for_a_single_path(make_layer: Make, make_report: Make) -> None:
    layers = [make_layer(0, {"conv": (100, 50.0)}), make_layer(1, {"conv": (100, 0.0)})]
    sentence = verdict(make_report(layers, ["conv"]))
    assert sentence == "Only the path conv, so there was nothing to choose; layer 1 is switched off."


def test_verdict_tells_paths_of_one_family_apart(make_layer: Make, make_report: Make) -> None:
    layers = [
        make_layer(0, {"fc": (10, 9.0), "f-fc": (10, 0.0)}),
        make_layer(1, {"fc": (10, 0.0), "f-fc": (10, 9.0)}),
    ]
    sentence = verdict(make_report(layers, ["fc", "f-fc"]))
    assert sentence == "Layer 0 became fully connected (fc); layer 1 fully connected (f-fc)."


def test_verdict_names_the_group_of_a_group_convolution(make_layer: Make, make_report: Make) -> None:
    layer = make_layer(0, {"gconv-p4:pointwise": (10, 9.0), "conv": (10, 0.0)})
    sentence = verdict(make_report([layer], ["conv", "gconv-p4:pointwise"]))
    assert sentence == "Layer 0 became group-convolutional (p4, pointwise)."


def test_mixed_starts_below_sixty_percent(make_layer: Make) -> None:
    layer = make_layer(0, {"conv": (100, 60.0), "f-fc": (100, 40.0)})
    assert (layer_state(layer), layer_verdict(layer)) == (State.CLEAR, "CONV")
    layer = make_layer(0, {"conv": (100, 59.0), "f-fc": (100, 41.0)})
    assert (layer_state(layer), layer_verdict(layer)) == (State.MIXED, "mixed: CONV")


def test_a_removed_path_is_never_on_top(make_layer: Make) -> None:
    layer = make_layer(0, {"f-fc": None, "conv": (100, 20.0)})
    layer["paths"]["f-fc"]["relative"] = 1.0  # a leftover must not win
    assert top_path(layer) == "conv"


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("layers.3.paths.f-fc.theta1", ("layers.3", "f-fc")),
        ("layers.12.paths.gconv-p4:pointwise.spatial.weight", ("layers.12", "gconv-p4:pointwise")),
        ("head.2.bias", ("head.2", "linear")),
        ("stem.weight", ("stem", "other")),
        ("scale", ("scale", "other")),
    ],
)
def test_tensor_place(tensor: str, place: tuple[str, str]) -> None:
    assert tensor_place(tensor) == place
