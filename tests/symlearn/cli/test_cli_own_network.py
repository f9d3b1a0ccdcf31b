"""`--model FILE.py:FUNCTION`: a network of the user's own, relaxed, fitted, resumed, predicted, collapsed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]
NETWORK = """
from __future__ import annotations
import dataclasses
from torch import nn
from helper import WIDTH

@dataclasses.dataclass
class Options:
    width: int = WIDTH

def build(in_channels, size, classes):
    h, w = size
    network = nn.Sequential(
        nn.Conv2d(in_channels, Options().width, 3, padding=1, padding_mode="circular"), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )
    network.alpha = 0.1  # of the user's own meaning
    return network

def dense(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def broken():
    raise RuntimeError("no\\nsuch weights")

def nothing(classes):
    return None

value = 3
"""
FIT = (
    "--data",
    "digits",
    "--limit",
    60,
    "--test-limit",
    40,
    "--epochs",
    4,
    "--rounds",
    1,
    "--refit-epochs",
    2,
)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A user's file."""
    file = tmp_path / "mine.py"
    file.write_text(NETWORK)
    (tmp_path / "helper.py").write_text("WIDTH = 4\n")
    return file


@pytest.mark.slow
def test_a_whole_run(command: Command, network: Path, tmp_path: Path) -> None:
    run, own = tmp_path / "run", f"{network}:build"
    code, out, err = command("fit", *FIT, "--model", own, "--out", run)
    assert code == 0, err
    assert f"network {own}, paths f-fc+conv" in out
    report = json.loads((run / "report.json").read_text())
    assert set(report["layers"][0]["paths"]) == {"conv", "f-fc"} and report["network"] == own
    for arguments in (("predict", run, "digits"), ("collapse", run, "--out", tmp_path / "plain.pt2")):
        code, _, err = command(*arguments)
        assert code == 2 and f"made by {own}; give it again with --model" in err, "no file is run unnamed"
        code, out, err = command(*arguments, "--model", own)
        assert code == 0, err
    assert (tmp_path / "plain.pt2").stat().st_size > 0
    code, _, err = command("predict", run, "digits", "--model", f"{network}:dense")
    assert code == 2 and "name the one that it was fitted with" in err
    code, out, _ = command("report", run)
    assert code == 0 and "conv" in out, "a report needs no network"


@pytest.mark.slow
def test_resume_asks_for_the_file(command: Command, network: Path, tmp_path: Path) -> None:
    run, own = tmp_path / "run", f"{network}:build"
    assert command("fit", *FIT, "--model", own, "--out", run)[0] == 0
    whole = json.loads((run / "report.json").read_text())
    (run / "report.json").unlink()
    (run / "checkpoint.pt").unlink()
    code, _, err = command("fit", "--resume", "--out", run)
    assert code == 2 and "give it again with --model" in err
    code, _, err = command("fit", "--resume", "--out", run, "--model", own)
    assert code == 0, err
    again: dict[str, Any] = json.loads((run / "report.json").read_text())
    assert again["log_marginal_likelihood"] == whole["log_marginal_likelihood"]


def test_estimate(command: Command, network: Path) -> None:
    code, out, err = command("estimate", *FIT, "--model", f"{network}:build")
    assert code == 0 and "parameters" in out, err


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("{file}", "expected FILE.py:FUNCTION"),
        ("{file}:no-name", "expected FILE.py:FUNCTION"),
        ("absent.py:build", "which is not there"),
        ("{file}:absent", "has no function 'absent'"),
        ("{file}:value", "has no function 'value'"),
        ("{file}:broken", "broken of .*mine.py failed: .*no such weights"),
        ("{file}:nothing", "must return an nn.Module, got NoneType"),
        ("{bad}:build", "cannot be run: .*invalid syntax"),
    ],
)
def test_wrong_names(command: Command, network: Path, tmp_path: Path, named: str, said: str) -> None:
    (tmp_path / "bad.py").write_text("def build(:\n")
    name = named.format(file=network, bad=tmp_path / "bad.py")
    code, _, err = command("fit", *FIT, "--model", name, "--out", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1 and re.search(said, err), err
    assert not (tmp_path / "run").exists()


def test_not_both(command: Command, network: Path, tmp_path: Path) -> None:
    own = ("--model", f"{network}:build")
    code, _, err = command("fit", *FIT, *own, "--network", "small", "--out", tmp_path / "run")
    assert code == 2 and "give one of them" in err


@pytest.mark.parametrize("verb", ["fit", "estimate"])
def test_no_file_is_run_because_another_names_it(
    command: Command, network: Path, tmp_path: Path, verb: str
) -> None:
    """A configuration is data: what it names is run only if it is typed as well."""
    trace = tmp_path / "ran"
    network.write_text(f"open({str(trace)!r}, 'w').close()\n{NETWORK}")
    config = tmp_path / "fit.toml"
    config.write_text(f'[data]\ndata = "digits"\nlimit = 60\n\n[model]\nmodel = "{network}:build"\n')
    out = ("--out", tmp_path / "run") if verb == "fit" else ()
    code, _, err = command(verb, config, *out)
    assert code == 2 and "give it again with --model" in err and not trace.exists()


@pytest.mark.slow
def test_options_of_the_paths_reach_the_network(command: Command, network: Path, tmp_path: Path) -> None:
    run, own = tmp_path / "run", f"{network}:build"
    code, _, err = command(
        "fit", *FIT, "--model", own, "--paths", "s-fc+conv", "--learn", "both", "--out", run
    )
    assert code == 0, err
    report = json.loads((run / "report.json").read_text())
    assert any("lengthscale" in name for name in report["tensors"])


def test_a_width_is_refused(command: Command, network: Path, tmp_path: Path) -> None:
    own = ("--model", f"{network}:build")
    code, _, err = command("fit", *FIT, *own, "--alpha", "2", "--out", tmp_path / "run")
    assert code == 2 and "has its own, leave it out" in err
