"""Cyclic banks against the free bank of the same 60 filters: forward and backward, and their curvature.

A layer's two uses of its dictionary, analysis and synthesis, on CIFAR-10's sizes: 8 x 8 filters, 3 x 32 x 32,
batch 32, zero padding 1. Turning the basis filters is all that a cyclic bank adds.

    python experiments/benchmarks/unfolded.py

Axes: batch, c, h, w, filter, turn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import Comparison, Prepare, Side, at_scale, benchmark
from torch import Tensor, nn

import kfac
from symlearn.layers.cyclic_bank import Analysis2d, Rotations, Synthesis2d
from symlearn.networks import build_model

FILTERS, KERNEL, CHANNELS, SIZE, BATCH = at_scale((60, 8, 3, 32, 32), smoke=(12, 3, 1, 8, 2))
BANKS = {"free": 1, "cyclic-90": 4, "cyclic-60": 6}


class BothUses(nn.Module):
    """Analysis, then synthesis, `[batch, c, h, w]` to the same."""

    def __init__(self, turns: int, learn: bool = False) -> None:
        super().__init__()
        rotations = Rotations(KERNEL, turns, learn=learn)
        weight = nn.Parameter(torch.randn(FILTERS // turns, CHANNELS, KERNEL, KERNEL))
        self.analysis = Analysis2d(weight, rotations, 1)
        self.synthesis = Synthesis2d(weight, rotations, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.synthesis(self.analysis(x))


def images() -> Tensor:
    """Noise, `[batch, c, h, w]`."""
    return torch.randn(BATCH, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def uses(turns: int) -> Prepare:
    """Forward and backward of both uses, with the gradients of weight and image."""

    def prepare() -> Side:
        module, x = BothUses(turns), images().requires_grad_()
        inputs, cotangent = [x, *module.parameters()], torch.randn_like(x)
        return lambda: torch.autograd.grad(module(x), inputs, cotangent)

    return prepare


def step(bank: str) -> Prepare:
    """Forward and backward of the whole network."""

    def prepare() -> Side:
        model = build_model(bank, network="unfolded", alpha=FILTERS, in_channels=CHANNELS, size=SIZE)
        x, inputs = images(), list(model.parameters())
        return lambda: torch.autograd.grad(model(x).square().sum(), inputs)

    return prepare


def curvature(bank: str) -> Prepare:
    """Factors of the whole network by one random-sign column, and their eigenvalues."""

    def prepare() -> Side:
        model = build_model(bank, network="unfolded", alpha=FILTERS, in_channels=CHANNELS, size=SIZE)
        loader = [(images(), torch.arange(BATCH) % 10)]
        return lambda: kfac.compute_factors(
            model, loader, "classification", "sketch", seed=0
        ).eigendecompose()

    return prepare


def main() -> None:
    """Measure and write."""
    sides: dict[str, Callable[[], Side]] = {}
    comparisons = []
    for bank, turns in BANKS.items():
        sides[f"{bank}, uses"] = uses(turns)
        sides[f"{bank}, network"] = step(bank)
        sides[f"{bank}, KFAC"] = curvature(bank)
        if bank == "free":
            continue
        for what, bound in (("uses", 1.1), ("network", 1.1), ("KFAC", None)):
            name = f"{bank}: {what} / those of free filters"
            comparisons.append(Comparison(name, f"{bank}, {what}", f"free, {what}", at_most=bound))
    benchmark("unfolded", sides, comparisons, repeats=9)


if __name__ == "__main__":
    main()
