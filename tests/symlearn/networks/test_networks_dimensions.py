"""Networks of relaxed layers on signals and volumes.

Axes: batch, c, size (t; d, h, w), classes.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from oracles import assert_close, assert_refused

import symlearn
from symlearn.analysis.equivariance import equivariance_error, equivariance_report
from symlearn.config import ModelConfig
from symlearn.networks import configured_model, default_network
from symlearn.networks.start_scale import synthetic_images

CASES = [("small", (8,)), ("small", (4, 8, 4)), ("ten-layer", (32,)), ("ten-layer", (64,))]


@pytest.mark.parametrize(("network", "size"), CASES, ids=str)
def test_output_and_start_scale(network: str, size: tuple[int, ...]) -> None:
    """The signal keeps its size layer by layer, and logits spread by an eighth."""
    torch.manual_seed(0)
    model = symlearn.build_model(
        "f-fc+conv+s-conv", network=network, alpha=2, in_channels=2, size=size, classes=3
    )
    x = synthetic_images(2, size)
    assert x.shape == (64, 2, *size) and float(x.std()) == pytest.approx(1, abs=1e-4)
    f = model(x)
    assert f.shape == (64, 3)
    for layer in model.layers:
        x = layer(x)
        assert 0.3 < float(x.detach().square().mean().sqrt()) < 3, layer
        x = x.relu()
    assert 0.03 < float(f.detach().std(0).mean()) < 0.5


@pytest.mark.parametrize(
    ("network", "size"), [("small", (8,)), ("small", (4, 4, 8)), ("ten-layer", (32,))], ids=str
)
def test_every_shift_leaves_a_convolutional_network_alone(network: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = symlearn.build_model("conv+s-conv", network=network, alpha=1, size=size, classes=3).double()
    x = torch.randn(3, 1, *size, dtype=torch.float64)
    dims, f = tuple(range(2, x.dim())), model(x).detach()
    for shift in itertools.product(*map(range, size)):
        assert_close(model(x.roll(shift, dims)).detach(), f, 1e-12, f"shift {shift}")


def test_networks_by_size() -> None:
    assert default_network((64,)) == default_network((32, 32, 32)) == "ten-layer"
    assert default_network((31,)) == default_network((12, 12, 12)) == default_network((64, 64, 8)) == "small"


WRONG = {
    "odd length": ({"size": (10,), "network": "small"}, "halves the signal 2 times"),
    "odd sides": ({"size": (4, 4, 6), "network": "small"}, "multiples of 4, got 4x4x6; resize the volumes"),
    "group path": ({"paths": "conv+gconv-p4", "size": (8,)}, "'gconv-p4' is not for signals of 8"),
    "network of images": (
        {"paths": "conv", "network": "all-cnn", "size": (32,)},
        "all-cnn is not for signals of 32",
    ),
    "banks": (
        {"paths": "free", "network": "unfolded", "size": (8, 8, 8)},
        "unfolded is not for volumes of 8x8x8",
    ),
    "four axes": ({"size": (4, 4, 4, 4)}, "(t,), (h, w) or (d, h, w)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str) -> None:
    arguments, words = WRONG[case]
    assert_refused(lambda: symlearn.build_model(**arguments), words)


def test_transforms_are_of_images() -> None:
    chosen = ModelConfig(network="small", transforms="translation")
    assert_refused(
        lambda: configured_model(chosen, 1, (8,), 3), "translation-y) are of images, not of signals of 8"
    )


def test_another_size_is_refused_when_it_comes() -> None:
    model = symlearn.build_model("conv", network="small", alpha=1, size=(8,), classes=3)
    for shape in [(2, 1, 12), (2, 8), (2, 1, 8, 8)]:
        assert_refused(lambda shape=shape: model(torch.zeros(shape)), "expected a map [batch, 1, 8]")


@pytest.mark.parametrize("size", [(8,), (4, 4, 8)], ids=str)
def test_measured_errors_under_shifts(size: tuple[int, ...]) -> None:
    """Convolutions are exact, fully connected layers far off; turns are not asked for."""
    torch.manual_seed(0)
    x = torch.randn(6, 1, *size)
    for paths in ("conv", "fc"):
        model = symlearn.build_model(paths, network="small", alpha=1, size=size, classes=3)
        found = equivariance_report(model, x)
        assert found["group"] == "c1" and found["exact"] and len(found["layers"]) == 6
        errors = [layer["shift"] for layer in (*found["layers"], found["network"])]
        assert all(len(layer["elements"]) == 1 for layer in found["layers"])
        assert max(errors) < 1e-5 if paths == "conv" else min(errors[:-1]) > 0.1, errors
    shifts = [(1,) * len(size)]
    assert_refused(
        lambda: equivariance_error(model, "p4", x, shifts), "p4 turns images, and these are [batch, c,"
    )
