"""The digit-and-angle example of Bao & Song (sections 4 and 5): which digit, and by how many quarter turns?

Networks with 10 classes * 4 quarter turns, tested on digits turned at random; right is a prediction whose
digit and angle are both right. The invariant reading says the digit alone.

    equivarified   a CNN, made equivariant as a whole; the CNN's own parameters
    side-by-side   the paper's variant: conv2 and conv3 see the maps of all four elements side by side, so
                   with four times the parameters; each map lies in its own element's frame
    group-maps     the same with every map turned into one frame before they are mixed, as G-CNNs do, then
                   the head equivarified
    augmented      the CNN itself with 40 outputs, trained on turned digits

The first three are trained on upright digits labelled 0 degrees: their loss is the same on turned ones. The
digit alone is read by logsumexp over the angles (the probability of the digit) or by the largest; the mean of
the logits is recorded too, and is no reading of a network trained on pairs.

    python experiments/equivarify/mnist.py [--scale smoke|small|cpu|paper] [--data-root DIR] [--seeds 0 1]

It writes results/mnist.<scale>.json, a row a run, and prints the table. The scale cpu is that of the table
digit_and_angle.toml: each run is in results/digit_and_angle.cpu.json as soon as it is done, those that are
there are not run again, and the table's claims are judged.

Axes: batch, classes, group (quarter turns), h, w.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import symlearn
from symlearn.layers import ByElement, GroupConv2d, InvariantReading, LiftingConv2d, group_map_action
from symlearn.layers.equivarify import equivarify
from symlearn.layers.group_reading import AtIdentity, class_and_element, joint_cross_entropy
from symlearn.run_folder import environment, to_json, write_atomically
from symlearn.runs import table_text
from symlearn.runs.provenance import commit, made_by
from symlearn.runs.reproduce import plan_table
from symlearn.runs.tables import read_experiment

HERE = Path(__file__).resolve().parent
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "size": 16, "limit": 400, "epochs": 5, "seeds": [0]},
    "small": {"data": "mnist", "size": 28, "limit": 5000, "epochs": 10, "seeds": [0, 1, 2]},
    "paper": {"data": "mnist", "size": 28, "limit": None, "epochs": 20, "seeds": [0, 1, 2]},
}
BATCH, LEARNING_RATE = 50, 0.002
CLASSES, TURNS = 10, 4
PUBLISHED = {
    "source": "Bao & Song, section 5.2: MNIST, a CNN like side-by-side, all 60,000 training images",
    "digit_and_angle": None,
    "note": "the text of the paper at hand has lost the figure; none is quoted from memory",
}


def cnn(size: int, outputs: int = CLASSES) -> nn.Sequential:
    """Three convolutions and a linear head, `[batch, 1, h, w] -> [batch, outputs]`."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (size // 4) ** 2, outputs),
    )


def equivarified(size: int) -> nn.Module:
    """The CNN, equivarified as a whole; `[batch, 1, h, w] -> [batch, classes, group]`."""
    return equivarify(cnn(size), "p4")


def side_by_side(size: int) -> nn.Module:
    """Layers equivarified one after another, the later ones on all elements' maps as channels."""
    half = nn.MaxPool2d(2)
    first = equivarify(nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), half), "p4")
    on_maps = first.output_action
    second = nn.Sequential(nn.Flatten(1, 2), nn.Conv2d(16 * TURNS, 32, 3, padding=1), nn.ReLU(), half)
    third = nn.Sequential(nn.Flatten(1, 2), nn.Conv2d(32 * TURNS, 32, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, CLASSES))
    return nn.Sequential(
        first, equivarify(second, on_maps), equivarify(third, on_maps), ByElement(head, TURNS)
    )


def group_maps(size: int) -> nn.Module:
    """The same sizes with the second and third convolution on maps of the whole group."""
    half = nn.MaxPool3d((1, 2, 2))
    head = nn.Sequential(AtIdentity(), nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, CLASSES))
    return nn.Sequential(
        LiftingConv2d(1, 16, 5, "p4", padding_mode="zeros"),
        nn.ReLU(),
        half,
        GroupConv2d(16, 32, 3, "p4", padding_mode="zeros"),
        nn.ReLU(),
        half,
        GroupConv2d(32, 32, 3, "p4", padding_mode="zeros"),
        nn.ReLU(),
        equivarify(head, group_map_action("p4")),
    )


def augmented(size: int) -> nn.Module:
    """The CNN with an output for every digit and angle."""
    return nn.Sequential(cnn(size, CLASSES * TURNS), nn.Unflatten(1, (CLASSES, TURNS)))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "equivarified": equivarified,
    "side-by-side": side_by_side,
    "group-maps": group_maps,
    "augmented": augmented,
}


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int) -> None:
    """Adam with a cosine, on pairs y = digit * 4 + quarter turns, int64 `[batch]`."""
    steps = epochs * math.ceil(len(x) / BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            here = batch.to(x.device)
            loss = joint_cross_entropy(model(x[here]), y[here] // TURNS, y[here] % TURNS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def measure(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Accuracies on turned digits, as fractions."""
    logits = torch.cat([model(part) for part in x.split(500)])
    digit, angle = y // TURNS, y % TURNS
    found_digit, found_angle = class_and_element(logits)
    right = (found_digit == digit) & (found_angle == angle)
    return {
        "digit_and_angle": float(right.float().mean()),
        "digit": {
            reduce: float((InvariantReading(reduce)(logits).argmax(1) == digit).float().mean())
            for reduce in ("max", "logsumexp", "mean")
        },
        "angle": float((found_angle == angle).float().mean()),
        "digit_and_angle_by_digit": [float(right[digit == d].float().mean()) for d in range(CLASSES)],
        "nll": float(joint_cross_entropy(logits, digit, angle)),
    }


def turning_gap(model: nn.Module, x: Tensor) -> float:
    """How far logits of turned images are from the turned logits, relative to the logits."""
    with torch.no_grad():
        y = model(x)
        gaps = [(model(x.rot90(k, (-2, -1))) - y.roll(k, 2)).norm() / y.norm() for k in range(TURNS)]
    return float(torch.stack(gaps).max())


def run(
    chosen: dict[str, Any],
    networks: list[str],
    seeds: list[int],
    data_root: Path | None,
    device: str,
    wanted: Callable[[str, int], bool] = lambda network, seed: True,
) -> Iterator[dict[str, Any]]:
    """Every network with every seed that is wanted, at a scale's options; a row each."""
    given = {"data_root": data_root, "limit": chosen["limit"], "size": chosen["size"]}
    upright = symlearn.load_data(chosen["data"], "class", **given).train
    turned = symlearn.load_data(chosen["data"], "class-and-turn", **given)
    test_x, test_y = (part.to(device) for part in turned.test.tensors)
    for name in networks:
        x, y = (part.to(device) for part in (turned.train if name == "augmented" else upright).tensors)
        y = y if name == "augmented" else y * TURNS
        for seed in seeds:
            if not wanted(name, seed):
                continue
            torch.manual_seed(seed)
            model = NETWORKS[name](chosen["size"]).to(device)
            start = time.monotonic()
            train(model, x, y, chosen["epochs"], seed)
            row = {
                "network": name,
                "seed": seed,
                "parameters": sum(p.numel() for p in model.parameters()),
                "train_examples": len(x),
                "test_examples": len(test_x),
                **measure(model.eval(), test_x, test_y),
                "turning_gap": turning_gap(model, test_x[:64]),
                "seconds": round(time.monotonic() - start, 1),
            }
            print(f"{name}, seed {seed}: {row['digit_and_angle']:.4f}, {row['seconds']} s", flush=True)
            yield row


def run_for_table(
    scale: str, networks: list[str], seeds: list[int] | None, data_root: Path | None, device: str
) -> None:
    """What is left of digit_and_angle.toml at a scale; every row is kept at once."""
    plan = plan_table(read_experiment("digit_and_angle", HERE.parent), scale, Path("runs"), seeds)
    left = {(job.label, job.seed): job.options for job in plan.jobs}
    options = {"limit": None, **plan.experiment.scales[scale]}
    every = sorted({seed for _, seed in left})
    made = [made_by(commit(HERE), device)]
    if left:
        rows = run(options, networks, every, data_root, device, lambda name, seed: (name, seed) in left)
        for row in rows:
            kept = {
                "label": row.pop("network"),
                "options": {},
                "made": made,
                "accuracy": row["digit_and_angle"],
                "log_marginal_likelihood": None,
                "effective_parameters": {},
                **row,
            }
            kept["options"] = left[kept["label"], kept["seed"]]
            plan.add(kept)
    print(f"\n{table_text.table(plan.content)}\n\n{table_text.claims_text(plan.content['claims'])}")


def table(rows: list[dict[str, Any]]) -> str:
    """Means and ranges over seeds, in percent, a line a network."""

    def spread(values: list[float]) -> str:
        low, mean, high = (100 * f(values) for f in (min, statistics.mean, max))
        return f"{mean:.2f} ({low:.2f}-{high:.2f})"

    lines = [
        f"{'network':14s}{'parameters':>11s}{'digit and angle %':>22s}{'digit %':>22s}{'gap':>9s}{'s':>7s}"
    ]
    for name in dict.fromkeys(row["network"] for row in rows):
        runs = [row for row in rows if row["network"] == name]
        lines.append(
            f"{name:14s}{runs[0]['parameters']:11,d}{spread([r['digit_and_angle'] for r in runs]):>22s}"
            f"{spread([r['digit']['logsumexp'] for r in runs]):>22s}"
            f"{max(r['turning_gap'] for r in runs):9.0e}{statistics.mean(r['seconds'] for r in runs):7.0f}"
        )
    return "\n".join([*lines, f"published: {PUBLISHED['digit_and_angle'] or PUBLISHED['note']}"])


def main() -> int:
    """Run a scale, write its JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=[*SCALES, "cpu"], default="smoke")
    parser.add_argument("--seeds", type=int, nargs="+", help="those of the scale if not given")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--data-root", type=Path, help="where downloaded data sets lie")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.scale == "cpu":
        run_for_table("cpu", options.networks, options.seeds, options.data_root, options.device)
        return 0
    chosen = SCALES[options.scale]
    seeds = options.seeds or chosen["seeds"]
    rows = list(run(chosen, options.networks, seeds, options.data_root, options.device))
    content = {
        "experiment": "digit and angle",
        "scale": options.scale,
        "seeds": seeds,
        "config": {
            **SCALES[options.scale],
            "batch_size": BATCH,
            "lr": LEARNING_RATE,
            "device": options.device,
        },
        "commit": commit(HERE),
        "environment": environment(),
        "published": PUBLISHED,
        "rows": rows,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"mnist.{options.scale}.json"
    write_atomically(path, (to_json(content) + "\n").encode())
    print(f"{table(rows)}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
