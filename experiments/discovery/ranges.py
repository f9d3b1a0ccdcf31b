"""Are planted ranges of transformations found? MNIST, transformed by known amounts; small sets and networks.

    python experiments/discovery/ranges.py --data-root DATA [--plant rotation-45 ...] [--seeds 0 1 2]

Every image of a planted set is transformed by itself, uniformly: turned within +-0, 45, 90 or 180 degrees,
shifted within +-0 or 4 of 28 pixels along each axis, scaled by a factor in [0.7, 1.3]; then resized to 16.
The same network (two convolutions, two linear layers) is fitted to it three ways, all by `symlearn.fit` with
gradients of the evidence (no search):

    learned   `OrbitAverage` with the set's kind of transform, the range learned from the default start
    without   the network alone
    full      `OrbitAverage`, the range fixed at the widest: 180 degrees, a quarter of the side, a factor 2
    scale:1.5, ...  the range fixed there, for the evidence along the range

`--whole` adds the evidence of the whole GGN, exact where KFAC has one row a place and no blocks between
tensors, at the fit's precisions (3 GiB and a minute and a half a row).

On deskewed images handwriting brings no slant of its own that would count as a turn.

Results: results/ranges.json, rows that are there already are not run again; the figure is
figures/ranges.png (`--figure` draws it anew from the rows).

Axes: n, c, h, w.
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
from matplotlib.figure import Figure
from torch import Tensor, nn

import kfac
from symlearn.config import Config
from symlearn.curvature.training_set import curvature_of
from symlearn.data import warps
from symlearn.data.pairs import Pairs
from symlearn.data.raw import RawSplit, to_float
from symlearn.data.sources import load_raw
from symlearn.evidence.whole import WholeEvidence
from symlearn.fitting.fit import fit
from symlearn.fitting.result import FitResult
from symlearn.layers import OrbitAverage
from symlearn.run_folder import environment
from symlearn.runs.reproduce import commit

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "results" / "ranges.json", HERE.parents[1] / "figures" / "ranges.png"
TRAIN, TEST, SIDE = 600, 1000, 16
FULL = {"rotation": "rotation:180", "translation": "translation:0.25", "scale": "scale:2"}
UNITS = {"rotation": "degrees", "translation": "of the side", "scale": "factor"}
SETTINGS: dict[str, Any] = {
    "selection": "gradient",
    "removal_rounds": 0,
    "epochs": 80,
    "batch_size": 40,
    "burn_in": 150,
    "frequency": 2,
    "gradient_steps": 2,
    "gradient_images": 200,
    "lr": 0.005,
    "learn": "nothing",
}


@dataclass(frozen=True)
class Plant:
    """A planted set: its kind of transform, and how far it goes, as the readings of a range say it.

    Attributes:
        kind: a name of `symlearn.layers.transforms.TRANSFORMS`, or "translation".
        low, high: degrees, pixels of 28, or factors.
        truth: the range that describes it; of a scale the root of high / low.
        deskewed: whether images are set upright first, so that handwriting brings no slant of its own.
    """

    kind: str
    low: float
    high: float
    truth: float
    deskewed: bool = False


PLANTS = {
    **{f"rotation-{d}": Plant("rotation", -d, d, d) for d in (0, 45, 90, 180)},
    **{f"translation-{p}": Plant("translation", -p, p, p / 28) for p in (0, 4)},
    "scale-0.7-1.3": Plant("scale", 0.7, 1.3, math.sqrt(1.3 / 0.7)),
    **{f"deskewed-rotation-{d}": Plant("rotation", -d, d, d, True) for d in (0, 45)},
}


def network() -> nn.Module:
    """1 x 16 x 16 -> 10."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def planted(half: RawSplit, count: int, plant: Plant, seed: int) -> Pairs:
    """Images `[n, 1, 16, 16]` in [0, 1] and labels, drawn and transformed by the seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(half), generator=generator)[:count]
    images = to_float(half.images[chosen])
    images = deskewed(images) if plant.deskewed else images
    u = plant.low + (plant.high - plant.low) * torch.rand(2, len(images), generator=generator)
    moved = {
        "rotation": lambda: warps.rotate(images, torch.deg2rad(u[0])),
        "translation": lambda: shifted(images, u),
        "scale": lambda: warps.rescale(images, u[0]),
    }[plant.kind]()
    return warps.resize(moved, (SIDE, SIDE)), half.targets[chosen]


def deskewed(images: Tensor) -> Tensor:
    """Images `[n, 1, h, w]` sheared so that rows and columns of their ink are uncorrelated."""
    side = images.shape[-1]
    place = torch.arange(side) - (side - 1) / 2
    ink = images[:, 0] / images.sum((1, 2, 3)).reshape(-1, 1, 1)
    down, right = (ink.sum(2) * place).sum(1), (ink.sum(1) * place).sum(1)
    y = place[None, :, None] - down.reshape(-1, 1, 1)
    x = place[None, None, :] - right.reshape(-1, 1, 1)
    slant = (ink * x * y).sum((1, 2)) / (ink * y.square()).sum((1, 2))
    theta = torch.eye(2, 3).repeat(len(images), 1, 1)
    theta[:, 0, 1], theta[:, 0, 2] = slant, -2 * slant * down / side
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def shifted(images: Tensor, pixels: Tensor) -> Tensor:
    """Images shifted by fractions of pixels `[2, n]` too, bilinear."""
    theta = torch.eye(2, 3).repeat(len(images), 1, 1)
    theta[:, :, 2] = 2 * pixels.T / images.shape[-1]
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def run(
    name: str, way: str, seed: int, data_root: Path, data: str = "mnist", exact: bool = False, **settings: Any
) -> dict[str, Any]:
    """Fit one planted set one way; a row of the results."""
    plant, raw = PLANTS[name], load_raw(data, data_root)
    train, test = (
        planted(half, count, plant, 2 * seed + at)
        for at, (half, count) in enumerate(((raw.train, TRAIN), (raw.test, TEST)))
    )
    mean, std = train[0].mean(), train[0].std()
    train, test = (((x - mean) / std, y) for x, y in (train, test))
    torch.manual_seed(seed)
    model = network()
    if way != "without":
        transforms = {"learned": plant.kind, "full": FULL[plant.kind]}.get(way, way)
        model = OrbitAverage(model, transforms, learn=way == "learned")
    began = time.monotonic()
    config = Config().with_options(**{**SETTINGS, **settings, "seed": seed})
    result = fit(model, train, None, config)
    report = result.report
    train_images = len(train[0])
    return {
        "plant": name,
        "way": way,
        "seed": seed,
        "truth": plant.truth,
        "ranges": {entry["transform"]: entry["range"] for entry in report["ranges"]},
        "log_evidence_per_image": report["log_marginal_likelihood"] / train_images,
        "corrected_evidence_per_image": corrected(result, train) / train_images,
        **({"whole_evidence_per_image": whole(result, train) / train_images} if exact else {}),
        "test": scored(result.model, test),
        "learned": report["training"]["learned"],
        "over_epochs": [[m["epoch"], *m["range"].values()] for m in result.metrics if m.get("range")],
        "seconds": round(time.monotonic() - began, 1),
        "commit": commit(HERE),
    }


def corrected(result: FitResult, train: Pairs) -> float:
    """Log evidence with eigenvalues corrected: their sums over copies are exact, not one row a place."""
    config = result.config.with_options(eigenvalues="corrected")
    evidence = curvature_of(result.model, config, train)
    return float(evidence.terms(result.prior_precision, result.sigma_noise).total)


def whole(result: FitResult, train: Pairs) -> float:
    """Log evidence of the whole GGN at the fit's weights and precisions."""
    batches = list(zip(*(part.split(100) for part in train), strict=True))
    factors = kfac.compute_gram(result.model, batches, "classification")
    evidence = WholeEvidence.of(result.model, factors, "classification")
    return float(evidence.terms(result.prior_precision, result.sigma_noise).total)


@torch.no_grad()
def scored(model: nn.Module, test: Pairs) -> dict[str, float]:
    """Accuracy and mean negative log-likelihood in nats, of the MAP."""
    f, y = model.eval()(test[0]), test[1]
    right = (f.argmax(1) == y).double().mean()
    return {"accuracy": float(right), "nll": float(nn.functional.cross_entropy(f, y))}


def shortened(name: str, kind: str) -> str:
    """A planted set's name without its kind: "45", "deskewed" above "0"."""
    return name.replace(f"{kind}-", "").replace("deskewed-", "deskewed\n")


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Learned range against truth, and what each way gives in evidence and test NLL; a column a kind."""
    figure = Figure((12, 9), layout="constrained")
    kinds = list(dict.fromkeys(PLANTS[row["plant"]].kind for row in rows))
    axes = figure.subplots(3, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        own = [row for row in rows if PLANTS[row["plant"]].kind == kind]
        top = axes[0][column]
        found = [row for row in own if row["way"] == "learned"]
        for row in found:
            hollow = "none" if PLANTS[row["plant"]].deskewed else "#1f6f8b"
            for value in row["ranges"].values():
                top.plot(row["truth"], value, "o", color="#1f6f8b", markerfacecolor=hollow, alpha=0.7)
        ends = [min(row["truth"] for row in found), max(row["truth"] for row in found)]
        top.plot(ends, ends, "--", color="#999999", linewidth=1)
        top.set(title=f"{kind} (hollow: deskewed)" if kind == "rotation" else kind)
        top.set(xlabel=f"planted range [{UNITS[kind]}]", ylabel="learned range")
        names = list(dict.fromkeys(row["plant"] for row in own))
        for at, (key, label) in enumerate(
            (("evidence", "-log evidence [nats an image]"), ("nll", "test NLL [nats]")), start=1
        ):
            below = axes[at][column]
            for way, colour in (("without", "#999999"), ("learned", "#1f6f8b"), ("full", "#d1495b")):
                points = [
                    (
                        names.index(row["plant"]),
                        -row["log_evidence_per_image"] if key == "evidence" else row["test"]["nll"],
                    )
                    for row in own
                    if row["way"] == way
                ]
                if points:
                    below.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.7, label=way)
            below.set_xticks(range(len(names)), [shortened(name, kind) for name in names], fontsize=8)
            below.set_ylabel(label)
    axes[1][0].legend(frameon=False)
    return figure


def main() -> int:
    """Run what is left and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--plant", nargs="*", default=list(PLANTS), choices=list(PLANTS))
    parser.add_argument("--way", nargs="*", default=["learned", "without", "full"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--figure", action="store_true", help="draw only")
    parser.add_argument("--smoke", action="store_true", help="scikit-learn's digits, two epochs")
    parser.add_argument("--whole", action="store_true", help="the evidence of the whole GGN too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURE.parent)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: Path = options.results
    small: dict[str, Any] = {"data": "digits", "epochs": 2, "burn_in": 1} if options.smoke else {}
    rows = json.loads(results.read_text())["rows"] if results.exists() else []
    found = {(row["plant"], row["way"], row["seed"]): row for row in rows}
    for seed in options.seeds:
        for way in options.way:
            for name in options.plant:
                there = found.get((name, way, seed))
                if options.figure or (there and ("whole_evidence_per_image" in there or not options.whole)):
                    continue
                row = run(name, way, seed, options.data_root, exact=options.whole, **small)
                found[name, way, seed] = row
                results.parent.mkdir(exist_ok=True)
                results.write_text(
                    json.dumps(
                        {
                            "settings": SETTINGS,
                            "sizes": {"train": TRAIN, "test": TEST, "side": SIDE},
                            "environment": environment(),
                            "rows": list(found.values()),
                        },
                        indent=1,
                    )
                    + "\n"
                )
                told = {k: round(v, 3) for k, v in row["ranges"].items()}
                print(name, way, seed, told, row["log_evidence_per_image"], row["test"], row["seconds"])
                sys.stdout.flush()
    draw(list(found.values())).savefig(options.figures / FIGURE.name, dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
