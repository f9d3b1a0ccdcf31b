"""Gradients of the evidence with respect to ranges of transformations: against finite differences, each one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from symlearn.evidence.gradient import HyperObjective, evidence_gradients
from symlearn.layers import OrbitAverage, SparseConv2d
from symlearn.layers.declared import hyperparameters_of
from symlearn.layers.transforms import TRANSFORMS


def average(transforms: str, channels: int, **options: float) -> OrbitAverage:
    """Two convolutions, one between anchors, and a linear layer on 6 x 6; float64."""
    torch.manual_seed(0)
    network = nn.Sequential(
        SparseConv2d(channels, 2, learn=("lengthscale",) if options else ()),
        nn.Tanh(),
        nn.Conv2d(2, 2, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 3),
    )
    return OrbitAverage(network, transforms, 4).double()


def objective(model: nn.Module, channels: int, likelihood: str = "classification") -> HyperObjective:
    """Seven data in batches of four, each counting twice and a half times."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, channels, 6, 6, dtype=torch.float64, generator=generator)
    y = torch.arange(7) % 3
    if likelihood == "regression":
        y = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    delta = {n: 0.3 + 0.1 * k for k, (n, _) in enumerate(model.named_parameters())}
    curvature = {"fisher_type": "type-2"}
    return HyperObjective(model, (x, y), delta, likelihood, 0.7, 2.5, 4, curvature)  # type: ignore[arg-type]


def assert_right(model: nn.Module, goal: HyperObjective, estimator: str) -> None:
    """Every gradient is that of finite differences."""
    declared = hyperparameters_of(model)
    gradients = evidence_gradients(goal, declared, estimator)  # type: ignore[arg-type]
    frozen = goal.frozen()

    def value() -> float:
        with torch.no_grad():
            return float(goal.full() if estimator == "full" else goal.local(frozen))

    for name, one in declared.items():
        step = 1e-4
        one.value.add_(step)
        above = value()
        one.value.sub_(2 * step)
        below = value()
        one.value.add_(step)
        truth, found = (above - below) / (2 * step), float(gradients[name])
        assert abs(found - truth) < 1e-5 * max(abs(truth), 0.01), f"{name}: {found}, differences give {truth}"
        assert abs(truth) > 1e-4, f"{name} changes nothing, so nothing was compared"


@pytest.mark.parametrize("estimator", ["full", "local"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_range_has_the_gradient_of_finite_differences(name: str, estimator: str) -> None:
    channels = 3 if TRANSFORMS[name].acts_on == "colours" else 1
    model = average(name, channels)
    assert_right(model, objective(model, channels), estimator)


@pytest.mark.parametrize("estimator", ["full", "local"])
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_ranges_together_and_beside_a_lengthscale(likelihood: str, estimator: str) -> None:
    model = average("rotation:60,translation,scale,flip-x,hue", 3, lengthscale=1.0)
    assert len(hyperparameters_of(model)) == 7
    assert_right(model, objective(model, 3, likelihood), estimator)
