"""A set that is read as it is needed, on the command line: the same run as of one that is held."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from symlearn.run_folder import MODEL, PREPROCESSING, REPORT

Command = Callable[..., tuple[int, str, str]]
FIT = ["--limit", "60", "--test-limit", "30", "--alpha", "1", "--epochs", "2", "--selection", "gradient"]


@pytest.mark.slow
def test_the_same_run_whether_held_or_not(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[Any]] = []
    for free, workers in ((10**12, 0), (0, 0), (0, 1)):
        monkeypatch.setattr("symlearn.data.free_memory.free_bytes", lambda free=free: free)
        monkeypatch.setattr("symlearn.cost.memory.free_bytes", lambda: 10**12)
        out = tmp_path / f"{free}-{workers}"
        code, said, err = command("fit", *FIT, "--augment", "--workers", workers, "--out", out)
        assert (code, err) == (0, ""), err
        assert ("images are read as they are needed" in said) == (free == 0)
        weights = torch.load(out / MODEL, weights_only=True)["model"]
        report = {**json.loads((out / REPORT).read_text()), "seconds": 0}
        found.append([{k: v.tolist() for k, v in weights.items() if isinstance(v, torch.Tensor)}, report])
        found[-1].append((out / PREPROCESSING).read_text())
    for after in (["predict", out, "digits", "--laplace"], ["collapse", out, "--out", tmp_path / "plain.pt"]):
        assert command(*after)[0] == 0
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_estimate_says_which_will_happen(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, words in ((0, "images are read as they are needed"), (None, "held in memory")):
        monkeypatch.setattr("symlearn.data.free_memory.free_bytes", lambda free=free: free)
        code, said, _ = command("estimate", *FIT)
        assert code == 0 and words in said
