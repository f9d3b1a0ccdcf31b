"""A table's JSON: every finished row at once, and what an earlier one holds.

    experiment, source, note, scale, seeds     as in the table's file
    published, truth                           by label
    rows                                       a finished run each (`rows.py`), with `made`: which machines
                                               and versions worked on it
    earlier                                    rows whose options are no longer those of the table's file
    claims                                     as they are judged from `rows` (`claims.py`)
    stated                                     the budget that the file states

Axes: none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symlearn.run_folder import to_json, write_atomically
from symlearn.runs.claims import judged
from symlearn.runs.rows import OF_ONE_MACHINE
from symlearn.runs.tables import Experiment, Wanted

Content = dict[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table's JSON.

    What a file of before rows had `made` says once about all of them is said of each.

    Returns:
        Its `rows`, then its `earlier` ones; none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        once = _made_once(content)
        return [
            {**row, "made": row.get("made", once)} for row in [*content["rows"], *content.get("earlier", [])]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or remove it to begin anew") from None


def _made_once(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who made the rows of a file that says so once."""
    if "environment" not in content:
        return []
    environment = content["environment"]
    return [
        {
            "commit": content.get("commit", "unknown"),
            "symlearn": environment["versions"]["symlearn"],
            "torch": environment["versions"]["torch"],
            "python": environment["python"],
            "system": environment["system"],
            "processor": None,
            "threads": 1,
            "gpu": None,
        }
    ]


def key_of(label: str, seed: int, options: Mapping[str, Any]) -> str:
    """What tells one run from another: where it was made does not."""
    told = {name: value for name, value in options.items() if name not in OF_ONE_MACHINE}
    return json.dumps([label, seed, told], sort_keys=True)


def row_key(row: Mapping[str, Any]) -> str:
    """`key_of` a row."""
    return key_of(row["label"], row["seed"], row["options"])


def belongs(row: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a row is of the options that its label has now."""
    label = row["label"]
    return label in options and row_key(row) == key_of(label, row["seed"], options[label])


def content_of(
    experiment: Experiment, scale: str, wanted: Sequence[Wanted], rows: Sequence[Mapping[str, Any]]
) -> Content:
    """Put together the whole JSON and judge the claims.

    Args:
        experiment: the table.
        scale: of the rows.
        wanted: every run that the file asks for at the scale, and any that were asked for besides.
        rows: that are finished, of whatever options.

    Returns:
        The keys of the module's notation; `rows` in the order of the table's lines, then of seeds, and
        `earlier` only if there are any.
    """
    options = {row.label: experiment.options(row, scale) for row in experiment.rows_at(scale)}
    labels = list(options)
    own = [dict(row) for row in rows if belongs(row, options)]
    earlier = [dict(row) for row in rows if not belongs(row, options)]
    own.sort(key=lambda row: (labels.index(row["label"]), row["seed"]))
    budget = experiment.budgets.get(scale)
    return {
        "experiment": experiment.title,
        "source": experiment.source,
        "note": experiment.note,
        "scale": scale,
        "seeds": sorted({w.seed for w in wanted} | {row["seed"] for row in own}),
        "published": {row.label: row.published for row in experiment.rows_at(scale)},
        "truth": {row.label: row.truth for row in experiment.rows_at(scale) if row.truth is not None},
        "stated": None if budget is None else vars(budget),
        "claims": judged(experiment.claims, own, scale),
        "rows": own,
        **({"earlier": earlier} if earlier else {}),
    }


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON in one step.

    Raises:
        ValueError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (to_json(content) + "\n").encode())
