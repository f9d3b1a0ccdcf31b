"""The pages of the site run, print what they show, and name commands that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest
from typer.main import get_command

from symlearn.cli import app
from symlearn.config import option_places
from symlearn.report import plots

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs"
NUMBER = re.compile(r"[-+−]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")
NOT_RUN = {
    "how-to/curvature.md": ["needs torchrun"],
    "how-to/gpu.md": ["needs a CUDA device"],
    "how-to/large-data.md": ["needs torchrun"],
    "how-to/own-loop.md": ["a Lightning module of the reader's"],
}  # every block that is not run, and why


def _runner() -> ModuleType:
    """docs/tools/run_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("run_pages", FOLDER / "tools" / "run_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()
PAGES = [path.relative_to(FOLDER).as_posix() for path in RUNNER.pages()]
TEXTS = [*sorted(FOLDER.rglob("*.md")), ROOT / "README.md"]


def words(text: str) -> list[str]:
    """Lines without their numbers and spacing: short fits differ in digits from machine to machine."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines()]


def test_index_names_every_how_to() -> None:
    index = FOLDER / "how-to" / "index.md"
    named = re.findall(r"\]\(([\w-]+\.md)\)", index.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(p.name for p in index.parent.glob("*.md") if p != index)


def test_every_python_block_is_one_that_runs() -> None:
    """No block hides from the runner by its indentation or by another spelling of its language."""
    for page in FOLDER.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        found = len(re.findall(r"^[ \t]*(```|~~~)[ {.]*(py|python|python3|pycon)\b", text, re.MULTILINE))
        assert found == len(RUNNER.BLOCK.findall(text)), page


def test_blocks_that_are_not_run_are_counted() -> None:
    told = {page: RUNNER.not_run((FOLDER / page).read_text(encoding="utf-8")) for page in PAGES}
    assert {page: reasons for page, reasons in told.items() if reasons} == NOT_RUN


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore")
def test_page_runs_and_prints_what_it_shows(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own assertions hold, and every line it shows is a line it prints, up to the digits of numbers."""
    monkeypatch.chdir(ROOT)
    text = (FOLDER / page).read_text(encoding="utf-8")
    pictures: dict[str, object] = {}
    assert words(RUNNER.rewritten(text, page, pictures)) == words(text)
    for name, figure in pictures.items():
        drawn = matplotlib.image.imread(ROOT / "figures" / name).shape[:2]
        w, h = figure.get_size_inches() * figure.dpi  # type: ignore[attr-defined]
        off = max(abs(drawn[0] - h), abs(drawn[1] - w))  # pixels; the writer cuts fractions off
        assert off < 1, f"{name} is not what {page} draws; run docs/tools/run_pages.py"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("how-to/")])
def test_how_to_shows_output(page: str) -> None:
    assert "```text" in (FOLDER / page).read_text(encoding="utf-8"), f"{page} shows no output"


def test_gallery_has_every_figure() -> None:
    """Every public function is called on the page, and every block that makes a figure has its picture."""
    text = (FOLDER / "gallery.md").read_text(encoding="utf-8")
    assert set(re.findall(r"plots\.(\w+)\(", text)) == set(plots.__all__)
    drawing = [
        found for found in RUNNER.BLOCK.finditer(text) if re.search(r"^figure = ", found["code"], re.M)
    ]
    assert len(drawing) == len(plots.__all__) - 1  # run_figures gives many at once, and is printed
    for found in drawing:
        assert found["picture"], found["code"]


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_exist(page: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    text = page.read_text(encoding="utf-8")
    for name, arguments in re.findall(r"(?:^|`)symlearn ([a-z]+)((?: [^`\n#]*)?)", text, re.MULTILINE):
        assert name in commands, f"symlearn {name}"
        known = {option for p in commands[name].params for option in (*p.opts, *p.secondary_opts)} | {
            "--help"
        }
        for option in re.findall(r"--[\w-]+", arguments):
            assert option in known, f"symlearn {name} {option}"
    anywhere = {o for c in commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    anywhere |= {f"--{name.replace('_', '-')}" for name in option_places()}
    scripts = ("--networks", "--set", "--threads")  # of the experiments
    for option in re.findall(r"`(--[\w-]+)(?: [\w<>-]+)?`", text):
        assert option in anywhere or option in scripts, option


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scripts_and_make_targets_exist(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    for script in re.findall(r"python ((?:experiments|figures|docs)/[\w/]+\.py)", text):
        assert (ROOT / script).is_file(), script
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)`", text):
        assert f"\n{target}:" in makefile, target
