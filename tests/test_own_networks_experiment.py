"""Networks of one's own, through the script as anyone would run it, and its committed results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "transfer" / "own_networks.py"
PLAIN = {"AdaptiveAvgPool2d", "BatchNorm2d", "Conv2d", "Flatten", "Identity", "Linear", "MaxPool2d", "ReLU"}


def assert_way_through(row: dict[str, Any]) -> None:
    """Equal outputs at the start, after collapsing, and from both files; plain layers alone."""
    name = f"{row['case']}, seed {row['seed']}"
    assert row["change_at_the_start"] <= 1e-5, name
    assert row["largest_change"] <= 1e-4, name
    assert set(row["exported_change"]) == {"pt2", "onnx"}, name
    assert max(row["exported_change"].values()) <= 1e-4, name
    assert set(row["plain_layers"]) <= PLAIN | {"Unflatten"}, f"{name}: {row['plain_layers']}"


@pytest.mark.slow
def test_smoke_scale(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--scale", "smoke", "--cases", "quadrant"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "over the control" in done.stdout
    rows = json.loads((tmp_path / "own_networks.smoke.json").read_text(encoding="utf-8"))["rows"]
    (row,) = rows
    assert row["case"] == "quadrant"
    assert_way_through(row)


@pytest.fixture(scope="module")
def committed() -> list[dict[str, Any]]:
    """Rows of the committed results."""
    content = json.loads((SCRIPT.parent / "results" / "own_networks.small.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def test_committed_results_went_the_whole_way(committed: list[dict[str, Any]]) -> None:
    cases = [(row["case"], row["seed"]) for row in committed]
    assert cases == [(c, s) for c in ("quadrant", "class") for s in (0, 1, 2)] + [("resnet-18", 0)]
    for row in committed:
        assert_way_through(row)


def test_committed_gain_where_places_matter_late(committed: list[dict[str, Any]]) -> None:
    """The last convolution alone gets FC, and its network gains what the longer training does not."""
    for row in (row for row in committed if row["case"] == "quadrant"):
        *early, last = row["layer_types"].values()
        assert "FC" in last.split("+"), row["layer_types"]
        assert set(early) == {"CONV"}, row["layer_types"]
        assert row["collapsed"]["accuracy"] > row["control"]["accuracy"] + 0.5, row["seed"]
        assert row["log_marginal_likelihood"] > row["control_log_marginal_likelihood"] + 1000, row["seed"]
