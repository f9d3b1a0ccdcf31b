"""CONTRIBUTING's two tables are true: what they name is there, and a part that is registered as they say works.

Parts are registered for the length of a test, in the very registries that the table names, and then used by
the public functions that know nothing of them.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import symlearn
from symlearn.config import Config
from symlearn.data.raw import RawData, RawSplit
from symlearn.data.sources import SOURCES
from symlearn.data.tasks import TASKS, Task
from symlearn.layers.declared import Hyperparameter
from symlearn.networks import NETWORKS
from symlearn.report.page import CAPTIONS
from symlearn.runs.experiment import run_experiment

pytestmark = pytest.mark.pictures  # they are looked for

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SHORT = {"selection": "gradient", "epochs": 2, "burn_in": 1, "frequency": 1, "seed": 0}


def table(heading: str) -> dict[str, str]:
    """First column and the rest of every row of the table under a heading."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in section.splitlines() if line.startswith("|")]
    return {first: rest for first, rest in rows[2:]}


ROOMS, PARTS = table("The rooms"), table("What a new part touches")


def named(text: str) -> list[str]:
    """What stands in code quotes."""
    return re.findall(r"`([^`]+)`", text)


def path_of(name: str) -> Path:
    """A path of the table: from the root, or within the package."""
    return next((p for p in (ROOT / name, ROOT / "symlearn" / name) if p.exists()), ROOT / name)


def test_the_rooms_are_all_rooms() -> None:
    listed = set()
    for first in ROOMS:
        folder = ""
        for name in named(first):
            folder = name.rpartition("/")[0] if name.startswith("symlearn/") else folder
            listed.add(name if "/" in name else f"{folder}/{name}")
    there = {
        f"symlearn/{p.name}" + ("/" if p.is_dir() else "")
        for p in (ROOT / "symlearn").iterdir()
        if (p.is_dir() and (p / "__init__.py").exists())
        or (p.suffix == ".py" and not p.stem.startswith("__"))
    }
    assert listed == there | {"kfac/"}


@pytest.mark.parametrize("part", PARTS)
def test_what_a_new_part_touches_is_there(part: str) -> None:
    words = named(PARTS[part])
    files = [word for word in words if re.fullmatch(r"[\w/<>.]*(\.py|/)", word) and "<" not in word]
    for file in files:
        assert path_of(file).exists(), f"{part}: {file}"
    texts = [path_of(file).read_text(encoding="utf-8") for file in files if file.endswith(".py")]
    for word in set(words) - set(files):
        if re.fullmatch(r"(symlearn|kfac)[\w.]+", word):
            module, _, name = word.rpartition(".")
            assert hasattr(importlib.import_module(module), name), f"{part}: {word}"
        elif re.fullmatch(r"[A-Z]\w+|\w+\(\)|run_figures", word):
            assert any(word.removesuffix("()") in text for text in texts), f"{part}: no {word} in {files}"


def test_other_files_that_it_names_are_there() -> None:
    for name in re.findall(r"`((?:experiments|tests)/[\w/]+\.py)`", TEXT):
        assert (ROOT / name).is_file(), name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\S+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def dark_or_bright(_: Path | None) -> RawData:
    """Two classes of flat images with noise."""

    def half(n: int, seed: int) -> RawSplit:
        y = torch.arange(n) % 2
        noise = 0.1 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        return RawSplit(0.4 * y[:, None, None, None] + noise, y)

    return RawData(half(40, 0), half(20, 1), ("dark", "bright"))


class Darker(Task):
    """Every image at half of its brightness."""

    def transform(self, images: Tensor, uniform: Tensor) -> Tensor:
        """See the class."""
        return images / 2


class Averages(nn.Module):
    """A network on the mean of every image."""

    def __init__(self, paths: str, *, alpha: int | None, in_channels: int, classes: int, **_: Any) -> None:
        super().__init__()
        self.alpha = alpha or 3
        self.body = nn.Linear(in_channels, self.alpha)
        self.head = nn.Linear(self.alpha, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in_channels, h, w] -> [batch, classes]`."""
        return self.head(self.body(x.mean((2, 3))).tanh())


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data source, a task and a network."""
    monkeypatch.setitem(SOURCES, "dark-or-bright", dark_or_bright)
    monkeypatch.setitem(TASKS, "darker", Darker())
    monkeypatch.setitem(NETWORKS, "averages", Averages)


@pytest.mark.usefixtures("registered")
def test_a_data_source_and_a_task() -> None:
    plain = symlearn.load_data("dark-or-bright")
    darker = symlearn.load_data("dark-or-bright", "darker")
    assert plain.class_names == ("dark", "bright") and len(plain.train) == 40
    ratio = float(darker.preprocessing.mean[0]) / float(plain.preprocessing.mean[0])
    assert ratio == pytest.approx(0.5, rel=1e-4), "the task has done its part before anything is measured"


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_source_task_and_network_are_fitted_by_name(tmp_path: Path) -> None:
    names = {"data": "dark-or-bright", "task": "darker", "network": "averages", "alpha": 4}
    result = run_experiment(Config().with_options(**names, **SHORT), tmp_path / "run")
    assert isinstance(result.model, Averages) and result.model.alpha == 4
    assert (result.report["data"], result.report["task"]) == ("dark-or-bright", "darker")
    assert result.report["log_marginal_likelihood"] < 0


class Scaled(nn.Module):
    """Pixels divided by exp(value), and a linear map: one hyperparameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_scale", torch.tensor(1.0))
        self.linear = nn.Linear(64, 2)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The scale."""
        return {"scale": Hyperparameter(self.log_scale, read=torch.exp, kind="scale")}

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, 8, 8] -> [batch, 2]`."""
        return self.linear((x / self.log_scale.exp()).flatten(1))


@pytest.mark.slow
def test_a_hyperparameter_is_learned() -> None:
    torch.manual_seed(0)
    model, raw = Scaled(), dark_or_bright(None)
    before = float(model.log_scale)
    data = (raw.train.images, raw.train.targets)
    config = Config().with_options(**SHORT, hyper_lr=0.05)
    symlearn.fit(model, data, None, config)
    assert set(symlearn.hyperparameters_of(model)) == {"scale"}
    assert float(model.log_scale) != before, "the evidence has stepped it"


@pytest.mark.slow
def test_a_figure_is_drawn_with_its_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import symlearn.report.plots as plots

    honest = plots.run_figures

    def with_one_more(*given: Any) -> dict[str, Figure]:
        figure = Figure()
        figure.subplots().plot([0, 1])
        return {**honest(*given), "another": figure}

    monkeypatch.setattr(plots, "run_figures", with_one_more)
    monkeypatch.setitem(CAPTIONS, "another", "What another figure says.")
    options = {"limit": 60, "alpha": 1, "selection": "none", "epochs": 1, "paths": "conv"}
    run_experiment(Config().with_options(**options), tmp_path / "run")
    assert (tmp_path / "run" / "figures" / "another.png").is_file()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What another figure says." in page
