"""One run as one HTML file: verdict, layer table, numbers, figures, proposals, configuration.

The file needs nothing but itself: styles are inline, figures are embedded PNGs, and its content security
policy forbids every request. All text is escaped by Jinja (names of data sets come from users).
"""

import base64
import io
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from matplotlib.figure import Figure

from symlearn.report.plots import path_colour
from symlearn.report.reading import Report, body_layers, finite, head_layers, layer_label, proposals_of
from symlearn.report.remarks import remarks
from symlearn.report.sentence import layer_verdict, verdict_sentence
from symlearn.report.table import (
    LAYER_HEADINGS,
    PROPOSAL_HEADINGS,
    REMOVAL_HEADINGS,
    layer_rows,
    proposal_rows,
    removal_rows,
    run_numbers,
)
from symlearn.report.wording import subject

DOTS_PER_INCH = 160  # sharp on screens of double density

CAPTIONS = {
    "removals": "What becomes of the evidence when a path is taken out and the rest is refit; the verdict "
    "goes by it. A path is needed where all of the interval is a loss that counts.",
    "effective-dimension": "How much of what each path could hold the data made it use, relative to the "
    "other paths of its layer.",
    "layer-shares": "How many parameters the data determines in each layer, and in which path they lie.",
    "proposals": "What adding or removing a path did to the log evidence, against the same refit without the "
    "change. Above zero the data asks for it.",
    "evidence": "The evidence weighs the fit against the parameters that it takes; lower is better. Train "
    "loss alone does not see that price.",
    "equivariance": "Measured, not promised: how far each layer is from commuting with shifts and rotations.",
    "lengthscales": "Where a lengthscale is long, a path's weights vary slowly over places; the evidence "
    "learns it.",
    "generators": "The angle between the rotations of a filter; the evidence learns it. At 360° / n they "
    "close to a group.",
    "ranges": "How far an image may be transformed and count as the same; the evidence learns it.",
    "sparsity": "How many entries of each layer's code the soft thresholds leave.",
    "rotated-filters": "Filters of cyclic banks and what their rotations make of them.",
    "filters": "The filters of largest norm of every path that was kept.",
    "prior-precisions": "A path whose prior precision grows is being switched off.",
}


def html_page(
    report: Report,
    metrics: list[dict[str, Any]],
    figures: Mapping[str, Figure],
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    drawn: Mapping[str, bytes] | None = None,
    found: str | None = None,
) -> str:
    """Write the page of a run.

    `figures` by stem, in order of display (`plots.run_figures`); `config` and `environment` are nested
    tables such as `config.toml` and `environment.json` hold, left out where None; `drawn` are the figures'
    PNG images, drawn here if not given; `found` is where the page 'What was found' lies beside it.

    Returns:
        One self-contained HTML document: figures and styles lie in it, and it loads nothing.
    """
    images = pngs(figures) if drawn is None else drawn
    return template("page.html.j2").render(
        style=style(),
        found=found,
        subject=subject(report),
        verdict=verdict_sentence(report),
        remarks=remarks(report),
        numbers=run_numbers(report),
        headings=LAYER_HEADINGS,
        groups=[
            {
                "label": layer_label(layer["name"]),
                "verdict": layer_verdict(layer, report) if layer in body_layers(report) else "–",
                "rows": [row | {"colour": path_colour(row["path"])} for row in layer_rows(layer, report)],
            }
            for layer in [*body_layers(report), *head_layers(report)]
        ],
        removal_headings=REMOVAL_HEADINGS,
        removals=removal_rows(report),
        proposal_headings=PROPOSAL_HEADINGS,
        proposals=[
            {"cells": cells, "accepted": bool(proposal.get("accepted"))}
            for cells, proposal in zip(proposal_rows(report), proposals_of(report), strict=True)
        ],
        figures=[
            embedded(name, figure, images[name]) | {"caption": CAPTIONS.get(name, "")}
            for name, figure in figures.items()
        ],
        epochs=len(metrics),
        seconds=finite(report.get("seconds"))
        or max((finite(row.get("seconds")) or 0.0 for row in metrics), default=0.0),
        tables=[
            (title, list(_flat(table)))
            for title, table in (("Configuration", config), ("Environment", environment))
            if table
        ],
    )


def embedded(name: str, figure: Figure, image: bytes) -> dict[str, Any]:
    """A figure as a template takes it: name, data, words for those who do not see it, size in pixels."""
    return {
        "name": name.replace("-", " "),
        "data": base64.b64encode(image).decode("ascii"),
        "alt": figure.get_label() or name,
        "width": round(100 * figure.get_figwidth()),
        "height": round(100 * figure.get_figheight()),
    }


def pngs(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """The figures as PNG images."""
    images = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        images[name] = buffer.getvalue()
    return images


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as `("training.lr", "0.005")` pairs, in their order."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


@cache
def template(name: str) -> Template:
    """A template of this folder; everything that it is given is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("symlearn.report").joinpath(name).read_text(encoding="utf-8"))


@cache
def style() -> str:
    """The pages' own style sheet, which is not escaped."""
    return files("symlearn.report").joinpath("page.css").read_text(encoding="utf-8")
