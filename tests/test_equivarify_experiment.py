"""The digit-and-angle experiment at its smallest scale, run as anyone would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NETWORKS = ("equivarified", "side-by-side", "group-maps", "augmented")
SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "equivarify" / "mnist.py"


@pytest.mark.slow
def test_smoke_scale(tmp_path: Path) -> None:
    """Networks that only saw upright digits tell digits and angles; the turned network follows the turns."""
    command = [sys.executable, str(SCRIPT), "--scale", "smoke", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2], check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "published" in done.stdout
    content = json.loads((tmp_path / "mnist.smoke.json").read_text(encoding="utf-8"))
    assert {"config", "seeds", "commit", "environment", "published"} <= set(content)
    rows = {row["network"]: row for row in content["rows"]}
    for name in ("equivarified", "side-by-side", "group-maps"):
        row = rows[name]
        assert row["turning_gap"] < 1e-5, row
        assert row["digit_and_angle"] > 0.6, row
        for part in (row["angle"], row["digit"]["max"]):
            assert part >= row["digit_and_angle"], f"both right, but not each: {row}"
        assert row["digit"]["logsumexp"] >= row["digit_and_angle"], row
    assert rows["augmented"]["turning_gap"] > 0.01, "an ordinary network does not follow the turns"
    assert rows["equivarified"]["parameters"] < rows["augmented"]["parameters"]


def test_committed_results() -> None:
    """Every seed of the scale is there, beside what was published."""
    content = json.loads((SCRIPT.parent / "results" / "mnist.small.json").read_text(encoding="utf-8"))
    assert content["published"]["source"].startswith("Bao & Song")
    found = {(row["network"], row["seed"]) for row in content["rows"]}
    assert found == {(n, s) for n in NETWORKS for s in content["seeds"]}
