"""Fits of sums with deviations, from the strict start to a plain network."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_fits
import torch
from tiny_fits import options, state_of
from torch import Tensor, nn

import symlearn
from symlearn.fitting.result import FitResult
from symlearn.layers import RelaxedLayer2d
from symlearn.layers.structure import relaxed_layers
from symlearn.selection.changes import possible_changes
from symlearn.selection.screening import screen
from symlearn.transfer.export import export

TASKS = {  # what breaks the symmetry of the shared path
    "gconv-p4+dev-p4": tiny_fits.directions,
    "conv+dev-shifts:2": tiny_fits.quadrants,
}


class Network(nn.Module):
    """Two relaxed layers, the second of stride 2, an average over places and the group, a linear head."""

    def __init__(self, paths: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList([RelaxedLayer2d(1, 2, 8, paths), RelaxedLayer2d(2, 3, 8, paths, 2)])
        self.group = self.layers[0].group
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, h, w] -> [batch, classes]`."""
        if self.group is not None:
            x = x.unsqueeze(2).expand(-1, -1, len(self.group), -1, -1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.flatten(2).mean(2))


def network(paths: str) -> Network:
    """Drawn by a seed."""
    torch.manual_seed(0)
    return Network(paths)


def fitted(paths: str, **changes: object) -> FitResult:
    """A short fit."""
    config = options(epochs=4, proposals=2, refit_epochs=2, **changes)
    return symlearn.fit(network(paths), TASKS[paths](200), None, config)


@pytest.fixture(scope="module", params=TASKS)
def by_gradient(request: pytest.FixtureRequest) -> FitResult:
    """All paths on at the end."""
    return fitted(request.param, selection="gradient", removal_rounds=0)


def test_reports_carry_the_share_of_the_deviations(by_gradient: FitResult) -> None:
    for layer in by_gradient.report["layers"]:
        if "verdict" in layer:
            assert 0 < layer["verdict"]["deviation"] < 1 and layer["verdict"]["nearly"] is None
            for entry in layer["paths"].values():
                assert 0 <= entry["effective_parameters"] <= entry["parameters"]


def test_collapsed_and_exported(by_gradient: FitResult, tmp_path: Path) -> None:
    plain = symlearn.collapse(by_gradient.model, by_gradient, negligible=0.0, removal="local")
    assert plain.collapse_report.relative_change < 1e-5
    assert all(fate.kept for fate in plain.collapse_report.paths)
    assert [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
    assert [m.in_features for m in plain.modules() if isinstance(m, nn.Linear)] == [3], "the head alone"
    change = export(plain, torch.randn(3, 1, 8, 8), tmp_path / "n.pt2", "pt2")
    assert change is not None and change < 1e-5


@pytest.mark.parametrize("paths", TASKS)
def test_a_search_starts_strict_and_tries_deviations(paths: str) -> None:
    result = fitted(paths, removal_rounds=1)
    proposals = result.report["selection"]["proposals"]
    assert {p["path"] for p in proposals if p["action"] == "add"} == {paths.split("+")[1]}


@pytest.mark.parametrize("paths", TASKS)
@pytest.mark.slow
def test_the_evidence_prefers_a_deviation_where_it_must(paths: str) -> None:
    """Labels that the shared path alone cannot tell apart."""
    config = options(epochs=30, selection="gradient", removal_rounds=0)
    with_it, without = (
        symlearn.fit(network(names), TASKS[paths](200), None, config).report
        for names in (paths, paths.split("+")[0])
    )
    assert with_it["log_marginal_likelihood"] > without["log_marginal_likelihood"] + 5
    assert with_it["training"]["train_loss"] < 0.8 * without["training"]["train_loss"]


@pytest.mark.parametrize("paths", TASKS)
def test_screening_sees_a_silent_deviation(paths: str) -> None:
    """Switched on with an output of zero: the gradient says what it is worth, of amplitudes as of filters."""
    data = TASKS[paths](200)
    state = state_of(network(paths), data)
    for layer in relaxed_layers(state.model).values():
        layer.start_search()
    scored = screen(state, possible_changes(state, 0), data)
    assert len(scored) == 2 and all(p.score is not None and p.score > 0 for p in scored), scored
