"""What `fit` and `estimate` refuse in one line before they start: networks and data that do not go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import assert_refused
from tiny_fits import bars, directions, linear_model, options
from torch import Tensor, nn

import symlearn

X, Y = directions(30)
LARGE = bars(30, "direction", size=12)
CHEAP: dict[str, Any] = {"epochs": 2, "selection": "none"}


class Ends(nn.Module):
    """A linear map with an end of its own."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.end = nn.Linear(64, 3), end

    def forward(self, x: Tensor) -> Any:
        """Whatever the end returns."""
        return self.end(self.linear(x.flatten(1)))


class StaysInTrainMode(nn.BatchNorm2d):
    """A layer that no `eval` reaches."""

    def train(self, mode: bool = True) -> StaysInTrainMode:
        """Train mode, whatever is asked for."""
        super().train(True)
        return self


class Shifted(nn.Module):
    """A parameter without a rule behind a network, so that there is no evidence."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shift = inner, nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, h, w] -> [batch, 3]`."""
        return self.inner(x) + self.shift


class Scale(nn.Module):
    """A factor, for inputs of any width."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.factor * x


def cnn(*between: nn.Module) -> nn.Module:
    """A convolution of one channel, what is given, a head of three classes."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(1, 4, 3), *between, *pool, nn.Linear(4, 3))


def frozen() -> nn.Module:
    """Nothing to train."""
    return linear_model(3).requires_grad_(False)


def untracked() -> nn.Module:
    """Batch normalisation by the batch alone."""
    return nn.BatchNorm2d(4, track_running_stats=False)


NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "no network": (lambda: torch.relu, "expected a network, an nn.Module"),
    "no parameters": (nn.Flatten, "it has no parameters"),
    "frozen": (frozen, "every parameter is frozen"),
    "outputs in a tuple": (lambda: Ends(lambda f: (f, f)), "but one image gives a tuple"),
    "one number an image": (lambda: Ends(lambda f: f[:, 0]), "but one image gives [1]"),
    "squeezed": (lambda: Ends(torch.squeeze), "but one image gives [3]"),
    "no running statistics": (lambda: cnn(untracked()), "'1' has no running statistics"),
    "stays in train mode": (lambda: cnn(StaysInTrainMode(4)), "'1' stays in train mode"),
    "in place": (lambda: Ends(lambda f: f.exp().add_(1).exp().mul_(2)), "modifies in place"),
}


@pytest.mark.parametrize("selection", ["none", "gradient"])
@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case: str, selection: str) -> None:
    build, words = NETWORKS[case]
    config = options(epochs=2, selection=selection)
    for begin in (symlearn.fit, symlearn.estimate):
        assert_refused(lambda begin=begin: begin(build(), (X, Y), None, config), words)  # type: ignore[misc]


DATA: dict[str, tuple[Callable[[], nn.Module], Any, Any, str]] = {
    "size": (lambda: linear_model(3), LARGE, None, "takes no training images [1, 1, 12, 12] (RuntimeError"),
    "channels": (cnn, (X.expand(-1, 3, -1, -1), Y), None, "takes no training images [1, 3, 8, 8]"),
    "test size": (lambda: linear_model(3), (X, Y), LARGE, "takes no test images [1, 1, 12, 12]"),
    "test labels": (lambda: linear_model(3), (X, Y), (X, Y + 1), "test targets: labels run from 1 to 3"),
    "other outputs": (
        lambda: nn.Sequential(nn.Flatten(), Scale()),
        (X, Y),
        LARGE,
        "64 outputs for training images [1, 8, 8], but 144 for test",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case: str) -> None:
    build, train, test, words = DATA[case]
    for begin in (symlearn.fit, symlearn.estimate):
        assert_refused(lambda begin=begin: begin(build(), train, test, options(**CHEAP)), words)  # type: ignore[misc]


def test_regression_targets_of_another_width() -> None:
    config = options(likelihood="regression", **CHEAP)
    test = (X, torch.zeros(30, 2))
    train = (X, torch.zeros(30, 1))
    assert_refused(
        lambda: symlearn.fit(linear_model(1), train, test, config), "[n, 1], got torch.float32 [30, 2]"
    )


def test_without_evidence_batch_statistics_are_no_obstacle() -> None:
    report = symlearn.fit(Shifted(cnn(untracked())), (X, Y), (X, Y), options(**CHEAP)).report
    assert report["log_marginal_likelihood"] is None


def test_everything_left_out_is_a_fit_without_evidence() -> None:
    config = options(left_out=["1.weight", "1.bias"], **CHEAP)
    assert symlearn.fit(linear_model(3), (X, Y), (X, Y), config).report["log_marginal_likelihood"] is None
    assert symlearn.estimate(linear_model(3), (X, Y), (X, Y), config).fits
