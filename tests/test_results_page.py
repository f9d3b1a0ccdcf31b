"""The results page: the committed one is that of the committed JSON, and a table made by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = """
title = "Made up"
source = "Nobody 2026, Table 9"
[scales.small]
seeds = [0]
[scales.cpu]
seeds = [0, 1]
[budgets.cpu]
passes = 2e6
hours = 1.5
measured = "by hand"
[[rows]]
label = "a|b"
options = { paths = "conv" }
published = { accuracy = 99.5 }
[[rows]]
label = "c"
options = { paths = "fc" }
[[claims]]
text = "a|b is right half the time"
rule = { kind = "bound", rows = ["a|b"], metric = "accuracy", above = 50 }
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """experiments/results_page.py as a module."""
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "experiments" / "results_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results_page"] = module
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_that_of_the_committed_results(script: ModuleType) -> None:
    known = script.PAGE.read_text(encoding="utf-8")
    assert known == script.page(ROOT / "experiments"), "run python experiments/results_page.py"


def test_a_table_has_figures_claims_budget_and_makers(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "nobody" / "results").mkdir(parents=True)
    (tmp_path / "nobody" / "made_up.toml").write_text(TABLE)
    assert "- `made_up`: Made up" in script.page(tmp_path)
    made = {"commit": "abc", "symlearn": "1", "torch": "2", "threads": 1, "processor": "P", "gpu": None}
    row = {
        "label": "a|b",
        "seed": 0,
        "options": {"paths": "conv"},
        "copy": "cifar10.npz",
        "made": [made],
        "accuracy": 0.9,
        "nll": 0.3,
        "parameters": 1234,
        "log_marginal_likelihood": None,
        "train_examples": 10,
        "test_examples": 1000,
        "effective_parameters": {"conv": 1.0},
        "seconds": 3600.0,
    }
    rows = [row, {**row, "seed": 1, "accuracy": 0.8}]
    (tmp_path / "nobody" / "results" / "made_up.cpu.json").write_text(json.dumps({"rows": rows}))
    page = script.page(tmp_path)
    for words in (
        "| [made_up](#made_up) | cpu | 2 of 4 | 1 held | 1.5 h | 2 h 00 min |",
        "| a\\|b | 1,234 | 85.0 (80.0–90.0) | 0.300 (0.300–0.300) | – | conv 100% | accuracy 99.5 |",
        "| c | – | not run |",
        "| **held** | a\\|b is right half the time |",
        "Budget: 1.5 h of one thread, 2.0 million images forward and backward (by hand).",
        "2 rows by symlearn 1 at abc, torch 2, P, threads 1",
        "Read in place of the published files: cifar10.npz.",
    ):
        assert words in page, words
