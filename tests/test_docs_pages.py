"""The example pages run, print what they show, and are all in the index."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "examples"
PAGES = sorted(path.name for path in FOLDER.glob("*.md") if path.stem != "README")
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


def runner() -> ModuleType:
    """experiments/examples/run_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("run_pages", FOLDER / "run_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text: str) -> list[str]:
    """Lines without their numbers and spacing: short fits differ in digits from machine to machine."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines()]


def test_index_names_every_page() -> None:
    named = re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(named) == PAGES


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore")
def test_page_runs_and_prints_what_it_shows(page: str) -> None:
    """Its own assertions hold, and every line it shows is a line it prints, up to the digits of numbers."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    assert "```text" in text, f"{page} shows no output"
    assert words(runner().rewritten(text, page)) == words(text)
