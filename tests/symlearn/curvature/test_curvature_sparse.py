"""Curvature between anchors: exact where it must be, and the same by way of the full resolution.

Axes as in `kfac`.
"""

from __future__ import annotations

import pytest
import torch
from oracles import assert_close, assert_exact
from torch import nn
from toys import batch_of

import kfac
from symlearn.layers import SparseConv2d, SparseLinear2d

LIKELIHOODS = ("classification", "regression")


def sparse(mode: str = "circular") -> nn.Module:
    """S-CONV, S-FC and a linear head on 2 x 5 x 4."""
    torch.manual_seed(0)
    return nn.Sequential(
        SparseConv2d(2, 3, (3, 2), padding_mode=mode),
        nn.Tanh(),
        SparseLinear2d(3, 2, (5, 4), (3, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_one_datum_is_exact_within_groups(likelihood: str) -> None:
    model, batch = sparse(), batch_of((2, 5, 4), 1, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    for name in ("2.theta1.weight", "2.theta1.bias", "2.theta2.weight", "0.bias"):
        assert_exact(factors, model, batch, likelihood, name)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_filters_under_reduce_are_exact_on_constant_input(likelihood: str) -> None:
    model, (x, y) = sparse(), batch_of((2, 5, 4), 1, likelihood=likelihood)
    batch = (x[:, :, :1, :1].expand_as(x).contiguous(), y)
    factors = kfac.compute_factors(model, [batch], likelihood, weight_sharing="reduce")
    assert_exact(factors, model, batch, likelihood, "0.weight")


@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("groups", ["grouped", "shared"])
def test_projected_factors_are_those_of_the_anchors(mode: str, sharing: str, groups: str) -> None:
    """A and B at full resolution, projected, equal A and B of the anchors' values."""
    model, batch = sparse(mode), batch_of((2, 5, 4), 30)
    options = {"weight_sharing": sharing, "group_factors": groups}
    direct = kfac.compute_factors(model, [batch], "classification", **options)
    full = kfac.compute_factors(model, [batch], "classification", at_full_resolution=True, **options)
    projected = kfac.project_factors(model, full)
    assert full["2.theta1.weight"].input_factor.shape == (3, 20, 20)
    assert direct["2.theta1.weight"].input_factor.shape == (3, 10, 10)
    assert direct["0.weight"].input_factor.shape == (1, 6, 6)
    for name in direct:
        assert_close(projected.to_dense(name), direct.to_dense(name), 1e-12, name)


def test_shared_averages_over_groups() -> None:
    model, batch = sparse(), batch_of((2, 5, 4), 30)
    one = kfac.compute_factors(model, [batch], "classification", group_factors="shared")
    many = kfac.compute_factors(model, [batch], "classification", group_factors="grouped")
    for name in ("2.theta1.weight", "2.theta2.weight"):
        mean = many[name].output_factor.mean(0, keepdim=True)
        assert_close(one[name].output_factor, mean, 1e-12, name)


@pytest.mark.parametrize("fisher_type", ["type-2", "sketch", "mc", "empirical"])
def test_differentiable_factors_have_the_same_values(fisher_type: str) -> None:
    model, batch = sparse(), batch_of((2, 5, 4), 20)
    plain = kfac.compute_factors(model, [batch], "classification", fisher_type, seed=1)
    graph = kfac.compute_factors(model, [batch], "classification", fisher_type, seed=1, differentiable=True)
    assert float(graph.log_likelihood) == pytest.approx(plain.log_likelihood)
    for name in plain:
        assert_close(graph.to_dense(name).detach(), plain.to_dense(name), 1e-12, name)


def test_scaled_factors_stand_for_more_data() -> None:
    model, (x, y) = sparse(), batch_of((2, 5, 4), 6)
    once = kfac.compute_factors(model, [(x, y)], "classification")
    thrice = kfac.compute_factors(model, [(x.repeat(3, 1, 1, 1), y.repeat(3))], "classification")
    scaled = once.scaled(3.0)
    assert scaled.n_data == thrice.n_data
    assert scaled.log_likelihood == pytest.approx(thrice.log_likelihood)
    for name in once:
        assert_close(scaled.to_dense(name), thrice.to_dense(name), 1e-10, name)
