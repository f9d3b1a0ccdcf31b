"""Gradients of the evidence with respect to anchors and lengthscales on signals and volumes.

Axes: n, c, size (t; d, h, w).
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from symlearn.evidence.gradient import HyperObjective, evidence_gradients
from symlearn.layers import SparseConv2d, SparseLinear2d
from symlearn.layers.declared import hyperparameters_of

BOTH = ("lengthscale", "anchors", "noise")
SIZES = {"signals": ((7,), (3,), (3,)), "volumes": ((3, 2, 2), (2, 1, 2), (3, 2, 1))}


@pytest.mark.parametrize("estimator", ["full", "local"])
@pytest.mark.parametrize("case", SIZES)
def test_gradient_equals_finite_differences(case: str, estimator: str) -> None:
    size, out, kernel = SIZES[case]
    torch.manual_seed(0)
    model = nn.Sequential(
        SparseConv2d(1, 2, kernel, lengthscale=0.8, learn=BOTH),
        nn.Tanh(),
        SparseLinear2d(2, 2, size, out, lengthscale=1.3, learn=BOTH),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2 * torch.Size(out).numel(), 3),
    ).double()
    x = torch.randn(9, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    delta = {name: 0.3 + 0.1 * k for k, (name, _) in enumerate(model.named_parameters())}
    curvature = {"fisher_type": "type-2", "group_factors": "grouped"}
    goal = HyperObjective(model, (x, torch.arange(9) % 3), delta, "classification", 0.7, 2.5, 4, curvature)
    declared = hyperparameters_of(model)
    assert len(declared) == 9
    assert {one.value.shape[-1] for one in declared.values() if one.kind == "anchors"} == {len(size)}
    gradients = evidence_gradients(goal, declared, estimator)
    frozen = goal.frozen()

    def value() -> float:
        with torch.no_grad():
            return float(goal.full() if estimator == "full" else goal.local(frozen))

    for name, one in declared.items():
        direction = torch.cos(torch.arange(1.0, 1 + one.value.numel())).reshape(one.value.shape).double()
        step = 1e-4
        one.value.add_(step * direction)
        above = value()
        one.value.sub_(2 * step * direction)
        below = value()
        one.value.add_(step * direction)
        truth, found = (above - below) / (2 * step), float((gradients[name] * direction).sum())
        scale = max(abs(truth), 0.05 * float(gradients[name].norm()))
        assert abs(found - truth) < 1e-4 * scale, f"{name}: {found} where differences give {truth}"
