"""Whole fits of averaged networks: resumed bit by bit, reported, told, collapsed, exported, estimated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import symlearn
from symlearn.config import Config, ModelConfig
from symlearn.cost.estimate import estimate
from symlearn.fitting.fit import fit
from symlearn.fitting.result import FitResult, Progress
from symlearn.fitting.stages import Fit
from symlearn.layers import OrbitAverage
from symlearn.networks import averaged, build_model, configured_model
from symlearn.report.plots import run_figures
from symlearn.report.table import layer_table_text
from symlearn.transfer.export import export

TRANSFORMS = "rotation,translation-x:0.1,flip-x"
SETTINGS: dict[str, Any] = {
    "selection": "gradient",
    "epochs": 4,
    "batch_size": 20,
    "burn_in": 2,
    "frequency": 1,
    "removal_rounds": 0,
    "gradient_images": 12,
    "learn": "invariances",
    "transforms": TRANSFORMS,
    "copies": 3,
}


def model() -> nn.Module:
    """A convolutional network on 8 x 8, averaged."""
    torch.manual_seed(0)
    network = build_model("conv", network="small", alpha=1, size=8, classes=2)
    return averaged(network, Config().with_options(**SETTINGS).model, 1, 8)


def data(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Bars that lie or stand, on a noisy ground."""
    generator = torch.Generator().manual_seed(1)
    x, y = 0.3 * torch.randn(n, 1, 8, 8, generator=generator), torch.arange(n) % 2
    x[y == 0, :, 3:5] += 2
    x[y == 1, :, :, 3:5] += 2
    return x, y


@pytest.fixture(scope="module")
def result() -> FitResult:
    """A short fit."""
    return fit(model(), data(), data(20), Config().with_options(**SETTINGS, gradient="local"))


def test_ranges_move_and_are_reported(result: FitResult) -> None:
    entries = {entry["transform"]: entry for entry in result.report["ranges"]}
    assert list(entries) == ["rotation", "translation-x", "flip-x"]
    assert entries["rotation"]["name"] == "ranges.rotation" and entries["rotation"]["learned"]
    assert entries["rotation"]["range"] != pytest.approx(20, abs=0.01)
    assert 0.002 <= entries["flip-x"]["range"] <= 0.5
    moved = [row["range"]["ranges.rotation"] for row in result.metrics if row.get("range")]
    assert moved and moved[-1] != moved[0]


def test_table_page_and_figure_say_them(result: FitResult) -> None:
    report = {**result.report, "training": {**result.report["training"], "learned": True}}
    text = " ".join(layer_table_text(report).split())
    assert "Images count as the same when turned by up to ±" in text
    assert "mirrored left to right with probability" in text and "the evidence chose the ranges." in text
    markdown = layer_table_text(report, "md")
    assert "| input | copies | rotation | turned by up to ±" in markdown
    assert "| layer 0 |" in markdown, "layers of an averaged network are called by their depth"
    figure = run_figures(report, result.metrics)["ranges"]
    assert "rotation" in figure.get_label() and len(figure.axes) == 3
    nothing = {**report, "training": {"learned": False}}
    assert "count as the same" not in layer_table_text(nothing)


def test_a_resumed_fit_takes_the_same_steps(tmp_path: Path) -> None:
    config = Config().with_options(**SETTINGS)
    whole = fit(model(), data(), None, config)

    class Stop(Exception):
        """The plug is pulled."""

    def stop(told: Progress) -> None:
        if told.epoch == 2:
            raise Stop

    folder, held = tmp_path / "run", Fit.save
    try:
        Fit.save = lambda self, force=True: held(self, True)  # type: ignore[method-assign]
        with pytest.raises(Stop):
            fit(model(), data(), None, config, out=folder, progress=stop)
    finally:
        Fit.save = held  # type: ignore[method-assign]
    resumed = fit(model(), data(), None, config, out=folder, resume=True)
    assert isinstance(resumed.model, OrbitAverage) and isinstance(whole.model, OrbitAverage)
    assert resumed.model.drawn == whole.model.drawn > 0
    for name, value in whole.model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.report["ranges"] == whole.report["ranges"]


@pytest.mark.slow
def test_a_collapsed_network_has_its_transforms_at_fixed_points(result: FitResult, tmp_path: Path) -> None:
    plain = symlearn.collapse(result.model, result)
    assert plain.collapse_report.relative_change < 1e-5  # type: ignore[union-attr]
    x = data(6)[0]
    with torch.no_grad():
        assert torch.allclose(plain(x), result.model(x), atol=1e-6)
        assert torch.equal(plain(x), plain(x))
    change = export(plain, x, tmp_path / "network.pt2", "pt2")
    assert change is not None and change < 1e-5


@pytest.mark.slow
def test_an_estimate_counts_the_copies() -> None:
    config = Config().with_options(**SETTINGS)
    plain = build_model("conv", network="small", alpha=1, size=8, classes=2)
    alone = estimate(plain, data(), None, config, seconds=False)
    for gradient in ("full", "local"):
        found = estimate(model(), data(), None, config.with_options(gradient=gradient), seconds=False)
        assert found.memory.shapes == "meta" and found.memory.hyperparameters > 0
        assert found.memory.activations > 3 * alone.memory.activations


def test_the_configuration_builds_averages() -> None:
    assert isinstance(configured_model(Config().with_options(**SETTINGS).model, 1, 8, 2), OrbitAverage)
    fixed = configured_model(ModelConfig(network="small", paths="conv", transforms="rotation:90"), 1, 8, 2)
    assert isinstance(fixed, OrbitAverage) and not fixed.learn
    assert fixed.readings()[fixed.transforms[0]] == pytest.approx(90)


WRONG = {
    "nothing named": ({"learn": "invariances"}, "no transforms are named"),
    "unknown": ({"transforms": "spin"}, "unknown transform 'spin'"),
    "folds": ({"transforms": "rotation:270"}, "folds over itself"),
    "grey": ({"transforms": "hue"}, "the images have 1 channel"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_configurations_are_said_in_one_line(case: str) -> None:
    given, told = WRONG[case]
    with pytest.raises(ValueError) as error:
        configured_model(ModelConfig(network="small", paths="conv", **given), 1, 8, 2)  # type: ignore[arg-type]
    assert told in str(error.value) and "\n" not in str(error.value)


def test_rotation_expects_squares() -> None:
    with pytest.raises(ValueError, match="square images, got 8x12"):
        configured_model(ModelConfig(network="small", paths="conv", transforms="rotation"), 1, (8, 12), 2)
