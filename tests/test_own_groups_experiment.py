"""Planted groups of one's own: the data has what it says, the committed rows say what was chosen."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "discovery" / "own_groups.py"
CONTENT: dict[str, Any] = json.loads((SCRIPT.parent / "results" / "own-groups.json").read_text())
CHOSEN = [row for row in CONTENT["rows"] if "+" in row["paths"]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("own_groups", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_groups"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("task", "axis"), [("rows", 2), ("channels", 1)])
def test_a_code_lies_anywhere_along_the_axis(script: ModuleType, task: str, axis: int) -> None:
    """Matched against its own class's code, the best row or channel is the same share of the data for each."""
    x, y = script.TASKS[task].draw(4000, 1)
    own = script.codes(y)
    scores = torch.einsum("bcrw,bw->bcr", x, own).amax(3 - axis)
    counts = torch.bincount(scores.argmax(1), minlength=scores.shape[1]) / len(x)
    assert float((counts * scores.shape[1] - 1).abs().max()) < 0.2
    shifted = script.codes((y + 1) % script.CLASSES)
    assert (
        float(scores.amax(1).mean()) > float(torch.einsum("bcrw,bw->bcr", x, shifted).amax((1, 2)).mean()) + 2
    )


def test_committed_rows_are_complete() -> None:
    assert {(row["task"], row["seed"]) for row in CHOSEN} >= {
        (task, seed) for task in ("rows", "channels", "ordered") for seed in (0, 1, 2)
    }
    assert CONTENT["commit"] and CONTENT["environment"]
    assert all(len(row["verdicts"]) == len(row["active"]) == 2 for row in CONTENT["rows"])


@pytest.mark.parametrize("row", CHOSEN, ids=lambda row: f"{row['task']}-{row['seed']}")
def test_verdicts_name_groups_as_registered(row: dict[str, Any]) -> None:
    own = "exchanges of channels" if row["task"] == "channels" else "exchanges of rows"
    names = {own, "shifts", "none", "undecided", f"{own} ∩ shifts"}
    assert {verdict["symmetry"] for verdict in row["verdicts"]} <= names
    assert row["accuracy"] > 0.5, "a quarter is chance"
    found = [verdict["symmetry"] for verdict in row["verdicts"]]
    assert found == (["none", own] if row["task"] == "ordered" else [own, own]), "docs/results.md says so"


def test_a_short_fit_goes_through(script: ModuleType) -> None:
    """The whole of a row, two epochs of it."""
    import argparse

    script.register()
    row = script.one_fit("channels", "any-channel", 0, argparse.Namespace(images=40, epochs=2))
    assert row["active"] == [["any-channel"]] * 2 and script.table([row])
