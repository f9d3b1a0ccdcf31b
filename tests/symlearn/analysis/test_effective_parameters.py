"""Effective parameters by tensor, path and layer: sums, their normalised forms, and what a report makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_fits import one_layer, small_network
from torch import nn

import symlearn
from kfac import KroneckerFactors, compute_factors
from symlearn.analysis.effective_parameters import (
    effective_parameters,
    layer_reports,
    path_numbers,
    share_by_path,
)
from symlearn.layers.structure import LayerPaths, layer_paths

NUMBERS = {"parameters", "effective_parameters", "normalised", "relative", "share"}


def curvature(model: nn.Module, size: int, classes: int = 4) -> KroneckerFactors:
    """Factors over twenty random images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 1, size, size, generator=generator)
    return compute_factors(
        model, [(x, torch.randint(0, classes, (20,), generator=generator))], "classification"
    )


@pytest.fixture(scope="module")
def mixture() -> tuple[nn.Module, KroneckerFactors, dict[str, float]]:
    """The `small` network of two paths, its factors, uneven precisions; to be read only."""
    model = small_network("f-fc+conv")
    factors = curvature(model, 16)
    return model, factors, {name: 10 ** math.sin(3 * i) for i, name in enumerate(factors.names)}


def test_paths_are_sums_over_their_tensors(mixture) -> None:
    model, factors, delta = mixture
    numbers = effective_parameters(model, factors, delta)
    gamma = {n: float(g) for n, g in factors.eigendecompose().effective_parameters(delta).items()}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert list(numbers) == [layer.name for layer in layer_paths(model)]
    for layer in layer_paths(model):
        assert list(numbers[layer.name]) == list(layer.paths)
        for path, names in layer.paths.items():
            found = numbers[layer.name][path]
            assert set(found) == NUMBERS
            assert found["parameters"] == sum(sizes[n] for n in names), (layer.name, path)
            assert found["effective_parameters"] == pytest.approx(sum(gamma[n] for n in names), rel=1e-12)
            assert 0 <= found["effective_parameters"] <= found["parameters"]
    total = sum(p["effective_parameters"] for layer in numbers.values() for p in layer.values())
    assert total == pytest.approx(sum(gamma.values())), "a tensor is counted twice or not at all"


def test_each_tensor_against_its_dense_block() -> None:
    """gamma = tr (H + delta I)^-1 H."""
    model = one_layer()
    factors, delta = curvature(model, 8), 0.7
    for name, gamma in (
        factors.eigendecompose().effective_parameters(dict.fromkeys(factors.names, delta)).items()
    ):
        block = factors.to_dense(name).double()
        identity = torch.eye(len(block), dtype=torch.float64)
        truth = float(torch.linalg.solve(block + delta * identity, block).trace())
        assert float(gamma) == pytest.approx(truth, rel=1e-5), name


LAYER = LayerPaths("l", 0, True, {"f-fc": ("a", "b"), "conv": ("c",)})
SIZES = {"a": 60, "b": 40, "c": 10}


def test_normalised_relative_and_share() -> None:
    numbers = path_numbers(LAYER, {"a": 6.0, "b": 4.0, "c": 5.0}, SIZES)
    assert numbers["f-fc"] == pytest.approx(
        {"parameters": 100, "effective_parameters": 10, "normalised": 0.1, "relative": 1 / 6, "share": 2 / 3}
    )
    assert numbers["conv"] == pytest.approx(
        {"parameters": 10, "effective_parameters": 5, "normalised": 0.5, "relative": 5 / 6, "share": 1 / 3}
    )


def test_a_path_without_curvature_counts_as_off() -> None:
    numbers = path_numbers(LAYER, {"c": 5.0}, SIZES)
    assert (
        numbers["f-fc"]["effective_parameters"]
        == numbers["f-fc"]["relative"]
        == numbers["f-fc"]["share"]
        == 0
    )
    assert numbers["conv"]["relative"] == numbers["conv"]["share"] == 1


def test_a_dead_layer_divides_nothing_by_nothing() -> None:
    for gamma in ({}, {"a": 0.0, "b": 0.0, "c": 0.0}):
        numbers = path_numbers(LAYER, gamma, SIZES)
        assert {n[key] for n in numbers.values() for key in ("relative", "share", "normalised")} == {0.0}


def test_noise_of_a_regression_weakens_the_data(mixture) -> None:
    model, factors, delta = mixture
    quiet, loud = (effective_parameters(model, factors, delta, sigma) for sigma in (0.5, 2.0))
    for layer, paths in quiet.items():
        for path in paths:
            low, high = loud[layer][path]["effective_parameters"], quiet[layer][path]["effective_parameters"]
            assert low < high, (layer, path)


def test_precisions_may_be_tensors(mixture) -> None:
    model, factors, delta = mixture
    tensors = {name: torch.tensor(value) for name, value in delta.items()}
    plain, eigen = effective_parameters(model, factors, delta), factors.eigendecompose()
    for given in (factors, eigen):
        for layer, paths in effective_parameters(model, given, tensors).items():
            for path, numbers in paths.items():
                assert numbers == pytest.approx(plain[layer][path], rel=1e-6), (layer, path)


def test_a_missing_precision_is_named(mixture) -> None:
    model, factors, delta = mixture
    with pytest.raises(ValueError, match=r"no prior precision for 'head\.2\.bias'") as error:
        symlearn.effective_parameters(model, factors, {n: d for n, d in delta.items() if n != "head.2.bias"})
    assert "\n" not in str(error.value)


class TestReports:
    """The `layers` of report.json."""

    def test_every_layer_in_order(self, mixture) -> None:
        model, _, delta = mixture
        gamma = dict.fromkeys(delta, 1.0)
        reports = layer_reports(model, gamma, delta)
        assert [(r["name"], r["index"]) for r in reports] == [
            (la.name, la.index) for la in layer_paths(model)
        ]
        parameters = dict(model.named_parameters())
        for report, layer in zip(reports, layer_paths(model), strict=True):
            for path, names in layer.paths.items():
                entry = report["paths"][path]
                norm = math.sqrt(sum(float(parameters[n].detach().square().sum()) for n in names))
                assert entry["weight_norm"] == pytest.approx(norm, rel=1e-5)
                assert entry["prior_precision"] == {n: delta[n] for n in names} and entry["present"]

    @pytest.mark.parametrize(
        ("f_fc", "conv", "kind"), [(900.0, 1.0, "FC"), (1.0, 50.0, "CONV"), (60.0, 50.0, "CONV")], ids=str
    )
    def test_effective_type_goes_by_the_relative_value(self, f_fc: float, conv: float, kind: str) -> None:
        """Sixty of a thousand are less than fifty of sixty: per parameter, not in all."""
        model = one_layer()
        gamma = {"layer.paths.f-fc.theta1.weight": f_fc, "layer.paths.conv.weight": conv}
        precision = dict.fromkeys((n for n, _ in model.named_parameters()), 1.0)
        layer, head = layer_reports(model, gamma, precision)
        assert layer["effective_type"] == kind and head["effective_type"] == "LINEAR"
        assert list(head["paths"]) == ["linear"]

    def test_inactive_paths(self) -> None:
        """Listed, but with nothing in them; a layer's type is one of the paths that are left."""
        model = one_layer()
        model.layer.set_active(["conv"])
        precision = dict.fromkeys((n for n, _ in model.named_parameters()), 1.0)
        for gamma in ({"layer.paths.conv.weight": 4.0}, {}):
            layer = layer_reports(model, gamma, precision)[0]
            off = layer["paths"]["f-fc"]
            assert not off["present"] and off["effective_parameters"] == off["relative"] == 0
            assert off["prior_precision"] == {} and off["weight_norm"] == 0
            assert layer["paths"]["conv"]["present"] and layer["effective_type"] == "CONV"

    def test_share_by_path_leaves_the_head_out(self) -> None:
        model = small_network("f-fc+conv")
        precision = dict.fromkeys((n for n, _ in model.named_parameters()), 1.0)
        gamma = {n: 1.0 for n in precision if n.endswith("weight")}
        layers = sum(layer.relaxed for layer in layer_paths(model))
        shares = share_by_path({"layers": layer_reports(model, gamma, precision)})
        assert shares == pytest.approx({"f-fc": 2.0 * layers, "conv": 1.0 * layers})
