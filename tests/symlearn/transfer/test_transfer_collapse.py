"""From a fit to a plain network and its file."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from test_transfer_relax import Residual, users
from tiny_fits import bars, directions, one_layer, options
from torch import nn

import symlearn
from kfac import compute_factors
from symlearn.fitting.result import FitResult
from symlearn.layers.structure import relaxed_layers
from symlearn.transfer.collapse import local_changes, measured_changes
from symlearn.transfer.export import FORMATS, KEY, export

SHORT = {"selection": "gradient", "epochs": 8}


@pytest.fixture(scope="module")
def result() -> FitResult:
    """A short fit of one relaxed layer, both paths on."""
    return symlearn.fit(one_layer(classes=3), directions(100), None, options(**SHORT))


class TestCollapse:
    def test_nothing_negligible_changes_nothing(self, result: FitResult) -> None:
        plain = symlearn.collapse(result.model, result, negligible=0.0)
        x = torch.randn(7, 1, 8, 8)
        torch.testing.assert_close(plain(x), result.model(x), rtol=1e-4, atol=1e-5)
        assert plain.collapse_report.relative_change < 1e-5
        assert all(fate.kept for fate in plain.collapse_report.paths)

    def test_a_path_below_the_share_is_dropped_and_the_change_measured(self, result: FitResult) -> None:
        plain = symlearn.collapse(result.model, result, negligible=0.49)
        report = plain.collapse_report
        assert [f.kept for f in report.paths] == [
            f.share >= 0.49 or f.share == max(g.share for g in report.paths if g.layer == f.layer)
            for f in report.paths
        ]
        dropped = [f for f in report.paths if not f.kept]
        assert dropped
        cut = copy.deepcopy(result.model)
        for fate in dropped:
            layer = relaxed_layers(cut)[fate.layer]
            layer.set_active([p for p in layer.active if p != fate.path])
        assert result.train is not None
        x, _ = result.train.whole()
        torch.testing.assert_close(plain(x), cut(x), rtol=1e-4, atol=1e-5)
        moved = (result.model(x) - cut(x)).abs().max().item()
        assert report.max_change == pytest.approx(moved, rel=1e-3, abs=1e-6)
        assert report.parameters[1] == sum(p.numel() for p in plain.parameters())

    def test_learned_weights_are_the_results(self, result: FitResult) -> None:
        other = one_layer(classes=3, seed=7)
        x = torch.randn(3, 1, 8, 8)
        torch.testing.assert_close(
            symlearn.collapse(other, result)(x), symlearn.collapse(result.model, result)(x)
        )

    def test_wrong_input(self, result: FitResult) -> None:
        with pytest.raises(ValueError, match="another network"):
            symlearn.collapse(nn.Linear(2, 2), result)
        with pytest.raises(ValueError, match="share in"):
            symlearn.collapse(result.model, result, negligible=1.0)
        with pytest.raises(ValueError, match="removal is one of"):
            symlearn.collapse(result.model, result, removal="guessed")  # type: ignore[arg-type]

    def test_without_data_nothing_is_measured(self, result: FitResult) -> None:
        report = symlearn.collapse(result.model, replace(result, train=None)).collapse_report
        assert (report.max_change, report.seconds) == (None, None)
        assert all(fate.delta_log_evidence is None for fate in report.paths)


class TestRemoval:
    def test_savage_dickey_against_dense_gaussians(self, result: FitResult) -> None:
        """Log posterior density minus log prior density at zero, each written out with its matrix."""
        assert result.train is not None
        torch.manual_seed(1)
        factors = compute_factors(result.model, [result.train.whole()], "classification")
        config = result.config.with_options(fisher_type="type-2")
        found = local_changes(replace(result, config=config), result.train)
        weights = dict(result.model.named_parameters())
        layer = next(iter(relaxed_layers(result.model)))
        wanted = 0.0
        for name in (n for n in weights if n.startswith(f"{layer}.paths.conv")):
            theta = weights[name].detach().flatten().double()
            delta, h = result.prior_precision[name], factors.to_dense(name).double()
            posterior = h + delta * torch.eye(len(theta)).double()
            wanted += float(-0.5 * theta @ posterior @ theta + 0.5 * torch.logdet(posterior))
            wanted -= 0.5 * len(theta) * math.log(delta)
        assert found[layer, "conv"] == pytest.approx(wanted, rel=1e-5, abs=1e-6)

    def test_measured_is_the_difference_of_two_evidences(self, result: FitResult) -> None:
        assert result.train is not None
        exact = replace(result, config=result.config.with_options(fisher_type="type-2"))
        found = measured_changes(exact, result.train)
        layer = next(iter(relaxed_layers(result.model)))
        cut = copy.deepcopy(result.model)
        relaxed_layers(cut)[layer].set_active(["f-fc"])
        evidences = [
            float(
                symlearn.log_marginal_likelihood(
                    m,
                    compute_factors(m, [result.train.whole()], "classification", group_factors="shared"),
                    result.prior_precision,
                ).total
            )
            for m in (cut, result.model)
        ]
        assert found[layer, "conv"] == pytest.approx(evidences[0] - evidences[1], rel=1e-5)


class TestExport:
    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.slow
    def test_round_trip(self, result: FitResult, file_format: str, tmp_path: Path) -> None:
        plain, x = symlearn.collapse(result.model, result), torch.randn(9, 1, 8, 8)
        path = tmp_path / f"network.{file_format}"
        change = export(plain, x, path, file_format, {"class_names": ["a", "b", "c"]})
        assert path.stat().st_size > 0
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        if file_format == "pt2":
            kept = {KEY: ""}
            loaded = torch.export.load(path, extra_files=kept).module()
            torch.testing.assert_close(loaded(x[:5]), plain(x[:5]))
            assert json.loads(kept[KEY]) == {"class_names": ["a", "b", "c"]}
        if file_format == "safetensors":
            from safetensors.torch import load_file

            assert change is None
            twin = copy.deepcopy(plain)
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.zero_()
            twin.load_state_dict(load_file(path))
            assert torch.equal(twin(x), plain(x))
        else:
            assert change is not None

    def test_an_onnx_file_computes_the_learned_network(self, result: FitResult, tmp_path: Path) -> None:
        plain, x = symlearn.collapse(result.model, result, negligible=0.0), torch.randn(9, 1, 8, 8)
        export(plain, x, tmp_path / "n.onnx", "onnx")
        session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
        found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        torch.testing.assert_close(found, result.model(x), rtol=1e-4, atol=1e-4)

    def test_refusals(self, result: FitResult, tmp_path: Path) -> None:
        plain, x = symlearn.collapse(result.model, result), torch.randn(4, 1, 8, 8)
        with pytest.raises(ValueError, match="unknown format 'tflite'"):
            export(plain, x, tmp_path / "n", "tflite")
        with pytest.raises(ValueError, match="two images"):
            export(plain, x[:1], tmp_path / "n", "pt2")
        with pytest.raises(ValueError, match="could not write"):
            export(plain, x, tmp_path / "no" / "n", "safetensors")


class TestUsersNetwork:
    def test_relaxed_fitted_collapsed_exported(self, tmp_path: Path) -> None:
        model, shape = users("residual")
        relaxed = symlearn.relax(model, shape)
        assert isinstance(relaxed, Residual)
        relaxed.hidden.requires_grad_(False)  # used by a functional call, which no curvature rule sees
        data = bars(60, "direction", size=12)[0][..., :10], bars(60, "direction", size=12)[1]
        result = symlearn.fit(relaxed, data, data, options(**SHORT))
        plain = symlearn.collapse(relaxed, result)
        assert not [m for m in plain.modules() if type(m).__module__.startswith("symlearn.")]
        assert isinstance(plain, Residual)
        export(plain, data[0][:8], tmp_path / "n.onnx", "onnx")
        session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
        found = torch.from_numpy(session.run(None, {"images": data[0].numpy()})[0])
        kept = result.model(data[0]).detach()
        dropped = plain.collapse_report.max_change
        assert (found - kept).abs().max() <= dropped + 1e-4 * kept.abs().max()

    def test_frozen_convolutions_are_kept(self) -> None:
        model, shape = users("residual")
        relaxed = symlearn.relax(model, shape)
        relaxed.hidden.requires_grad_(False)
        relaxed_layers(relaxed)["first"].paths["conv"].requires_grad_(False)
        data = bars(60, "direction", size=12)[0][..., :10], bars(60, "direction", size=12)[1]
        result = symlearn.fit(relaxed, data, None, options(**SHORT))
        plain = symlearn.collapse(relaxed, result, negligible=0.4)
        assert [f.kept for f in plain.collapse_report.paths if (f.layer, f.path) == ("first", "conv")] == [
            True
        ]
        assert not plain.first.convolution.weight.requires_grad


class Scaled(nn.Module):
    """A convolution, a parameter of its own, a head; the convolution's output is overwritten in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Linear(32, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, 1, 8, 8] -> [batch, 3]`."""
        return self.head(torch.relu_(self.conv(x)).flatten(1) * self.scale)


def scaled(**changes: object) -> FitResult:
    """A fit of it, relaxed; `scale` has no curvature rule."""
    torch.manual_seed(0)
    relaxed = symlearn.relax(Scaled(), (1, 8, 8))
    return symlearn.fit(relaxed, directions(60), None, options(**{"epochs": 3, **changes}))


def test_without_curvature_every_path_is_kept() -> None:
    result = scaled(selection="none")
    plain = symlearn.collapse(result.model, result)
    fates = plain.collapse_report.paths
    assert [(f.path, f.kept, f.effective_parameters, f.delta_log_evidence) for f in fates] == [
        ("conv", True, None, None),
        ("f-fc", True, None, None),
    ]
    assert plain.collapse_report.relative_change < 1e-5


@pytest.mark.parametrize("eigenvalues", ["kronecker", "corrected"])
@pytest.mark.parametrize("removal", ["local", "measured"])
def test_outputs_overwritten_in_place(removal: str, eigenvalues: str) -> None:
    """ReLU in place after a sum of paths: the fit, the removal of paths and the plain network go through."""
    result = scaled(selection="gradient", left_out=("scale",), eigenvalues=eigenvalues)
    plain = symlearn.collapse(result.model, result, removal=removal)
    assert all(fate.delta_log_evidence is not None for fate in plain.collapse_report.paths)
