"""Groups of one's own on planted data: does the evidence choose their path over F-FC and CONV?

    python experiments/discovery/own_groups.py [--tasks rows channels ordered] [--seeds 0 1 2] [--alone]

Made-up tasks of four classes. Of the first two a class is one of four codes along the columns, each the same
code moved around by two columns, so that a convolution with an average over places cannot tell them apart:

    rows        the code stands in any one of the rows, other rows are noise: rows may be exchanged
    channels    the code stands in any one of four channels, at places of its own: channels may be exchanged
    ordered     the control: one code, and the class is which two rows it stands in: rows may not be exchanged

The network has two relaxed layers without stride, an average over places and a linear head; its paths are
F-FC, CONV and the group's own (`symlearn.layers.register_symmetry`). What is true: both layers may commute
with the group, of `ordered` one of them must not; the head is free. The search starts from the group's path,
the strictest. Beside the choice stand test accuracy and, with `--alone`, the same fits of each path alone.

Results: results/own-groups.json, a row a fit; rows that are there already are not run again.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import symlearn
from symlearn.layers import RelaxedLayer2d, any_order, register_symmetry, rows_in_any_order
from symlearn.run_folder import environment
from symlearn.runs.provenance import commit
from symlearn.runs.table_file import write_content

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "own-groups.json"
Pairs = tuple[Tensor, Tensor]
CODE = (2.0, -1.0, 1.5, 0.0, -2.0, 0.5, -1.0, 0.0)  # along the columns
CLASSES, CHANNELS = 4, 4


def images(count: int, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Standard normal noise `[batch, c, h, w]`, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return torch.randn(count, *shape, generator=generator), labels, generator


def codes(labels: Tensor) -> Tensor:
    """The code of every label, `[batch, w]`."""
    return torch.stack([torch.tensor(CODE).roll(2 * int(label)) for label in labels])


def rows(count: int, seed: int) -> Pairs:
    """`[batch, 1, 8, 8]` with a code in one row."""
    x, y, generator = images(count, (1, 8, 8), seed)
    x[torch.arange(count), 0, torch.randint(0, 8, (count,), generator=generator)] += codes(y)
    return x, y


def channels(count: int, seed: int) -> Pairs:
    """`[batch, 4, 1, 8]` with a code in one channel."""
    x, y, generator = images(count, (CHANNELS, 1, 8), seed)
    x[torch.arange(count), torch.randint(0, CHANNELS, (count,), generator=generator), 0] += codes(y)
    return x, y


def ordered(count: int, seed: int) -> Pairs:
    """`[batch, 1, 8, 8]` with the first code in one of the two rows that make the class."""
    x, y, generator = images(count, (1, 8, 8), seed)
    row = 2 * y + torch.randint(0, 2, (count,), generator=generator)
    x[torch.arange(count), 0, row] += torch.tensor(CODE)
    return x, y


@dataclass(frozen=True)
class Task:
    """A planted group.

    Attributes:
        draw: images and labels from a count and a seed.
        path: the name of the group's path.
        shape: of an image.
        width: of the layers.
    """

    draw: Callable[[int, int], Pairs]
    path: str
    shape: tuple[int, int, int]
    width: int


TASKS = {
    "rows": Task(rows, "rows", (1, 8, 8), 4),
    "channels": Task(channels, "any-channel", (CHANNELS, 1, 8), 8),
    "ordered": Task(ordered, "rows", (1, 8, 8), 4),
}


def register() -> None:
    """The two paths."""
    register_symmetry(
        "rows", rows_in_any_order, group="exchanges of rows", words="free to exchange rows", colour="#6A3D9A"
    )
    register_symmetry(
        "any-channel",
        channels=any_order(CHANNELS),
        group="exchanges of channels",
        words="free to exchange channels",
        colour="#B15928",
    )


class Network(nn.Module):
    """Two relaxed layers, an average over places, a linear head."""

    def __init__(self, paths: str, task: Task) -> None:
        super().__init__()
        c, *size = task.shape
        h_w = (size[0], size[1])
        self.layers = nn.ModuleList(
            [RelaxedLayer2d(c, task.width, h_w, paths), RelaxedLayer2d(task.width, task.width, h_w, paths)]
        )
        self.head = nn.Linear(task.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, h, w] -> [batch, classes]`."""
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean((2, 3)))


def one_fit(name: str, paths: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A row: what was chosen, and how good it is."""
    task, begun = TASKS[name], time.process_time()
    train, test = task.draw(options.images, 2 * seed + 1), task.draw(1000, 2 * seed + 2)
    torch.manual_seed(seed)
    config = {
        "training": {"epochs": options.epochs, "seed": seed},
        "evidence": {"rounds": 2, "proposals": 4, "removal_rounds": 2},
    }
    result = symlearn.fit(Network(paths, task), train, test, config)
    with torch.no_grad():
        accuracy = float((result.model.eval()(test[0]).argmax(1) == test[1]).double().mean())
    report = result.report
    return {
        "task": name,
        "paths": paths,
        "seed": seed,
        "images": options.images,
        "epochs": options.epochs,
        "verdicts": [layer["verdict"] for layer in report["layers"] if "verdict" in layer],
        "active": [list(layer.active) for layer in result.model.layers],
        "sentence": symlearn.report.sentence.verdict_sentence(report),
        "proposals": report["selection"]["proposals"],
        "log_marginal_likelihood": report["log_marginal_likelihood"],
        "accuracy": accuracy,
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line a fit."""
    form = "{:9s} {:26s} {:>4s} {:>10s} {:>6s} {:>6s}  {}"
    lines = [form.format("task", "paths", "seed", "log ev.", "acc. %", "CPU s", "layers commute with")]
    for row in rows:
        found = ", ".join(verdict["symmetry"] for verdict in row["verdicts"])
        evidence = row["log_marginal_likelihood"]
        numbers = (
            "-" if evidence is None else f"{evidence:.0f}",
            f"{100 * row['accuracy']:.1f}",
            f"{row['cpu_seconds']:.0f}",
        )
        lines.append(form.format(row["task"], row["paths"], str(row["seed"]), *numbers, found))
    return "\n".join(lines)


def main() -> int:
    """Run what is left and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--alone", action="store_true", help="the fits of every path alone as well")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    rows = json.loads(options.results.read_text())["rows"] if options.results.exists() else []
    done = {(row["task"], row["paths"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.tasks:
            single = ("f-fc", "conv", TASKS[name].path)
            for paths in ["+".join(single), *(single if options.alone else ())]:
                if (name, paths, seed) in done:
                    continue
                rows.append(one_fit(name, paths, seed, options))
                about = {"commit": commit(HERE), "environment": environment()}
                write_content(options.results, {**about, "rows": rows})
                print(table(rows[-1:]), flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
