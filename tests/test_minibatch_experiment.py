"""Committed results of the evidence from a part of the images, and what the page on evidence says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "concepts" / "evidence.md"
FRACTIONS = ("0.05", "0.1", "0.25", "0.5")


def content(data: str) -> dict[str, Any]:
    """The file of one data set."""
    file = ROOT / "experiments" / "laplace" / "results" / f"minibatch-{data}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def written(number: float) -> str:
    """As the page writes it."""
    return f"{number:,.0f}".replace("-", "−")


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_log_det_and_gamma_of_a_subset_are_too_low(data: str) -> None:
    found = content(data)
    assert found["draws"] == 20 and set(found["results"]["blocks"]) == set(FRACTIONS)
    for fraction in FRACTIONS:
        for name in ("log_det", "effective_parameters"):
            assert found["results"]["blocks"][fraction][name]["mean_error"] < 0, (fraction, name)


def test_stated_errors_hold_on_mnist() -> None:
    found = content("mnist")
    assert found["train_examples"] == 60000
    parts = [*found["results"]["blocks"].values(), found["results"]["as a fit draws"]]
    for part in parts:
        for name, one in part.items():
            if isinstance(one, dict) and name != "paired":
                assert 0.75 <= one["coverage_corrected"] <= 1, (part["images"], name)
                assert 0.7 < one["stated_error"] / one["sd_error"] < 1.4, (part["images"], name)
    paired = parts[-1]["paired"]
    assert paired["stated_error"] < 0.5 * paired["unpaired_error"]
    for name, one in found["results"]["declared"]["gradients"].items():
        assert 0.65 <= one["coverage"] <= 1, name
        assert 0.7 < one["stated_error"] / one["sd_error"] < 1.5, name
        assert one["sd_error"] < one["sd_error_corrected"], "correction only widens the spread"


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize(
    ("name", "row"), [("log_det", "log determinant"), ("effective_parameters", r"$\gamma$")]
)
def test_the_page_has_these_numbers(name: str, row: str, fraction: str) -> None:
    one = content("mnist")["results"]["blocks"][fraction][name]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith(f"| {row} |"))
    cells = [cell.strip() for cell in lines[at + FRACTIONS.index(fraction)].split("|")[2:-1]]
    assert cells == [
        f"{100 * float(fraction):g} %",
        f"{written(one['mean_error'])} ± {written(one['sd_error'])}",
        f"{written(one['mean_error_corrected'])} ± {written(one['sd_error_corrected'])}",
        written(one["stated_error"]),
        f"{100 * one['coverage']:.0f} %",
        f"{100 * one['coverage_corrected']:.0f} %",
    ]
