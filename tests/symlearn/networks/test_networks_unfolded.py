"""The unfolded networks: their exact sizes, their names, and a whole fit through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from symlearn.analysis.equivariance import equivariance_report
from symlearn.layers.declared import hyperparameters_of
from symlearn.layers.structure import layer_paths
from symlearn.networks import build_model
from symlearn.report.table import layer_table_text

pytestmark = pytest.mark.pictures  # they are looked for

TOTALS = {  # CIFAR-10; shared over rotations, by channel
    "free": (56_290, 56_290),
    "cyclic-90": (21_280, 21_730),
    "cyclic-60": (17_390, 17_890),
}


@pytest.mark.parametrize("paths", TOTALS)
def test_parameter_totals(paths: str) -> None:
    for network, total in zip(("unfolded", "unfolded-published"), TOTALS[paths], strict=True):
        model = build_model(paths, network=network, in_channels=3, size=32)
        assert sum(p.numel() for p in model.parameters()) == total, network
        assert model.code_size == (27, 27) and model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("size, kernel", [(28, 7), (32, 8), (16, 7), (8, 5)])
def test_filters_go_with_the_image(size: int, kernel: int) -> None:
    model = build_model("cyclic-90", network="unfolded", size=size, alpha=4)
    weight = model.layer(0).bank("cyclic-90").analysis.weight
    assert tuple(weight.shape) == (1, 1, kernel, kernel) and model(torch.randn(1, 1, size, size)).shape == (
        1,
        10,
    )


def test_dense_networks_have_one_place() -> None:
    model = build_model("free+cyclic-60", network="unfolded-dense", size=28, alpha=12)
    assert model.code_size == (1, 1) and model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert sum(p.numel() for p in model.head.parameters()) == 24 * 10 + 10
    with pytest.raises(ValueError, match="28x30 images"):
        build_model("free", network="unfolded-dense", size=(28, 30))


def test_a_single_iteration_is_one_thresholded_dictionary() -> None:
    model = build_model("free+cyclic-60", network="unfolded-dense-once", size=16, alpha=12, classes=4)
    assert [layer.name for layer in layer_paths(model) if layer.relaxed] == ["layers.0"]
    x = torch.randn(3, 1, 16, 16)
    for name, code in model.codes(x).items():
        filters = model.layer(0).bank(name).analysis.filters()
        seen = torch.einsum("bchw,fchw->bf", x, filters)
        threshold = 0.5  # lambda at the start; its step is 1
        expected = seen.sign() * (seen.abs() - threshold).clamp_min(0)
        torch.testing.assert_close(code.flatten(1), expected, msg=lambda said, name=name: f"{name}: {said}")
    assert sum(p.numel() for p in model.head.parameters()) == 24 * 4 + 4


def test_banks_belong_to_unfolded_networks() -> None:
    with pytest.raises(ValueError, match="network='unfolded'"):
        build_model("free+conv", network="small", size=16)
    with pytest.raises(ValueError, match="unknown bank 'conv'"):
        build_model("free+conv", network="unfolded", size=16)


def test_generators_are_declared_one_a_layer_or_one_for_all() -> None:
    def declared(*learn: str) -> list[str]:
        model = build_model("free+cyclic-60", network="unfolded", size=16, alpha=12, learn=learn)
        assert not any("generator" in name for name, _ in model.named_parameters())
        return list(hyperparameters_of(model))

    assert declared() == []
    assert declared("generator") == [f"layers.{k}.paths.cyclic-60.rotations.generator" for k in range(4)]
    assert declared("shared-generator") == ["layers.0.paths.cyclic-60.rotations.generator"]


def test_banks_are_the_paths_of_a_layer() -> None:
    model = build_model("free+cyclic-90", network="unfolded", size=16, alpha=8)
    layers = layer_paths(model)
    assert [layer.name for layer in layers] == [*(f"layers.{k}" for k in range(4)), "head.0"]
    assert set(layers[0].paths) == {"free", "cyclic-90"}
    assert all(len(names) == 4 for names in layers[0].paths.values()), "filters, threshold, scale and shift"


def test_equivariance_report_measures_codes() -> None:
    """Quarter turns are exact, until free filters enter the residual that all banks see."""
    for paths, exact in (("cyclic-90", 4), ("free+cyclic-90", 1)):
        torch.manual_seed(0)
        model = build_model(paths, network="unfolded", size=16, alpha=8)
        report = equivariance_report(model, torch.randn(4, 1, 16, 16))
        assert report is not None and report["group"] == "p4"
        assert [entry["name"] for entry in report["layers"]] == [f"layers.{k}" for k in range(4)]
        worst = [max(entry["elements"]) for entry in report["layers"]]
        assert max(worst[:exact]) < 1e-5 and min(worst[exact:], default=1.0) > 1e-3, worst


TINY = (
    "--limit",
    "120",
    "--test-limit",
    "60",
    "--epochs",
    "4",
    "--alpha",
    "12",
    "--burn-in",
    "2",
    "--frequency",
    "1",
)


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["gradient", "search"])
def test_fit_from_the_command_line(selection: str, tmp_path: Path, command) -> None:
    out = tmp_path / "run"
    more = ["--rounds", "1", "--refit-epochs", "2", "--proposals", "1", "--gradient-images", "20"]
    unfolded = ("--network", "unfolded", "--paths", "free+cyclic-60", "--selection", selection)
    start = ("--learn", "generator", "--generator-offset", "-12")
    code, _, told = command("fit", *unfolded, *start, *TINY, *more, "--out", out)
    assert code == 0, told
    report = json.loads((out / "report.json").read_text())
    body = report["layers"][:4]
    assert {layer["effective_type"] for layer in body} <= {"FREE", "CYCLIC-60"}
    assert report["paths"] == ["free", "cyclic-60"] and report["log_marginal_likelihood"] is not None
    banks = [bank for layer in body if (bank := layer["paths"]["cyclic-60"])["present"]]
    learned = [bank["hyperparameters"]["rotations.generator"] for bank in banks]
    assert any(abs(value - 48) > 0.1 for value in learned) and all(24 < value < 72 for value in learned)
    assert "° off 360°" in layer_table_text(report)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any(set(line.get("generator", {})) for line in lines), "the trajectory is missing"
    if selection == "search":
        assert [p["action"] for p in report["selection"]["proposals"]] == ["remove"]
    assert (out / "figures" / "generators.png").is_file()


@pytest.mark.slow
def test_unit_norms_fit_without_evidence_alone(tmp_path: Path, command) -> None:
    network = ("--network", "unfolded-published", "--paths", "cyclic-90")
    code, _, told = command("fit", *network, "--selection", "gradient", *TINY, "--out", tmp_path / "refused")
    assert code == 2 and "no curvature rule covers" in told and "\n" not in told.strip()
    code, _, told = command("fit", *network, "--selection", "none", *TINY, "--out", tmp_path / "run")
    assert code == 0, told
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["log_marginal_likelihood"] is None and report["test"]["accuracy"] is not None
