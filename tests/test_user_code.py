"""What editors and type checkers see of a user's script; what autocompletion names."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kfac
import symlearn

SCRIPT = """
from torch.utils.data import DataLoader

import kfac
import symlearn

splits = symlearn.load_data("planted-side")
model = symlearn.build_model("f-fc+conv", alpha=10, in_channels=3, size=32, classes=10)
result = symlearn.fit(model, splits.train, splits.test, symlearn.Config())
loader = DataLoader(splits.train, batch_size=100)
factors = kfac.compute_factors(model, loader, "classification")
plain = symlearn.collapse(model, result)
reveal_type(symlearn.fit)
reveal_type(result)
reveal_type(factors)
reveal_type(kfac.KfacGGN)
reveal_type(symlearn.layers.CircularConv2d(1, 2))
reveal_type(symlearn.SymmetryClassifier(paths="conv"))
"""
REVEALED = ("def (", "FitResult", "KroneckerFactors", "KfacGGN", "CircularConv2d", "SymmetryClassifier")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A user's file, in a folder of its own."""
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def checked(command: list[str], folder: Path) -> str:
    """What a type checker prints about a file that it accepts."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_mypy(script: Path, pytestconfig: pytest.Config) -> None:
    """What mypy knows of the libraries is kept from run to run."""
    kept = pytestconfig.cache.mkdir("mypy") if pytestconfig.cache else script.parent / "mypy"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(kept), str(script)]
    said = checked(command, script.parent)
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    assert len(revealed) == len(REVEALED), said
    for expected, found in zip(REVEALED, revealed, strict=True):
        assert expected in found and found != "Any", found


@pytest.mark.slow
def test_pyright(script: Path) -> None:
    """In pyright's standard mode."""
    (script.parent / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    said = checked(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, str(script)], script.parent
    )
    revealed = re.findall(r'Type of ".*" is "(.*)"', said)
    assert len(revealed) == len(REVEALED), said
    for expected, found in zip(["->", *REVEALED[1:]], revealed, strict=True):
        assert expected in found and found not in ("Any", "Unknown"), found


@pytest.mark.parametrize("package", [symlearn, kfac], ids=lambda package: package.__name__)
def test_dir_names_everything_public(package: object) -> None:
    """Whether it was imported before or not, and nothing but that."""
    names = package.__all__
    assert dir(package) == sorted(names) and len(set(names)) == len(names)
    for name in names:
        assert getattr(package, name) is not None, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.slow
def test_rooms_are_reachable_after_one_import() -> None:
    code = "import symlearn\nfor room in ('layers', 'networks', 'data', 'analysis'): getattr(symlearn, room)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_names_are_those_of_the_hints() -> None:
    """What is imported on first use, what type checkers read and `__all__` are lists of their own."""
    assert set(symlearn.__all__) == {*symlearn._PUBLIC, *symlearn._ROOMS, "__version__"}
    assert set(kfac._LAZY) < set(kfac.__all__)
    for package, lazy in ((symlearn, symlearn._PUBLIC), (kfac, kfac._LAZY)):
        source = Path(package.__file__).read_text(encoding="utf-8")
        block = source[source.index("if TYPE_CHECKING") :].split("\n\n")[0]
        hinted = {
            name.split(" as ")[0].strip()
            for line in re.sub(r"\(\s*|\s*\)", "", re.sub(r",?\n\s{8,}", ", ", block)).splitlines()[1:]
            if not line.strip().startswith("from symlearn import")
            for name in line.partition(" import ")[2].strip(", ").split(",")
        }
        assert hinted == set(lazy)


def test_version_is_that_of_the_distribution() -> None:
    assert symlearn.__version__ == importlib.metadata.version("symlearn")


def test_another_kfac_is_named(tmp_path: Path) -> None:
    (tmp_path / "kfac").mkdir()
    (tmp_path / "kfac" / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import symlearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"({tmp_path / 'kfac'}) is not symlearn's" in done.stderr, done.stderr
    assert "pip uninstall kfac" in done.stderr.splitlines()[-1]
