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
