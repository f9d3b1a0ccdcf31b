"""The verdict's sentences, case by case."""

from collections.abc import Callable
from typing import Any

import pytest

from symlearn.report.reading import tensor_place, top_path
from symlearn.report.sentence import State, layer_state, layer_verdict, verdict_sentence

Make = Callable[..., dict[str, Any]]

CONV, FC = {"conv": (100, 90.0), "f-fc": (1000, 3.0)}, {"conv": (100, 1.0), "f-fc": (1000, 700.0)}
DEAD = {"conv": (100, 0.1), "f-fc": (1000, 0.2)}
MIXED = {"conv": (100, 55.0), "f-fc": (1000, 450.0)}

ASKED = {
    "all one type": (["shifts conv"] * 5, "All 5 layers became convolutional."),
    "all but the last": (
        ["shifts conv"] * 4 + ["none f-fc"],
        "Layers 0–3 became convolutional; layer 4 fully connected.",
    ),
    "not in one run": (
        ["none f-fc", "shifts conv", "none f-fc", "shifts conv"],
        "Layers 0 and 2 became fully connected; layers 1 and 3 convolutional.",
    ),
    "both needed": (
        ["shifts conv", "none f-fc conv"],
        "Layer 0 became convolutional; layer 1 fully connected beside convolutional, both needed.",
    ),
    "three needed": (
        ["shifts conv", "none f-fc conv gconv-p4"],
        "Layer 0 became convolutional; layer 1 fully connected beside convolutional and group-convolutional "
        "(p4), all needed.",
    ),
    "undecided": (
        ["shifts conv", "undecided conv | f-fc"],
        "Layer 0 became convolutional; layer 1 is undecided whether fully connected is needed "
        "(convolutional for certain).",
    ),
    "undecided between two": (
        ["undecided | f-fc conv"] * 2,
        "All 2 layers are undecided whether fully connected or convolutional is needed.",
    ),
    "one not asked": (["shifts conv", ""], "Layer 0 became convolutional; layer 1 is not asked."),
}


@pytest.mark.parametrize(("answers", "sentence"), ASKED.values(), ids=ASKED.keys())
def test_verdict_goes_by_what_is_needed(
    answers: list[str], sentence: str, make_layer: Make, make_report: Make, decided: Make
) -> None:
    layers = []
    for at, answer in enumerate(answers):
        symmetry, _, paths = answer.partition(" ")
        needed, _, undecided = paths.partition("|")
        layer = make_layer(at, FC if needed.startswith("f-fc") else CONV)
        if answer:
            deltas = {"conv": -9.0} if undecided else {}
            layer = decided(layer, symmetry, needed, "", undecided, **deltas)
        layers.append(layer)
    said = verdict_sentence(make_report(layers, ["f-fc", "conv"]))
    assert said == sentence, said


BY_DIMENSION = {
    "all one type": ([CONV] * 5, "all 5 layers look convolutional"),
    "all but the last": ([CONV] * 4 + [FC], "layers 0–3 look convolutional; layer 4 fully connected"),
    "two runs": ([CONV] * 3 + [FC] + [CONV], "layers 0–2 and 4 look convolutional; layer 3 fully connected"),
    "one mixed": ([MIXED, CONV], "layer 1 looks convolutional; layer 0 is mixed (conv 55 %, f-fc 45 %)"),
    "all mixed": ([MIXED] * 3, "all 3 layers are mixed"),
    "one dead": (
        [CONV, CONV, DEAD],
        "layers 0 and 1 look convolutional; layer 2 has next to no effective parameters",
    ),
}


@pytest.mark.parametrize(("layers", "words"), BY_DIMENSION.values(), ids=BY_DIMENSION.keys())
def test_without_removals_there_is_no_verdict(
    layers: list[dict[str, tuple[int, float]]], words: str, make_layer: Make, make_report: Make
) -> None:
    """A short fit, an interrupted one, a report of schema 1: the paper's measure, under its own name."""
    made = [make_layer(at, paths) for at, paths in enumerate(layers)]
    for schema in (1, 2):
        report = make_report(made, ["f-fc", "conv"], schema=schema)
        assert verdict_sentence(report) == (
            "No path was tried without, so no layer has a verdict by evidence. By relative effective "
            f"dimension, the paper's measure, {words}."
        )
        assert {layer_verdict(layer, report) for layer in made} == {"not asked"}


def test_both_measures_are_told_where_they_differ(make_layer: Make, make_report: Make, decided: Make) -> None:
    """The effective type is CONV by the parameter; the evidence needs F-FC alone."""
    layers = [
        decided(make_layer(0, CONV), "shifts", "conv", "f-fc"),
        decided(make_layer(1, CONV), "none", "f-fc", "conv", conv=45.0, f_fc=-1501.0),
    ]
    report = make_report(layers, ["f-fc", "conv"])
    assert verdict_sentence(report) == (
        "Layer 0 became convolutional; layer 1 fully connected. By relative effective dimension, which goes "
        "by the parameter, layer 1 CONV instead."
    )
    assert [layer_verdict(layer, report) for layer in layers] == ["shifts", "none"]


def test_layers_that_hold_next_to_nothing(make_layer: Make, make_report: Make, decided: Make) -> None:
    layers = [decided(make_layer(at, CONV if at else DEAD), "shifts", "conv", "f-fc") for at in range(2)]
    said = verdict_sentence(make_report(layers, ["f-fc", "conv"]))
    assert said.endswith("Layer 0 passes signals on with next to no effective parameters.")


def test_map_has_no_verdict(make_layer: Make, make_report: Make) -> None:
    """Effective parameters at fixed precisions are no verdict, and nothing has collapsed."""
    selection = {"method": "none", "proposals": [], "removals": []}
    report = make_report([make_layer(0, DEAD)], ["f-fc", "conv"], selection=selection)
    assert verdict_sentence(report).startswith("No layer has a verdict: weights were fitted by MAP")


def test_verdict_of_a_searched_run(search_report: dict[str, Any]) -> None:
    assert verdict_sentence(search_report) == (
        "Layers 0–3 became convolutional; layer 4 fully connected beside convolutional, both needed."
    )
    assert [layer_verdict(layer) for layer in search_report["layers"][:5]] == ["shifts"] * 4 + ["none"]


def test_verdict_says_when_nothing_was_measured(map_report: dict[str, Any]) -> None:
    assert "No effective parameters were computed" in verdict_sentence(map_report)
    assert layer_state(map_report["layers"][0]) is State.NOT_MEASURED


def test_verdict_claims_no_choice_for_a_single_path(make_layer: Make, make_report: Make) -> None:
    layers = [make_layer(0, {"conv": (100, 50.0)}), make_layer(1, {"conv": (100, 0.0)})]
    assert verdict_sentence(make_report(layers, ["conv"])) == (
        "Only the path conv, so there was nothing to choose. Layer 1 passes signals on with next to no "
        "effective parameters."
    )


def test_verdict_tells_paths_of_one_family_apart(make_layer: Make, make_report: Make, decided: Make) -> None:
    layers = [
        decided(make_layer(0, {"fc": (10, 9.0), "f-fc": (10, 0.0)}), "none", "fc"),
        decided(make_layer(1, {"fc": (10, 0.0), "f-fc": (10, 9.0)}), "none", "f-fc"),
    ]
    sentence = verdict_sentence(make_report(layers, ["fc", "f-fc"]))
    assert sentence == "Layer 0 became fully connected (fc); layer 1 fully connected (f-fc)."


def test_verdict_names_the_group_of_a_group_convolution(
    make_layer: Make, make_report: Make, decided: Make
) -> None:
    layer = make_layer(0, {"gconv-p4:pointwise": (10, 9.0), "conv": (10, 0.0)})
    layer = decided(layer, "p4", "gconv-p4:pointwise", "conv")
    sentence = verdict_sentence(make_report([layer], ["conv", "gconv-p4:pointwise"]))
    assert sentence == "Layer 0 became group-convolutional (p4, pointwise)."


RELAXED = {
    "nearly p4": (
        "shifts",
        "gconv-p4 dev-p4",
        {"nearly": "p4", "deviation": 0.081},
        "nearly group-convolutional (p4) (8 % of the map free of p4)",
        "nearly p4",
    ),
    "no rotation": (
        "shifts",
        "gconv-p4 dev-p4",
        {"nearly": None, "deviation": 0.7},
        "free of p4 beside group-convolutional (p4), both needed",
        "shifts",
    ),
    "exactly p4": (
        "p4",
        "gconv-p4",
        {"nearly": None, "deviation": 0.0, "unneeded": ["dev-p4"]},
        "exactly group-convolutional (p4)",
        "p4",
    ),
    "exactly shifts": (
        "shifts",
        "conv",
        {"nearly": None, "deviation": 0.0, "unneeded": ["dev-shifts"]},
        "exactly convolutional",
        "shifts",
    ),
    "nearly shifts": (
        "none",
        "conv dev-shifts",
        {"nearly": "shifts", "deviation": 0.02},
        "nearly convolutional (2 % of the map varying by place)",
        "nearly shifts",
    ),
}


@pytest.mark.parametrize(
    ("symmetry", "needed", "near", "words", "cell"), RELAXED.values(), ids=RELAXED.keys()
)
def test_layers_that_deviate(
    symmetry: str,
    needed: str,
    near: dict[str, Any],
    words: str,
    cell: str,
    make_layer: Make,
    make_report: Make,
    decided: Make,
) -> None:
    """The relative measure names the shared path, which a near layer is called after as well."""
    paths = ["gconv-p4", "dev-p4"] if "p4" in needed else ["conv", "dev-shifts"]
    layer = decided(make_layer(0, {paths[0]: (10, 9.0), paths[1]: (30, 2.0)}), symmetry, needed)
    layer["effective_type"] = "GCONV"
    layer["verdict"] |= near
    report = make_report([layer], paths)
    other = " By relative effective dimension, which goes by the parameter, layer 0 GCONV instead."
    expected = f"Layer 0 became {words}." + (other if near["deviation"] == 0.7 else "")
    assert verdict_sentence(report) == expected
    assert layer_verdict(layer, report) == cell


def test_mixed_starts_below_sixty_percent(make_layer: Make) -> None:
    assert layer_state(make_layer(0, {"conv": (100, 60.0), "f-fc": (100, 40.0)})) is State.CLEAR
    assert layer_state(make_layer(0, {"conv": (100, 59.0), "f-fc": (100, 41.0)})) is State.MIXED


def test_a_removed_path_is_never_on_top(make_layer: Make) -> None:
    layer = make_layer(0, {"f-fc": None, "conv": (100, 20.0)})
    layer["paths"]["f-fc"]["relative"] = 1.0  # a leftover must not win
    assert top_path(layer) == "conv"


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("layers.3.paths.f-fc.theta1", ("layers.3", "f-fc")),
        ("layers.12.paths.gconv-p4:pointwise.spatial.weight", ("layers.12", "gconv-p4:pointwise")),
        ("head.2.bias", ("head.2", "other")),
        ("stem.weight", ("stem", "other")),
        ("scale", ("scale", "other")),
    ],
)
def test_tensor_place(tensor: str, place: tuple[str, str]) -> None:
    """Of reports that do not say; those that do are believed."""
    assert tensor_place(tensor) == tensor_place(tensor, {"schema": 2}) == place
    assert tensor_place(tensor, {"tensors": {tensor: ["first", "conv"]}}) == ("first", "conv")
