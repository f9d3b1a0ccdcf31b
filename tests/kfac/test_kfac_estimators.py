"""Monte-Carlo, sketched and empirical curvature against type-2, and the roots of the loss Hessian."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close, per_datum_gradients
from toys import batch_of, mixed, mlp

import kfac
from kfac.loss_hessian import exact_classification, regression_columns, square_root


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 12), scale=st.sampled_from([0.1, 1.0, 10.0, 100.0]), seed=st.integers(0, 99))
def test_exact_root_of_the_softmax_hessian(classes: int, scale: float, seed: int) -> None:
    f = scale * torch.randn(5, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    columns, p = exact_classification(f), f.softmax(-1)
    assert columns.shape == (classes - 1, 5, classes)
    truth = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    found = torch.einsum("kbi,kbj->bij", columns, columns)
    assert float((found - truth).abs().max()) < 1e-14


def test_exact_root_of_the_gaussian_hessian() -> None:
    f = torch.randn(4, 3)
    columns = regression_columns(f).stacked()
    found = torch.einsum("kbi,kbj->bij", columns, columns)
    assert torch.equal(found, torch.eye(3).expand(4, 3, 3))


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("fisher_type", ["mc", "sketch"])
def test_drawn_columns_converge_to_type_2(fisher_type: str, likelihood: str) -> None:
    """The mean over many samples meets type-2 within its own error, and four times the samples halve it."""
    model, batch = mixed(), batch_of((2, 5, 4), 8, likelihood=likelihood)
    exact = kfac.compute_factors(model, [batch], likelihood)
    error = {}
    for samples in (100, 1600):
        drawn = kfac.compute_factors(model, [batch], likelihood, fisher_type, samples, seed=0)
        squared = 0.0
        for name in exact.names:
            truth, found = exact[name].output_factor, drawn[name].output_factor
            squared += float((found - truth).norm() / truth.norm()) ** 2 / len(exact)
        error[samples] = squared**0.5
    assert error[1600] < 0.12, error
    assert error[1600] < 0.5 * error[100], f"no convergence: {error}"
    for name, block in exact.items():
        if block.input_factor is not None:
            assert torch.equal(block.input_factor, drawn[name].input_factor), name


@pytest.mark.parametrize("fisher_type", ["mc", "sketch"])
def test_seed_fixes_the_draw(fisher_type: str) -> None:
    model, batch = mlp(), batch_of((5,), 8)

    def block(seed: int | None) -> torch.Tensor:
        return kfac.compute_factors(model, [batch], "classification", fisher_type, 2, seed=seed).to_dense(
            "0.weight"
        )

    assert torch.equal(block(3), block(3))
    assert not torch.equal(block(3), block(4))
    torch.manual_seed(0)
    first, second = block(None), block(None)
    assert not torch.equal(first, second), "without a seed the global generator moves on"
    torch.manual_seed(0)
    assert torch.equal(first, block(None)), "and torch.manual_seed fixes it"
    state = torch.get_rng_state()
    block(3)
    assert torch.equal(state, torch.get_rng_state()), "a seed of its own leaves the global generator alone"


@pytest.mark.parametrize("samples", [1, 3])
def test_sketch_of_a_single_column_is_type_2(samples: int) -> None:
    """Two classes have one column, and its sign drops out of the outer product."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 2)).double()
    batch = batch_of((4,), 6, outputs=2)
    exact = kfac.compute_factors(model, [batch], "classification")
    drawn = kfac.compute_factors(model, [batch], "classification", "sketch", samples, seed=1)
    for name in exact.names:
        assert_close(drawn.to_dense(name), exact.to_dense(name), 1e-12, name)


def test_empirical_equals_its_formula() -> None:
    """Biases: the summed outer products of per-datum gradients. Weights: A and B from the same columns."""
    model, (x, y) = mlp(), batch_of((5,), 7)
    factors = kfac.compute_factors(model, [(x, y)], "classification", "empirical")
    for name in ("0.bias", "2.bias"):
        g = per_datum_gradients(model, (x, y), name)
        assert_close(factors.to_dense(name), g.T @ g, 1e-12, name)
    g = per_datum_gradients(model, (x, y), "0.bias")  # the gradient at the layer's output
    assert_close(factors.to_dense("0.weight"), torch.kron(g.T @ g, x.T @ x) / len(x), 1e-12, "0.weight")


def test_empirical_regression_uses_the_residuals() -> None:
    model, (x, y) = mlp(), batch_of((5,), 7, likelihood="regression")
    factors = kfac.compute_factors(model, [(x, y)], "regression", "empirical")
    residual = (model(x) - y).detach()
    assert_close(factors.to_dense("2.bias"), residual.T @ residual, 1e-12, "2.bias")
    assert factors.log_likelihood == pytest.approx(-0.5 * float(residual.square().sum()))
    assert (factors.n_data, factors.n_targets) == (7, 21)


def test_regression_targets_may_lack_the_output_axis() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 1)).double()
    x, y = batch_of((4,), 6, outputs=1, likelihood="regression")
    flat = kfac.compute_factors(model, [(x, y[:, 0])], "regression", "empirical")
    assert_close(
        flat.to_dense("0.weight"),
        kfac.compute_factors(model, [(x, y)], "regression", "empirical").to_dense("0.weight"),
        1e-14,
        "0.weight",
    )


@pytest.mark.parametrize("fisher_type", ["type-2", "mc", "sketch", "empirical"])
def test_columns_have_the_shape_they_promise(fisher_type: str) -> None:
    f, y = torch.randn(5, 4), torch.randint(0, 4, (5,))
    columns = square_root(f, y, "classification", fisher_type, 6).stacked()
    assert columns.shape == ({"type-2": 3, "empirical": 1}.get(fisher_type, 6), 5, 4)
    assert float(columns.sum(-1).abs().max()) < 1e-5, "softmax columns are orthogonal to the all-ones vector"
