"""The same work on signals, images and volumes: places, channels, taps and weights are as many.

    signals of 256    k = 9     against    images of 16 x 16       k = 3 x 3
    signals of 256    k = 27    against    volumes of 8 x 8 x 4    k = 3 x 3 x 3

Three relaxed layers of f-fc + conv without stride (a stride of 2 leaves half of a signal and a quarter of an
image, which is other work), an average over places and a linear head; batch 50. A step is forward, backward
and Adam's; curvature is type-2 factors with their eigenvalues.

    python experiments/benchmarks/dimensions.py

Axes: batch, c, size (t; h, w; d, h, w), classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from timing import Comparison, Prepare, Side, at_scale, benchmark
from torch import Tensor, nn

import kfac
from symlearn.layers import PathOptions, RelaxedLayer2d

BATCH, CHANNELS, CLASSES = 50, at_scale(16, smoke=2), 4
FORMS: dict[str, tuple[tuple[int, ...], int]] = at_scale(
    {
        "signals, 9 taps": ((256,), 9),
        "images, 9 taps": ((16, 16), 3),
        "signals, 27 taps": ((256,), 27),
        "volumes, 27 taps": ((8, 8, 4), 3),
    },
    smoke={
        "signals, 9 taps": ((16,), 9),
        "images, 9 taps": ((4, 4), 3),
        "signals, 27 taps": ((16,), 27),
        "volumes, 27 taps": ((4, 2, 2), 3),
    },
)


class Network(nn.Module):
    """Relaxed layers at one resolution, `[batch, 1, *size] -> [batch, classes]`."""

    def __init__(self, size: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        widths = (1, CHANNELS, CHANNELS, CHANNELS)
        options = PathOptions(kernel_size=kernel)
        self.layers = nn.ModuleList(
            RelaxedLayer2d(c_in, c_out, size, "f-fc+conv", options=options)
            for c_in, c_out in pairwise(widths)
        )
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, *size] -> [batch, classes]`."""
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.flatten(2).mean(2))


def network_and_data(form: str) -> tuple[Network, Tensor, Tensor]:
    """A network of that form, x `[batch, 1, *size]` and y `[batch]`."""
    size, kernel = FORMS[form]
    torch.manual_seed(0)
    return Network(size, kernel), torch.randn(BATCH, 1, *size), torch.arange(BATCH) % CLASSES


def step(form: str) -> Prepare:
    """A step on the weights."""

    def prepare() -> Side:
        model, x, y = network_and_data(form)
        optimizer = torch.optim.Adam(model.parameters())

        def one() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return one

    return prepare


def curvature(form: str) -> Prepare:
    """Factors of all parameters, and their eigenvalues."""

    def prepare() -> Side:
        model, x, y = network_and_data(form)
        return lambda: kfac.compute_factors(model, [(x, y)], "classification").eigendecompose()

    return prepare


def check_that_the_work_is_the_same() -> None:
    """Refuse to compare networks of different numbers of weights."""
    for first, second in (("signals, 9 taps", "images, 9 taps"), ("signals, 27 taps", "volumes, 27 taps")):
        counts = [sum(p.numel() for p in network_and_data(form)[0].parameters()) for form in (first, second)]
        if counts[0] != counts[1]:
            raise RuntimeError(f"{first} has {counts[0]} parameters, {second} {counts[1]}")


if __name__ == "__main__":
    check_that_the_work_is_the_same()
    works = {"step": step, "curvature": curvature}
    benchmark(
        "dimensions",
        {f"{form}, {work}": prepare(form) for work, prepare in works.items() for form in FORMS},
        [
            Comparison(f"{above} / {below}, {work}", f"{above}, {work}", f"{below}, {work}", at_most=bound)
            for work in works
            for above, below, bound in (
                ("signals, 9 taps", "images, 9 taps", 1.0),
                ("volumes, 27 taps", "signals, 27 taps", None),
            )
        ],
        repeats=7,
    )
