"""The HTML page: complete, self-contained, escaped."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

from matplotlib.figure import Figure

from symlearn.report.page import html_page
from symlearn.report.plots import effective_dimension_heat_map, layer_shares

VOID = {"meta", "img", "link", "br", "input"}


class Outline(HTMLParser):
    """Tags with their attributes, text without tags, and whether every tag was closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        """How many of a tag there are."""
        return sum(name == tag for name, _ in self.tags)


def test_page_holds_everything(search_report: dict[str, Any], search_metrics: list[dict[str, Any]]) -> None:
    figures = {
        "effective-dimension": effective_dimension_heat_map(search_report),
        "layer-shares": layer_shares(search_report),
    }
    config = {"data": {"name": "digits"}, "training": {"lr": 0.005, "epochs": 60}}
    page = Outline(html_page(search_report, search_metrics, figures, config, {"torch": "2.13.0"}))
    assert not page.open, f"never closed: {page.open}"
    expected = [
        "Layers 0–3 became convolutional; layer 4 fully connected beside convolutional",
        "−2,590.0 nats",
        "94.7 %",
    ]
    expected += ["1,204 / 16,448", "+1,640", "+1,604 to +1,676", "60 in 30 s", "−410", "−414 to −406"]
    for words in [*expected, "training.lr", "0.005", "torch", "2.13.0"]:
        assert words in page.text, words
    assert page.count("details") == 2
    assert sum(attributes.get("class") == "removal" for _, attributes in page.tags) == 4
    assert sum(attributes.get("class") == "kept" for _, attributes in page.tags) == 1
    assert sum(attributes.get("class") == "absent" for _, attributes in page.tags) == 3
    tops = sum(attributes.get("class") == "top" for _, attributes in page.tags)
    assert tops == 5, f"one top path in each of five layers, none in the heads; got {tops}"
    assert sum(attributes.get("class") == "layer" for _, attributes in page.tags) == 7


def test_page_says_what_was_taken_back(search_report: dict[str, Any]) -> None:
    setback = {"epoch": 20, "phase": "anneal", "reason": "the loss rose <far>", "layers": ["layers.3"]}
    search_report["training"] = {"learned": True, "setbacks": [setback], "epoch": 19}
    page = Outline(html_page(search_report, [], {}, None))
    assert "in epoch 20 (layer 3 silent) the loss rose <far>" in page.text


def test_page_asks_for_nothing_outside_itself(search_report: dict[str, Any]) -> None:
    page = html_page(
        search_report, [], {"effective-dimension": effective_dimension_heat_map(search_report)}, None
    )
    outline = Outline(page)
    assert not re.search(r"https?://|src=\"(?!data:)|href=|@import|url\(", page)
    assert outline.count("script") == 0 and outline.count("link") == 0
    ((_, image),) = [tag for tag in outline.tags if tag[0] == "img"]
    kind, _, data = (image["src"] or "").partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG")
    assert "Layers 0–3 became convolutional" in (image["alt"] or "")


def test_names_from_users_are_escaped(search_report: dict[str, Any]) -> None:
    evil = "<script>alert('x')</script>\"'"
    search_report |= {"data": evil, "task": evil}
    for layer in search_report["layers"][:2]:
        layer |= {"name": evil, "effective_type": evil}
    search_report["layers"][0]["paths"][evil] = search_report["layers"][0]["paths"].pop("conv")
    search_report["selection"]["proposals"][0] |= {"layer": evil, "path": evil, "action": evil}
    figure = Figure()
    figure.set_label(evil)
    page = html_page(search_report, [], {evil: figure}, {evil: {evil: evil}}, {evil: evil})
    assert "<script" not in page.lower()
    outline = Outline(page)
    assert not outline.open
    assert [attributes["alt"] for tag, attributes in outline.tags if tag == "img"] == [evil], (
        "the alt is quoted"
    )
    allowed = {"class", "style", "src", "alt", "width", "height", "scope", "rowspan"}
    allowed |= {"lang", "charset", "name", "content", "http-equiv"}
    assert {key for _, attributes in outline.tags for key in attributes} <= allowed


def test_page_of_a_map_run(map_report: dict[str, Any]) -> None:
    rows = [{"epoch": 1, "seconds": None}]
    page = Outline(html_page(map_report, rows, {}, None))
    assert "No effective parameters were computed" in page.text and "not computed" in page.text
    assert "nan" not in page.text.lower().replace("no effective", "") and "None" not in page.text
    assert page.count("details") == 0 and page.count("figure") == 0
    assert "Proposals" not in page.text
