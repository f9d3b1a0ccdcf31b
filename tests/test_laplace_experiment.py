"""Committed results of the Laplace predictions: three seeds of both data sets, and what the results page says of them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "laplace" / "results"


def rows(data: str, selection: str) -> list[dict[str, Any]]:
    """The fits of one selection."""
    content = json.loads((RESULTS / f"{data}.json").read_text(encoding="utf-8"))
    return [row for row in content["rows"] if row["selection"] == selection]


def mean(runs: list[dict[str, Any]], name: str, key: str = "nll") -> float:
    """Of a score over the seeds."""
    return statistics.mean(row["scores"][name][key] for row in runs)


@pytest.mark.parametrize("selection", ["gradient", "none"])
@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_a_cold_posterior_is_at_least_as_good_as_map(data: str, selection: str) -> None:
    runs = rows(data, selection)
    assert [row["seed"] for row in runs] == [0, 1, 2]
    assert mean(runs, "all, ekfac, cold") < mean(runs, "map")
    assert mean(runs, "all, ekfac") < mean(runs, "all"), "corrected eigenvalues sharpen the posterior"
    for row in runs:
        assert set(row["scores"]["map"]) >= {"accuracy", "nll", "ece"}


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_precisions_by_the_evidence_beat_fixed_ones(data: str) -> None:
    assert mean(rows(data, "gradient"), "map") < 0.8 * mean(rows(data, "none"), "map")
    assert mean(rows(data, "gradient"), "map", "ece") < mean(rows(data, "none"), "map", "ece")
