"""Normalisation layers: their scales and shifts have exact blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from oracles import assert_close, assert_exact
from torch import nn
from toys import batch_of, seeded

import kfac

NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm on maps": (lambda: nn.BatchNorm2d(4), (4, 3, 2)),
    "batch norm on vectors": (lambda: nn.BatchNorm1d(24), (24,)),
    "group norm on maps": (lambda: nn.GroupNorm(2, 4, eps=1e-3), (4, 3, 2)),
    "group norm on vectors": (lambda: nn.GroupNorm(3, 24), (24,)),
    "layer norm on vectors": (lambda: nn.LayerNorm(24), (24,)),
    "layer norm at places": (lambda: nn.LayerNorm(2, eps=1e-3), (4, 3, 2)),
    "layer norm over two axes": (lambda: nn.LayerNorm((3, 2)), (4, 3, 2)),
    "layer norm without bias": (lambda: nn.LayerNorm(2, bias=False), (4, 3, 2)),
    "rms norm at places": (lambda: nn.RMSNorm(2), (4, 3, 2)),
}


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("case", NORMS)
def test_blocks_are_exact(case: str, likelihood: str) -> None:
    build, shape = NORMS[case]
    model = seeded(nn.Linear(shape[-1], shape[-1]), build(), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
    for module in model.modules():  # running statistics as after training
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            model(batch_of(shape, 9, seed=3)[0])
    batch = batch_of(shape, 7, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    names = [name for name in factors.names if name.startswith("1.")]
    assert names
    for name in names:
        assert_exact(factors, model, batch, likelihood, name)
    eigen = factors.eigendecompose(vectors=True)
    corrected = kfac.correct_eigenvalues(model, [batch], likelihood, eigen)
    for name in names:
        assert_close(corrected.eigenvalues[name], eigen.eigenvalues[name], 1e-9, name)


def test_norm_layers_without_parameters_need_no_rule() -> None:
    model = seeded(nn.Linear(5, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 3))
    factors = kfac.compute_factors(model, [batch_of((5,), 4)], "classification")
    assert factors.names == ("0.weight", "0.bias", "2.weight", "2.bias")
