"""Fits of networks that read images as sequences of rows, with diagonal blocks for what `vmap` cannot batch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_fits
import torch
from oracles import assert_close, assert_refused
from torch import Tensor, nn

import kfac
import symlearn
from symlearn.analysis.predictive import LaplacePredictive, predictive_factors
from symlearn.config import Config
from symlearn.curvature.training_set import training_factors
from symlearn.fitting.fit import fit

BODIES = {
    "lstm": lambda: nn.LSTM(8, 4, batch_first=True),
    "gru": lambda: nn.GRU(8, 4, batch_first=True),
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "transformer layer": lambda: nn.TransformerEncoderLayer(8, 2, 6, batch_first=True),
}


class Rows(nn.Module):
    """A relaxed layer before a body that reads the rows, and a head."""

    def __init__(self, kind: str, classes: int = 3) -> None:
        super().__init__()
        self.layer = symlearn.layers.RelaxedLayer2d(1, 1, 8, "f-fc+conv")
        self.body = BODIES[kind]()
        self.head = nn.Linear(4 if kind in ("lstm", "gru") else 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, 8, 8] -> [batch, classes]`."""
        rows = self.layer(x).squeeze(1)
        read = (
            self.body(rows, rows, rows) if isinstance(self.body, nn.MultiheadAttention) else self.body(rows)
        )
        return self.head((read[0] if isinstance(read, tuple) else read).mean(1))


def network(kind: str, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return Rows(kind, classes)


def declared(kind: str, **changes: Any) -> Config:
    short = {"epochs": 4, "batch_size": 20, "frequency": 2, "burn_in": 1, "rounds": 1, "refit_epochs": 1}
    short |= {"proposals": 1, "diagonal": kfac.uncovered(network(kind)), **changes}
    return Config().with_options(**short)


@pytest.mark.parametrize("selection", ["gradient", "search"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_fit_from_end_to_end(kind: str, selection: str) -> None:
    config = declared(kind, selection=selection)
    result = fit(network(kind), tiny_fits.directions(40), tiny_fits.directions(20), config)
    report = json.loads(json.dumps(result.report))
    assert report["diagonal"] == list(config.curvature.diagonal) and report["diagonal"]
    assert report["laplace"]["nll"] > 0 and report["log_marginal_likelihood"] < 0
    assert all(value > 0 for value in result.prior_precision.values())


@pytest.mark.parametrize("kind", BODIES)
def test_the_diagonal_is_the_exact_blocks(kind: str) -> None:
    x, y = tiny_fits.directions(12)
    model, data = network(kind).double(), (x.double(), y)
    config = declared(kind, fisher_type="type-2", curvature_batch_size=5).resolved(12)
    factors = training_factors(model, config, data)
    for name in config.curvature.diagonal:
        truth = kfac.ggn_block(model, data, "classification", name).diag()
        assert_close(factors.to_dense(name).diag(), truth, 1e-10, name)


@pytest.mark.parametrize("eigenvalues", ["corrected", "partial-traces"])
def test_corrected_eigenvalues(eigenvalues: str) -> None:
    config = declared("lstm", selection="gradient", eigenvalues=eigenvalues)
    result = fit(network("lstm"), tiny_fits.directions(30), None, config)
    assert result.report["log_marginal_likelihood"] < 0


@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_predictions_by_all_weights(kind: str) -> None:
    data, config = tiny_fits.directions(30), declared(kind, selection="gradient")
    result = fit(network(kind), data, None, config)
    factors = predictive_factors(result.model, data, config)
    predictive = LaplacePredictive(result.model, factors, result.prior_precision)
    probabilities = predictive.probabilities(data[0][:5])
    assert_close(probabilities.sum(1), torch.ones(5, dtype=torch.float64), 1e-10, "sums")
    assert_close(predictive.outputs(data[0][:5])[0], result.model(data[0][:5]), 1e-5, "means")


@pytest.mark.parametrize("kind", BODIES)
def test_an_estimate_runs_on_shapes(kind: str) -> None:
    cost = symlearn.estimate(network(kind), tiny_fits.directions(40), None, declared(kind))
    assert cost.memory.curvature.factors > 0


def test_weights_that_are_not_declared_are_named() -> None:
    config = declared("attention", selection="gradient", diagonal=[])
    data = tiny_fits.directions(20)
    words = (
        "no curvature rule covers body.in_proj_weight, so the evidence cannot see it; list it in curvature"
    )
    assert_refused(lambda: fit(network("attention"), data, None, config), words)
