"""Rows, where they are made and what is left of a table, without a fit."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path
from typing import Any

import pytest

from symlearn.report import plots
from symlearn.runs import provenance
from symlearn.runs.forecast import Cost, forecast, forecast_text
from symlearn.runs.rows import MOMENTS, Job, folder_name, history, said_options, with_own_copy

OPTIONS = {"data": "digits", "paths": "conv"}


def test_a_folder_is_of_its_options_and_of_no_machine() -> None:
    name = folder_name("a / b, c", 3, OPTIONS)
    assert name.startswith("a-b-c-") and name.endswith("-seed3")
    assert folder_name("a / b, c", 3, {**OPTIONS, "device": "cuda", "data_root": "x"}) == name
    assert folder_name("a / b, c", 3, {**OPTIONS, "alpha": 2}) != name
    assert said_options({**OPTIONS, "device": "cpu", "data_root": "x"}) == OPTIONS


def test_a_copy_stands_in_for_a_published_set(tmp_path: Path) -> None:
    options = {"data": "cifar10", "data_root": str(tmp_path)}
    assert with_own_copy(options) == (options, None)
    (tmp_path / "cifar10.npz").touch()
    assert with_own_copy(options) == ({**options, "data": str(tmp_path / "cifar10.npz")}, "cifar10.npz")
    assert with_own_copy({"data": "cifar10"}) == ({"data": "cifar10"}, None)


def test_provenance_names_neither_machine_nor_user() -> None:
    made = provenance.made_by("abc", "cpu")
    told = json.dumps(made)
    assert set(made) == {"commit", "symlearn", "torch", "python", "system", "processor", "threads", "gpu"}
    for secret in (platform.node(), str(Path.home()), f"/{getpass.getuser()}"):
        assert not secret or secret not in told, secret
    assert "symlearn" in provenance.words(made) and "abc" in provenance.words(made)


def test_processors_say_their_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some  CPU 9\n")
    monkeypatch.setattr(provenance, "CPU_INFO", tmp_path / "cpuinfo")
    assert provenance.processor() == "Some CPU 9"
    monkeypatch.setattr(provenance, "CPU_INFO", tmp_path / "none")
    assert provenance.processor() == (platform.processor() or platform.machine())


def test_commits_outside_a_checkout_are_unknown(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) == "unknown"
    assert provenance.commit(Path(__file__).parent) != "unknown"


def test_history_is_thinned_grouped_and_can_be_drawn() -> None:
    tensors = {
        "layers.0.paths.conv.weight": ["layers.0", "conv"],
        "layers.0.paths.conv.bias": ["layers.0", "conv"],
        "layers.0.paths.f-fc.theta1": ["layers.0", "f-fc"],
        "head.0.weight": ["head.0", "linear"],
    }
    report = {
        "paths": ["f-fc", "conv"],
        "tensors": tensors,
        "layers": [
            {"name": "layers.0", "paths": {"f-fc": {}, "conv": {}}},
            {"name": "head.0", "paths": {"linear": {}}},
        ],
    }
    values = dict(zip(tensors, (2.0, 8.0, 5.0, 9.0), strict=True))
    line = {"step": 1, "log_marginal_likelihood": -1.0, "prior_precision": values}
    metrics = [{**line, "epoch": k} for k in range(100)] + [{"epoch": 100}]
    found = history(metrics, report)
    assert len(found) == MOMENTS and (found[0]["epoch"], found[-1]["epoch"]) == (0, 99)
    assert found[0]["prior_precision"] == {"layers.0.paths.conv.all": 4.0, "layers.0.paths.f-fc.all": 5.0}
    assert "panel a layer" in str(plots.prior_precisions(found).get_label())
    assert history(metrics, {**report, "paths": ["conv"]}) == []


def job(tmp_path: Path, label: str, seed: int) -> Job:
    """A run that is left."""
    return Job(label, seed, OPTIONS, str(tmp_path / f"{label}{seed}"))


def test_what_is_left_is_told_from_other_seeds_estimates_and_what_lies_behind(tmp_path: Path) -> None:
    here = [{"processor": provenance.processor()}]
    done: list[dict[str, Any]] = [
        {"label": "a", "seed": 0, "options": OPTIONS, "seconds": 100.0, "made": here},
        {"label": "a", "seed": 1, "options": OPTIONS, "seconds": 9e9, "made": [{"processor": "another"}]},
        {"label": "b", "seed": 0, "options": {"data": "mnist"}, "seconds": 9e9, "made": here},
    ]
    begun = tmp_path / "b1"
    begun.mkdir()
    (begun / "metrics.jsonl").write_text('{"seconds": 30.0}\n{"seco')
    asked = []

    def estimate(options: Any) -> Cost:
        asked.append(options)
        return Cost(70.0, 2e6, 1000, "estimated")

    jobs = [job(tmp_path, "a", 2), job(tmp_path, "b", 1), job(tmp_path, "b", 2)]
    left = forecast(jobs, done, estimate)
    assert [one.seconds for one in left] == [100.0, 40.0, 70.0] and len(asked) == 1
    told = forecast_text(left, 2).splitlines()
    assert told[0] == "a, seed 2: 100 s (as 1 seed took)"
    assert told[1] == "b, seed 1: 40 s, 1.0 kB (estimated; 30 s lie behind it)"
    assert told[-1] == "3 left: 4 min of one thread, 105 s with 2 at a time"
    assert forecast_text([], 2) == "nothing is left"
    refused = forecast([job(tmp_path, "c", 0)], [], lambda _: Cost(None, None, 10**10, "does not fit"))
    assert "c, seed 0: – (does not fit)" in forecast_text(refused, 1)
    assert "1 do not fit into memory" in forecast_text(refused, 1)
