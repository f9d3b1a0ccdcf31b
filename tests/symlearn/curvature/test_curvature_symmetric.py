"""Curvature of layers of a group: exact where few weights, Kronecker factors where many, against the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import assert_close, assert_exact
from torch import nn
from toys import batch_of, seeded

import kfac
import symlearn.curvature.symmetric_rules as rules
from kfac.rules import find_rule
from symlearn.layers import SymmetricLinear, SymmetricLinear2d, any_order, rotations_of, rows_in_any_order
from symlearn.layers.exchanges import turns_and_mirrors

TURN = [[[-0.5, -(0.75**0.5)], [0.75**0.5, -0.5]]]
NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "rows": (
        lambda: [
            SymmetricLinear2d(1, 2, (3, 2), (3, 2), rows_in_any_order(3, 2), rows_in_any_order(3, 2)),
            nn.Tanh(),
            SymmetricLinear2d(2, 2, (3, 2), (3, 2), rows_in_any_order(3, 2), rows_in_any_order(3, 2)),
            nn.Flatten(),
            nn.Tanh(),
            nn.Linear(12, 3),
        ],
        (1, 3, 2),
    ),
    "mirrors and channels": (
        lambda: [
            SymmetricLinear2d(2, 4, (3, 3), (3, 3), *[turns_and_mirrors(3, 3)] * 2, channels=any_order(2)),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(36, 3),
        ],
        (2, 3, 3),
    ),
    "matrices": (
        lambda: [SymmetricLinear(TURN, TURN, c_in=2, c_out=3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)],
        (2, 2),
    ),
    "signs": (
        lambda: [
            SymmetricLinear([[[0, -1], [1, 0]]], [[[0, -1], [1, 0]]], c_in=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(2, 3),
        ],
        (2, 2),
    ),
    "vectors": (
        lambda: [SymmetricLinear(rotations_of(4), rotations_of(4)), nn.Tanh(), nn.Linear(4, 3)],
        (4,),
    ),
}


def symmetric_tensors(model: nn.Module) -> list[str]:
    """Names of what layers of a group own."""
    return [
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, SymmetricLinear)
        for key, p in module._parameters.items()
        if p is not None
    ]


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("name", NETWORKS)
def test_few_weights_are_exact(name: str, likelihood: str) -> None:
    """The exact GGN block, of several data and several layers, weights and biases."""
    build, shape = NETWORKS[name]
    model, batch = seeded(*build()), batch_of(shape, 5, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    for tensor in symmetric_tensors(model):
        assert_exact(factors, model, batch, likelihood, tensor)


@pytest.mark.parametrize("name", NETWORKS)
def test_kronecker_factors_are_the_sums_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A = sum a a^T and B = sum g g^T over places, with rows from the dense basis; and A by parts, in chunks."""
    monkeypatch.setattr(rules, "EXACT_UP_TO", 0)
    monkeypatch.setattr(rules, "AT_ONCE", 50)
    build, shape = NETWORKS[name]
    model, batch = seeded(*build()), batch_of(shape, 4)
    layer = next(m for m in model.modules() if isinstance(m, SymmetricLinear))
    rule = find_rule(layer)
    assert rule is not None and not rule.exact
    x = batch[0].reshape(4, layer.c_in, layer.d_in)
    basis = layer.basis.matrix(torch.eye(len(layer.basis), dtype=torch.float64))  # [v, x, k]
    rows = torch.einsum("vxk,ncx->nvkc", basis, x).flatten(2).unsqueeze(0)
    assert_close(rule.input_rows(layer, x), rows, 1e-12, "rows")
    flat = rows[0].flatten(0, 1)
    assert_close(rule.input_factor(layer, x), (flat.T @ flat)[None], 1e-12, "A")


@pytest.mark.parametrize("name", NETWORKS)
def test_many_weights_biases_stay_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "EXACT_UP_TO", 0)
    build, shape = NETWORKS[name]
    model, batch = seeded(*build()), batch_of(shape, 5)
    factors = kfac.compute_factors(model, [batch], "classification")
    for tensor in symmetric_tensors(model):
        if tensor.endswith("bias"):
            assert_exact(factors, model, batch, "classification", tensor)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_kronecker_is_exact_where_a_datum_uses_the_weight_once(
    sharing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One output place and one datum."""
    monkeypatch.setattr(rules, "EXACT_UP_TO", 0)
    model = seeded(SymmetricLinear(any_order(4), [[0], [0]], c_in=3, c_out=2), nn.Flatten(), nn.Linear(2, 3))
    batch = batch_of((3, 4), 1)
    factors = kfac.compute_factors(model, [batch], "classification", weight_sharing=sharing)
    assert_exact(factors, model, batch, "classification", "0.weight")


def test_kronecker_is_exact_at_the_end_of_a_gaussian_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last layer of one output place under a Gaussian likelihood, any number of data."""
    monkeypatch.setattr(rules, "EXACT_UP_TO", 0)
    model = seeded(SymmetricLinear(any_order(4), [[0], [0]], c_in=2, c_out=3), nn.Flatten())
    batch = batch_of((2, 4), 6, likelihood="regression")
    factors = kfac.compute_factors(model, [batch], "regression")
    assert_exact(factors, model, batch, "regression", "0.weight")


def test_kronecker_is_no_more_than_an_approximation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where places share the weight it is off, and says so in its docstring; half the data and half add up."""
    monkeypatch.setattr(rules, "EXACT_UP_TO", 0)
    build, shape = NETWORKS["rows"]
    model, (x, y) = seeded(*build()), batch_of(shape, 6)
    factors = kfac.compute_factors(model, [(x, y)], "classification")
    halves = kfac.compute_factors(model, [(x[:3], y[:3]), (x[3:], y[3:])], "classification")
    truth = kfac.ggn_block(model, (x, y), "classification", "0.linear.weight")
    found = factors.to_dense("0.linear.weight")
    assert_close(halves.to_dense("0.linear.weight"), found, 1e-12, "two batches")
    assert 0.01 < float((found - truth).norm() / truth.norm()) < 2
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-12


@pytest.mark.parametrize("limit", [0, 1024])
def test_corrected_eigenvalues_take_both_rules(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """EKFAC's sum of eigenvalues is the exact block's trace."""
    monkeypatch.setattr(rules, "EXACT_UP_TO", limit)
    build, shape = NETWORKS["rows"]
    model, batch = seeded(*build()), batch_of(shape, 5)
    eigen = kfac.compute_factors(model, [batch], "classification").eigendecompose(vectors=True)
    corrected = kfac.correct_eigenvalues(model, [batch], "classification", eigen).eigenvalues
    truth = kfac.ggn_block(model, batch, "classification", "0.linear.weight")
    assert float(corrected["0.linear.weight"].sum()) == pytest.approx(float(truth.trace()))


def test_rule_by_the_number_of_weights() -> None:
    few, many = (
        SymmetricLinear(rotations_of(4), rotations_of(4)),
        SymmetricLinear(None, None, d_in=40, d_out=40),
    )
    assert find_rule(few).exact and not find_rule(many).exact
