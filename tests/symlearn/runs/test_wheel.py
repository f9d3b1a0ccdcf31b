"""The wheel carries the published tables; without a checkout they are found, and results go among the runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from symlearn.runs import tables

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_wheel_carries_every_table(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    pytest.importorskip("setuptools", minversion="77")
    subprocess.run(
        [*pip, "--wheel-dir", str(tmp_path), str(copy_of_the_packages(tmp_path / "tree"))], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tables = {p.relative_to(ROOT / "experiments").as_posix() for p in ROOT.glob("experiments/*/*.toml")}
    assert tables and {f"symlearn/runs/tables/{name}" for name in tables} <= names
    pages = {f"symlearn/report/{name}" for name in ("page.html.j2", "found.html.j2", "page.css")}
    assert {"symlearn/py.typed", "kfac/py.typed", *pages} <= names
    assert {name.partition("/")[0] for name in names if not name.startswith("symlearn-")} == {
        "kfac",
        "symlearn",
    }


def copy_of_the_packages(place: Path) -> Path:
    """What a wheel is built from, so that building leaves the checkout alone."""
    ignore = shutil.ignore_patterns("__pycache__", "results", "*.py[co]")
    for folder in ("kfac", "symlearn", "experiments"):
        shutil.copytree(ROOT / folder, place / folder, ignore=ignore)
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, place)
    return place


def test_packaged_tables_write_their_results_among_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "package" / "tables"
    (installed / "discovery").mkdir(parents=True)
    text = (ROOT / "experiments" / "discovery" / "planted.toml").read_text()
    (installed / "discovery" / "planted.toml").write_text(text)
    monkeypatch.setattr(tables, "PACKAGED", installed)
    packaged = tables.read_experiment("planted", installed)
    assert (
        tables.results_file(packaged, "smoke", tmp_path / "runs") == tmp_path / "runs" / "planted.smoke.json"
    )
    own = tables.read_experiment("planted", ROOT / "experiments")
    beside = ROOT / "experiments" / "discovery" / "results" / "planted.smoke.json"
    assert tables.results_file(own, "smoke", tmp_path / "runs") == beside
