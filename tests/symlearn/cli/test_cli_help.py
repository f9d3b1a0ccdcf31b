"""Help: quick, because nothing heavy is imported, and complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import symlearn
from symlearn.cli import run
from symlearn.cli.options import flag
from symlearn.config import option_places
from symlearn.data import SOURCES, TASKS
from symlearn.layers.registry import PATHS
from symlearn.networks import NETWORKS

Command = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "sklearn", "laplace", "jinja2")


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import json, sys; from symlearn.cli import run\n"
        "codes = [run([*command.split(), '--help']) for command in ('', 'fit', 'report', 'predict')]\n"
        f"print(json.dumps([codes, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    codes, loaded = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0, 0, 0] and not done.stderr
    assert not loaded, f"--help imports {', '.join(loaded)}"


@pytest.mark.parametrize("name", ["fit", "estimate"])
def test_every_key_is_an_option(name: str, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = command(name, "--help")
    missing = [flag(option) for option in option_places() if f"{flag(option)} " not in out]
    assert not missing, f"{name} --help lacks {missing}"


def test_help_names_what_there_is_to_choose_from(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = command("fit", "--help")
    missing = [name for table in (SOURCES, TASKS, NETWORKS, PATHS) for name in table if name not in out]
    assert not missing, f"config.py's descriptions lack {missing}"


def test_without_arguments_the_commands_are_listed(command: Command) -> None:
    code, out, err = command()
    assert code == 0 and not err
    assert all(name in out for name in ("fit", "report", "plot", "predict", "estimate"))


def test_version(command: Command) -> None:
    assert command("--version") == (0, f"symlearn {symlearn.__version__}\n", "")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "symlearn", "fit", "--epochs", "many"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "symlearn: error: --epochs is 'many'; expected a whole number above 0\n"


def test_public_names_exist() -> None:
    for name in symlearn.__all__:
        assert getattr(symlearn, name) is not None, name


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error(searched_run: object) -> None:
    code = "import sys; from symlearn.cli import main; sys.argv = ['symlearn', 'report', sys.argv[1]]; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(searched_run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() in (0, 1)


def test_run_takes_a_list() -> None:
    assert run(["--version"]) == 0
