"""FC and F-FC: the contract, and their formulas written out."""

from __future__ import annotations

import pytest
import torch
from contracts import LayerCase, LayerContract
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close, block_diagonal_f_fc
from torch import nn

from symlearn.layers import FactoredLinear2d, FullyConnected2d

SIZES = [
    # c_in, c_out, in_size, out_size
    (2, 3, 4, 2),
    (3, 2, (4, 6), (2, 3)),
    (1, 4, (5, 3), (5, 3)),
    (2, 1, (1, 7), 1),
]


def cases(layer_type: type[nn.Module], **options: bool) -> list[LayerCase]:
    """The layer at every size."""
    found = []
    for c_in, c_out, in_size, out_size in SIZES:
        h_w = (in_size, in_size) if isinstance(in_size, int) else in_size
        out = (out_size, out_size) if isinstance(out_size, int) else out_size
        wrong = ((c_in + 1, *h_w), (c_in, h_w[0] + 1, h_w[1]), (c_in, h_w[0]))

        def build(c_in=c_in, c_out=c_out, in_size=in_size, out_size=out_size) -> nn.Module:
            return layer_type(c_in, c_out, in_size, out_size, **options)

        name = f"{c_in}x{h_w[0]}x{h_w[1]} to {c_out}x{out[0]}x{out[1]}"
        found.append(LayerCase(name, build, (c_in, *h_w), (c_out, *out), wrong_shapes=wrong))
    return found


@pytest.mark.parametrize("case", cases(FullyConnected2d), ids=str)
class TestFullyConnected2d(LayerContract):
    """FC."""


@pytest.mark.parametrize("case", cases(FactoredLinear2d), ids=str)
class TestFactoredLinear2d(LayerContract):
    """F-FC."""


@pytest.mark.parametrize("case", cases(FullyConnected2d, bias=False), ids=str)
class TestFullyConnected2dWithoutBias(LayerContract):
    """FC without bias."""


@pytest.mark.parametrize("case", cases(FactoredLinear2d, bias=False), ids=str)
class TestFactoredLinear2dWithoutBias(LayerContract):
    """F-FC without biases."""


@settings(max_examples=25, deadline=None)
@given(
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    in_size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    out_size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_f_fc_equals_its_formula_and_the_block_diag_expansion(
    c_in: int, c_out: int, in_size: tuple[int, int], out_size: tuple[int, int]
) -> None:
    layer = FactoredLinear2d(c_in, c_out, in_size, out_size).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(3, c_in, *in_size, dtype=torch.float64)
    # z(c_out, c_in) = sum_x theta1 x + b1(c_out);  y(c_out, v) = sum_c_in theta2 z + b2(v)
    z = torch.einsum("oix,bix->boi", layer.theta1.weight, x.flatten(2)) + layer.theta1.bias[:, None]
    y = torch.einsum("oiv,boi->bov", layer.theta2.weight, z) + layer.theta2.bias
    truth = y.unflatten(2, out_size).detach()
    assert_close(layer(x).detach(), truth, 1e-12, "the formula")
    assert_close(block_diagonal_f_fc(layer, x).detach(), truth, 1e-12, "the block_diag expansion")


@settings(max_examples=15, deadline=None)
@given(c_in=st.integers(1, 4), c_out=st.integers(1, 4), h=st.integers(1, 5), w=st.integers(1, 5))
def test_fc_equals_its_formula(c_in: int, c_out: int, h: int, w: int) -> None:
    layer = FullyConnected2d(c_in, c_out, (h, w), (w, h)).double()
    nn.init.normal_(layer.linear.bias)
    x = torch.randn(3, c_in, h, w, dtype=torch.float64)
    theta = layer.linear.weight.unflatten(0, (c_out, w, h)).unflatten(3, (c_in, h, w))
    y = torch.einsum("oyzihw,bihw->boyz", theta, x) + layer.linear.bias.unflatten(0, (c_out, w, h))
    assert_close(layer(x).detach(), y.detach(), 1e-12, "the formula")


def test_f_fc_is_an_fc_of_rank_one_in_places() -> None:
    """For every pair of channels the dense matrix is the outer product theta2 theta1^T."""
    dense = FactoredLinear2d(2, 3, (3, 2), (2, 2)).double().to_dense().detach()
    pairs = dense.unflatten(0, (3, 4)).unflatten(2, (2, 6)).permute(0, 2, 1, 3)
    singular = torch.linalg.svdvals(pairs)
    assert float(singular[..., 1].max()) < 1e-12 * float(singular.max())


def test_initial_scales() -> None:
    layer = FactoredLinear2d(30, 40, 8, 4)
    for weight, bound in ((layer.theta1.weight, (3 / 64) ** 0.5), (layer.theta2.weight, (3 / 30) ** 0.5)):
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.theta1.bias.any() and not layer.theta2.bias.any()


@pytest.mark.parametrize("layer_type", [FullyConnected2d, FactoredLinear2d])
@pytest.mark.parametrize(
    "arguments", [(0, 1, 2, 2), (1, -1, 2, 2), (1, 1, 0, 2), (1, 1, (2, 3, 4), 2), (1, 1, 2, (2, 0))], ids=str
)
def test_wrong_sizes_are_refused(layer_type: type[nn.Module], arguments: tuple) -> None:
    with pytest.raises(ValueError, match="positive"):
        layer_type(*arguments)


@pytest.mark.parametrize("layer_type", [FullyConnected2d, FactoredLinear2d])
def test_scale_output_silences_the_linear_part(layer_type: type[nn.Module]) -> None:
    layer = layer_type(2, 3, 4, 2)
    x = torch.randn(2, 2, 4, 4)
    before = layer.to_dense().clone()
    layer.scale_output_(0.5)
    assert torch.allclose(layer.to_dense(), before / 2)
    layer.scale_output_(0.0)
    assert torch.equal(layer(x), layer(torch.zeros_like(x)))
