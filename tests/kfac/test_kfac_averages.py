"""Averages over copies of a datum: against dense blocks where exact, and against the network without copies."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_close, assert_exact
from torch import Tensor, nn
from toys import batch_of, noise, seeded

import kfac
from kfac import compute_factors, correct_eigenvalues, ggn_block, renew_input_factors


class Mean(nn.Module):
    """Outputs of copies `x * m_k`, places rolled by k, averaged with given weights."""

    def __init__(self, network: nn.Module, weights: tuple[float, ...], alike: bool = False) -> None:
        super().__init__()
        self.network, self.alike = network, alike
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def copy_weights(self) -> Tensor:
        """As given."""
        return self.weights

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, ...] -> [batch, classes]`."""
        copies = [x if self.alike else (1 + 0.3 * k) * x.roll(k, -1) for k in range(len(self.weights))]
        f = self.network(torch.stack(copies, 1).flatten(0, 1))
        return torch.einsum("bkc,k->bc", f.unflatten(0, (len(x), -1)), self.weights)


UNEVEN = (0.5, 0.3, 0.2)


def convolutional() -> nn.Sequential:
    """Conv, group norm, tanh, linear, on 2 x 4 x 4."""
    return seeded(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.GroupNorm(1, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


def test_deep_linear_networks_are_exact() -> None:
    model = Mean(seeded(nn.Linear(5, 4), nn.Linear(4, 3)), UNEVEN)
    batch = batch_of((5,), 7, likelihood="regression")
    factors = compute_factors(model, [batch], "regression")
    for name in factors:
        assert_exact(factors, model, batch, "regression", name)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_the_last_linear_biases_and_norms_of_any_network_are_exact(sharing: str) -> None:
    model, batch = Mean(convolutional(), UNEVEN), batch_of((2, 4, 4), 6, likelihood="regression")
    factors = compute_factors(model, [batch], "regression", weight_sharing=sharing)  # type: ignore[arg-type]
    for name in (
        "network.0.bias",
        "network.1.weight",
        "network.1.bias",
        "network.4.weight",
        "network.4.bias",
    ):
        assert_exact(factors, model, batch, "regression", name)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_copies_that_are_alike_are_the_network_itself(sharing: str, likelihood: str) -> None:
    network, batch = convolutional(), batch_of((2, 4, 4), 6, likelihood=likelihood)
    options = {"weight_sharing": sharing}
    alone = compute_factors(network, [batch], likelihood, **options)  # type: ignore[arg-type]
    averaged = compute_factors(Mean(network, UNEVEN, alike=True), [batch], likelihood, **options)  # type: ignore[arg-type]
    assert float(alone.log_likelihood) == pytest.approx(float(averaged.log_likelihood))
    for name in alone:
        assert_close(averaged.to_dense(f"network.{name}"), alone.to_dense(name), 1e-10, name)


def test_copies_as_places_would_be_too_small() -> None:
    """What the reduction is for: the trace of k copies alike is the network's, not a k-th of it."""
    model, batch = Mean(seeded(nn.Linear(5, 3)), (0.25,) * 4, alike=True), batch_of((5,), 6)
    found = torch.trace(compute_factors(model, [batch], "classification").to_dense("network.0.weight"))
    truth = torch.trace(ggn_block(model, batch, "classification", "network.0.weight"))
    assert 0.5 < float(found / truth) < 2


def test_averages_within_averages() -> None:
    model = Mean(nn.Sequential(nn.Flatten(), Mean(seeded(nn.Linear(6, 3)), (0.6, 0.4))), UNEVEN)
    batch = batch_of((6,), 5, likelihood="regression")
    factors = compute_factors(model, [batch], "regression")
    for name in factors:
        assert_exact(factors, model, batch, "regression", name)


def test_corrected_eigenvalues_are_those_of_the_exact_block_in_their_basis() -> None:
    model, batch = Mean(convolutional(), UNEVEN), batch_of((2, 4, 4), 6)
    factors = compute_factors(model, [batch], "classification")
    eigen = factors.eigendecompose(vectors=True)
    corrected = correct_eigenvalues(model, [batch], "classification", eigen)
    for name in factors:
        truth = torch.trace(ggn_block(model, batch, "classification", name))
        assert float(corrected.eigenvalues[name].sum()) == pytest.approx(float(truth), rel=1e-8), name


def test_half_and_half_is_the_whole() -> None:
    model, (x, y) = Mean(convolutional(), UNEVEN), batch_of((2, 4, 4), 6)
    whole = compute_factors(model, [(x, y)], "classification")
    halves = [compute_factors(model, [(x[s], y[s])], "classification") for s in (slice(3), slice(3, 6))]
    for name in whole:
        assert_close((halves[0] + halves[1]).to_dense(name), whole.to_dense(name), 1e-10, name)


def test_renewed_input_factors_are_those_that_were_there() -> None:
    model, batch = Mean(convolutional(), UNEVEN), batch_of((2, 4, 4), 6)
    factors = compute_factors(model, [batch], "classification")
    renewed = renew_input_factors(model, [batch], "classification", factors)
    for name in factors:
        assert_close(renewed.to_dense(name).detach(), factors.to_dense(name), 1e-12, name)
    louder = renew_input_factors(model, [(2 * batch[0], batch[1])], "classification", factors)
    first = louder.to_dense("network.0.weight").detach()
    assert_close(first, 4 * factors.to_dense("network.0.weight"), 1e-12, "twice the input")


def test_rows_that_are_no_copies_are_refused() -> None:
    class Wrong(Mean):
        """Says three copies and runs two."""

        def forward(self, x: Tensor) -> Tensor:
            """Two copies."""
            return self.network(torch.cat([x, x])).unflatten(0, (2, -1)).mean(0)

    with pytest.raises(ValueError, match="received 4 rows where the batch has 6"):
        compute_factors(
            Wrong(seeded(nn.Linear(5, 3)), UNEVEN), [(noise(4, 5), torch.zeros(4).long())], "classification"
        )


def test_what_averages_is_known_by_its_method() -> None:
    assert isinstance(Mean(nn.Linear(2, 2), UNEVEN), kfac.Averages)
    assert not isinstance(nn.Linear(2, 2), kfac.Averages)
