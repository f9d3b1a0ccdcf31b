"""Committed results: turned digits keep more of the cyclic bank than upright ones, on every seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "unfolded" / "results"
CONTENT = json.loads((RESULTS / "rotated_banks.small.json").read_text(encoding="utf-8"))
TURNED = ("digits, rotated", "digits, quarter-turned")


def runs(label: str) -> dict[int, dict[str, Any]]:
    """Rows by seed."""
    return {row["seed"]: row for row in CONTENT["rows"] if row["label"] == label}


def loss(row: dict[str, Any], path: str) -> float:
    """What the evidence loses, in nats, when the search tries to remove a bank from the first layer."""
    (tried,) = [
        p
        for p in row["proposals"]
        if (p["round"], p["layer"], p["path"], p["action"]) == (0, "layers.0", path, "remove")
    ]
    return -float(tried["delta_log_evidence"])


@pytest.mark.parametrize("label", [*TURNED, *(f"{label}, by gradients" for label in TURNED)])
def test_more_of_the_cyclic_bank_is_kept(label: str) -> None:
    upright = runs("digits, upright" + (", by gradients" if "gradients" in label else ""))
    turned = runs(label)
    assert sorted(turned) == sorted(upright) == [0, 1, 2]
    for seed, row in turned.items():
        kept, before = (r["effective_parameters"]["cyclic-90"] for r in (row, upright[seed]))
        assert kept > 1.5 * before, f"seed {seed}: {kept:.0f} effective parameters against {before:.0f}"


@pytest.mark.parametrize("label", TURNED)
def test_the_evidence_needs_the_cyclic_bank_more_than_the_free_one(label: str) -> None:
    """The difference of the two losses is larger than on upright digits, in the first layer."""
    upright = runs("digits, upright")
    for seed, row in runs(label).items():
        gaps = [loss(r, "cyclic-90") - loss(r, "free") for r in (row, upright[seed])]
        assert gaps[0] > 500 > gaps[1], f"seed {seed}: {gaps}"


def test_only_free_banks_are_given_up() -> None:
    given_up = {p["path"] for row in CONTENT["rows"] for p in row["proposals"] if p["accepted"]}
    assert given_up == {"free"}
