"""Initial scales: every sum of paths hands on a signal of about the same size, at any depth and width."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_fits import bars, differences, state_of
from torch import Tensor

import symlearn
from symlearn.networks.start_scale import power_of_two, synthetic_images
from symlearn.selection.changes import strictest_start

SUMS = ("conv", "f-fc", "f-fc+conv", "gconv-p4", "conv+gconv-p4", "s-fc+s-conv")


def spread(paths: str, network: str, alpha: int, size: int, seed: int, x: Tensor) -> float:
    """Of the logits over images, at the start."""
    torch.manual_seed(seed)
    model = symlearn.build_model(paths, size=size, classes=4, network=network, alpha=alpha)
    with torch.no_grad():
        return float(model(x).std(0).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "alpha", "size"), [("small", 2, 16), ("small", 4, 16), ("ten-layer", 2, 32)], ids=str
)
def test_logits_spread_alike(network: str, alpha: int, size: int) -> None:
    x, _ = bars(64, "direction", size=size)
    found = {
        paths: sum(spread(paths, network, alpha, size, seed, x) for seed in range(3)) / 3 for paths in SUMS
    }
    assert max(found.values()) < 6 * min(found.values()), found
    assert min(found.values()) > 0.008, found


def test_factors_are_powers_of_two() -> None:
    assert [power_of_two(1.0, found) for found in (0.0, math.nan, 3.0, 0.3, 1.2)] == [
        1.0,
        1.0,
        0.25,
        4.0,
        1.0,
    ]


def test_strict_start_is_the_network_of_strict_paths() -> None:
    """Bit for bit, although the sum was scaled as a sum before."""
    networks = {}
    for paths in ("f-fc+conv", "conv"):
        torch.manual_seed(3)
        networks[paths] = symlearn.build_model(paths, size=16, classes=4, alpha=2)
    data = bars(50, "quadrant", size=16)
    strictest_start(state_of(networks["f-fc+conv"], data, selection="search"))
    learned = {n: p for n, p in networks["f-fc+conv"].named_parameters() if ".f-fc." not in n}
    assert not differences(learned, dict(networks["conv"].named_parameters()))


def test_trained_networks_are_left_alone() -> None:
    model = symlearn.build_model("conv", size=16, classes=4, alpha=1)
    with torch.no_grad():
        model.head[0].bias.fill_(0.1)
        model.layers[0].paths["conv"].weight.mul_(100)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.settle_scale()
    assert not differences(dict(model.named_parameters()), before)


def test_draws_only_from_its_own_generator() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(synthetic_images(2, (8, 8)), synthetic_images(2, (8, 8)))
    assert torch.equal(state, torch.get_rng_state())
    model = symlearn.build_model("f-fc+conv", size=16, classes=4, alpha=1)
    state = torch.get_rng_state()
    model.redraw(7)
    first = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.redraw(8)
    assert differences(dict(model.named_parameters()), first)
    model.redraw(7)
    assert not differences(dict(model.named_parameters()), first)
    assert torch.equal(state, torch.get_rng_state())
