"""Planting networks: their targets have the symmetries they say, and a short fit of them goes through."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "discovery" / "deviations.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("deviations_experiment", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["deviations_experiment"] = module
    spec.loader.exec_module(module)
    return module


TRUE = {
    "exactly-p4": (["p4", "p4", "p4"], True, True),
    "nearly-p4": (["nearly p4", "nearly p4", "nearly p4"], False, True),
    "p4-early": (["p4", "p4", "shifts"], False, True),
    "no-rotation": (["shifts", "shifts", "shifts"], False, True),
    "exactly-shifts": (["shifts", "shifts", "shifts"], False, True),
    "nearly-shifts": (["nearly shifts", "nearly shifts", "nearly shifts"], False, False),
    "shifts-early": (["shifts", "shifts", "none"], False, False),
    "no-shifts": (["none", "none", "none"], False, False),
}


@pytest.mark.parametrize("name", TRUE)
def test_targets_have_the_symmetry_that_is_planted(script: ModuleType, name: str) -> None:
    """Turned or shifted images have the same targets, or others by far more than the noise."""
    truth, turns, shifts = TRUE[name]
    task = script.TASKS[name]
    assert task.truth == truth
    network, x = script.planting(task, 0), script.images(300, 7)
    with torch.no_grad():
        y = network(x)
        for same, moved in ((turns, x.rot90(1, (-2, -1))), (shifts, x.roll((2, 3), (-2, -1)))):
            change = float((network(moved) - y).square().mean().sqrt())
            assert change < 1e-4 if same else change > 5 * script.NOISE, (name, change)
    for word, layer in zip(truth, network.layers, strict=True):
        share = script.deviation_share(layer)
        assert (share == 0) if word == task.symmetry else (0.01 < share < 0.1) == word.startswith("nearly"), (
            share
        )


def test_targets_are_whitened_and_noisy(script: ModuleType) -> None:
    (x, y), (x_test, _) = script.data(script.TASKS["p4-early"], 1, 2000)
    assert x.shape == (2000, 1, 8, 8) and x_test.shape[0] == 1000 and not torch.equal(x[:1000], x_test)
    wanted = (1 + script.NOISE**2) * torch.eye(script.OUTPUTS)
    assert float((torch.cov(y.T) - wanted).abs().max()) < 0.2


@pytest.mark.parametrize("name", ["p4-early", "shifts-early"])
def test_a_short_fit_goes_through(script: ModuleType, name: str) -> None:
    """The whole of a row, one epoch of it."""
    row = script.one_fit(name, 0, argparse.Namespace(images=64, epochs=1))
    assert len(row["found"]) == len(row["shares"]) == 3 and script.table([row])
    assert row["truth"] == script.TASKS[name].truth
