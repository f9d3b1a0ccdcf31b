"""The README's Python runs as it stands, and its commands name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from symlearn.cli import app

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHORT = """symlearn.fit(model, splits.train, splits.test, {
    "training": {"epochs": 2}, "evidence": {"selection": "gradient", "burn_in": 1}})"""


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=[block.strip().splitlines()[0] for block in BLOCKS])
def test_python_runs(block: str) -> None:
    """As printed, but for the length of a fit."""
    exec(
        compile(block.replace("symlearn.fit(model, splits.train, splits.test)", SHORT), "README", "exec"), {}
    )


def test_there_is_python() -> None:
    assert len(BLOCKS) >= 3


def test_commands_exist() -> None:
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    used = set(re.findall(r"(?:^|`)symlearn ([a-z]+)", README, re.MULTILINE))
    assert used <= known, used - known
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z]+) +#", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_pictures_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    for picture in re.findall(r"figures/[\w-]+\.png", README):
        assert (root / picture).is_file(), picture


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_links_lead_somewhere() -> None:
    """To a file of the repository, and to a heading that is there."""
    root = Path(__file__).resolve().parents[1]
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(links) >= 10
    for link in links:
        name, _, anchor = link.partition("#")
        assert (root / name).is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (root / name).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9]+", "-", h.lower()) for h in headings}, link


def test_results_are_those_of_the_results_page() -> None:
    """Every row of its table stands on the page."""
    rows = [line for line in README.splitlines() if re.match(r"\| .*\d\.\d.* \|$", line)]
    page = (Path(__file__).resolve().parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    cells = {tuple(c.strip() for c in line.split("|")[2:6]) for line in page.splitlines() if "|" in line}
    assert len(rows) == 8
    for row in rows:
        assert tuple(cell.strip() for cell in row.split("|")[2:6]) in cells, row
