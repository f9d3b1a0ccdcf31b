"""How nearly symmetric a network was that made the data: exactly, nearly, up to a layer, or not at all?

    python experiments/discovery/deviations.py [--tasks exactly-p4 p4-early ...] [--seeds 0 1 2]

A planting network of three relaxed layers and an average over places (and the group) draws its weights at
random. What it makes of images of two strokes is whitened, so that what differs finely counts as much as
what differs most, and with a tenth of noise on top it is the target of a regression. Each layer of the
network is a shared part and a deviation (`dev-p4` beside `gconv-p4`, `dev-shifts` beside `conv`), drawn at
the scale of the shared part times

    exactly-p4      0    0    0       exactly-shifts   0    0    0
    nearly-p4       0.2  0.2  0.2     nearly-shifts    0.15 0.15 0.15
    p4-early        0    0    1.7     shifts-early     0    0    1
    no-rotation     1.7  1.7  1.7     no-shifts        1    1    1

(1.7: filters that have nothing in common over the four orientations, a share of 3/4). The network that is
fitted is of the same shape and wider; everything else is what a fit does by default. Beside the verdicts
stands the share that the deviations have of each layer's map, in the planting network and in the fitted one.

What is true is true of the planting network; another network may do the same: once an early layer tells
orientations (places) apart, later ones may be symmetric again. What is sure: targets of `exactly-` are
invariant, so no deviation helps, and those of the others are not, so some layer needs one.

Results: results/deviations.json, a row a fit; rows that are there already are not run again.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import symlearn
from symlearn.analysis.deviation import deviation_share
from symlearn.layers import RelaxedLayer2d
from symlearn.networks.start_scale import root_mean_square
from symlearn.run_folder import environment
from symlearn.runs.provenance import commit
from symlearn.runs.table_file import write_content

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "deviations.json"
SIZE, OUTPUTS, STROKES = 8, 3, 2
NOISE = 0.1  # standard deviation; that of the targets is 1
Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A planting network.

    Attributes:
        paths: the shared part and its deviation.
        symmetry: what a layer commutes with that does not deviate.
        scales: of the deviations, layer by layer.
        width: of the network that is fitted; the planting one has a channel a target.
    """

    paths: str
    symmetry: str
    scales: tuple[float, float, float]
    width: int

    @property
    def truth(self) -> list[str]:
        """What the verdicts of the layers should say."""
        less = {"p4": "shifts", "shifts": "none"}[self.symmetry]
        return [
            self.symmetry if s == 0 else f"nearly {self.symmetry}" if s < 0.5 else less for s in self.scales
        ]


P4, PLACE = ("gconv-p4+dev-p4", "p4"), ("conv+dev-shifts", "shifts")
TASKS = {
    "exactly-p4": Task(*P4, (0, 0, 0), 4),
    "nearly-p4": Task(*P4, (0.2, 0.2, 0.2), 4),
    "p4-early": Task(*P4, (0, 0, 1.7), 4),
    "no-rotation": Task(*P4, (1.7, 1.7, 1.7), 4),
    "exactly-shifts": Task(*PLACE, (0, 0, 0), 6),
    "nearly-shifts": Task(*PLACE, (0.15, 0.15, 0.15), 6),
    "shifts-early": Task(*PLACE, (0, 0, 1), 6),
    "no-shifts": Task(*PLACE, (1, 1, 1), 6),
}


class Network(nn.Module):
    """Three relaxed layers, an average over places and the group, a linear readout."""

    def __init__(self, paths: str, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RelaxedLayer2d(c_in, width, SIZE, paths) for c_in in (1, width, width))
        self.group = self.layers[0].group
        self.head = nn.Linear(width, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, h, w] -> [batch, outputs]`."""
        if self.group is not None:
            x = x.unsqueeze(2).expand(-1, -1, len(self.group), -1, -1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.flatten(2).mean(2))


def images(count: int, seed: int) -> Tensor:
    """`STROKES` short edges or lines anywhere, at any angle, on a torus, and noise: `[batch, 1, 8, 8]`."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(SIZE, dtype=torch.float32)
    x = 0.1 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
    for _ in range(STROKES):
        row, column, angle, phase = torch.rand(4, count, 1, 1, generator=generator)
        down = (places.reshape(-1, 1) - SIZE * row + SIZE / 2) % SIZE - SIZE / 2
        right = (places - SIZE * column + SIZE / 2) % SIZE - SIZE / 2
        turn = 2 * math.pi * angle
        across = down * turn.cos() + right * turn.sin()
        envelope = torch.exp(-(down.square() + right.square()) / (2 * 1.3**2))
        x += 2 * (envelope * torch.cos(1.5 * across + 2 * math.pi * phase)).unsqueeze(1)
    return x


@torch.no_grad()
def planting(task: Task, seed: int) -> Network:
    """The network that makes the targets: paths at one scale, deviations at the task's, whitened outputs."""
    torch.manual_seed(1000 + seed)
    network = Network(task.paths, OUTPUTS)
    x = images(2000, 10**6 + seed)
    x = x if network.group is None else x.unsqueeze(2).expand(-1, -1, len(network.group), -1, -1)
    for layer, scale in zip(network.layers, task.scales, strict=True):
        shared, deviation = layer.path_names
        for name, wanted in ((shared, 1.0), (deviation, scale)):
            layer.path(name).scale_output_(wanted * layer.divisor / root_mean_square(layer.through(name, x)))
        x = layer(x).relu()
    network.head = nn.Linear(OUTPUTS, OUTPUTS)
    features = x.flatten(2).mean(2)
    spread, axes = torch.linalg.eigh(torch.cov(features.T))
    network.head.weight.copy_(axes.T / spread.sqrt().unsqueeze(1))
    network.head.bias.copy_(-network.head.weight @ features.mean(0))
    return network


@torch.no_grad()
def data(task: Task, seed: int, count: int) -> tuple[Pairs, Pairs]:
    """Training and test set."""
    network = planting(task, seed)
    x = [images(count, 2 * seed + 1), images(1000, 2 * seed + 2)]
    generator = torch.Generator().manual_seed(seed)
    y = [network(part) for part in x]
    noisy = [part + NOISE * torch.randn(part.shape, generator=generator) for part in y]
    return (x[0], noisy[0]), (x[1], noisy[1])


def one_fit(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A row: verdicts and shares beside those of the planting network, and how good the fit is."""
    task, begun = TASKS[name], time.process_time()
    train, test = data(task, seed, options.images)
    torch.manual_seed(seed)
    training = {"seed": seed} if options.epochs is None else {"seed": seed, "epochs": options.epochs}
    config = {"data": {"likelihood": "regression"}, "training": training}
    result = symlearn.fit(Network(task.paths, task.width), train, test, config)
    with torch.no_grad():
        error = float((result.model.eval()(test[0]) - test[1]).square().mean().sqrt())
    report = result.report
    layers = [layer for layer in report["layers"] if "verdict" in layer]
    return {
        "task": name,
        "seed": seed,
        "images": options.images,
        "epochs": options.epochs,
        "truth": task.truth,
        "found": [symlearn.report.sentence.layer_verdict(layer, report) for layer in layers],
        "planted_shares": [deviation_share(layer) for layer in planting(task, seed).layers],
        "shares": [layer["verdict"]["deviation"] for layer in layers],
        "verdicts": [layer["verdict"] for layer in layers],
        "sentence": symlearn.report.sentence.verdict_sentence(report),
        "proposals": report["selection"]["proposals"],
        "log_marginal_likelihood": report["log_marginal_likelihood"],
        "sigma_noise": report["sigma_noise"],
        "test_error": error,
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line a fit; test errors are roots of mean squares, noise included."""
    form = "{:15s} {:>4s} {:>8s} {:>6s} {:>6s} {:>6s}  {:42s} {}"
    lines = [form.format("task", "seed", "log ev.", "sigma", "error", "CPU s", "planted", "found")]
    for row in rows:
        planted, found = (
            ", ".join(f"{word} {share:.2f}" for word, share in zip(words, shares, strict=True))
            for words, shares in ((row["truth"], row["planted_shares"]), (row["found"], row["shares"]))
        )
        numbers = (
            f"{row['log_marginal_likelihood']:.0f}",
            f"{row['sigma_noise']:.3f}",
            f"{row['test_error']:.3f}",
        )
        lines.append(
            form.format(row["task"], str(row["seed"]), *numbers, f"{row['cpu_seconds']:.0f}", planted, found)
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is left and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, help="the fit's own number if not given")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.results.read_text())["rows"] if options.results.exists() else []
    done = {(row["task"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.tasks:
            if (name, seed) in done:
                continue
            rows.append(one_fit(name, seed, options))
            about = {"commit": commit(HERE), "environment": environment()}
            write_content(options.results, {**about, "rows": rows})
            print(table(rows[-1:]), flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
