"""The main job end to end, tiny: what the commands print and what lies in the run folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import symlearn.cli.display as shown
from symlearn.cli.options import configured
from symlearn.config import read_config
from symlearn.fitting.result import Progress
from symlearn.fitting.stages import Fit
from symlearn.run_folder import (
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    EXAMPLES,
    FILTERS,
    FOUND,
    FOUND_PAGE,
    METRICS,
    MODEL,
    PAGE,
    PREPROCESSING,
    REPORT,
)
from symlearn.runs.experiment import prepare, resume_experiment, run_experiment
from symlearn.training.state import TrainingStoppedError

pytestmark = pytest.mark.pictures  # they are looked for

Command = Callable[..., tuple[int, str, str]]
FIGURES = {
    "removals",
    "effective-dimension",
    "equivariance",
    "filters",
    "layer-shares",
    "proposals",
    "evidence",
    "prior-precisions",
}
FOUND_FIGURES = {"kept-answers", "measured-symmetries", "edge-examples"}
METRIC_KEYS = {
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "test_nll",
    "log_marginal_likelihood",
    "seconds",
}
PATH_KEYS = {
    "parameters",
    "effective_parameters",
    "normalised",
    "relative",
    "share",
    "weight_norm",
    "prior_precision",
}
TINY = ["--limit", "60", "--alpha", "1", "--epochs", "2", "--selection", "none", "--paths", "conv"]


def lines_of(file: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, line by line."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_run_folder(searched_run: Path) -> None:
    names = {path.name for path in searched_run.iterdir()} - {".lock"}
    written = {CONFIG, METRICS, CHECKPOINT, MODEL, REPORT, PAGE, ENVIRONMENT, PREPROCESSING, FILTERS}
    assert names == {*written, FOUND, FOUND_PAGE, EXAMPLES, "figures"}
    figures = {path.name: path.read_bytes() for path in (searched_run / "figures").iterdir()}
    assert set(figures) == {f"{name}.png" for name in FIGURES | FOUND_FIGURES}
    assert all(content.startswith(b"\x89PNG") for content in figures.values())
    for name, schema in ((CHECKPOINT, 3), (MODEL, 1)):
        assert torch.load(searched_run / name, weights_only=True)["schema"] == schema
    environment = json.loads((searched_run / ENVIRONMENT).read_text())
    assert environment["threads"] == 1 and environment["versions"]["torch"]


def test_the_configuration_runs_again(searched_run: Path) -> None:
    tables = tomllib.loads((searched_run / CONFIG).read_text())
    chosen = {"network": "small", "paths": "f-fc+conv", "alpha": 2}
    assert {key: tables["model"][key] for key in chosen} == chosen
    assert (tables["training"]["seed"], tables["training"]["epochs"], tables["data"]["limit"]) == (3, 4, 100)
    assert {"frequency", "refit_epochs"} <= set(tables["evidence"]), "schedules are worked out"
    config = read_config(searched_run / CONFIG)
    assert prepare(config).config == config


def test_metrics(searched_run: Path) -> None:
    rows = lines_of(searched_run / METRICS)
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert set(row) >= METRIC_KEYS, f"epoch {row['epoch']} lacks {METRIC_KEYS - set(row)}"
        if row["log_marginal_likelihood"] is not None:
            assert set(row["prior_precision"]) == set(row["effective_parameters"])
    assert any(row["log_marginal_likelihood"] is not None for row in rows)


def test_report_has_the_contract_s_schema(searched_run: Path) -> None:
    report = json.loads((searched_run / REPORT).read_text())
    assert (report["schema"], report["data"], report["task"]) == (2, "digits", "class")
    assert report["paths"] == ["f-fc", "conv"] and isinstance(report["parameters"], int)
    assert isinstance(report["log_marginal_likelihood"], float)
    assert set(report["test"]) == {"accuracy", "nll", "ece"}
    assert report["laplace"] is None or set(report["laplace"]) == {"accuracy", "nll", "ece"}
    assert report["selection"]["method"] == "search" and report["selection"]["proposals"]
    for proposal in report["selection"]["proposals"]:
        assert set(proposal) >= {"round", "layer", "path", "action", "delta_log_evidence", "accepted"}
        assert proposal["action"] in ("add", "remove")
    assert [layer["index"] for layer in report["layers"]] == list(range(len(report["layers"])))
    for layer in report["layers"]:
        assert set(layer) >= {"name", "index", "effective_type", "paths"}
        assert layer["effective_type"] == layer["effective_type"].upper()
        assert set(layer["paths"]) in ({"f-fc", "conv"}, {"linear"})
        for path in layer["paths"].values():
            assert set(path) >= PATH_KEYS
            assert 0 <= path["effective_parameters"] <= path["parameters"]
            assert all(isinstance(value, float) for value in path["prior_precision"].values())
    assert [list(layer["paths"]) for layer in report["layers"]][-2:] == [["linear"], ["linear"]]


@pytest.mark.slow
def test_piped_output(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shown, "EVERY", 0.0)
    code, out, err = command("fit", "--seed", 5, *TINY)
    folder = tmp_path / "runs" / "digits-class-conv-seed5"
    assert (code, err) == (0, "") and (folder / REPORT).is_file()
    assert "\x1b" not in out and "\r" not in out
    assert "60 training and 397 test images of 1×16×16, 10 classes" in out
    progress = [line for line in out.splitlines() if re.match(r" *\d+ %  map +epoch \d", line)]
    assert len(progress) == 2 and "loss" in progress[0] and progress[-1].startswith("100 %")
    for words in (
        "layer 4",
        "head 2",
        "test accuracy",
        "runs/digits-class-conv-seed5/figures",
        "report.html",
    ):
        assert words in out, words


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = prepare(configured(None, {"seed": "4", "limit": "50", "alpha": "1"})).model
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = prepare(configured(None, {"seed": "4", "limit": "50", "alpha": "1"})).model
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), f"{name} depends on the global generator"


@pytest.mark.slow
def test_python_says_the_same_as_the_command_line(map_run: Path, tmp_path: Path) -> None:
    config = read_config(map_run / CONFIG)
    told: list[Progress] = []
    torch.set_num_threads(1)
    result = run_experiment(config, tmp_path / "again", progress=told.append)
    report = json.loads((map_run / REPORT).read_text())
    assert {k: v for k, v in result.report.items() if k != "seconds"} == {
        k: v for k, v in report.items() if k != "seconds"
    }
    assert len(told) == 2 and told[-1].fraction == 1.0
    back = resume_experiment(tmp_path / "again")
    assert back.report == json.loads((tmp_path / "again" / REPORT).read_text())
    x = torch.randn(3, 1, 16, 16)
    assert torch.equal(back.model(x), result.model(x))


def test_resuming_a_finished_fit_prints_its_report(command: Command, searched_run: Path) -> None:
    code, out, err = command("fit", "--resume", "--out", searched_run)
    assert (code, err) == (0, "") and "is finished" in out and "layer 0" in out


@pytest.mark.slow
@pytest.mark.parametrize("format", ["table", "md", "json", "html", "found"])
def test_report_formats(format: str, command: Command, searched_run: Path) -> None:
    code, out, err = command("report", searched_run, "--format", format)
    assert (code, err) == (0, "") and "\x1b" not in out
    if format == "json":
        assert json.loads(out) == json.loads((searched_run / REPORT).read_text())
    elif format in ("html", "found"):
        assert out.startswith("<!DOCTYPE html>") and out.rstrip().endswith("</html>")
    else:
        assert "layer 0" in out and "log marginal likelihood" in out
        assert ("| layer |" in out) == (format == "md")


def test_the_page_asks_for_nothing_from_outside(searched_run: Path) -> None:
    """Besides links to the neighbours in its folder."""
    for name, links, figures in (
        (PAGE, {FOUND_PAGE}, FIGURES),
        (FOUND_PAGE, {PAGE, FOUND}, FOUND_FIGURES),
    ):
        page = (searched_run / name).read_text()
        assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(|<script|<link", page)
        assert set(re.findall(r"href=\"([^\"]*)\"", page)) == links
        assert page.count("data:image/png;base64,") == len(figures)


@pytest.mark.slow
def test_plot_draws_again_without_training(
    command: Command, finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (finished_copy / "figures").iterdir():
        path.unlink()
    (finished_copy / MODEL).unlink()
    (finished_copy / FOUND_PAGE).unlink()
    monkeypatch.setattr(Fit, "run", None)
    code, out, err = command("plot", finished_copy)
    assert (code, err) == (0, "")
    printed = [Path(line) for line in out.splitlines()]
    assert {path.stem for path in printed} == FIGURES | FOUND_FIGURES
    assert all(path.is_file() for path in printed) and (finished_copy / FOUND_PAGE).is_file()


def predicted(text: str) -> list[dict[str, str]]:
    """The CSV as rows by column."""
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("laplace", [[], ["--laplace"]], ids=["MAP", "Laplace"])
def test_predictions(laplace: list[str], command: Command, searched_run: Path) -> None:
    code, out, err = command("predict", searched_run, "digits", *laplace)
    assert (code, err) == (0, "")
    rows = predicted(out)
    assert len(rows) == 397
    assert list(rows[0]) == ["name", "class", "probability", *map(str, range(10))]
    for row in rows[:20]:
        values = {name: float(row[name]) for name in map(str, range(10))}
        assert abs(sum(values.values()) - 1) < 1e-4
        assert row["class"] == max(values, key=values.__getitem__)
        assert float(row["probability"]) == max(values.values())


def test_laplace_is_less_sure(command: Command, searched_run: Path, tmp_path: Path) -> None:
    sure = [float(row["probability"]) for row in predicted(command("predict", searched_run, "digits")[1])]
    command("predict", searched_run, "digits", "--laplace", "--out", tmp_path / "p.csv")
    less = [float(row["probability"]) for row in predicted((tmp_path / "p.csv").read_text())]
    assert np.mean(less) < np.mean(sure), (
        f"mean confidence {np.mean(less):.3f}, of the MAP {np.mean(sure):.3f}"
    )


def test_predictions_of_image_files(command: Command, map_run: Path, tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        Image.new("RGB", (8, 8), (40, 90, 200)).save(tmp_path / name)
    rows = predicted(command("predict", map_run, tmp_path)[1])
    assert [row["name"] for row in rows] == ["a.png", "b.png"], "colour is turned grey, as in training"


@pytest.mark.slow
def test_regression_predicts_targets(command: Command, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.random((40, 16, 16), dtype=np.float32)
    y = np.stack([x.mean((1, 2)), x[:, 0, 0]], 1)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    options = ["--data", tmp_path / "set.npz", "--likelihood", "regression", "--alpha", 1, "--epochs", 2]
    code, out, err = command("fit", *options, "--selection", "none", "--out", tmp_path / "run")
    assert (code, err) == (0, "") and "2 targets" in out
    rows = predicted(command("predict", tmp_path / "run", tmp_path / "set.npz", "--laplace")[1])
    assert len(rows) == 10 and list(rows[0])[:3] == ["name", "y0", "y1"]
    assert all(float(row["y0 (standard deviation)"]) > 0 for row in rows)


@pytest.mark.slow
def test_estimate(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("estimate", "--limit", 100, "--alpha", 2, "--epochs", 5)
    assert (code, err) == (0, "") and not list(tmp_path.iterdir())
    for name in ("parameters", "weights", "curvature factors", "memory at once", "a step", "the whole fit"):
        assert any(line.startswith(name) for line in out.splitlines()), name
    monkeypatch.setattr("symlearn.cost.estimate.available_bytes", lambda _: 1000)
    code, out, _ = command("estimate", "--limit", 100, "--alpha", 2, "--paths", "fc")
    assert code == 0 and "not enough memory" in out and "f-fc in place of fc" in out and "a step" not in out


def test_a_fit_that_stops(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(fit: Fit, force: bool = False) -> None:
        real(fit, force=True)
        raise TrainingStoppedError("the training loss became nan in epoch 1; lower lr")

    real = Fit.save
    monkeypatch.setattr(Fit, "save", stop)
    code, _, err = command("fit", *TINY, "--out", tmp_path / "run")
    assert code == 1 and err.count("\n") == 1
    assert err == (
        "symlearn: error: the fit stopped: the training loss became nan in epoch 1; lower lr; "
        f"the last good state is {tmp_path / 'run' / CHECKPOINT}\n"
    )


@pytest.mark.slow
def test_interrupted(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "tell", interrupt)
        code, _, err = command("fit", *TINY, "--out", tmp_path / "run")
    resume = f"symlearn fit --resume --out {tmp_path / 'run'}"
    assert (code, err) == (130, f"symlearn: error: interrupted; continue with: {resume}\n")
    assert command(*resume.split()[1:])[0] == 0
    monkeypatch.setattr("symlearn.runs.experiment.load", interrupt)
    code, _, err = command("fit", *TINY, "--out", tmp_path / "other")
    assert (code, err) == (130, "symlearn: error: interrupted; nothing was written\n")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_warnings_are_notes_of_one_line(command: Command, tmp_path: Path) -> None:
    code, _, err = command("fit", *TINY, "--limit", 5, "--batch-size", 5, "--out", tmp_path / "run")
    assert code == 0 and err.count("\n") == 1
    assert err.startswith("symlearn: note: ") and "classes have no training image" in err


def record(stage: str, epoch: int, fraction: float, note: str | None = None, **more: object) -> Progress:
    """What a fit tells."""
    places = {
        "layers.0.paths.conv.weight": ("layers.0", "conv"),
        "layers.1.paths.f-fc.theta1": ("layers.1", "f-fc"),
        "head.0.weight": ("head.0", "linear"),
    }
    told = {"train_loss": 0.5, "train_accuracy": 0.25, **more}
    return Progress(stage, epoch, told, note, fraction, places)


def test_plain_lines_come_every_two_seconds_and_at_every_change() -> None:
    lines: list[str] = []
    now = 0.0
    show = shown.PlainLines(lambda: 100, lines.append, clock=lambda: now)
    gamma = {"layers.0.paths.conv.weight": 3.0, "layers.1.paths.f-fc.theta1": 8.0, "head.0.weight": 9.0}
    show(record("start", 1, 0.1))
    show(record("start", 2, 0.2, log_marginal_likelihood=-250.0, effective_parameters=gamma))
    now = 2.5
    show(record("start", 3, 0.3))
    show(record("round 0", 4, 0.4))
    show(record("round 0", 5, 0.5, note="round 0: add f-fc in layers.1: +7 nats (kept)"))
    assert lines == [
        " 10 %  start         epoch 1  loss 0.500  accuracy 25 %",
        " 30 %  start         epoch 3  loss 0.500  accuracy 25 %  −log evidence 2.500 nats an image  "
        "γ f-fc 8.0, conv 3.0",
        " 40 %  round 0       epoch 4  loss 0.500  accuracy 25 %  −log evidence 2.500 nats an image  "
        "γ f-fc 8.0, conv 3.0",
        "       round 0: add f-fc in layers.1: +7 nats (kept)",
    ]


def test_the_live_display_keeps_notes_and_clears_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setitem(os.environ, "COLUMNS", "80")
    with shown.live_display(lambda: 100) as show:
        show(record("start", 1, 0.1, note="conv collapsed"))
    out = capsys.readouterr().out
    assert "\x1b" in out and "conv collapsed" in out and "epoch 1" in out
