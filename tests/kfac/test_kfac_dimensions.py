"""Curvature of convolutions of signals and volumes: the same rule as for images, against the same oracles.

Axes: batch, c_in, c_out, size (t; d, h, w), tap, place.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close, assert_exact, log_determinant
from torch import Tensor, nn
from toys import batch_of, noise, seeded

import kfac
from kfac.rules import ConvRule, circular_patch_gram

LIKELIHOODS = ("classification", "regression")
CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def rolled_gram(x: Tensor, *kernel: int) -> Tensor:
    """Sum of outer products of circular patches, from one roll of the map a tap."""
    dims = tuple(range(2, x.dim()))
    taps = [x.roll([-i for i in tap], dims) for tap in itertools.product(*map(range, kernel))]
    rows = torch.stack(taps, 2).flatten(1, 2).transpose(0, 1).flatten(1)  # [c_in * tap, batch * place]
    return rows @ rows.T


def patches_by_hand(module: nn.Module, x: Tensor) -> Tensor:
    """Patches `[group, batch, place, d_in]`, place by place, from `F.pad` alone; any number of axes."""
    mode = {"zeros": "constant"}.get(module.padding_mode, module.padding_mode)
    padded = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    spans = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    counts = [(n - s) // step + 1 for n, s, step in zip(padded.shape[2:], spans, module.stride, strict=True)]
    places = []
    for place in itertools.product(*map(range, counts)):
        window = padded
        for dim, at in enumerate(place):
            start = at * module.stride[dim]
            index = torch.arange(start, start + spans[dim], module.dilation[dim])
            window = window.index_select(dim + 2, index)
        places.append(window.reshape(len(x), module.groups, -1))
    return torch.stack(places, 2).transpose(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=3),
    c_in=st.integers(1, 3),
)
def test_lags_equal_patches(sides: list[tuple[int, int]], c_in: int) -> None:
    """Odd and even sizes and kernels, kernels that go around their map included."""
    size, kernel = zip(*sides, strict=True)
    x = noise(2, c_in, *size)
    found = circular_patch_gram(x, *kernel)
    assert_close(found, rolled_gram(x, *kernel), 1e-12, f"map {size}, kernel {kernel}")


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided, dilated": {"stride": 2, "dilation": 2},
    "groups, zeros around": {"groups": 2, "padding": 1},
    "circular": {"padding": "same", "padding_mode": "circular"},
    "circular, strided": {"padding": 1, "padding_mode": "circular", "stride": 2},
    "replicate": {"padding": 1, "padding_mode": "replicate"},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rows_and_factors_of_every_setting(axes: int, setting: str) -> None:
    size, kernel = (7, 6, 5)[:axes], (3, 2, 3)[:axes]
    module = CONVOLUTIONS[axes](2, 4, kernel, **SETTINGS[setting]).double()
    x, rule = noise(3, 2, *size), ConvRule()
    truth = patches_by_hand(module, x)
    assert_close(rule.input_rows(module, x), truth, 1e-14, "rows")
    flat = truth.flatten(1, 2)
    assert_close(rule.input_factor(module, x), flat.mT @ flat, 1e-12, "A")
    y = module(x)
    weight = module.weight.detach().reshape(module.groups, 4 // module.groups, -1)
    made = torch.einsum("gnri,goi->ngor", truth, weight).reshape(y.shape)
    assert_close(made, (y - module.bias.reshape(-1, *[1] * axes)).detach(), 1e-12, "rows times weight")
    g = noise(*y.shape, seed=1)
    split = g.flatten(2).unflatten(1, (module.groups, -1))
    assert_close(rule.output_factor(module, g), torch.einsum("ngip,ngjp->gij", split, split), 1e-12, "B")
    assert_close(rule.bias_rows(module, g), g.flatten(2).sum(2), 1e-14, "bias")


NETWORKS = {
    "signals": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6), 18),
    "signals of odd length, strided": (lambda: nn.Conv1d(2, 4, 2, stride=2, groups=2), (2, 7), 12),
    "volumes": (lambda: nn.Conv3d(2, 2, 2, padding="same", padding_mode="circular"), (2, 2, 3, 4), 48),
    "volumes, zeros around": (lambda: nn.Conv3d(1, 2, 3, padding=1, stride=2), (1, 3, 4, 3), 16),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("case", NETWORKS)
def test_blocks_are_exact_where_they_are_for_images(case: str, likelihood: str) -> None:
    """Biases always; the weight of the last layer under squared errors; reduce on constant maps."""
    build, shape, features = NETWORKS[case]
    model = seeded(build(), nn.Tanh(), nn.Flatten(), nn.Linear(features, 3))
    batch = batch_of(shape, 5, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    exact = ["0.bias", "3.bias", *(["3.weight"] if likelihood == "regression" else [])]
    for name in exact:
        assert_exact(factors, model, batch, likelihood, name)
    if "circular" in str(model[0]) and model[0].groups == 1:
        x, y = batch_of(shape, 1, likelihood=likelihood)
        constant = x.flatten(2)[..., :1].reshape(1, shape[0], *[1] * (len(shape) - 1)).expand(x.shape)
        one = (constant.contiguous(), y)
        reduced = kfac.compute_factors(model, [one], likelihood, weight_sharing="reduce")
        assert_exact(reduced, model, one, likelihood, "0.weight")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_convolution_as_large_as_its_map_is_a_linear_layer(axes: int) -> None:
    """One datum, one place: exact under either likelihood."""
    size = (4, 3, 2)[:axes]
    model = seeded(CONVOLUTIONS[axes](2, 3, size), nn.Flatten())
    for likelihood in LIKELIHOODS:
        batch = batch_of((2, *size), 1, likelihood=likelihood)
        factors = kfac.compute_factors(model, [batch], likelihood)
        assert_exact(factors, model, batch, likelihood, "0.weight")
        eigen, found = factors.eigendecompose(), factors.to_dense("0.weight")
        ours = float(torch.log(eigen.eigenvalues["0.weight"] + 0.5).sum())
        assert ours == pytest.approx(log_determinant(found, 0.5), rel=1e-10)


@pytest.mark.parametrize("axes", [1, 3])
def test_a_signal_is_a_low_image_and_a_thin_volume(axes: int) -> None:
    """One axis of length 1 put in or taken out leaves every factor as it is."""
    two = nn.Conv2d(2, 3, (1, 3), padding=(0, 1), padding_mode="circular")
    other = (
        nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")
        if axes == 1
        else nn.Conv3d(2, 3, (1, 1, 3), padding=(0, 0, 1), padding_mode="circular")
    )
    other.load_state_dict({k: v.reshape(other.state_dict()[k].shape) for k, v in two.state_dict().items()})
    x, y = batch_of((2, 1, 6), 7)
    models = [nn.Sequential(m, nn.Tanh(), nn.Flatten()).double() for m in (two, other)]
    data = [(x, y), (x.squeeze(2) if axes == 1 else x.unsqueeze(2), y)]
    found = [
        kfac.compute_factors(model, [batch], "classification")
        for model, batch in zip(models, data, strict=True)
    ]
    for name in ("0.weight", "0.bias"):
        assert_close(found[1].to_dense(name), found[0].to_dense(name), 1e-12, name)


@pytest.mark.parametrize("axes", [1, 3])
def test_corrected_eigenvalues(axes: int) -> None:
    """EKFAC keeps the exact block's trace, the products of different places included."""
    size = (6, 3, 2)[:axes] if axes == 1 else (2, 3, 2)
    conv = CONVOLUTIONS[axes](2, 2, 2, padding="same", padding_mode="circular")
    model = seeded(conv, nn.Tanh(), nn.Flatten(), nn.Linear(2 * torch.Size(size).numel(), 3))
    batch = batch_of((2, *size), 6)
    eigen = kfac.compute_factors(model, [batch], "classification").eigendecompose(vectors=True)
    corrected = kfac.correct_eigenvalues(model, [batch], "classification", eigen)
    truth = kfac.ggn_block(model, batch, "classification", "0.weight")
    assert float(corrected.eigenvalues["0.weight"].sum()) == pytest.approx(float(truth.trace()), rel=1e-8)


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
@pytest.mark.parametrize("axes", [1, 3])
def test_backpack_reads_them_rightly(axes: int, padding_mode: str) -> None:
    """Circular padding too, which BackPACK itself takes for zeros."""
    backpack = pytest.importorskip("backpack")
    size = (5, 2, 3)[:axes]
    conv = CONVOLUTIONS[axes](2, 2, 3, padding=1, padding_mode=padding_mode)
    model = seeded(conv, nn.Tanh(), nn.Flatten(), nn.Linear(2 * torch.Size(size).numel(), 3))
    x, y = batch_of((2, *size), 4)
    truth = torch.diag(kfac.ggn_block(model, (x, y), "classification", "0.weight")) / len(x)
    extended, loss = kfac.extend(model), backpack.extend(nn.CrossEntropyLoss())
    with backpack.backpack(*kfac.backpack_extensions(extended, backpack.extensions.DiagGGNExact())):
        loss(extended(x), y).backward()
    assert_close(model[0].weight.diag_ggn_exact.flatten(), truth, 1e-10, "diagonal")
