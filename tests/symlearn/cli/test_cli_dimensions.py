"""Signals and volumes from the command line: fit, report, predict, collapse; what is assumed and refused.

Axes: n, c, t, d, h, w.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from symlearn.run_folder import FIGURES, FILTERS, METRICS, REPORT

Command = Callable[..., tuple[int, str, str]]
SEARCH = ["--alpha", 1, "--burn-in", 1, "--epochs", 3, "--rounds", 1, "--refit-epochs", 1, "--proposals", 1]
SIZES = {"signals": (2, 16), "volumes": (1, 4, 4, 8)}


def saved(tmp_path: Path, kind: str) -> Path:
    """A step up or down along the first axis of places, in noise: 60 and 30 data of two classes."""
    random, shape = np.random.default_rng(0), SIZES[kind]
    arrays = {}
    for half, count in (("train", 60), ("test", 30)):
        y = np.arange(count) % 2
        x = random.normal(0, 0.3, (count, *shape)).astype(np.float32)
        x[y == 1, :, : shape[1] // 2] += 1
        arrays |= {f"x_{half}": x, f"y_{half}": y}
    np.savez(tmp_path / f"{kind}.npz", **arrays)
    return tmp_path / f"{kind}.npz"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIZES)
def test_the_whole_way(kind: str, tmp_path: Path, command: Command) -> None:
    file, out = saved(tmp_path, kind), tmp_path / "run"
    code, printed, said = command(
        "fit", "--data", file, "--network", "small", "--kind", kind, *SEARCH, "--out", out
    )
    assert code == 0, said
    assert "note" not in said
    sides = "×".join(map(str, SIZES[kind]))
    assert f"60 training and 30 test {kind} of {sides}, 2 classes" in printed
    report = json.loads((out / REPORT).read_text())
    assert report["equivariance"]["group"] == "c1" and len(report["layers"]) == 8
    assert {len(entry["size"]) for entry in json.loads((out / FILTERS).read_text())} == {len(SIZES[kind]) - 1}
    assert {path.stem for path in (out / FIGURES).iterdir()} >= {
        "filters",
        "equivariance",
        "effective-dimension",
    }
    assert (out / METRICS).read_text().count("\n") >= 4
    code, printed, said = command("predict", out, file)
    assert code == 0 and len(printed.splitlines()) == 31, said
    code, printed, said = command("collapse", out, "--out", tmp_path / "plain.pt2")
    assert code == 0, said
    plain = torch.export.load(tmp_path / "plain.pt2").module()
    assert plain(torch.zeros(2, *SIZES[kind])).shape == (2, 2)
    code, _, said = command("fit", "--resume", "--out", out)
    assert code == 0, said


WRONG = {
    "augmentation": (["--augment"], "augment mirrors and shifts images"),
    "a group": (["--paths", "conv+gconv-p4"], "path 'gconv-p4' is not for signals of 16"),
    "a network of images": (["--network", "p4cnn", "--paths", "conv"], "p4cnn is not for signals of 16"),
    "a task": (["--task", "translated"], "task 'translated' is for images"),
    "transforms": (["--transforms", "scale"], "are of images, not of signals of 16"),
    "another kind": (["--kind", "volumes"], "at least one volume as [n, c, d, h, w]"),
    "no kind": (["--kind", "sounds"], "expected 'signals', 'images' or 'volumes'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str, tmp_path: Path, command: Command) -> None:
    options, words = WRONG[case]
    code, _, said = command(
        "fit", "--data", saved(tmp_path, "signals"), *SEARCH, *options, "--out", tmp_path / "run"
    )
    assert code == 2 and words in said.splitlines()[-1], said
    assert not (tmp_path / "run").exists()


def test_what_is_assumed_is_said(tmp_path: Path, command: Command) -> None:
    code, _, said = command("estimate", "--data", saved(tmp_path, "signals"), *SEARCH)
    assert code == 0 and said.count("read as signals [n, c, t] of 16 places") == 1, said
