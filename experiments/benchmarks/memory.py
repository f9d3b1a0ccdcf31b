"""The memory that a fit is predicted to hold, against what it holds.

Every fit runs in a process of its own. Measured is the rise of its resident set, from before data and network
are made to its largest, after a first small fit has loaded every library: what the interpreter and torch take
by themselves is no part of it. The C allocator is told to give freed memory back at once (`RETURNED`, glibc):
the resident set would hold what it keeps for later. Work space of libraries counts, untouched pages do not.

    python experiments/benchmarks/memory.py

Axes: n, c, h, w, classes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, forget_peak, resident_mebibytes, write
from torch import Tensor, nn

import symlearn
from symlearn.config import Config

Pairs = tuple[Tensor, Tensor]
CLOSE = 0.25  # the prediction's largest relative error that counts as kept
MIB = 2**20
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Case:
    """A fit to predict and to run.

    Attributes:
        model: makes the network.
        data: makes training and test set.
        options: of the configuration.
    """

    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Pairs, Pairs]]
    options: dict[str, Any] = field(default_factory=dict)


def noise(n: int, c: int, size: int, classes: int = 10) -> Callable[[], tuple[Pairs, Pairs]]:
    """As many training as test images of noise."""

    def make() -> tuple[Pairs, Pairs]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2 * n, c, size, size, generator=generator)
        y = torch.arange(2 * n) % classes
        return (x[:n], y[:n]), (x[n:], y[n:])

    return make


def digits() -> tuple[Pairs, Pairs]:
    """The embedded digits in quadrants."""
    splits = symlearn.load_data("digits", "quadrant")
    return splits.train.tensors, splits.test.tensors


def cnn() -> nn.Module:
    """A small network with batch normalisation, relaxed."""
    return symlearn.relax(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 64, 10),
        ),
        (1, 16, 16),
    )


def resnet() -> nn.Module:
    """torchvision's ResNet-18, relaxed."""
    from torchvision.models import resnet18

    return symlearn.relax(resnet18(num_classes=10), (3, 32, 32))


class Tokens(nn.Module):
    """Convolution, an embedding of places, group norm and attention over places, with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 4, stride=4)
        self.place = nn.Parameter(0.02 * torch.randn(32, 8, 8))
        self.norm = nn.GroupNorm(4, 32)
        self.queries, self.values = nn.Linear(32, 64), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 3, 32, 32] -> [batch, 10]`."""
        z = self.norm(self.conv(x) + self.place).flatten(2).mT
        query, key = self.queries(z).chunk(2, 2)
        return self.head(((query @ key.mT / 32**0.5).softmax(2) @ self.values(z)).mean(1))


def paths(
    names: str, network: str, size: int, c: int, classes: int, alpha: int | None
) -> Callable[[], nn.Module]:
    """One of our networks."""
    return lambda: symlearn.build_model(
        names, network=network, alpha=alpha, in_channels=c, size=size, classes=classes
    )


SHORT = {"epochs": 3, "frequency": 1, "burn_in": 1}
GRADIENT = {"selection": "gradient", **SHORT}
ONCE = {"selection": "gradient", "epochs": 1}  # one update of the evidence, in the anneal
SEARCH = {"epochs": 3, "frequency": 2, "burn_in": 20, "rounds": 1, "refit_epochs": 2, "proposals": 3}
CASES = {
    "ten-layer f-fc+conv, alpha 4, 3x32x32": Case(
        paths("f-fc+conv", "ten-layer", 32, 3, 10, 4), noise(600, 3, 32), GRADIENT
    ),
    "ten-layer f-fc+conv, alpha 4, type-2": Case(
        paths("f-fc+conv", "ten-layer", 32, 3, 10, 4),
        noise(300, 3, 32),
        {**GRADIENT, "fisher_type": "type-2"},
    ),
    "ten-layer fc, alpha 1, 3x32x32": Case(
        paths("fc", "ten-layer", 32, 3, 10, 1), noise(300, 3, 32), GRADIENT
    ),
    "small f-fc+conv, digits, search": Case(paths("f-fc+conv", "small", 16, 1, 40, None), digits, SEARCH),
    "small s-fc+s-conv, digits, lengthscales": Case(
        paths("s-fc+s-conv", "small", 16, 1, 40, None), digits, GRADIENT
    ),
    "small gconv-p4, digits, MAP": Case(
        paths("gconv-p4", "small", 16, 1, 40, 4), digits, {**SHORT, "selection": "none"}
    ),
    "relaxed CNN with batch norm, search": Case(cnn, noise(600, 1, 16), SEARCH),
    "tokens: a diagonal block, group norm": Case(
        Tokens, noise(400, 3, 32), {**GRADIENT, "diagonal": ["place"], "curvature_batch_size": 200}
    ),
    "relaxed ResNet-18, 3x32x32, type-2": Case(
        resnet, noise(64, 3, 32), {**ONCE, "batch_size": 32, "fisher_type": "type-2"}
    ),
}


SMOKE = {  # in place of the cases with --smoke
    "one epoch of 40 digits": Case(
        paths("f-fc+conv", "small", 16, 1, 10, 1), noise(40, 1, 16), {**ONCE, "batch_size": 20}
    )
}


FIRST = Case(paths("f-fc+conv", "small", 16, 1, 40, 1), digits, {**GRADIENT, "epochs": 1})


def fitted(case: Case) -> None:
    """Make everything and fit."""
    torch.manual_seed(0)
    train, test = case.data()
    symlearn.fit(case.model(), train, test, Config().with_options(**case.options))


def predicted(case: Case) -> dict[str, Any]:
    """The prediction and what it is made of, in MiB."""
    torch.manual_seed(0)
    train, test = case.data()
    memory = symlearn.estimate(
        case.model(), train, test, Config().with_options(**case.options), seconds=False
    ).memory
    stages = {name: size / MIB for name, size in memory.stages.items() if size}
    return {"predicted": memory.peak / MIB, "largest": max(stages, key=lambda s: stages[s]), "stages": stages}


def measured(case: Case, first: Case) -> float:
    """The rise of this process' largest resident set during a fit, in MiB, after a first one."""
    fitted(first)
    gc.collect()
    before = resident_mebibytes(peak=False)
    forget_peak()
    fitted(case)
    return resident_mebibytes(peak=True) - before


def in_a_process_of_its_own(name: str, smoke: bool) -> float:
    """`measured` of one case."""
    command = [sys.executable, sys.argv[0], "--measure", name, *(["--smoke"] if smoke else [])]
    environment = {**os.environ, **RETURNED}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", metavar="CASE", help="print what one case takes, in MiB, and stop")
    parser.add_argument("--only", metavar="CASE", nargs="*", help="these cases; the others' results stay")
    parser.add_argument("--smoke", action="store_true", help="one tiny case, to see that this runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    chosen = parser.parse_args()
    known, output = (SMOKE, "memory.smoke") if chosen.smoke else (CASES, "memory")
    torch.set_num_threads(1)
    if chosen.measure:
        case = known[chosen.measure]
        print(measured(case, case if chosen.smoke else FIRST))
        sys.exit()
    file = chosen.results / f"{output}.json"
    rows = json.loads(file.read_text())["mebibytes"] if chosen.only and file.exists() else {}
    print(f"{'MiB':44}{'predicted':>10}{'measured':>10}{'ratio':>7}  largest part")
    for name in chosen.only or known:
        told, found = predicted(known[name]), in_a_process_of_its_own(name, chosen.smoke)
        ratio = told["predicted"] / found
        kept = abs(ratio - 1) <= CLOSE
        rows[name] = {**told, "measured": found, "ratio": ratio, "holds": kept}
        print(
            f"{name:44}{told['predicted']:10.1f}{found:10.1f}{ratio:7.2f}  {told['largest']}"
            f"{'' if kept else '   MISSED'}",
            flush=True,
        )
        found_so_far = {name: rows[name] for name in known if name in rows}
        write(output, {"bound": CLOSE, "mebibytes": found_so_far}, chosen.results)
