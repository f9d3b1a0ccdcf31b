"""Planted tasks and tiny networks that a fit takes seconds on; the tests of training and search share them.

Axes: data, c, h, w, classes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.config import Config
from symlearn.layers import RelaxedLayer2d
from symlearn.networks import build_model
from symlearn.training.phases import Phase, PhaseRun
from symlearn.training.state import FitState

Pairs = tuple[Tensor, Tensor]
SIDE = 8
BARS = ((0, 1), (1, 0), (1, 1))  # directions (rows, columns): the classes that ignore position


def bars(data: int, by: str, seed: int = 0, size: int = SIDE) -> Pairs:
    """Short bars of three directions at random places: images `[data, 1, size, size]` and labels.

    `by` says what a label is: the "direction" (no position needed) or the "quadrant" that the bar starts in.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randint(len(BARS), (data,), generator=generator)
    start = torch.randint(size, (2, data), generator=generator)
    x = 0.1 * torch.randn(data, 1, size, size, generator=generator)
    for step in range(3):
        down, right = torch.tensor(BARS)[direction].T * step
        x[torch.arange(data), 0, (start[0] + down) % size, (start[1] + right) % size] += 2.0
    quadrant = 2 * (start[0] // (size // 2)) + start[1] // (size // 2)
    return x, {"direction": direction, "quadrant": quadrant}[by]


def noisy_map(data: int, sigma: float, seed: int = 0, size: int = SIDE) -> Pairs:
    """Regression: y = <fixed pattern, x> + sigma * noise, targets `[data, 1]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(data, 1, size, size, generator=generator)
    pattern = torch.cos(torch.arange(float(size * size))).reshape(size, size) / size
    y = (x[:, 0] * pattern).sum((1, 2), keepdim=False)
    return x, (y + sigma * torch.randn(data, generator=generator)).unsqueeze(1)


class OneLayer(nn.Module):
    """One relaxed layer on 8 x 8 maps, ReLU, the average over places, a linear head."""

    def __init__(self, paths: str, classes: int, channels: int = 6, size: int = SIDE) -> None:
        super().__init__()
        self.layer = RelaxedLayer2d(1, channels, size, paths)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, h, w] -> [batch, classes]`."""
        return self.head(self.layer(x).relu().mean((2, 3)))


def one_layer(paths: str = "f-fc+conv", classes: int = 4, seed: int = 0) -> OneLayer:
    """The one-layer network, drawn by the seed."""
    torch.manual_seed(seed)
    return OneLayer(paths, classes)


def small_network(paths: str = "f-fc+conv", classes: int = 4, seed: int = 0) -> nn.Module:
    """The `small` network at its narrowest, drawn by the seed."""
    torch.manual_seed(seed)
    return build_model(paths, network="small", alpha=1, size=16, classes=classes)


def linear_model(outputs: int, seed: int = 0, size: int = SIDE) -> nn.Module:
    """A linear map of the pixels, drawn by the seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, outputs))


def options(**changes: Any) -> Config:
    """A short schedule: batches of 25, an evidence update every second epoch, no burn-in to speak of.

    Curvature is Kronecker-factored as it is for larger sets, though so few data would have the whole GGN.
    """
    short = {"batch_size": 25, "epochs": 10, "frequency": 2, "burn_in": 1, "rounds": 1, "refit_epochs": 4}
    short["ggn"] = "blocks"
    return Config().with_options(**{**short, **changes})


def state_of(model: nn.Module, data: Pairs, **changes: Any) -> FitState:
    """The state of a fit before its first step."""
    return FitState(model, options(**changes).resolved(len(data[0])), len(data[0]))


@functools.cache
def directions(data: int = 200) -> Pairs:
    """`bars` labelled by direction; to be read only."""
    return bars(data, "direction")


@functools.cache
def quadrants(data: int = 200) -> Pairs:
    """`bars` labelled by quadrant; to be read only."""
    return bars(data, "quadrant")


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Places at which two nests of dictionaries, sequences, tensors and numbers are not bit-identical."""
    if isinstance(a, Tensor):
        same = isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [place]
    if isinstance(a, dict):
        if not isinstance(b, dict) or set(a) != set(b):
            return [f"{place}: other keys"]
        return [d for key in a for d in differences(a[key], b[key], f"{place}/{key}")]
    if isinstance(a, list | tuple):
        if not isinstance(b, list | tuple) or len(a) != len(b):
            return [f"{place}: other lengths"]
        return [
            d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{place}/{i}")
        ]
    return [] if a == b or (a != a and b != b) else [f"{place}: {a!r} and {b!r}"]


def phase(epochs: int = 8, **changes: Any) -> Phase:
    """A phase whose hyperparameters may move at once."""
    return Phase(**{"name": "test", "epochs": epochs, "lr": 0.01, "lr_end": 1e-4, "burn_in": 0, **changes})


def run(state: FitState, one: PhaseRun, data: tuple[Tensor, Tensor], **others: Any) -> list[dict[str, Any]]:
    """The records of a phase run to its end."""
    records = []
    while not one.over:
        records.append(one.next_epoch(state, data, **others))
    return records
