"""Wrong input: exit code 2, one line on stderr that helps, no traceback, and nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from symlearn.run_folder import CHECKPOINT, CONFIG, METRICS, MODEL, PREPROCESSING, REPORT, RunFolder

Command = Callable[..., tuple[int, str, str]]
QUICK = ["--limit", "20", "--alpha", "1", "--epochs", "1"]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder; the lock apart, which stays behind."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def refused(command: Command, place: Path, arguments: list[Any], fragments: list[str]) -> None:
    """The command line refuses these arguments in one line and leaves `place` as it was."""
    before = tree(place)
    code, out, err = command(*arguments)
    assert code == 2, f"exit code {code}; stderr: {err}"
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("symlearn: error: "), err
    assert "Traceback" not in err
    missing = [fragment for fragment in fragments if fragment not in err]
    assert not missing, f"{err!r} lacks {missing}"
    assert tree(place) == before, f"written or changed: {set(tree(place)) ^ set(before) or 'a file'}"


OPTIONS = {
    "unknown path": (["--paths", "conv+foo"], ["unknown path 'foo'", "f-fc", "conv"]),
    "path twice": (["--paths", "conv+conv"], ["named twice"]),
    "no path": (["--paths", "+"], ["no path"]),
    "unknown data": (["--data", "mnst"], ["unknown data 'mnst'", "digits", "mnist", ".npz"]),
    "unknown task": (["--task", "quadrants"], ["unknown task 'quadrants'", "quadrant-digit"]),
    "unknown network": (["--network", "resnet"], ["unknown network 'resnet'", "ten-layer", "small"]),
    "missing data file": (["--data", "no/set.npz"], ["no/set.npz does not exist"]),
    "missing configuration": (["no.toml"], ["no.toml does not exist", "TOML"]),
    "odd size": (["--size", "15"], ["15x15", "multiples of 4", "resize"]),
    "size too small to halve": (["--size", "18"], ["18x18", "multiples of 4"]),
    "limit too large": (["--limit", "5000"], ["limit is 5000", "1400 training images"]),
    "limit 0": (["--limit", "0"], ["--limit is 0", "above 0"]),
    "epochs in words": (["--epochs", "ten"], ["--epochs is 'ten'", "a whole number above 0"]),
    "rate out of range": (["--lr", "-1"], ["--lr is -1", "above 0"]),
    "anchors beyond the points": (
        ["--anchors", "1.5"],
        ["--anchors is 1.5", "a number above 0 and at most 1"],
    ),
    "lengthscale 0": (["--lengthscale", "0"], ["--lengthscale is 0", "above 0"]),
    "unknown to learn": (
        ["--learn", "noise"],
        ["--learn is 'noise'", "'generator', 'shared-generator' or 'invariances'"],
    ),
    "a range that folds": (["--transforms", "rotation:200"], ["range of rotation is '200'", "folds over"]),
    "unknown transform": (["--transforms", "rotatoin"], ["'rotatoin'", "did you mean 'rotation'"]),
    "colours of grey images": (["--transforms", "hue"], ["hue changes colours", "1 channel"]),
    "invariances of nothing": (["--learn", "invariances"], ["no transforms are named"]),
    "one copy": (["--copies", "1"], ["--copies is 1", "at least 2"]),
    "no such choice": (["--selection", "best"], ["--selection is 'best'", "'search', 'gradient' or 'none'"]),
    "parameters left out by a wrong name": (
        ["--left-out", "head.2.bias,nothing"],
        ["curvature.left_out names 'nothing'", "no parameter of the network"],
    ),
    "a path's diagonal by a wrong name": (
        ["--diagonal", "layers.0.paths.conv.weigth"],
        [
            "curvature.diagonal names 'layers.0.paths.conv.weigth'",
            "did you mean 'layers.0.paths.conv.weight'",
        ],
    ),
    "no such device": (["--device", "tpu"], ["--device is 'tpu'", "'cpu' or 'cuda'"]),
    "unknown option": (["--epocs", "3"], ["--epocs", "did you mean --epochs", "symlearn fit --help"]),
    "option without value": (["--paths"], ["--paths"]),
    "two configurations": (["a.toml", "b.toml"], ["b.toml"]),
    "regression of classes": (["--likelihood", "regression"], ["digits", "real targets"]),
    "resume and configuration": (["a.toml", "--resume"], ["--resume", "leave a.toml out"]),
    "resume of nothing": (["--resume"], ["no run folder", "it does not exist"]),
}


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("verb", ["fit", "estimate"])
def test_options(
    case: str, verb: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options, fragments = OPTIONS[case]
    if verb == "estimate" and "--resume" in options:
        pytest.skip("estimate resumes nothing")
    if case == "unknown option":
        fragments = [part.replace("fit", verb) for part in fragments]
    refused(command, tmp_path, [verb, *options], fragments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(command: Command, tmp_path: Path) -> None:
    arguments = ["fit", "--device", "cuda", "--out", tmp_path / "out"]
    refused(command, tmp_path, arguments, ["'cuda'", "no CUDA device", "'cpu'"])


FILES = {
    "ill-typed key": (
        '[training]\nlr = "1e-3"\n',
        ["training.lr is '1e-3'", "a number above 0", "without quotes"],
    ),
    "unknown key": ("[training]\nrate = 1\n", ["unknown key 'training.rate'", "lr"]),
    "unknown table": ("[train]\nlr = 1\n", ["unknown table 'train'", "did you mean 'training'"]),
    "no TOML": ("training: lr: 3\n", ["cannot be read as TOML"]),
}


@pytest.mark.parametrize("case", FILES)
def test_configuration_files(case: str, command: Command, tmp_path: Path) -> None:
    content, fragments = FILES[case]
    (tmp_path / "run.toml").write_text(content, encoding="utf-8")
    arguments = ["fit", tmp_path / "run.toml", "--out", tmp_path / "out"]
    refused(command, tmp_path, arguments, [str(tmp_path / "run.toml"), *fragments])


def arrays(**changes: np.ndarray) -> dict[str, Any]:
    """A good set of 16x16 images in three classes, some arrays changed."""
    random = np.random.default_rng(0)
    good = {
        "x_train": random.random((12, 16, 16), dtype=np.float32),
        "y_train": np.arange(12) % 3,
        "x_test": random.random((6, 16, 16), dtype=np.float32),
        "y_test": np.arange(6) % 3,
    }
    return good | changes


def with_nan() -> np.ndarray:
    """Images of which one pixel is NaN."""
    images: np.ndarray = arrays()["x_train"]
    images[3, 2, 1] = np.nan
    return images


SETS = {
    "label out of range": (arrays(y_test=np.array([0, 1, 2, 7, 1, 2])), ["y_test", "7 at index 3", "0 to 2"]),
    "negative label": (arrays(y_train=np.arange(12) % 3 - 1), ["y_train", "-1"]),
    "NaN pixel": (arrays(x_train=with_nan()), ["x_train", "NaN", "(3, 2, 1)"]),
    "empty class": (arrays(y_train=np.arange(12) % 3 * 2), ["y_train", "no image of class 1"]),
    "labels missing": (arrays(y_train=np.arange(11) % 3), ["y_train", "[11]", "[12]"]),
    "odd size": (arrays(x_train=np.zeros((12, 15, 15)), x_test=np.zeros((6, 15, 15))), ["15x15", "resize"]),
    "sizes differ": (arrays(x_test=np.zeros((6, 32, 32))), ["[32, 32]", "[16, 16]"]),
    "not numbers": (arrays(x_train=np.full((12, 16, 16), "a")), ["x_train"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SETS)
def test_sets(case: str, command: Command, tmp_path: Path) -> None:
    content, fragments = SETS[case]
    np.savez(tmp_path / "set.npz", **content)
    arguments = [
        "fit",
        "--data",
        tmp_path / "set.npz",
        "--alpha",
        1,
        "--epochs",
        1,
        "--out",
        tmp_path / "out",
    ]
    refused(command, tmp_path, arguments, fragments)


def test_truncated_set(command: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays())
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:200])
    arguments = ["fit", "--data", tmp_path / "set.npz", "--out", tmp_path / "out"]
    refused(command, tmp_path, arguments, ["set.npz", "truncated"])


def test_images_of_mixed_sizes(command: Command, tmp_path: Path) -> None:
    for half in ("train", "test"):
        for name, side in (("cat", 16), ("dog", 20)):
            (tmp_path / "set" / half / name).mkdir(parents=True)
            Image.new("L", (side, side)).save(tmp_path / "set" / half / name / "1.png")
    arguments = ["fit", "--data", tmp_path / "set", "--out", tmp_path / "out"]
    refused(command, tmp_path, arguments, ["20x20", "16x16", "one size"])


def test_output_folders(command: Command, tmp_path: Path, map_run: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("x")
    refused(command, tmp_path, ["fit", *QUICK, "--out", tmp_path / "full"], ["is not empty", "another --out"])
    refused(command, tmp_path, ["fit", *QUICK, "--out", tmp_path / "file"], ["is a file", "another --out"])
    refused(
        command, tmp_path, ["fit", *QUICK, "--out", tmp_path / "file" / "a"], ["could not make the folder"]
    )
    refused(command, map_run, ["fit", *QUICK, "--out", map_run], ["is not empty", "--resume --out"])


def test_a_refused_fit_leaves_no_folder(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = ("--paths", "s-fc+conv", "--limit", "50", "--eigenvalues", "corrected", "--out", out)
    code, _, told = command("fit", *small)
    assert code == 2 and "model.learn to 'nothing'" in told
    assert not out.exists()


def test_a_folder_in_use(command: Command, unfinished_copy: Path, tmp_path: Path) -> None:
    other = RunFolder(unfinished_copy)
    other.acquire()
    refused(command, tmp_path, ["fit", "--resume", "--out", unfinished_copy], ["in use by another fit"])
    other.release()


def test_resume_with_other_options(command: Command, unfinished_copy: Path, tmp_path: Path) -> None:
    arguments = ["fit", "--resume", "--out", unfinished_copy, "--limit", "100", "--epochs", "9"]
    refused(command, tmp_path, arguments, ["--epochs 9 cannot change", "has 2", "another --out"])


def cut(file: Path) -> None:
    """Keep the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def no_layers(file: Path) -> None:
    """Take the layers out of a report."""
    report = json.loads(file.read_text())
    del report["layers"]
    file.write_text(json.dumps(report))


def empty(file: Path) -> None:
    """Leave nothing in a file."""
    file.write_text("")


def odd(file: Path) -> None:
    """JSON, but not what belongs there."""
    file.write_text("[1]")


def second_line(file: Path) -> None:
    """Damage the first of two lines or more."""
    file.write_text("{broken\n" + file.read_text())


DAMAGE: dict[str, tuple[str, Callable[[Path], None], list[str], list[str]]] = {
    "report cut": (REPORT, cut, ["report", "DIR"], ["report.json is damaged"]),
    "report empty": (REPORT, empty, ["report", "DIR"], ["report.json is damaged"]),
    "report of another kind": (REPORT, odd, ["report", "DIR"], ["no report of schema 1 or 2"]),
    "report without layers": (REPORT, no_layers, ["report", "DIR"], ["damaged", "layers"]),
    "report gone": (REPORT, Path.unlink, ["report", "DIR"], ["has not finished", "fit --resume --out"]),
    "report cut, plot": (REPORT, cut, ["plot", "DIR"], ["report.json is damaged"]),
    "metrics damaged": (METRICS, second_line, ["plot", "DIR"], ["metrics.jsonl is damaged in line 1"]),
    "metrics damaged, html": (METRICS, second_line, ["report", "DIR", "--format", "html"], ["line 1"]),
    "configuration damaged": (CONFIG, second_line, ["predict", "DIR", "digits"], ["config.toml", "TOML"]),
    "model cut": (MODEL, cut, ["predict", "DIR", "digits"], ["model.pt is damaged"]),
    "model gone": (MODEL, Path.unlink, ["predict", "DIR", "digits"], ["no model.pt", "--resume"]),
    "preprocessing damaged": (PREPROCESSING, odd, ["predict", "DIR", "digits"], ["preprocessing"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_runs(case: str, command: Command, finished_copy: Path, tmp_path: Path) -> None:
    name, damage, arguments, fragments = DAMAGE[case]
    damage(finished_copy / name)
    called = [finished_copy if argument == "DIR" else argument for argument in arguments]
    refused(command, tmp_path, called, fragments)


def test_truncated_checkpoint(command: Command, unfinished_copy: Path, tmp_path: Path) -> None:
    cut(unfinished_copy / CHECKPOINT)
    arguments = ["fit", "--resume", "--out", unfinished_copy]
    before = tree(tmp_path)
    code, _, err = command(*arguments)
    assert code == 2 and err.count("\n") == 1 and "checkpoint.pt is damaged" in err, err
    assert tree(tmp_path) == before


def test_checkpoint_of_another_configuration(command: Command, unfinished_copy: Path) -> None:
    config = unfinished_copy / CONFIG
    config.write_text(config.read_text().replace("epochs = 2", "epochs = 3"))
    code, _, err = command("fit", "--resume", "--out", unfinished_copy)
    assert code == 2 and err.count("\n") == 1 and "another config.toml" in err, err


@pytest.mark.parametrize("verb", [["report"], ["plot"], ["predict"], ["collapse"]])
def test_no_run_folder(verb: list[str], command: Command, tmp_path: Path) -> None:
    data = {"predict": ["digits"], "collapse": ["--out", tmp_path / "n.pt2"]}.get(verb[0], [])
    refused(command, tmp_path, [*verb, tmp_path, *data], ["no run folder", "--out of a fit"])
    refused(command, tmp_path, [*verb, tmp_path / "nowhere", *data], ["no run folder", "--out of a fit"])


COLLAPSED = {
    "unknown format": (["--out", "n.pt2", "--format", "tflite"], ["'tflite'", "pt2, onnx, safetensors"]),
    "no file": ([], ["--out", "symlearn collapse --help"]),
    "no such folder": (["--out", "no/n.pt2"], ["no is no folder", "a folder that exists"]),
    "a folder": (["--out", "."], ["is a folder"]),
    "share of 1": (["--out", "n.pt2", "--negligible", "1"], ["share in [0, 1), got 1"]),
    "unknown removal": (["--out", "n.pt2", "--removal", "guess"], ["'guess'", "local, measured"]),
}


@pytest.mark.parametrize("case", COLLAPSED)
def test_collapse(
    case: str, command: Command, map_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options, fragments = COLLAPSED[case]
    refused(command, tmp_path, ["collapse", map_run, *options], fragments)


def test_unknown_format_and_command(command: Command, map_run: Path, tmp_path: Path) -> None:
    refused(
        command, tmp_path, ["report", map_run, "--format", "pdf"], ["'pdf'", "table, json, html, md or found"]
    )
    refused(command, tmp_path, ["repot", map_run], ["'repot'", "did you mean report?"])
    refused(command, tmp_path, ["report"], ["DIR", "symlearn report --help"])


PREDICTED = {
    "other size": (np.zeros((2, 12, 12), np.float32), ["12x12", "8x8", "16x16"]),
    "other channels": (np.zeros((2, 3, 16, 16), np.float32), ["[2, 3, 16, 16]", "[n, 1, h, w]"]),
    "NaN": (np.full((2, 16, 16), np.nan, np.float32), ["NaN"]),
}


@pytest.mark.parametrize("case", PREDICTED)
def test_images_that_do_not_fit(case: str, command: Command, map_run: Path, tmp_path: Path) -> None:
    images, fragments = PREDICTED[case]
    np.savez(tmp_path / "new.npz", x=images)
    refused(command, tmp_path, ["predict", map_run, tmp_path / "new.npz"], ["new.npz", *fragments])


def test_prediction_files(command: Command, map_run: Path, tmp_path: Path) -> None:
    refused(command, tmp_path, ["predict", map_run, tmp_path / "no.png"], ["no.png does not exist"])
    (tmp_path / "a.png").write_text("no image")
    refused(command, tmp_path, ["predict", map_run, tmp_path / "a.png"], ["a.png cannot be read as an image"])
    arguments = ["predict", map_run, "digits", "--out", tmp_path / "no" / "p.csv"]
    refused(command, tmp_path, arguments, ["could not write", "No such file or directory"])


@pytest.mark.slow
def test_a_disk_that_fills_while_fitting(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit ends in one line; with room again it resumes to the same end."""
    real, calls = os.fsync, 0

    def filling(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(28, "No space left on device")
        real(file)

    arguments = ["fit", *QUICK, "--selection", "none", "--epochs", "5", "--out", tmp_path / "run"]
    monkeypatch.setattr(os, "fsync", filling)
    code, _, err = command(*arguments)
    assert code == 2 and err.count("\n") == 1, err
    assert "No space left on device" in err and "make room and resume" in err
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.endswith(".tmp")]
    monkeypatch.setattr(os, "fsync", real)
    code, _, err = command("fit", "--resume", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert len(RunFolder(tmp_path / "run").metrics()) == 5


def test_a_disk_that_is_full_from_the_start(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = command("fit", *QUICK, "--out", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and "No space left on device" in err, err
    assert not tree(tmp_path / "run")
