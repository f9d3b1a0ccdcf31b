"""Committed errors of fine rotations: the goals they meet, and what the documentation says of them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "gcnn" / "results"
CONTENT = json.loads((RESULTS / "fine_rotations.json").read_text(encoding="utf-8"))
GROUPS = {"c5", "c6", "c8", "c12", "d6"}


def worst(**wanted: Any) -> float:
    """The largest error over groups and seeds."""
    rows = [row for row in CONTENT["rows"] if all(row[key] == value for key, value in wanted.items())]
    assert {row["group"] for row in rows} == GROUPS and all(len(row["errors"]) == 3 for row in rows)
    return max(max(row["errors"]) for row in rows)


@pytest.mark.parametrize("kind", ["lifting", "full"])
@pytest.mark.parametrize("blur", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("k", "goal"), [(3, 0.05), (5, 0.1), (7, 0.05), (9, 0.05)])
def test_layers_meet_their_goals_on_smooth_images(k: int, goal: float, blur: float, kind: str) -> None:
    after = worst(filters="harmonics", kernel_size=k, map=kind, blur=blur)
    before = worst(filters="interpolated", kernel_size=k, map=kind, blur=blur)
    assert after <= goal and after < before / 5, f"{after:.3f} after, {before:.3f} before"


@pytest.mark.parametrize("k", [3, 5, 7, 9])
def test_what_the_documentation_says(k: int) -> None:
    """The table in `group_conv.py`, and the numbers of the results page."""
    table = (ROOT / "symlearn" / "layers" / "group_conv.py").read_text(encoding="utf-8")
    rows = [line.split() for line in table.splitlines() if line.startswith("    ") and "(" in line]
    column = (3, 5, 7, 9).index(k)
    for label, blur in (("blurred", 0.0), ("0.75", 0.75), ("1", 1.0), ("2", 2.0)):
        (found,) = (
            [cell for cell in row if "." in cell and cell != label] for row in rows if label in row[:2]
        )
        for said, filters in zip(
            found[2 * column : 2 * column + 2], ("harmonics", "interpolated"), strict=True
        ):
            kinds = [worst(filters=filters, kernel_size=k, map=m, blur=blur) for m in ("lifting", "full")]
            assert float(said.strip("()")) == round(max(kinds), 2), f"{filters}, blur {blur}"


def test_harmonics_are_better_wherever_they_are_compared() -> None:
    """Seed means, every group, size, map and blur."""
    means: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in CONTENT["rows"]:
        if row["map"] != "floor":
            case = row["group"], row["kernel_size"], row["map"], row["blur"]
            means.setdefault(case, {})[row["filters"]] = statistics.mean(row["errors"])
    for case, mean in means.items():
        assert mean["harmonics"] < mean["interpolated"], f"{case}: {mean}"
    assert CONTENT["escnn"].startswith(("escnn", "not compared"))
