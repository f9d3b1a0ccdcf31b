"""The layer table as rich, plain and Markdown text: rows, cells and widths."""

from collections.abc import Callable
from typing import Any

import pytest

from symlearn.report.notebook import report_html
from symlearn.report.page import html_page
from symlearn.report.remarks import remarks
from symlearn.report.table import layer_table, layer_table_text, proposals_table, run_numbers
from symlearn.report.wording import MISSING, count, magnitude, percent, precision_range, shortened, signed

Make = Callable[..., dict[str, Any]]


def lines_with(text: str, word: str) -> list[str]:
    """The lines of a text that have a word in them."""
    return [line for line in text.splitlines() if word in line]


def test_a_row_for_every_path_of_every_layer(search_report: dict[str, Any]) -> None:
    assert layer_table(search_report).row_count == 5 * 2 + 2, "five layers of two paths and two heads"
    table = proposals_table(search_report)
    assert table is not None
    assert table.row_count == 10


def test_cells_of_a_layer(search_report: dict[str, Any]) -> None:
    text = layer_table_text(search_report)
    at = text[: text.index("layer 4")].count("\n")
    first, second = text.splitlines()[at : at + 2]
    assert first.split() == [
        "layer",
        "4",
        "none",
        "f-fc",
        "94",
        "%",
        "1,204",
        "/",
        "16,448",
        "97",
        "%",
        "4",
        "3.22",
    ]
    assert second.split() == ["conv", "6", "%", "40.2", "/", "9,248", "3", "%", "4", "3.22"]


def test_absent_paths_are_said_to_be_absent(search_report: dict[str, Any]) -> None:
    absent = lines_with(layer_table_text(search_report), "absent")
    assert len(absent) == 3, "two were removed and one was never listed"
    assert all("f-fc" in line and line.count(MISSING) == 4 for line in absent), absent


def test_text_holds_verdict_proposals_and_numbers(search_report: dict[str, Any]) -> None:
    text = layer_table_text(search_report)
    assert "Layers 0–3 became convolutional; layer 4 fully connected beside convolutional" in text
    assert "Δ log evidence" in text and "[nats]" in text, "the unit is not taken for markup"
    kept = lines_with(text, "yes")
    assert len(kept) == 2 and "f-fc of layer 0" in kept[1], kept
    assert kept[0].split() == [
        "1",
        "layer",
        "4",
        "add",
        "f-fc",
        "+820",
        "+1,640",
        "+1,604",
        "to",
        "+1,676",
        "yes",
    ]
    numbers = dict(run_numbers(search_report))
    assert numbers["log marginal likelihood"] == "−2,590.0 nats"
    assert numbers["log marginal likelihood per example"] == "−1.850 nats"
    assert numbers["test accuracy"] == "94.7 %"
    assert not any("Laplace" in name for name in numbers), "no Laplace scores were measured"
    assert all(name in text and value in text for name, value in numbers.items())


def test_proposals_of_earlier_versions_have_a_noise(search_report: dict[str, Any]) -> None:
    for proposal in search_report["selection"]["proposals"]:
        del proposal["interval"]
    kept = lines_with(layer_table_text(search_report), "yes")
    assert kept[0].split()[5:] == ["+820", "+1,640", "±", "12.5", "–", "yes"]


def test_laplace_scores_stand_beside_the_map_ones(search_report: dict[str, Any]) -> None:
    search_report["laplace"] = {"accuracy": 0.951, "nll": 0.19, "ece": None}
    numbers = dict(run_numbers(search_report))
    assert numbers["test, Laplace accuracy"] == "95.1 %"
    assert "test, Laplace ECE" not in numbers


def test_map_run_shows_dashes_and_no_evidence(map_report: dict[str, Any]) -> None:
    text = layer_table_text(map_report)
    assert "nan" not in text.lower() and "None" not in text
    assert lines_with(text, "4,128")[0].split() == [
        "layer",
        "0",
        "–",
        "f-fc",
        "–",
        "–",
        "/",
        "4,128",
        "–",
        "4",
        "3.22",
    ]
    assert lines_with(text, "log marginal likelihood")[0].endswith("not computed")
    assert "kept" not in text, "no proposals, no table of them"
    assert proposals_table(map_report) is None


@pytest.mark.parametrize("paths", [["f-fc", "conv"], ["fc", "s-fc", "conv", "gconv-p4:depthwise-separable"]])
def test_text_fits_a_hundred_columns(paths: list[str], make_layer: Make, make_report: Make) -> None:
    named = dict.fromkeys(paths, (12345678, 100000.5))
    layers = [make_layer(at, named) for at in range(8)]
    for layer in layers:
        for entry in layer["paths"].values():
            entry["prior_precision"] = {"theta1": 1.2345e-6, "theta2": 3.2e7}
    text = layer_table_text(make_report(layers, paths, data="/a/very long/" + "folder/" * 30 + "x.npz"))
    widest = max(text.splitlines(), key=len)
    assert len(widest) <= 100, f"{len(widest)} columns: {widest}"
    assert "1.2e-06–3.2e+07" in text
    assert len(lines_with(text, "12,345,678")) == 8 * len(paths), "no cell is cut or folded away"


def test_markdown_is_one_table_a_part_and_escapes(search_report: dict[str, Any]) -> None:
    search_report["data"] = "a|b<script>"
    text = layer_table_text(search_report, "md")
    assert text.startswith("## a\\|b&lt;script>, quadrant: f-fc + conv\n")
    assert "| layer 4 | none | f-fc | 94 % | 1,204 / 16,448 | 97 % | 4 | 3.22 |" in text
    assert (
        "**Layers 0–3 became convolutional; layer 4 fully connected beside convolutional, both needed.**"
        in text
    )
    columns = {line.count(" | ") for line in lines_with(text, "layer") if line.startswith("|")}
    assert columns == {5, 6, 7}, "six columns of removals, seven of proposals, eight of layers"


def test_names_are_not_taken_for_markup(search_report: dict[str, Any]) -> None:
    search_report["layers"][0]["paths"]["[red]x"] = search_report["layers"][0]["paths"].pop("conv")
    assert lines_with(layer_table_text(search_report), "[red]x")


def test_unknown_format_is_refused(search_report: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'csv', expected 'table' or 'md'"):
        layer_table_text(search_report, "csv")  # type: ignore[arg-type]


def test_numbers_as_text() -> None:
    assert [percent(0.973), percent(None), percent(float("nan"))] == ["97 %", MISSING, MISSING]
    assert [count(1204.4), count(40.23), count(80), count(99.97)] == ["1,204", "40.2", "80", "100"]
    assert [magnitude(0.01234), magnitude(310.0), magnitude(0.0), magnitude(1.2e6)] == [
        "0.0123",
        "310",
        "0",
        "1.2e+06",
    ]
    assert [signed(3.14), signed(-2590.4), signed(float("inf"))] == ["+3.1", "−2,590", MISSING]
    assert precision_range({"weight": 2.0, "bias": 8.0}) == "4", "geometric mean"
    assert precision_range({"weight": 0.1, "bias": 300.0, "other": None}) == "0.1–300"
    assert precision_range({"weight": None}) == precision_range(None) == MISSING
    assert len(shortened("x" * 400)) <= 48


class TestPartOfTheImages:
    """An evidence from M of N images says so wherever it stands."""

    SAMPLE = {
        "images": 5000,
        "of": 60000,
        "chunks": 8,
        "standard_error": {"log_marginal_likelihood": 212.4, "log_likelihood": 90.0},
    }

    def sampled(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report of such a fit; its first proposal took more images."""
        proposals = [dict(p) for p in report["selection"]["proposals"]]
        proposals[0] |= {"images": 20000, "sampling_error": 8.0}
        return report | {
            "evidence_sample": self.SAMPLE,
            "selection": {**report["selection"], "proposals": proposals},
        }

    @pytest.mark.parametrize("format_", ["table", "md"])
    def test_in_the_table(self, search_report: dict[str, Any], format_: Any) -> None:
        text = " ".join(layer_table_text(self.sampled(search_report), format_).split())
        assert "5,000 of 60,000 images, ± 212 nats" in text and "decisions from up to 20,000" in text
        assert "nats ± 212.4, from 5,000 of 60,000 images" in text

    def test_in_page_and_notebook(self, search_report: dict[str, Any]) -> None:
        report = self.sampled(search_report)
        for page in (html_page(report, [], {}), report_html(report)):
            assert "5,000 of 60,000 images" in page

    def test_not_of_all_images(self, search_report: dict[str, Any]) -> None:
        for report in (search_report, search_report | {"evidence_sample": None}):
            assert "images" not in dict(run_numbers(report))["log marginal likelihood"]
            assert remarks(report) == []
