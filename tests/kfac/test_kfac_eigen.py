"""Spectra: log determinants, effective parameters and eigenbasis against dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import log_determinant
from torch import Tensor, nn
from toys import batch_of, convolutional, factored, seeded

import kfac
from symlearn.layers import CircularConv2d, FactoredLinear2d


def all_kinds() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network with a CONV, a diagonal block, a grouped convolution, an F-FC and a Linear."""
    model = seeded(
        CircularConv2d(2, 3),
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 6, 2, groups=3),
        nn.Tanh(),
        FactoredLinear2d(6, 4, (4, 3), (3, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return model.eval(), batch_of((2, 5, 4), 6)


def test_every_block_has_one_eigenvalue_a_parameter() -> None:
    model, batch = all_kinds()
    for group_factors in ("grouped", "shared"):
        factors = kfac.compute_factors(
            model, [batch], "classification", group_factors=group_factors, fallback="diagonal"
        )
        eigen = factors.eigendecompose()
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        assert {name: len(values) for name, values in eigen.eigenvalues.items()} == sizes
        assert list(eigen.names) == [name for name, _ in model.named_parameters()]
        assert all(float(values.min()) >= 0 for values in eigen.eigenvalues.values())


@pytest.mark.parametrize("group_factors", ["grouped", "shared"])
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_logdet_equals_the_dense_one(likelihood: str, group_factors: str) -> None:
    model, (x, y) = all_kinds()
    if likelihood == "regression":
        y = batch_of((2, 5, 4), 6, likelihood=likelihood)[1]
    factors = kfac.compute_factors(
        model, [(x, y)], likelihood, group_factors=group_factors, fallback="diagonal"
    )
    eigen = factors.eigendecompose()
    delta = {name: 0.1 * (i + 1) for i, name in enumerate(factors.names)}
    for sigma in (1.0, 0.3):
        dense = sum(log_determinant(factors.to_dense(n) / sigma**2, delta[n]) for n in factors.names)
        assert float(eigen.logdet(delta, sigma)) == pytest.approx(dense, rel=1e-12)


def test_effective_parameters_equal_the_dense_trace() -> None:
    model, batch = all_kinds()
    factors = kfac.compute_factors(model, [batch], "classification", fallback="diagonal")
    delta = {name: torch.tensor(0.1 * (i + 1)) for i, name in enumerate(factors.names)}
    gamma = factors.eigendecompose().effective_parameters(delta, sigma_noise=0.5)
    for name in factors.names:
        h = factors.to_dense(name) / 0.25
        dense = torch.trace(torch.linalg.solve(h + float(delta[name]) * torch.eye(len(h), dtype=h.dtype), h))
        assert float(gamma[name]) == pytest.approx(float(dense), rel=1e-9), name


@pytest.fixture(scope="module")
def spectra() -> kfac.EigenFactors:
    model, batch = all_kinds()
    return kfac.compute_factors(model, [batch], "classification", fallback="diagonal").eigendecompose()


@settings(max_examples=25, deadline=None)
@given(log_delta=st.floats(-20, 20), step=st.floats(0.01, 5))
def test_gamma_lies_between_zero_and_p_and_falls_in_delta(
    spectra: kfac.EigenFactors, log_delta: float, step: float
) -> None:
    low = spectra.effective_parameters(dict.fromkeys(spectra.names, 10.0 ** (log_delta / 3)))
    high = spectra.effective_parameters(dict.fromkeys(spectra.names, 10.0 ** ((log_delta + step) / 3)))
    for name in spectra.names:
        count = len(spectra.eigenvalues[name])
        assert 0 <= float(high[name]) <= float(low[name]) <= count, (
            f"{name}: {high[name]}, {low[name]}, {count}"
        )


def test_logdet_is_differentiable_in_precisions_and_noise(spectra: kfac.EigenFactors) -> None:
    log_delta = torch.linspace(-2, 2, len(spectra.names), dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def logdet(log_delta: Tensor, sigma: Tensor) -> Tensor:
        return spectra.logdet(dict(zip(spectra.names, log_delta.exp(), strict=True)), sigma)

    assert torch.autograd.gradcheck(logdet, (log_delta, sigma))
    (slope,) = torch.autograd.grad(logdet(log_delta, torch.tensor(1.0)), log_delta)
    delta = dict(zip(spectra.names, log_delta.detach().exp(), strict=True))
    gamma = spectra.effective_parameters(delta)
    for i, name in enumerate(spectra.names):  # d log det / d log delta = P - gamma
        assert float(slope[i]) == pytest.approx(len(spectra.eigenvalues[name]) - float(gamma[name]), rel=1e-9)


@pytest.mark.parametrize("group_factors", ["grouped", "shared"])
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
def test_eigenbasis_gives_quadratic_forms(weight_sharing: str, group_factors: str) -> None:
    """v^T H v = sum lambda c^2 with c the coordinates of v: places, order and vectors fit together."""
    model, batch = all_kinds()
    factors = kfac.compute_factors(
        model,
        [batch],
        "classification",
        weight_sharing=weight_sharing,
        group_factors=group_factors,
        fallback="diagonal",
    )
    eigen = factors.eigendecompose(vectors=True)
    for name, p in model.named_parameters():
        v = torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        c = eigen.blocks[name].coordinates(factors[name].to_groups(v))
        dense = float(v.flatten() @ factors.to_dense(name) @ v.flatten())
        assert float((eigen.eigenvalues[name] * c.square()).sum()) == pytest.approx(dense, rel=1e-10), name
        assert float(c.square().sum()) == pytest.approx(float(v.square().sum()), rel=1e-12), name


def test_coordinates_need_vectors() -> None:
    model, batch = factored(), batch_of((2, 4, 3), 3)
    factors = kfac.compute_factors(model, [batch], "classification")
    block = factors.eigendecompose().blocks["0.theta1.weight"]
    with pytest.raises(ValueError, match="vectors=True"):
        block.coordinates(factors["0.theta1.weight"].to_groups(model[0].theta1.weight))


def test_missing_precision_and_unknown_name_are_named(spectra: kfac.EigenFactors) -> None:
    with pytest.raises(ValueError, match=spectra.names[0]):
        spectra.logdet({})
    factors = kfac.compute_factors(convolutional(), [batch_of((2, 5, 4), 2)], "classification")
    with pytest.raises(KeyError, match="no factors for 'nowhere'"):
        factors["nowhere"]


def test_rank_deficient_float32_factors() -> None:
    """Blank pixels in float32: the decomposition is float64 and neither fails nor gives negative values."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    x = torch.zeros(5, 1, 8, 8)
    x[:, :, 3:5] = torch.rand(5, 1, 2, 8)
    factors = kfac.compute_factors(model, [(x, torch.arange(5))], "classification")
    for values in factors.eigendecompose(vectors=True).eigenvalues.values():
        assert values.dtype == torch.float64 and float(values.min()) >= 0


@pytest.mark.parametrize("vectors", [False, True])
def test_where_divide_and_conquer_fails_qr_takes_over(vectors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = kfac.compute_factors(factored(), [batch_of((2, 4, 3), 7)], "classification")
    wanted = factors.eigendecompose(vectors=True)

    def failing(matrix: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    monkeypatch.setattr(torch.linalg, "eigvalsh", failing)
    found = factors.eigendecompose(vectors=vectors)
    for name, block in found.blocks.items():
        values = wanted.eigenvalues[name]
        assert torch.allclose(block.eigenvalues, values, rtol=1e-9, atol=1e-12 * float(values.max())), name
        if vectors:
            entries = torch.randn(factors[name].shape, dtype=torch.float64)
            grouped = factors[name].to_groups(entries)
            assert torch.allclose(block.entries(block.coordinates(grouped), grouped), grouped), name
