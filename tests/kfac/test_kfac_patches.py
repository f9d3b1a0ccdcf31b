"""The circular patch covariance by lags equals the one by unfolded patches, for every kernel and map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close
from torch import Tensor, nn

from kfac.rules import Conv2dRule, circular_patch_gram
from symlearn.layers import CircularConv2d


def unfolded_gram(x: Tensor, k_h: int, k_w: int) -> Tensor:
    """Sum of outer products of the circular patches, from one roll of the image a tap."""
    taps = [x.roll((-i, -j), (2, 3)) for i in range(k_h) for j in range(k_w)]
    rows = torch.stack(taps, 2).flatten(1, 2).transpose(0, 1).flatten(1)  # [c_in * tap, batch * place]
    return rows @ rows.T


@settings(max_examples=80, deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    k_h=st.integers(1, 5),
    k_w=st.integers(1, 5),
    c_in=st.integers(1, 3),
    single=st.booleans(),
)
def test_lags_equal_patches(h: int, w: int, k_h: int, k_w: int, c_in: int, single: bool) -> None:
    x = torch.randn(2, c_in, h, w, dtype=torch.float64)
    truth = unfolded_gram(x, k_h, k_w)
    found = circular_patch_gram(x.float() if single else x, k_h, k_w)
    assert found.dtype == (torch.float32 if single else torch.float64)
    assert_close(found.double(), truth, 1e-5 if single else 1e-12, f"{h}x{w} map, {k_h}x{k_w} kernel")


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 6), w=st.integers(1, 6), k_h=st.integers(1, 5), k_w=st.integers(1, 5))
def test_rule_of_the_circular_convolution(h: int, w: int, k_h: int, k_w: int) -> None:
    """The fast sum equals the one of the rule's own rows, and the rows reproduce the layer's output."""
    layer = CircularConv2d(2, 3, (k_h, k_w), bias=False).double()
    x, rule = torch.randn(2, 2, h, w, dtype=torch.float64), Conv2dRule()
    rows = rule.input_rows(layer, x)
    flat = rows.flatten(1, 2)
    assert_close(rule.input_factor(layer, x), flat.mT @ flat, 1e-12, "A")
    y = torch.einsum("nri,oi->nor", rows[0], layer.weight.flatten(1)).unflatten(2, (h, w))
    assert_close(y.detach(), layer(x).detach(), 1e-12, "rows times weight")


@pytest.mark.parametrize("size", [(6, 6), (3, 2), (12, 1)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_output_factor_of_large_and_small_maps(size: tuple[int, int], groups: int) -> None:
    """Both ways of summing (copy, or batched products) against an einsum."""
    module = nn.Conv2d(4, 8, 3, groups=groups)
    g = torch.randn(3, 8, *size, dtype=torch.float64)
    split = g.unflatten(1, (groups, 8 // groups))
    truth = torch.einsum("ngihw,ngjhw->gij", split, split)
    assert_close(Conv2dRule().output_factor(module, g), truth, 1e-12, "B")


def test_even_circular_kernel_of_torch() -> None:
    """torch's own `padding="same"` with a circular 2 x 4 kernel, whose padding is lopsided."""
    module = nn.Conv2d(2, 3, (2, 4), padding="same", padding_mode="circular").double()
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    pads = module._reversed_padding_repeated_twice
    patches = F.unfold(F.pad(x, pads, mode="circular"), (2, 4)).transpose(0, 1).flatten(1)
    assert_close(Conv2dRule().input_factor(module, x)[0], patches @ patches.T, 1e-12, "A")
