"""Relax and collapse of networks on signals and volumes.

Axes: batch, c, size (t; d, h, w).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import assert_close, assert_refused
from torch import nn

import kfac
import symlearn
from symlearn.layers import RelaxedLayer2d
from symlearn.layers.conv import CIRCULAR_CONVS
from symlearn.layers.relaxed_conv import RelaxedConv2d
from symlearn.transfer.plain import plain_copy, plain_form

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SHAPES = {"signals": (2, 9), "volumes": (2, 5, 4, 6)}
EVERY = "fc+f-fc+s-fc+conv+s-conv"


def own_network(shape: tuple[int, ...]) -> nn.Module:
    """Two convolutions, one strided, of a user's own, in float64."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS[len(shape) - 1]
    pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[len(shape) - 1]
    return nn.Sequential(
        conv(shape[0], 3, 3, padding=1),
        nn.ReLU(inplace=True),
        conv(3, 4, 2, stride=2, groups=1, padding_mode="circular", padding=1),
        nn.Tanh(),
        pool(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


@pytest.mark.parametrize("paths", ["fc", "f-fc+s-fc"])
@pytest.mark.parametrize("case", SHAPES)
def test_relaxing_changes_nothing_and_collapsing_neither(case: str, paths: str) -> None:
    shape = SHAPES[case]
    model, x = own_network(shape), torch.randn(5, *shape, dtype=torch.float64)
    relaxed = symlearn.relax(model, shape, paths)
    assert relaxed.relaxation.relaxed == ("0", "2") and not relaxed.relaxation.left
    layers = [m for m in relaxed.modules() if isinstance(m, RelaxedConv2d)]
    assert layers[0].in_size == layers[0].out_size == shape[1:]
    assert_close(relaxed(x).detach(), model(x).detach(), 1e-12, "relaxed")
    with torch.no_grad():
        for parameter in relaxed.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    plain = plain_copy(relaxed)
    assert not [m for m in plain.modules() if isinstance(m, RelaxedConv2d)]
    assert_close(plain(x).detach(), relaxed(x).detach(), 1e-10, "collapsed")


@pytest.mark.parametrize("case", SHAPES)
def test_curvature_of_a_relaxed_network(case: str) -> None:
    """Every parameter has a rule; the maps between places are exact for one datum."""
    shape = SHAPES[case]
    relaxed = symlearn.relax(own_network(shape), shape, "f-fc")
    for layer in (m for m in relaxed.modules() if isinstance(m, RelaxedConv2d)):
        with torch.no_grad():
            for parameter in layer.paths["f-fc"].parameters():
                parameter.copy_(torch.randn_like(parameter) / 3)
    batch = (torch.randn(1, *shape, dtype=torch.float64), torch.tensor([1]))
    factors = kfac.compute_factors(relaxed, [batch], "classification")
    assert factors.names == tuple(name for name, _ in relaxed.named_parameters())
    name = "2.paths.f-fc.theta1.bias"
    assert_close(factors.to_dense(name), kfac.ggn_block(relaxed, batch, "classification", name), 1e-10, name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("paths", ["conv", "conv+s-conv", "fc+s-fc", EVERY])
@pytest.mark.parametrize("size", [(6,), (4, 2, 4)], ids=str)
def test_plain_form_of_a_relaxed_layer(size: tuple[int, ...], paths: str, stride: int) -> None:
    torch.manual_seed(0)
    layer = RelaxedLayer2d(2, 3, size, paths, stride).double()
    x = torch.randn(7, 2, *size, dtype=torch.float64)
    plain = plain_form(layer)
    assert_close(plain(x).detach(), layer(x).detach(), 1e-10, "plain form")
    if paths == "conv" and stride == 1:
        assert type(plain) is CONVOLUTIONS[len(size)]


@pytest.mark.parametrize("axes", [1, 3])
def test_plain_form_of_a_convolution(axes: int) -> None:
    layer = CIRCULAR_CONVS[axes](2, 3, (3, 2, 5)[:axes], bias=False).double()
    x = torch.randn(2, 2, *(5, 4, 6)[:axes], dtype=torch.float64)
    plain = plain_form(layer)
    assert type(plain) is CONVOLUTIONS[axes]
    assert_close(plain(x).detach(), layer(x).detach(), 1e-12, "plain form")


@pytest.mark.parametrize("size", [(8,), (4, 4, 4)], ids=str)
def test_a_plain_network_exports(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = symlearn.build_model("f-fc+conv", network="small", alpha=1, size=size, classes=3).eval()
    plain, x = plain_copy(model).eval(), torch.randn(4, 1, *size)
    assert_close(plain(x).detach(), model(x).detach(), 1e-5, "plain")
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(plain, (x,), dynamic_shapes=({0: batch},)).module()
    other = torch.randn(7, 1, *size)
    assert_close(exported(other).detach(), plain(other).detach(), 1e-5, "exported")


def test_shapes_that_fit_no_convolution() -> None:
    model = own_network(SHAPES["signals"])
    assert_refused(
        lambda: symlearn.relax(model, (2, 3, 4, 5)), "[c, t] of one signal or [c, h, w] of one image"
    )
    assert_refused(lambda: symlearn.relax(model, (2, 0)), "got [2, 0]")
    assert_refused(lambda: symlearn.relax(model, (3, 9)), "takes no input [1, 3, 9]")
    assert_refused(
        lambda: symlearn.relax(nn.Sequential(nn.Conv2d(1, 1, 1)), (1, 9)), "[c, h, w] of one image, got"
    )
