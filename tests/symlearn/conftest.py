"""Tiny runs that the tests of the command line share: a few epochs on a hundred digits, one thread."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from symlearn.cli import run
from symlearn.run_folder import MODEL, PAGE, REPORT

TINY = ["--limit", "100", "--alpha", "2", "--burn-in", "1", "--seed", "3"]
SEARCH = [*TINY, "--epochs", "4", "--rounds", "1", "--refit-epochs", "2", "--proposals", "2"]


@pytest.fixture(scope="session")
def searched_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search; to be read only."""
    return finished(tmp_path_factory.mktemp("runs") / "searched", SEARCH)


@pytest.fixture(scope="session")
def map_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished MAP fit; to be read only."""
    return finished(
        tmp_path_factory.mktemp("runs") / "map",
        [*TINY, "--epochs", "2", "--selection", "none", "--paths", "conv"],
    )


@pytest.fixture
def finished_copy(map_run: Path, tmp_path: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(map_run, tmp_path / "run"))


@pytest.fixture
def unfinished_copy(finished_copy: Path) -> Path:
    """A run that was interrupted after its last checkpoint."""
    for name in (REPORT, PAGE, MODEL):
        (finished_copy / name).unlink()
    return finished_copy


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`command("fit", "--epochs", 2)`: exit code, stdout and stderr of the command line, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    torch.set_num_threads(threads)


def finished(folder: Path, options: list[str]) -> Path:
    """Fit into a folder, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run(["fit", *options, "--out", str(folder)]) == 0
    torch.set_num_threads(threads)
    return folder
