"""The main job, one seed: does the network find on real digits which layers should be convolutional?

Runs `experiments/layerwise/quadrant_digits.py` as anyone would for the learned network (four minutes on two
cores), and asserts each law by itself. The baselines of the same seed, whose eight fits take as long again, are
read from results/quadrant_digits.seed0.json, which the script wrote; that they end is what its smoke scale and
the tests of fits of single paths are for. Results over three seeds are committed beside it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "layerwise" / "quadrant_digits.py"
NETWORKS = ("learned", "conv", "f-fc", "conv-map", "f-fc-map")
SEED = 0
COMMITTED = SCRIPT.parent / "results" / f"quadrant_digits.seed{SEED}.json"
LAWS = (
    "convolutional paths hold most of the effective parameters on quadrant-digit",
    "clearly more of them in FC paths on quadrant",
    "CONV alone (MAP) fails quadrant",
    *(
        f"{task}: {law}"
        for task in ("quadrant-digit", "quadrant")
        for law in (
            "accuracy within 2 points of the best MAP baseline",
            "test NLL below every MAP baseline",
            "log evidence at least the best single path's, within noise",
        )
    ),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment() -> Any:
    """The script as a module, beside what it shares with its neighbours."""
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("quadrant_digits", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A row a network and task: the learned ones from one run of the script, the baselines as committed."""
    folder = tmp_path_factory.mktemp("quadrant-digits")
    command = [sys.executable, str(SCRIPT), "--seeds", str(SEED), "--workers", "2", "--networks", "learned"]
    command += ["--runs", str(folder / "runs"), "--out", str(folder / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2], check=False)
    results = folder / "results.json"  # written whether or not the laws hold: the tests below say which
    assert results.exists(), f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    run = json.loads(results.read_text(encoding="utf-8"))["rows"]
    kept = json.loads(COMMITTED.read_text(encoding="utf-8"))["rows"]
    return [*run, *(row for row in kept if row["network"] != "learned")]


@pytest.fixture(scope="module")
def laws(experiment: Any, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The laws with the numbers that decide them, by their text."""
    return {law["law"]: law for law in experiment.laws(rows)}


def test_every_fit_ends(rows: list[dict[str, Any]]) -> None:
    stopped = {f"{r['network']} on {r['task']}": r["stopped"] for r in rows if "stopped" in r}
    assert not stopped, f"stopped: {stopped}"
    assert len(rows) == 2 * len(NETWORKS)


def test_no_law_is_forgotten(laws: dict[str, dict[str, Any]]) -> None:
    assert set(laws) == set(LAWS)


def test_means_over_one_seed_are_that_seed(experiment: Any, rows: list[dict[str, Any]]) -> None:
    one, mean = experiment.laws(rows), experiment.laws(experiment.means(rows))
    assert mean == [{**law, "seed": "mean"} for law in one]


def test_means_over_two_seeds(experiment: Any) -> None:
    numbers = {"accuracy": 0.9, "nll": 0.1, "log_marginal_likelihood": -10.0}
    row = {"network": "conv", "task": "quadrant", "seed": 0, **numbers, "effective_parameters": {"conv": 4.0}}
    other = {**row, "seed": 1, "nll": 0.3, "effective_parameters": {"conv": 8.0}}
    (mean,) = experiment.means([row, other, {**row, "network": "f-fc", "stopped": "why"}])
    assert (mean["seed"], mean["nll"]) == ("mean", pytest.approx(0.2))
    assert mean["effective_parameters"] == {"conv": 6.0}


FAILING = {  # known, and told on the results page: a law that a later change makes hold again is reported as passed
    "quadrant-digit: test NLL below every MAP baseline": "at 1,400 images a precision of 1 suits CONV: since starts "
    "hand on a signal, CONV by MAP reaches .073 on seed 0 and the evidence .109 (.145 before)",
}


@pytest.mark.parametrize(
    "text", [pytest.param(t, marks=pytest.mark.xfail(reason=FAILING[t])) if t in FAILING else t for t in LAWS]
)
def test_law(text: str, laws: dict[str, dict[str, Any]]) -> None:
    numbers = {key: value for key, value in laws[text].items() if key not in ("law", "holds")}
    assert laws[text]["holds"], f"does not hold: {text}; {numbers}"


def test_search_reports_what_it_tried(rows: list[dict[str, Any]]) -> None:
    """Only the mixture has anything to propose; on `quadrant` something is kept."""
    for row in rows:
        assert bool(row.get("proposals")) is (row["network"] == "learned"), (row["network"], row["task"])
    kept = [p for r in rows if (r["network"], r["task"]) == ("learned", "quadrant") for p in r["proposals"]]
    assert any(p["accepted"] and p["action"] == "add" for p in kept), kept
