"""How to read found.json and examples.json, as `json` loads them.

found.json (schema 1), what the page 'What was found' says and shows:

    schema, data, task, seed
    paragraph        in plain words, one string
    sentences        the same by what they are about: cares, ranges, measured, sure, unknown
    layers           `name` and `symmetry` a layer: the verdict, "undecided", "not asked", or "–"
    ranges           as in report.json, each with `curve`: null, or `images` `of` training images and
                     `points` of `range` (in its own units) and `log_evidence` (nats, all else fixed)
    symmetries       null, or: `set`; the untrained network's `seed` (null: there is none); `layer_images`,
                     `answer_images`; `motions` (`name`, `words`, `interpolated`); `layers`, each with `name`
                     and by motion `fitted`, `untrained`, `floors` (what resampling alone errs by) and
                     `reasons` (why not measured); `left_out`, a number of layers; `network` with `fitted`,
                     `untrained`, `reasons`, and shares of images by motion `same`, `same_untrained` and
                     `accuracy`, and `accuracy_unmoved`. An error is 0 where exact; 1: as much as outputs
                     differ; null: outputs do not differ.
    edges            null, or: `set`, `images`, and `transforms` with `transform`, `verb`, the median `middle`
                     over images in the transform's own units, in `words`, how many images `never` change,
                     and the `edges` of all images, null where there is none
    skipped          why a part is missing, by its name
    seconds          that measuring took

examples.json (schema 1): `rows` of the sheet, each with `words` and `cells`: null, or `pixels` `[h, w]` or
`[h, w, 3]` of whole numbers 0 to 255, `answer`, whether that is an `other` one than at rest, `amount`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
NETWORK = "the answer"  # the row of the whole network


def curves_of(found: Found) -> list[tuple[Mapping[str, Any], list[tuple[float, float]]]]:
    """Every range with a curve, and the points (range, log evidence) of it."""
    return [
        (entry, [(float(p["range"]), float(p["log_evidence"])) for p in entry["curve"]["points"]])
        for entry in found.get("ranges") or []
        if entry.get("curve")
    ]


def measured_rows(found: Found) -> list[tuple[str, Mapping[str, Any]]]:
    """The measured layers by name, and last the whole network."""
    symmetries = found.get("symmetries")
    if not symmetries:
        return []
    rows = [(str(layer["name"]), layer) for layer in symmetries["layers"]]
    return [*rows, (NETWORK, {"floors": {}, **symmetries["network"]})]
