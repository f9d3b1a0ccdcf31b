"""Toy networks and data for the curvature tests: small enough for dense blocks, float64."""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from symlearn.layers import CircularConv2d, FactoredLinear2d, FullyConnected2d, LiftingConv2d
from symlearn.layers.group_conv import (
    ChannelConv2d,
    ChannelMixing,
    FullGroupConv2d,
    GroupStage,
    PointwiseGroupConv2d,
)

Batch = tuple[Tensor, Tensor]
STAGES: dict[str, type[GroupStage]] = {
    "lifting": LiftingConv2d,
    "full": FullGroupConv2d,
    "pointwise": PointwiseGroupConv2d,
    "channel": ChannelConv2d,
    "mixing": ChannelMixing,
}


def batch_of(
    shape: tuple[int, ...], data: int, outputs: int = 3, likelihood: str = "classification", seed: int = 0
) -> Batch:
    """Random data `[data, *shape]` with labels, or with regression targets `[data, outputs]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(data, *shape, generator=generator, dtype=torch.float64)
    if likelihood == "regression":
        return x, torch.randn(data, outputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, outputs, (data,), generator=generator)


def seeded(*modules: nn.Module, seed: int = 0) -> nn.Sequential:
    """The modules in a row, float64, every parameter (biases too) drawn afresh."""
    model = nn.Sequential(*modules).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            fan_in = p[0].numel() if p.dim() else 1
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan_in**0.5)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Random float64 numbers of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with every parameter (biases too) drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 3)
    return module


class MeanOverPlaces(nn.Module):
    """`[batch, place, d] -> [batch, d]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over places."""
        return x.mean(1)


def mlp() -> nn.Sequential:
    """5 -> 4 -> 3."""
    return seeded(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def deep_linear() -> nn.Sequential:
    """5 -> 4 -> 4 -> 3 with no nonlinearity."""
    return seeded(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3))


def factored() -> nn.Sequential:
    """F-FC, tanh, F-FC, tanh, Linear on `[2, 4, 3]` maps."""
    return seeded(
        FactoredLinear2d(2, 3, (4, 3), (2, 3)),
        nn.Tanh(),
        FactoredLinear2d(3, 2, (2, 3), (2, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def convolutional() -> nn.Sequential:
    """Circular CONV, tanh, zero-padded strided Conv2d in groups, tanh, Linear on `[2, 5, 4]` maps."""
    return seeded(
        CircularConv2d(2, 4),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def mixed() -> nn.Sequential:
    """CONV, F-FC, FC, Linear on `[2, 5, 4]` maps: every kind of rule at once."""
    return seeded(
        CircularConv2d(2, 3),
        nn.Tanh(),
        FactoredLinear2d(3, 4, (5, 4), (3, 2)),
        nn.Tanh(),
        FullyConnected2d(4, 2, (3, 2), (2, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def linear_on_places() -> nn.Sequential:
    """Linear over two extra axes, tanh, Linear over one, mean, on `[3, 2, 5]` data."""
    return seeded(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(1, 2), nn.Linear(4, 3), MeanOverPlaces())


def digits(data: int = 200, size: int = 8) -> Batch:
    """scikit-learn's digits `[data, 1, size, size]` in [0, 1], float64, and their labels."""
    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy(x[:data] / 16).reshape(-1, 1, 8, 8)
    if size != 8:
        images = F.interpolate(images, (size, size))
    return images, torch.from_numpy(y[:data]).long()


def train(model: nn.Module, batch: Batch, steps: int = 60, lr: float = 0.01) -> nn.Module:
    """Adam on the whole batch with a little weight decay."""
    x, y = batch
    optimizer = torch.optim.Adam(model.parameters(), lr, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@functools.cache
def _trained(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "mixture":
        model = nn.Sequential(
            CircularConv2d(1, 4),
            nn.ReLU(),
            FactoredLinear2d(4, 4, 8, 4),
            nn.ReLU(),
            FactoredLinear2d(4, 6, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 10),
        )
    elif kind == "f-fc":
        model = nn.Sequential(
            FactoredLinear2d(1, 6, 8, 4),
            nn.ReLU(),
            FactoredLinear2d(6, 8, 4, 2),
            nn.ReLU(),
            FactoredLinear2d(8, 8, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
    else:
        bias = kind == "zero-padded"
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 10, bias=bias),
        )
    return train(model.double(), digits())


def trained(kind: str) -> nn.Module:
    """A network trained on 200 digits: "mixture", "f-fc", "zero-padded" or "zero-padded without biases"."""
    return copy.deepcopy(_trained(kind))
