"""Published tables from their files: read, run at the smallest scale, killed, and told beside the paper's."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_table import TINY, write_table

from symlearn.config import Config
from symlearn.layers.registry import parse_paths
from symlearn.networks import NETWORKS
from symlearn.runs.reproduce import chosen_labels, plan_table
from symlearn.runs.rows import run_one
from symlearn.runs.table_file import content_of, read_rows
from symlearn.runs.table_text import list_text, table
from symlearn.runs.tables import SCALES, experiments_folder, known_experiments, read_experiment

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "experiments"
NAMES = list(known_experiments(FOLDER))
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one experiment."""
    return write_table(tmp_path)


def finished(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what differs from time to time."""
    return {key: value for key, value in row.items() if key not in ("seconds", "made")}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_describes_fits(name: str) -> None:
    experiment = read_experiment(name, FOLDER)
    least = {"smoke", "small", "paper"} if experiment.script is None else {"cpu"}
    assert least <= set(experiment.scales) <= set(SCALES)
    assert experiment.script is None or (experiment.path.parent / experiment.script).is_file()
    for scale in experiment.scales:
        for row in experiment.rows_at(scale) if experiment.script is None else []:
            config = Config().with_options(**experiment.options(row, scale))
            assert config.model.network in (None, *NETWORKS)
            parse_paths(config.model.paths)
    new = experiment.source.startswith("beyond ")  # no paper has such a table
    assert new != any(row.published for row in experiment.rows), "the published figures stand beside ours"
    told = set(experiment.budgets)
    assert {"cpu"} & set(experiment.scales) <= told <= set(experiment.scales), (
        "the scale of hours states them"
    )
    for claim in experiment.claims:
        for scale in set(claim.scales) & set(experiment.scales):
            here = {row.label for row in experiment.rows_at(scale)}
            assert set(claim.labels) <= here, f"{claim.text}: not all its rows are run at {scale}"


def test_all_tables_together_take_half_a_day_of_two_threads() -> None:
    budgets = [read_experiment(name, FOLDER).budgets.get("cpu") for name in NAMES]
    assert sum(budget.hours for budget in budgets if budget is not None) <= 24


def test_files_are_found_beside_the_package() -> None:
    assert experiments_folder().resolve() == FOLDER and NAMES


@pytest.mark.slow
def test_smoke_run_writes_judges_and_tells(folder: Path, tmp_path: Path, command: Command) -> None:
    options = ["--experiments", str(folder), "--runs", str(tmp_path / "runs"), "--workers", "1"]
    code, out, err = command("reproduce", "tiny", *options, "--rows", "1")
    assert (code, err) == (0, "") and "not run" in out
    path = folder / "nobody" / "results" / "tiny.smoke.json"
    assert [row["label"] for row in json.loads(path.read_text())["rows"]] == ["conv"]
    assert [c["verdict"] for c in json.loads(path.read_text())["claims"]] == ["held", "not run"]
    code, out, err = command("reproduce", "tiny", *options, "--seeds", "0")
    assert (code, err) == (0, "")
    assert "Nobody 2026, Table 9; scale smoke" in out and "accuracy 99.5" in out
    assert "   failed  conv is far ahead of group" in out
    content = json.loads(path.read_text())
    assert [row["label"] for row in content["rows"]] == ["conv", "group"]
    assert [row["options"]["paths"] for row in content["rows"]] == ["conv", "gconv-p4:pointwise"]
    assert content["seeds"] == [0] and content["published"]["conv"] == {"accuracy": 99.5}
    assert all(0 <= row["accuracy"] <= 1 and row["parameters"] > 0 for row in content["rows"])
    for row in content["rows"]:
        (made,) = row["made"]
        assert made["threads"] == 1 and made["torch"] and made["processor"] and made["commit"]
        assert row["test_examples"] == 40 and row["history"] == []
    assert table(content) in out
    before = path.read_bytes()
    code, out, _ = command("reproduce", "tiny", *options, "--seeds", "0", "--dry-run")
    assert (code, out) == (0, "nothing is left\n")
    command("reproduce", "tiny", *options, "--seeds", "0")
    assert path.read_bytes() == before, "finished rows are read, not repeated"
    (made_again,) = (tmp_path / "runs" / "tiny-smoke").glob("conv-*-seed0")
    path.unlink()
    first = (made_again / "report.json").stat().st_mtime_ns
    command("reproduce", "tiny", *options, "--seeds", "0")
    assert (made_again / "report.json").stat().st_mtime_ns == first, "finished folders are read, not repeated"
    assert path.read_bytes() == before
    told = command("reproduce", "list", *options)[1]
    assert "smoke  2 of 3 rows; made at" in told and "claims: 1 held, 1 failed" in told
    assert "cpu    none of 3 rows; budget 0.1 h of one thread" in told


@pytest.mark.slow
def test_killed_at_five_moments_a_table_ends_with_the_same_rows(folder: Path, tmp_path: Path) -> None:
    """The process that runs the table is killed, wherever its children are; they go with it."""
    chance = random.Random(18)
    place, path = tmp_path / "runs", folder / "nobody" / "results" / "tiny.smoke.json"
    moments: list[Callable[[], bool]] = [
        lambda: place.is_dir(),
        lambda: any(place.glob("*/*/config.toml")),
        lambda: any(place.glob("*/*/checkpoint.pt")),
        lambda: any(place.glob("*/*/report.json")),
        lambda: path.is_file(),
    ]
    for moment in moments:
        process = start(folder, place)
        while not moment() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5 * chance.random())
        process.kill()
        process.wait()
    assert start(folder, place).wait() == 0
    rows = json.loads(path.read_text())["rows"]
    path.unlink()
    plan = plan_table(read_experiment("tiny", folder), "smoke", tmp_path / "others")
    for job in plan.jobs:
        plan.add(run_one(job))
    assert len(rows) == 3
    whole = json.loads(path.read_text())["rows"]
    assert [finished(row) for row in rows] == [finished(row) for row in whole]


def start(folder: Path, runs: Path) -> subprocess.Popen[bytes]:
    """A table of its own process, with two workers."""
    command = [sys.executable, "-m", "symlearn", "reproduce", "tiny", "--experiments", str(folder)]
    return subprocess.Popen(
        [*command, "--runs", str(runs)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_out_of_time_a_row_is_stopped_and_goes_on(folder: Path, tmp_path: Path, command: Command) -> None:
    toml = folder / "nobody" / "tiny.toml"
    toml.write_text(TINY.replace("epochs = 2", "epochs = 9999"))
    options = ["--experiments", str(folder), "--runs", str(tmp_path / "runs"), "--rows", "1"]
    for seconds in (8, 16, 32, 64, 128):  # a busy machine takes its time to begin
        code, out, err = command("reproduce", "tiny", *options, "--hours", f"{seconds / 3600}")
        assert (code, err) == (0, "")
        if "stopped after epoch" in out:
            break
    assert "epochs an hour; it goes on from there" in out
    assert not (folder / "nobody" / "results" / "tiny.smoke.json").exists()
    (run,) = (tmp_path / "runs" / "tiny-smoke").glob("conv-*-seed0")
    assert (run / "config.toml").is_file() and not (run / "report.json").exists()
    code, out, _ = command("reproduce", "tiny", *options, "--dry-run")
    assert "lie behind it" in out and "1 left" in out and "million passes" in out


def test_a_second_process_is_refused(folder: Path, tmp_path: Path, command: Command) -> None:
    from filelock import FileLock

    place = tmp_path / "runs" / "tiny-smoke"
    place.mkdir(parents=True)
    with FileLock(place / ".lock"):
        code, _, err = command("reproduce", "tiny", "--experiments", folder, "--runs", tmp_path / "runs")
    assert code == 2 and "another process runs this table" in err


def test_rows_of_other_options_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    experiment = read_experiment("tiny", folder)
    old = {
        "commit": "abc",
        "environment": {"versions": {"symlearn": "0", "torch": "2"}, "python": "3", "system": "S"},
        "rows": [
            {"label": "conv", "seed": 0, "options": {**experiment.wanted("smoke")[0].options, "device": "x"}},
            {"label": "conv", "seed": 1, "options": {"paths": "conv"}},
        ],
    }
    path = folder / "nobody" / "results" / "tiny.smoke.json"
    path.parent.mkdir()
    path.write_text(json.dumps(old))
    plan = plan_table(experiment, "smoke", tmp_path / "runs")
    assert [(job.label, job.seed) for job in plan.jobs] == [("group", 0), ("conv", 1)]
    content = content_of(experiment, "smoke", plan.wanted, read_rows(path))
    assert [row["seed"] for row in content["rows"]] == [0] and len(content["earlier"]) == 1
    assert content["rows"][0]["made"][0]["commit"] == "abc"
    assert "smoke  1 of 3 rows; 1 with other options" in list_text([experiment], tmp_path)


def test_rows_by_label() -> None:
    labels = ["MNIST, baseline", "MNIST, R90", "rotated MNIST, R90"]
    assert chosen_labels(labels, "MNIST, R90") == ["MNIST, R90"]
    assert chosen_labels(labels, "rotated,baseline") == ["MNIST, baseline", "rotated MNIST, R90"]
    assert chosen_labels(labels, "r90") == labels[1:]
    assert chosen_labels(labels, "x") == []


def test_a_stopped_run_is_told() -> None:
    rows = [{"label": "a", "seed": 0, "stopped": "the loss became nan"}]
    told = table({"experiment": "E", "source": "S", "scale": "smoke", "published": {"a": {}}, "rows": rows})
    assert "stopped" in told


def test_wrong_input(folder: Path, tmp_path: Path, command: Command) -> None:
    runs = ["--experiments", str(folder), "--runs", str(tmp_path / "runs")]
    for arguments, words in (
        (["nothing"], ["unknown experiment 'nothing'", "tiny"]),
        (["tiny", "--scale", "huge"], ["no scale 'huge'", "smoke"]),
        (["tiny", "--seeds", "a"], ["--seeds is 'a'", "whole numbers"]),
        (["tiny", "--rows", "elsewhere"], ["no row of tiny is called 'elsewhere'"]),
    ):
        code, out, err = command("reproduce", *arguments, *runs)
        assert code == 2 and err.count("\n") == 1 and not out, (arguments, err)
        assert all(word in err for word in words), err
    file = folder / "nobody" / "tiny.toml"
    for damage in (
        "titel = 1\n" + TINY,
        TINY.replace("label", "lable"),
        "[[rows",
        TINY.replace('label = "group"', 'label = "conv"'),
        TINY.replace('rows = ["conv"]', 'rows = ["cow"]'),
        TINY.replace('kind = "bound"', 'kind = "guess"'),
        TINY.replace("gap = 150", "gab = 150"),
        TINY.replace("[budgets.cpu]", "[budgets.huge]"),
        TINY.replace('metric = "parameters"', 'metric = "beauty"'),
    ):
        file.write_text(damage)
        code, _, err = command("reproduce", "tiny", *runs)
        assert code == 2 and "tiny.toml is no experiment" in err and err.count("\n") == 1, err


def test_a_table_of_another_program_says_which(folder: Path, command: Command) -> None:
    (folder / "nobody" / "tiny.toml").write_text('script = "rows.py"\n' + TINY)
    code, _, err = command("reproduce", "tiny", "--experiments", folder)
    assert code == 2 and "rows.py --scale smoke" in err and err.count("\n") == 1


def test_damaged_results_are_told(folder: Path, tmp_path: Path, command: Command) -> None:
    path = folder / "nobody" / "results" / "tiny.smoke.json"
    path.parent.mkdir()
    path.write_text("{")
    code, _, err = command("reproduce", "tiny", "--experiments", folder, "--runs", tmp_path / "runs")
    assert code == 2 and "tiny.smoke.json is damaged" in err
