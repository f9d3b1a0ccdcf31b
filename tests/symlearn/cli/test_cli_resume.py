"""A fit that is killed and resumed takes the same steps, bit for bit, as one that is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from symlearn.run_folder import CHECKPOINT, METRICS, MODEL, REPORT

Command = Callable[..., tuple[int, str, str]]
FIT = ["--limit", "60", "--alpha", "2", "--burn-in", "3", "--epochs", "8", "--refit-epochs", "4"]
FIT += ["--rounds", "1", "--proposals", "2", "--task", "quadrant-digit", "--augment"]

# Kills its own process at the n-th epoch: after the epoch's metrics are written, before its checkpoint is.
CHILD = """
import os, signal, sys
import symlearn.fitting.stages as fitting
from symlearn.cli import run

fitting.SAVE_EVERY = 0.0
told = 0

def tell(fit, *rest):
    global told
    told += 1
    if told == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

fitting.Fit.tell = tell
sys.exit(run(sys.argv[2:]))
"""


def killed(epoch: int, arguments: list[str]) -> None:
    """Run a command line in a process of its own that dies at the `epoch`-th epoch."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(epoch), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their time."""
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_left_alone(command: Command, tmp_path: Path) -> None:
    alone, cut = tmp_path / "alone", tmp_path / "cut"
    assert command("fit", *FIT, "--out", alone)[0] == 0
    killed(3, ["fit", *FIT, "--out", str(cut)])  # within the start
    saved = torch.load(cut / CHECKPOINT, weights_only=True)
    assert (saved["lines"], len(metrics(cut))) == (2, 3), "one line is newer than the checkpoint"
    killed(5, ["fit", "--resume", "--out", str(cut)])  # within the round, among its candidates
    saved = torch.load(cut / CHECKPOINT, weights_only=True)
    assert saved["round"] is not None and saved["lines"] == 3 and not (cut / REPORT).exists()
    code, _, err = command("fit", "--resume", "--out", cut)
    assert (code, err) == (0, "")
    for k, (found, truth) in enumerate(zip(metrics(cut), metrics(alone), strict=True)):
        differing = [key for key in truth if found[key] != truth[key]]
        assert not differing, f"line {k} of {len(metrics(alone))} differs in {differing}"
    models = [torch.load(folder / MODEL, weights_only=True) for folder in (alone, cut)]
    assert models[0]["prior_precision"] == models[1]["prior_precision"]
    for name, truth in models[0]["model"].items():
        found = models[1]["model"][name]
        same = torch.equal(found, truth) if isinstance(truth, torch.Tensor) else found == truth
        assert same, f"{name} differs"
    reports = [json.loads((folder / REPORT).read_text()) for folder in (alone, cut)]
    assert {**reports[0], "seconds": 0} == {**reports[1], "seconds": 0}
