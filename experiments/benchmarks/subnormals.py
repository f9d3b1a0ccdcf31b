"""An epoch of steps on the weights once units are off: subnormal numbers rounded to zero, and not.

CONV alone in `small` on the digits, all prior precisions 10, after 60 epochs. Units that are off get no
gradient any more: their weights shrink by the prior, and Adam's first moments of them by a tenth a step,
until both are subnormal. What that costs differs by processor, from nothing to several times the epoch.

    python experiments/benchmarks/subnormals.py --threads 1

on one thread, as the experiments fit: threads that torch has already started would keep their own setting.

Axes: none.
"""

from __future__ import annotations

import torch
from timing import Comparison, Prepare, Side, at_scale, benchmark

import symlearn
from symlearn.config import Config
from symlearn.training.state import FitState
from symlearn.training.steps import train_epoch
from symlearn.training.subnormals import subnormals_flushed

EPOCHS, LIMIT = at_scale((60, None), smoke=(1, 50))  # of the start, and its images (None: all)


def units_off() -> tuple[FitState, tuple[torch.Tensor, torch.Tensor]]:
    """A fit after `EPOCHS` epochs, and its training set."""
    splits = symlearn.load_data("digits", "quadrant-digit", limit=LIMIT)
    data = splits.train.tensors
    torch.manual_seed(0)
    model = symlearn.build_model("conv", network="small", size=16, classes=splits.classes)
    config = Config().with_options(prior_precision=10.0).resolved(len(data[0]))
    state = FitState(model, config, len(data[0]))
    for _ in range(EPOCHS):
        train_epoch(state, data, lambda _: config.training.lr)
    return state, data


def epoch(flush: bool) -> Prepare:
    """One epoch more."""

    def prepare() -> Side:
        state, data = units_off()

        def side() -> None:
            train_epoch(state, data, lambda _: 1e-3)

        def flushed() -> None:
            with subnormals_flushed():
                side()

        return flushed if flush else side

    return prepare


def main() -> None:
    """Measure and write."""
    name = "an epoch as it is / with subnormal numbers rounded to zero"
    benchmark(
        "subnormals",
        {"as it is": epoch(False), "rounded to zero": epoch(True)},
        [Comparison(name, "as it is", "rounded to zero")],
        repeats=7,
    )


if __name__ == "__main__":
    main()
