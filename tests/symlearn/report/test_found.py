"""'What was found' in words, figures and HTML, for every kind of answer, from hand-written reports."""

from collections.abc import Callable
from typing import Any

import pytest
from pictures import rendered
from test_page import Outline

from symlearn.report.found_page import SECTIONS, found_content, found_figures, found_page
from symlearn.report.found_words import matters, paragraph, said
from symlearn.report.plots import edge_examples, kept_answers, measured_symmetries, range_evidence
from symlearn.report.wording import subject

MOTIONS = (
    ("shifts", "shifted by 1 to 3 pixels", False),
    ("mirrors", "mirrored left to right or top to bottom", False),
    ("small turns", "turned by ±10°", True),
)


def errors(*values: float | None) -> dict[str, float | None]:
    """By motion."""
    return {name: value for (name, _, _), value in zip(MOTIONS, values, strict=True)}


@pytest.fixture
def measured() -> dict[str, Any]:
    """Measurements of a network of two layers, the second constant under everything."""
    layers = [
        {
            "name": "layers.0",
            "fitted": errors(0.0, 1.2, 0.3),
            "untrained": errors(1.1, 1.3, 0.9),
            "floors": errors(0.0, 0.0, 0.1),
            "reasons": {},
        },
        {
            "name": "layers.1",
            "fitted": {"shifts": None},
            "untrained": {"shifts": 2.7},
            "floors": {"shifts": 0.0},
            "reasons": {"mirrors": "its maps have the orientations of p4, which mirrors are no part of"},
        },
    ]
    return {
        "symmetries": {
            "set": "test",
            "seed": 3,
            "layer_images": 16,
            "answer_images": 100,
            "motions": [dict(zip(("name", "words", "interpolated"), m, strict=True)) for m in MOTIONS],
            "layers": layers,
            "left_out": 4,
            "network": {
                "fitted": errors(1e-7, 0.8, 0.4),
                "untrained": errors(0.2, 0.9, 0.5),
                "reasons": {},
                "same": errors(1.0, 0.45, 0.84),
                "same_untrained": errors(0.9, 0.9, 0.9),
                "accuracy": errors(0.93, 0.4, 0.85),
                "accuracy_unmoved": 0.93,
            },
        },
        "edges": {
            "set": "test",
            "images": 24,
            "transforms": [
                {"transform": "rotation", "verb": "turned", "middle": 17.0, "words": "17°", "never": 0},
                {"transform": "scale", "verb": "scaled", "middle": None, "words": None, "never": 20},
            ],
        },
        "skipped": {},
        "seconds": 1.5,
    }


@pytest.fixture
def ranged() -> Callable[..., dict[str, Any]]:
    """`ranged(heights, learned=True)`: a rotation of ±40° and the curve's heights at none, 20, 40 and 80."""

    def make(heights: tuple[float, ...], learned: bool = True) -> dict[str, Any]:
        entry = {
            "name": "ranges.rotation",
            "transform": "rotation",
            "range": 40.0,
            "words": "turned by up to ±40.0°",
            "learned": learned,
            "at_lowest": False,
        }
        points = [
            {"range": at, "log_evidence": height}
            for at, height in zip((0.5, 20, 40, 80), heights, strict=True)
        ]
        curve = {"images": 300, "of": 800, "points": points}
        return {"ranges": [entry], "curves": {"rotation": curve} if learned else {}}

    return make


def rows() -> list[dict[str, Any]]:
    """Two rows of the sheet, one image of two whose answer never changes."""
    cell = {"pixels": [[0, 255], [128, 0]], "answer": "four", "other": False, "amount": ""}
    turned = {"pixels": [[255, 0], [0, 9]], "answer": "nine", "other": True, "amount": "+36°"}
    return [
        {"words": "as it is", "cells": [cell, cell]},
        {"words": "turned until the answer changes", "cells": [turned, None]},
    ]


MATTERS = {
    "none": "it matters where something is",
    "shifts": "it does not matter where in the image something is",
    "p4": "it matters neither where in the image something is nor whether it is turned by a quarter",
    "p4m": "it matters neither where in the image something is nor whether it is turned by a quarter or mirrored",
    "c6": "it matters neither where in the image something is nor whether it is turned by a multiple of 60°",
    "d1": "it matters neither where in the image something is nor whether it is mirrored",
    "exchanges of rows": "exchanges of rows of the image do not matter",
    "rows ∩ shifts": "what does not matter is shared by rows and shifts",
}


@pytest.mark.parametrize("symmetry", MATTERS)
def test_what_verdicts_mean(symmetry: str) -> None:
    assert matters(symmetry) == MATTERS[symmetry]


class TestWords:
    """A kind of answer each."""

    def test_some_layers(self, search_report: dict[str, Any], measured: dict[str, Any]) -> None:
        found = said(search_report | {"seed": 7}, measured)
        assert found["cares"] == [
            "In layers 0–3 it does not matter where in the image something is; in layer 4 it matters where "
            "something is."
        ]
        assert found["measured"][0] == (
            "Measured on 100 test images: 100 % keep their answer when shifted by 1 to 3 pixels, 84 % when "
            "turned by ±10° and 45 % when mirrored left to right or top to bottom."
        )
        assert found["measured"][1].startswith(
            "Half of 24 test images give another answer by the time they are turned by 17°"
        )
        assert "the least clear of 3 paths" in found["sure"][0] and "−410 nats" in found["sure"][0]
        assert "none of 5 further changes was worth it: the best, add f-fc in layer 1" in found["sure"][1]
        assert found["unknown"] == [
            "All of this is one fit, of seed 7; another may put the same thing into other layers."
        ]
        assert paragraph(found).startswith(found["cares"][0])

    def test_all_layers(
        self, make_report: Callable[..., Any], make_layer: Callable[..., Any], decided: Callable[..., Any]
    ) -> None:
        layers = [
            decided(make_layer(k, {"conv": (80, 40.0), "f-fc": None}), "shifts", "conv", "f-fc", conv=-90.0)
            for k in (0, 1)
        ]
        found = said(make_report(layers, ["f-fc", "conv"]), {})
        assert found["cares"] == ["In all 2 layers it does not matter where in the image something is."]
        assert found["measured"] == []

    def test_undecided_layers(
        self, make_report: Callable[..., Any], make_layer: Callable[..., Any], decided: Callable[..., Any]
    ) -> None:
        paths = {"conv": (80, 40.0), "f-fc": (100, 10.0)}
        layers = [
            decided(make_layer(0, paths), "shifts", "conv", "f-fc", conv=-90.0),
            decided(make_layer(1, paths), "undecided", "conv", "", "f-fc", conv=-50.0, f_fc=-2.0),
            make_layer(2, paths),
        ]
        layers[1]["name"] = "features.3"
        found = said(make_report(layers, ["f-fc", "conv"]), {})
        assert found["cares"] == ["In layer 0 it does not matter where in the image something is."]
        assert "of features.3 the evidence could not decide" in found["unknown"][0]
        assert "Not known: layer 2, of which no path was tried without." in found["unknown"]

    def test_layers_of_bare_numbers(
        self, make_report: Callable[..., Any], make_layer: Callable[..., Any], decided: Callable[..., Any]
    ) -> None:
        layers = [
            decided(make_layer(k, {"conv": (80, 40.0), "f-fc": (9, 3.0)}), s, "conv", conv=-90.0)
            for k, s in ((0, "shifts"), (1, "none"))
        ]
        for layer, name in zip(layers, ("network.0", "network.2"), strict=True):
            layer["name"] = name
        (told,) = said(make_report(layers, ["f-fc", "conv"]), {})["cares"]
        assert told.startswith("In layer 0 it does not") and "in layer 2 it matters" in told

    def test_one_path(self, make_report: Callable[..., Any], make_layer: Callable[..., Any]) -> None:
        report = make_report([make_layer(0, {"gconv-p4": (80, 40.0)})], ["gconv-p4"])
        (told,) = said(report, {})["cares"]
        assert told.startswith("There was one path only, gconv-p4") and "Built in, not found" in told
        assert "turned by a quarter" in told

    def test_a_map_fit(
        self, make_report: Callable[..., Any], make_layer: Callable[..., Any], measured: dict[str, Any]
    ) -> None:
        layers = [make_layer(0, {"conv": (80, 40.0), "f-fc": (100, 10.0)})]
        report = make_report(layers, ["f-fc", "conv"], selection={"method": "none", "proposals": []}, seed=0)
        found = said(report, measured)
        assert found["cares"][0].startswith("No layer has a verdict") and found["sure"] == []
        assert found["measured"] and found["unknown"] == ["All of this is one fit, of seed 0."]

    def test_no_curvature_at_all(self, map_report: dict[str, Any], measured: dict[str, Any]) -> None:
        assert "No effective parameters were computed" in said(map_report, measured)["cares"][0]

    def test_no_layers_with_paths(self, make_report: Callable[..., Any], measured: dict[str, Any]) -> None:
        found = said(make_report([], []), measured)
        assert "no layer with several paths" in found["cares"][0] and found["measured"]

    def test_nothing_learned(self, search_report: dict[str, Any], measured: dict[str, Any]) -> None:
        starts = [{"start": "as configured"}, {"start": "with half the rate"}]
        search_report["training"] = {"learned": False, "starts": starts}
        found = said(search_report, measured)
        assert found["cares"][0].startswith("Nothing was learned") and "half the rate" in found["cares"][0]
        assert found["measured"] == [] and "says nothing of the data" in found["unknown"][0]

    def test_a_sampled_evidence_and_setbacks(self, search_report: dict[str, Any]) -> None:
        search_report["evidence_sample"] = {
            "images": 300,
            "of": 9000,
            "standard_error": {"log_marginal_likelihood": 12.0},
        }
        search_report["training"] = {
            "learned": True,
            "epoch": 9,
            "setbacks": [{"epoch": 9, "reason": "the loss rose", "layers": []}],
        }
        told = " ".join(said(search_report, {})["unknown"])
        assert "300 of 9,000 images" in told and "the loss rose" in told

    def test_a_regression(self, search_report: dict[str, Any], measured: dict[str, Any]) -> None:
        network = measured["symmetries"]["network"] | {"same": {}, "accuracy": {}, "accuracy_unmoved": None}
        measured["symmetries"]["network"] = network
        (told, _) = said(search_report, measured)["measured"]
        assert told == (
            "Measured on 100 test images, its outputs change, in parts of how much they differ, by 0 % when "
            "shifted by 1 to 3 pixels, 40 % when turned by ±10° and 80 % when mirrored left to right or top "
            "to bottom."
        )

    def test_answers_that_never_change(self, search_report: dict[str, Any], measured: dict[str, Any]) -> None:
        measured["edges"]["transforms"] = measured["edges"]["transforms"][1:]
        assert "half or more never change their answer" in said(search_report, measured)["measured"][1]


class TestRanges:
    """What is said of learned ranges."""

    def sentences(self, report: dict[str, Any], ranged: dict[str, Any]) -> dict[str, list[str]]:
        """Of a report with these ranges."""
        content = found_content(report | {"ranges": ranged["ranges"]}, ranged)
        assert isinstance(content["sentences"], dict)
        return content["sentences"]

    def test_a_peak(self, search_report: dict[str, Any], ranged: Callable[..., Any]) -> None:
        found = self.sentences(search_report, ranged((-900.0, -700.0, -650.0, -661.5)))
        assert found["cares"][0].startswith("Images count as the same when turned by up to ±40.0°")
        assert found["ranges"] == [
            "At these weights the log evidence is 250 nats lower where images are not turned and 11.5 nats "
            "lower where images are turned by up to ±80.0°."
        ]

    def test_a_peak_elsewhere(self, search_report: dict[str, Any], ranged: Callable[..., Any]) -> None:
        (told,) = self.sentences(search_report, ranged((-900.0, -600.0, -650.0, -640.0)))["ranges"]
        assert "10.0 nats higher where images are turned by up to ±80.0°" in told
        assert told.endswith("It is highest, by 50.0 nats, where they are turned by up to ±20.0°.")

    def test_a_flat_curve(self, search_report: dict[str, Any], ranged: Callable[..., Any]) -> None:
        (told,) = self.sentences(search_report, ranged((-650.4, -650.0, -650.1, -650.9)))["ranges"]
        assert "hardly depends on how far images are turned" in told and "not known" in told

    def test_not_learned(self, search_report: dict[str, Any], ranged: Callable[..., Any]) -> None:
        found = self.sentences(search_report, ranged((0.0, 0.0, 0.0, 0.0), learned=False))
        assert "as configured, not learned" in found["cares"][0] and found["ranges"] == []


class TestFigures:
    """Pure functions of the files."""

    def test_all(
        self, search_report: dict[str, Any], measured: dict[str, Any], ranged: Callable[..., Any]
    ) -> None:
        extra = ranged((-900.0, -700.0, -650.0, -661.5))
        report = search_report | {"ranges": extra["ranges"]}
        found = found_content(report, measured | extra)
        figures = found_figures(found, rows(), report)
        assert list(figures) == [name for section in SECTIONS for name in section.captions]
        for figure in figures.values():
            assert rendered(figure).startswith(b"\x89PNG")
        assert "rotation learned 40, highest at 40" in figures["range-evidence"].get_label()
        assert "shifted by 1 to 3 pixels 100 %" in figures["kept-answers"].get_label()
        assert "errors of the whole network: shifts 1e-07" in figures["measured-symmetries"].get_label()
        assert "turned until the answer changes" in figures["edge-examples"].get_label()

    def test_dots_lie_where_the_numbers_say(self, measured: dict[str, Any]) -> None:
        figure = measured_symmetries(measured)
        shifts, mirrors, _ = figure.axes
        places = [tuple(line.get_xydata()[0]) for line in shifts.lines if line.get_marker() in ("o", "x")]
        assert places == [(1.1, 0), (0.0, 0), (2.0, 1), (0.05, 1), (0.2, 2), (1e-7, 2)]
        assert [text.get_text() for text in shifts.get_yticklabels()] == ["layer 0", "layer 1", "the answer"]
        assert [line.get_marker() for line in mirrors.lines if line.get_xydata()[0][1] == 1] == ["x"]

    def test_a_flat_curve_looks_flat(self, ranged: Callable[..., Any]) -> None:
        extra = ranged((-650.0001, -650.0, -650.0, -650.0003))
        content = {"ranges": [extra["ranges"][0] | {"curve": extra["curves"]["rotation"]}]}
        (axes,) = range_evidence(content).axes
        assert axes.get_ylim()[1] > 2

    def test_without_anything(self) -> None:
        found = {"skipped": {"symmetries": "the data are no images", "edges": "no pictures"}}
        for figure, words in (
            (range_evidence({}), "no range was learned"),
            (kept_answers(found), "the data are no images"),
            (measured_symmetries(found), "the data are no images"),
            (edge_examples([], None, found), "no pictures"),
            (edge_examples([]), "no image was looked at"),
        ):
            assert words in figure.get_label() and rendered(figure)
        assert found_figures({}, [], {}) == {}


def test_a_run_without_paths_has_a_name(make_report: Callable[..., Any]) -> None:
    assert subject(make_report([], [])) == "digits, quadrant"


class TestPage:
    """The HTML."""

    def page(self, report: dict[str, Any], measured: dict[str, Any]) -> str:
        """Of measurements, with a sheet."""
        found = found_content(report, measured)
        links = {"report": "report.html", "found": "found.json"}
        return found_page(report, found, found_figures(found, rows(), report), None, links)

    def test_holds_everything(self, search_report: dict[str, Any], measured: dict[str, Any]) -> None:
        page = Outline(self.page(search_report, measured))
        assert not page.open, f"never closed: {page.open}"
        for words in (
            "In layers 0–3 it does not matter where",
            "84 % when turned",
            "mirrors, layer 1: its maps have the orientations of p4",
            "4 further layers: only the first ones are measured",
            "How this was found",
        ):
            assert words in page.text, words
        assert page.count("img") == 3 and page.count("script") == page.count("link") == 0
        assert [a["href"] for tag, a in page.tags if tag == "a"] == ["report.html", "found.json"]
        assert all((a["src"] or "").startswith("data:") and a["alt"] for t, a in page.tags if t == "img")

    def test_says_what_could_not_be_measured(self, search_report: dict[str, Any]) -> None:
        found = found_content(search_report, {"skipped": {"edges": "the data are <no> images"}})
        page = Outline(found_page(search_report, found, {}))
        assert "examples at the edge: the data are <no> images" in page.text
        assert page.count("img") == 0 and page.count("a") == 0

    def test_names_from_users_are_escaped(
        self, search_report: dict[str, Any], measured: dict[str, Any]
    ) -> None:
        evil = "<script>alert('x')</script>\"'"
        search_report |= {"data": evil, "task": evil, "seed": evil}
        search_report["layers"][0]["name"] = evil
        measured["symmetries"]["layers"][0]["name"] = evil
        measured["symmetries"]["layers"][1]["reasons"] = {evil: evil}
        measured["skipped"] = {evil: evil}
        found = found_content(search_report, measured)
        images = rows()
        images[0]["words"] = images[1]["cells"][0]["answer"] = evil
        figures = found_figures(found, images, search_report)
        page = found_page(search_report, found, figures, None, {"report": evil, "found": evil})
        assert "<script" not in page.lower() and not Outline(page).open

    def test_content(self, search_report: dict[str, Any], measured: dict[str, Any]) -> None:
        found = found_content(search_report, measured)
        assert found["schema"] == 1 and found["seconds"] == 1.5
        assert found["layers"][-1] == {"name": "layers.4", "symmetry": "none"}
        assert found["paragraph"] == paragraph(found["sentences"])
