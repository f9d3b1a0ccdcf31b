"""An epoch of steps on the weights once paths are off: subnormal numbers rounded to zero, and not.

`small` of F-FC + CONV on the digits, prior precisions of every F-FC path at their upper bound. Their weights
are zero after a few steps and get no gradient any more; after some 800 steps Adam's first moments of them
have decayed to the smallest float there is, and stay there. What that costs differs by processor: from
nothing to several times the epoch.

    python experiments/benchmarks/subnormals.py

Axes: none.
"""

from __future__ import annotations

import torch
from timing import Comparison, Prepare, Side, benchmark

import symlearn
from symlearn.config import Config
from symlearn.prior import LOG_MAX
from symlearn.subnormals import SMALLEST, subnormals_flushed
from symlearn.training import FitState, train_epoch

STEPS = 1000  # enough for 0.9 ** steps to be no normal number


def switched_off() -> tuple[FitState, tuple[torch.Tensor, torch.Tensor]]:
    """A fit whose F-FC paths have been off for `STEPS` steps, and its training set."""
    splits = symlearn.load_data("digits", "quadrant-digit")
    data = splits.train.tensors
    torch.manual_seed(0)
    model = symlearn.build_model("f-fc+conv", network="small", size=16, classes=splits.classes)
    state = FitState(model, Config().resolved(len(data[0])), len(data[0]))
    for group in state.prior.log:
        if ".f-fc." in group:
            state.prior.set_log(group, LOG_MAX)
    while state.step < state.config.training.prior_warmup + STEPS:
        train_epoch(state, data, lambda _: state.config.training.lr)
    return state, data


def subnormal_share(state: FitState) -> float:
    """How many of Adam's first moments are subnormal."""
    moments = torch.cat([s["exp_avg"].flatten().abs() for s in state.optimizer.state.values()])
    return float(((moments > 0) & (moments < SMALLEST)).double().mean())


def epoch(flush: bool) -> Prepare:
    """One epoch more."""

    def prepare() -> Side:
        state, data = switched_off()
        print(f"{subnormal_share(state):.0%} of Adam's first moments are subnormal", flush=True)

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
