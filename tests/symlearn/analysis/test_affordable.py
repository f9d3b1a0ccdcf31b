"""How many images a fitted network is measured on: fewer where a pass costs much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symlearn.analysis.found import ANSWERED, BUDGET, LEAST, PASSES, affordable


class Work(nn.Module):
    """`layers` matrix products of side 64 an image: 2 * 64^3 operations each."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, 0]
        for _ in range(self.layers):
            y = y @ x[:, 0]
        return self.head(y.mean(1))


@pytest.mark.parametrize(("parts", "share"), [(0.5, 1.0), (4.0, 0.25), (20.0, 0.0)])
def test_in_proportion_to_the_work(parts: float, share: float) -> None:
    layers = round(parts * BUDGET / (PASSES * ANSWERED * 2 * 64**3))
    images = affordable(Work(layers), torch.randn(4, 1, 64, 64) / 64)(100)
    assert images == pytest.approx(max(100 * share, LEAST), rel=0.1)


def test_a_network_whose_work_cannot_be_counted() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not one image alone")

    assert affordable(Broken(), torch.randn(4, 1, 8, 8))(24) == 24
