"""Published tables from their files: read, run at the smallest scale, and told beside the paper's figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from symlearn.config import Config
from symlearn.layers.registry import parse_paths
from symlearn.networks import NETWORKS
from symlearn.runs.reproduce import SCALES, experiments_folder, known_experiments, read_experiment, table

FOLDER = Path(__file__).resolve().parents[3] / "experiments"
NAMES = list(known_experiments(FOLDER))
TINY = """
title = "Tiny"
source = "Nobody 2026, Table 9"
[scales.smoke]
data = "digits"
limit = 60
alpha = 1
epochs = 2
selection = "none"
seeds = [0, 1]
[[rows]]
label = "conv"
options = { paths = "conv" }
published = { accuracy = 99.5 }
[[rows]]
label = "group"
options = { paths = "conv" }
smoke = { paths = "gconv-p4:pointwise" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one experiment."""
    (tmp_path / "experiments" / "nobody").mkdir(parents=True)
    (tmp_path / "experiments" / "nobody" / "tiny.toml").write_text(TINY)
    return tmp_path / "experiments"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_describes_fits(name: str) -> None:
    experiment = read_experiment(name, FOLDER)
    assert {"smoke", "small", "paper"} <= set(experiment.scales) <= set(SCALES)
    for scale in experiment.scales:
        for row in experiment.rows:
            config = Config().with_options(**experiment.options(row, scale))
            assert config.model.network in (None, *NETWORKS)
            parse_paths(config.model.paths)
    new = experiment.source.startswith("beyond ")  # no paper has such a table
    assert new != any(row.published for row in experiment.rows), "the published figures stand beside ours"


def test_files_are_found_beside_the_package() -> None:
    assert experiments_folder().resolve() == FOLDER and NAMES


@pytest.mark.slow
def test_smoke_run_writes_and_tells(
    folder: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = ["--experiments", str(folder), "--runs", str(tmp_path / "runs")]
    code, out, err = command("reproduce", "tiny", *options, "--seeds", "0", "--workers", "1")
    assert (code, err) == (0, "")
    assert "Nobody 2026, Table 9; scale smoke" in out and "accuracy 99.5" in out
    content = json.loads((folder / "nobody" / "results" / "tiny.smoke.json").read_text())
    assert [row["label"] for row in content["rows"]] == ["conv", "group"]
    assert [row["options"]["paths"] for row in content["rows"]] == ["conv", "gconv-p4:pointwise"]
    assert content["seeds"] == [0] and content["published"]["conv"] == {"accuracy": 99.5}
    assert all(0 <= row["accuracy"] <= 1 and row["parameters"] > 0 for row in content["rows"])
    assert table(content) in out
    written = (tmp_path / "runs" / "tiny-smoke" / "0-seed0" / "report.json").stat().st_mtime_ns
    command("reproduce", "tiny", *options, "--seeds", "0", "--workers", "1")
    again = (tmp_path / "runs" / "tiny-smoke" / "0-seed0" / "report.json").stat().st_mtime_ns
    assert again == written, "finished runs are read, not repeated"


def test_a_stopped_run_is_told() -> None:
    rows = [{"label": "a", "seed": 0, "stopped": "the loss became nan"}]
    told = table({"experiment": "E", "source": "S", "scale": "smoke", "published": {"a": {}}, "rows": rows})
    assert "stopped" in told


def test_wrong_input(folder: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    for arguments, words in (
        (["nothing"], ["unknown experiment 'nothing'", "tiny"]),
        (["tiny", "--scale", "huge"], ["no scale 'huge'", "smoke"]),
        (["tiny", "--seeds", "a"], ["--seeds is 'a'", "whole numbers"]),
    ):
        code, out, err = command("reproduce", *arguments, "--experiments", str(folder))
        assert code == 2 and err.count("\n") == 1 and not out, (arguments, err)
        assert all(word in err for word in words), err
    file = folder / "nobody" / "tiny.toml"
    for damage in ("titel = 1\n" + TINY, TINY.replace("label", "lable"), "[[rows"):
        file.write_text(damage)
        code, _, err = command("reproduce", "tiny", "--experiments", str(folder))
        assert code == 2 and "tiny.toml is no experiment" in err, err
