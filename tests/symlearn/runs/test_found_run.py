"""What fits of every kind of data leave for the page 'What was found', and that it is drawn from that alone.

Axes: n, c, h, w, classes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symlearn.data.free_memory
import symlearn.runs.experiment as experiment
from symlearn.config import Config
from symlearn.run_folder import EXAMPLES, FOUND, FOUND_PAGE, MODEL, PAGE, REPORT, RunFolder
from symlearn.runs.experiment import prepare, run_experiment, untrained_network
from symlearn.runs.results import draw_figures, read_found_page

pytestmark = pytest.mark.pictures  # they are looked for

TINY = {"limit": 40, "test_limit": 30, "alpha": 1, "epochs": 2, "selection": "none"}


def fitted(out: Path, **options: Any) -> dict[str, Any]:
    """found.json of a tiny fit."""
    run_experiment(Config().with_options(**{**TINY, **options}), out)
    found: dict[str, Any] = json.loads((out / FOUND).read_text())
    return found


def write_set(path: Path, channels: int, size: tuple[int, int], regression: bool = False) -> str:
    """Noise as `.npz`: 40 training images, 30 test images, three classes or two targets."""
    random = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 40), ("test", 30)):
        arrays[f"x_{name}"] = random.random((n, channels, *size)).astype(np.float32)
        targets = random.random((n, 2)).astype(np.float32)
        arrays[f"y_{name}"] = targets if regression else np.arange(n) % 3
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.slow
def test_digits_with_learned_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is there, and drawn again from files alone: no network, no data."""
    out = tmp_path / "run"
    changes = {"selection": "gradient", "burn_in": 1, "frequency": 1, "gradient_images": 20, "copies": 2}
    ranges = {"learn": "invariances", "transforms": "rotation:30,flip-x"}
    found = fitted(out, paths="conv", **changes, **ranges)
    assert found["schema"] == 1 and found["skipped"] == {} and found["seconds"] >= 0
    assert [entry["transform"] for entry in found["ranges"]] == ["rotation", "flip-x"]
    assert all(len(entry["curve"]["points"]) >= 5 for entry in found["ranges"])
    assert found["symmetries"]["seed"] == 0 and found["symmetries"]["set"] == "test"
    assert found["symmetries"]["answer_images"] == 30
    for layer in found["symmetries"]["layers"]:
        for errors in (layer["fitted"], layer["untrained"]):
            assert errors["shifts"] is None or errors["shifts"] < 1e-4, layer["name"]
    assert found["edges"]["transforms"][0]["transform"] == "rotation"
    assert len(json.loads((out / EXAMPLES).read_text())["rows"]) >= 4
    assert f'href="{FOUND_PAGE}"' in (out / PAGE).read_text()
    written = (out / FOUND_PAGE).read_text()
    for name in (MODEL, FOUND_PAGE, "figures/range-evidence.png"):
        (out / name).unlink()
    for name in ("load", "network_of", "what_was_found"):
        monkeypatch.setattr(experiment, name, None)
    folder = RunFolder.open(out)
    assert out / "figures/range-evidence.png" in draw_figures(folder)
    assert (out / FOUND_PAGE).read_text() == written
    assert read_found_page(folder).count("<img") == written.count("<img") == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_regression_on_oblong_colour_images(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set.npz", 3, (8, 12), regression=True)
    found = fitted(tmp_path / "run", data=data, likelihood="regression", paths="conv", network="small")
    assert found["skipped"] == {}
    assert found["symmetries"]["network"]["same"] == {}
    assert "not square" in found["symmetries"]["network"]["reasons"]["quarter turns"]
    assert found["symmetries"]["network"]["fitted"]["mirrors"] > 0
    names = [t["transform"] for t in found["edges"]["transforms"]]
    assert names == ["translation-x", "translation-y", "scale", "hue", "brightness", "contrast"]
    (first, *_) = json.loads((tmp_path / "run" / EXAMPLES).read_text())["rows"]
    assert np.asarray(first["cells"][0]["pixels"]).shape == (8, 12, 3)
    assert found["layers"] and found["paragraph"]


@pytest.mark.slow
def test_streamed_images_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = fitted(tmp_path / "held", paths="conv")
    monkeypatch.setattr(symlearn.data.free_memory, "SHARE", 0.0)
    streamed = fitted(tmp_path / "streamed", paths="conv")
    assert held | {"seconds": 0} == streamed | {"seconds": 0}


class Own(nn.Module):
    """A network without relaxed layers, one of whose layers takes an argument of its own."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, h, w] -> [batch, classes]`."""
        return self.head(self.norm(self.first(x)).relu().mean((2, 3)))


@pytest.mark.slow
def test_an_own_network(tmp_path: Path) -> None:
    def build(channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        return Own(channels, classes)

    options = {**TINY, "alpha": None, "model": "own.py:build"}
    run_experiment(Config().with_options(**options), tmp_path / "run", network=build)
    found = json.loads((tmp_path / "run" / FOUND).read_text())
    assert found["skipped"] == {}
    assert [layer["name"] for layer in found["symmetries"]["layers"]] == ["first", "norm"]
    assert found["symmetries"]["layers"][0]["fitted"]["shifts"] < 1e-5
    assert found["symmetries"]["network"]["fitted"]["shifts"] < 1e-4
    assert found["layers"] == [] and found["paragraph"]


def test_the_untrained_network_is_the_one_the_fit_began_with() -> None:
    prepared = prepare(Config().with_options(**{**TINY, "seed": 4}))
    state = torch.random.get_rng_state()
    again = untrained_network(prepared)
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, a), b in zip(prepared.model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_a_failure_costs_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a layer\nof mine fell over")

    monkeypatch.setattr("symlearn.analysis.found.measured_symmetries", broken)
    found = fitted(tmp_path / "run", paths="conv")
    assert found["symmetries"] is None and "a layer" in found["skipped"]["symmetries"]
    assert (tmp_path / "run" / REPORT).is_file()
    assert "fell over" in (tmp_path / "run" / FOUND_PAGE).read_text()


@pytest.fixture
def earlier(map_run: Path, tmp_path: Path) -> Path:
    """A folder to change."""
    return Path(shutil.copytree(map_run, tmp_path / "run"))


@pytest.mark.slow
def test_folders_of_earlier_versions(earlier: Path) -> None:
    for name in (FOUND, EXAMPLES, FOUND_PAGE):
        (earlier / name).unlink()
    page = read_found_page(RunFolder.open(earlier))
    assert "an earlier version" in page and "<img" not in page


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (FOUND, "[]", "found.json is damaged or of another version"),
        (FOUND, '{"schema": 9}', "found.json is damaged or of another version"),
        (EXAMPLES, '{"schema": 1}', "examples.json is damaged: it has no rows"),
        (EXAMPLES, "{", "examples.json is damaged"),
    ],
)
def test_damaged_files(earlier: Path, name: str, content: str, words: str) -> None:
    (earlier / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_found_page(RunFolder.open(earlier))
