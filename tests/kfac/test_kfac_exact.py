"""KFAC is exact in every case where the theory says so (Martens & Grosse 2015; Eschenhagen et al. 2023).

Blocks between groups are zero by construction, so only the entries within a group are held against the
exact block there.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from oracles import assert_close, assert_exact, conv_patches
from torch import nn
from toys import batch_of, convolutional, deep_linear, factored, linear_on_places, mixed, mlp, seeded

import kfac

LIKELIHOODS = ("classification", "regression")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
def test_one_datum_linear(likelihood: str, weight_sharing: str) -> None:
    model, batch = mlp(), batch_of((5,), 1, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood, weight_sharing=weight_sharing)
    for name in factors.names:
        assert_exact(factors, model, batch, likelihood, name)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_one_datum_factored_within_groups(likelihood: str) -> None:
    model, batch = factored(), batch_of((2, 4, 3), 1, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood, group_factors="grouped")
    weights = [name for name in factors.names if "theta" in name and name.endswith("weight")]
    assert len(weights) == 4
    for name in weights:
        assert_exact(factors, model, batch, likelihood, name)


def test_shared_factors_are_not_exact_within_groups() -> None:
    """What sets `grouped` apart: with one B for all groups even one datum is off."""
    model, batch = factored(), batch_of((2, 4, 3), 1)
    factors = kfac.compute_factors(model, [batch], "classification", group_factors="shared")
    with pytest.raises(AssertionError, match="relative error"):
        assert_exact(factors, model, batch, "classification", "0.theta2.weight", tolerance=1e-2)


GAUSSIAN_LAST = {
    "mlp": (mlp, (5,), "2.weight"),
    "convolutional": (convolutional, (2, 5, 4), "5.weight"),
    "factored": (factored, (2, 4, 3), "5.weight"),
}


@pytest.mark.parametrize("case", GAUSSIAN_LAST)
def test_gaussian_last_linear(case: str) -> None:
    build, shape, name = GAUSSIAN_LAST[case]
    model, batch = build(), batch_of(shape, 12, likelihood="regression")
    factors = kfac.compute_factors(model, [batch], "regression")
    assert_exact(factors, model, batch, "regression", name)


@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
def test_gaussian_deep_linear_network(weight_sharing: str) -> None:
    model, batch = deep_linear(), batch_of((5,), 12, likelihood="regression")
    factors = kfac.compute_factors(model, [batch], "regression", weight_sharing=weight_sharing)
    for name in factors.names:
        assert_exact(factors, model, batch, "regression", name)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_reduce_with_equal_rows_convolution(likelihood: str) -> None:
    """A circular convolution of a constant image sees the same patch everywhere."""
    model = seeded(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(80, 3)
    )
    x, y = batch_of((2, 5, 4), 1, likelihood=likelihood)
    x = x[:, :, :1, :1].expand(x.shape).contiguous()
    factors = kfac.compute_factors(model, [(x, y)], likelihood, weight_sharing="reduce")
    assert_exact(factors, model, (x, y), likelihood, "0.weight")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_reduce_with_equal_rows_linear(likelihood: str) -> None:
    model = linear_on_places()
    x, y = batch_of((3, 2, 5), 1, likelihood=likelihood)
    x = x[:, :1, :1].expand(x.shape).contiguous()
    factors = kfac.compute_factors(model, [(x, y)], likelihood, weight_sharing="reduce")
    for name in ("0.weight", "3.weight"):
        assert_exact(factors, model, (x, y), likelihood, name)


BIASED = {
    "linear": (mlp, (5,)),
    "linear on places": (linear_on_places, (3, 2, 5)),
    "convolutional": (convolutional, (2, 5, 4)),
    "factored": (factored, (2, 4, 3)),
    "mixed": (mixed, (2, 5, 4)),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("group_factors", ["grouped", "shared"])
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
@pytest.mark.parametrize("case", BIASED)
def test_every_bias(case: str, likelihood: str, group_factors: str, weight_sharing: str) -> None:
    build, shape = BIASED[case]
    model, batch = build(), batch_of(shape, 7, likelihood=likelihood)
    factors = kfac.compute_factors(
        model, [batch], likelihood, weight_sharing=weight_sharing, group_factors=group_factors
    )
    biases = [name for name in factors.names if name.endswith("bias")]
    assert len(biases) >= 2
    for name in biases:
        assert_exact(factors, model, batch, likelihood, name)


CONVOLUTIONS = [
    pytest.param(
        {"padding_mode": m, "padding": p, "stride": s, "dilation": d, "groups": g}, id=f"{m}-{p}-{s}-{d}-{g}"
    )
    for m, p, s, d, g in itertools.product(
        ["zeros", "circular", "reflect", "replicate"], [(1, 2)], [1, 2, (2, 1)], [1, 2], [1, 2]
    )
] + [
    pytest.param({"padding": "same", "padding_mode": "circular"}, id="same-circular"),
    pytest.param({"padding": "same", "dilation": (1, 2)}, id="same-zeros-dilated"),
    pytest.param({"padding": "valid", "groups": 2}, id="valid-groups"),
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_convolution_options(options: dict) -> None:
    """Bias exact; weight's input factor from patches cut out one by one; reduce takes their mean."""
    layer = nn.Conv2d(2, 4, (3, 2), **options)
    x, y = batch_of((2, 7, 6), 4)
    places = layer(x.float()).flatten(1).shape[1]
    model = seeded(layer, nn.Tanh(), nn.Flatten(), nn.Linear(places, 3))
    factors = kfac.compute_factors(model, [(x, y)], "classification")
    assert_exact(factors, model, (x, y), "classification", "0.bias")
    rows = conv_patches(layer, x)
    block = factors["0.weight"]
    assert block.rows == rows.shape[1] * rows.shape[2]
    assert_close(block.input_factor, torch.einsum("gnri,gnrj->gij", rows, rows), 1e-12, "A, expand")
    mean = rows.mean(2)
    reduced = kfac.compute_factors(model, [(x, y)], "classification", weight_sharing="reduce")["0.weight"]
    assert_close(reduced.input_factor, torch.einsum("gni,gnj->gij", mean, mean), 1e-12, "A, reduce")
