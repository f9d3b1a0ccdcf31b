"""'What was found': one run for people who skip tables, as one HTML file and as found.json.

Like the run's page (`page.py`) the file needs nothing but itself, and all text is escaped. It is drawn from
report.json, found.json and examples.json alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from symlearn.report.found_reading import NETWORK, Found, Rows
from symlearn.report.found_words import paragraph, plain_label, said
from symlearn.report.page import embedded, pngs, style, template
from symlearn.report.plots import edge_examples, kept_answers, measured_symmetries, range_evidence
from symlearn.report.reading import Report, body_layers
from symlearn.report.sentence import layer_verdict
from symlearn.report.wording import few, subject

SCHEMA = 1
PARTS = {"curves": "evidence curves", "symmetries": "symmetries", "edges": "examples at the edge"}


class Section(NamedTuple):
    """A part of the page: its figures by stem, each with its caption."""

    title: str
    words: str
    captions: dict[str, str]


SECTIONS = (
    Section(
        "How far an image may be changed",
        "",
        {
            "range-evidence": "Higher is better. The ring is the range that was learned; weights and all "
            "other ranges stay as they are, so the curve says what the evidence makes of a range for this "
            "network, not for one that was trained with it."
        },
    ),
    Section(
        "What the network notices",
        "",
        {
            "kept-answers": "Images are moved, and the network is asked again. Small turns and scales are "
            "interpolated (cubic splines through every pixel); shifts let what leaves at one side enter at "
            "the other.",
            "measured-symmetries": "How much moving a layer's input changes more than the place of its "
            "output: 0 is exact, 1 as much as its outputs differ at all. Of the answer, any change counts. "
            "Each layer at its own inputs; small turns and scales are compared inside a disc, and the pale "
            "bar is what there and back again errs by, without any network. Before training a layer had all "
            "its paths.",
        },
    ),
    Section(
        "At the edge of what counts as the same",
        "",
        {
            "edge-examples": "Each image as it is, and moved until the network says something else, or to "
            "the end of a learned range. Above: how far (counterclockwise, right, down and larger are "
            "positive), and the answer; another answer than at rest is framed. Never: not by half a turn, by "
            "half the side, or by a factor of two. Beyond its border an image goes on with its nearest pixel."
        },
    ),
)


def found_content(report: Report, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Put found.json together.

    Args:
        report: report.json.
        measured: `curves` by transform, `symmetries`, `edges`, `skipped` and `seconds`.

    Returns:
        See `found_reading.py`.
    """
    curves = measured.get("curves") or {}
    kept = {key: measured.get(key) for key in ("symmetries", "edges", "skipped", "seconds")}
    found = {
        "schema": SCHEMA,
        **{key: report.get(key) for key in ("data", "task", "seed")},
        "layers": [
            {"name": layer["name"], "symmetry": layer_verdict(layer, report)} for layer in body_layers(report)
        ],
        "ranges": [
            {**entry, "curve": curves.get(entry["transform"])} for entry in report.get("ranges") or []
        ],
        **kept,
    }
    sentences = said(report, found)
    return {"schema": SCHEMA, "paragraph": paragraph(sentences), "sentences": sentences} | found


def found_figures(found: Found, rows: Rows, report: Report) -> dict[str, Figure]:
    """Draw the page's figures, those that there is something for.

    Returns:
        Figures by the stem of their file, in the order to show them.
    """
    symmetries = found.get("symmetries")
    figures = {}
    if any(entry.get("curve") for entry in found.get("ranges") or []):
        figures["range-evidence"] = range_evidence(found, report)
    if symmetries and symmetries["network"]["same"]:
        figures["kept-answers"] = kept_answers(found, report)
    if symmetries:
        figures["measured-symmetries"] = measured_symmetries(found, report)
    if rows:
        figures["edge-examples"] = edge_examples(rows, report, found)
    return figures


def skipped_parts(found: Found) -> list[tuple[str, str]]:
    """Parts that are missing, and why."""
    return [(PARTS.get(str(part), str(part)), str(why)) for part, why in (found.get("skipped") or {}).items()]


def skipped_layers(found: Found) -> list[tuple[str, str]]:
    """What was not measured on which layers, and why."""
    symmetries = found.get("symmetries")
    if not symmetries:
        return []
    layers: dict[tuple[str, str], list[str]] = {}
    for layer in symmetries["layers"]:
        for motion, why in layer["reasons"].items():
            layers.setdefault((motion, why), []).append(plain_label(str(layer["name"])))
    told = [(f"{motion}, {few(names)}", why) for (motion, why), names in layers.items()]
    told += [(f"{motion}, {NETWORK}", why) for motion, why in symmetries["network"]["reasons"].items()]
    if symmetries["left_out"]:
        told.append((f"{symmetries['left_out']} further layers", "only the first ones are measured"))
    return told


def found_page(
    report: Report,
    found: Found,
    figures: Mapping[str, Figure],
    drawn: Mapping[str, bytes] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Write the page.

    Args:
        report: report.json.
        found: found.json.
        figures: as `found_figures`.
        drawn: their PNG images, drawn here if not given.
        links: where the run's page (`report`) and found.json (`found`) lie beside it; None: nowhere.

    Returns:
        One self-contained HTML document.
    """
    images = pngs(figures) if drawn is None else drawn
    sections = [
        {
            "title": section.title,
            "words": section.words,
            "figures": [
                embedded(name, figures[name], images[name]) | {"caption": caption}
                for name, caption in section.captions.items()
                if name in figures
            ],
        }
        for section in SECTIONS
    ]
    return template("found.html.j2").render(
        style=style(),
        subject=subject(report),
        sentences=said(report, found),
        sections=[section for section in sections if section["figures"]],
        skipped=[*skipped_parts(found), *skipped_layers(found)],
        links=links,
    )
