"""CONV: the contract, shift equivariance, and torch's own circular padding where torch can."""

from __future__ import annotations

import pytest
import torch
from contracts import LayerCase, LayerContract
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close
from torch import nn

from symlearn.layers import CircularConv2d
from symlearn.layers.conv import wrap

SIZES = [(2, 3, (4, 6), 3), (1, 2, (5, 3), 3), (3, 1, (7, 7), (5, 2)), (2, 2, (1, 4), 1), (2, 2, (2, 1), 5)]
CASES = [
    LayerCase(
        f"{c_in}x{h}x{w} k{k}",
        lambda c_in=c_in, c_out=c_out, k=k: CircularConv2d(c_in, c_out, k),
        (c_in, h, w),
        (c_out, h, w),
    )
    for c_in, c_out, (h, w), k in SIZES
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestCircularConv2d(LayerContract):
    """CONV."""


@settings(max_examples=80, deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    k_h=st.integers(1, 5),
    k_w=st.integers(1, 5),
    shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
)
def test_commutes_with_every_circular_shift(
    h: int, w: int, k_h: int, k_w: int, shift: tuple[int, int]
) -> None:
    layer = CircularConv2d(2, 3, (k_h, k_w)).double()
    x = torch.randn(2, 2, h, w, dtype=torch.float64)
    shifted = layer(x.roll(shift, (2, 3))).detach()
    assert_close(shifted, layer(x).roll(shift, (2, 3)).detach(), 1e-12, f"{h}x{w} map, shift {shift}")


@settings(max_examples=60, deadline=None)
@given(h=st.integers(1, 9), w=st.integers(1, 9), k_h=st.integers(1, 5), k_w=st.integers(1, 5))
def test_equals_torch_where_torch_can(h: int, w: int, k_h: int, k_w: int) -> None:
    ours = CircularConv2d(2, 3, (k_h, k_w)).double()
    nn.init.normal_(ours.bias)
    theirs = nn.Conv2d(2, 3, (k_h, k_w), padding="same", padding_mode="circular").double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, h, w, dtype=torch.float64)
    if k_h // 2 > h or k_w // 2 > w:  # torch pads at most once around
        with pytest.raises(RuntimeError):
            theirs(x)
        assert ours(x).shape == (2, 3, h, w)
    else:
        assert_close(ours(x).detach(), theirs(x).detach(), 1e-12, f"{h}x{w} map, {k_h}x{k_w} kernel")


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 6), before=st.integers(0, 15), after=st.integers(0, 15))
def test_wrap_goes_around_as_often_as_needed(size: int, before: int, after: int) -> None:
    x = torch.arange(size).expand(2, 3, size)
    expected = (torch.arange(-before, size + after) % size).expand(2, 3, -1)
    assert torch.equal(wrap(x, before, after, 2), expected)


def test_takes_any_size() -> None:
    layer = CircularConv2d(1, 2)
    for h, w in ((1, 1), (2, 9), (8, 3)):
        assert layer(torch.randn(1, 1, h, w)).shape == (1, 2, h, w)


def test_kaiming_start_keeps_the_scale_through_relu() -> None:
    layer = CircularConv2d(60, 60)
    bound = (6 / (60 * 9)) ** 0.5
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert not layer.bias.any()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="channel counts must be positive"):
        CircularConv2d(0, 3)
    with pytest.raises(ValueError, match="positive integer"):
        CircularConv2d(1, 3, 0)
    with pytest.raises(ValueError, match="in_size"):
        CircularConv2d(1, 3).to_dense()
