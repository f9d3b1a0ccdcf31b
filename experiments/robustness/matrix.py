"""Do fits with default settings end with a verdict, on any data? Many fits, and what became of each.

    python experiments/robustness/matrix.py --set matrix     # 267 fits, shortened, and MAP
    python experiments/robustness/matrix.py --set digits     # the main job, three seeds
    python experiments/robustness/matrix.py --set few        # 100 and 300 images, by blocks and the whole GGN

The seven planted tasks with defaults, five seeds each, are another experiment: `symlearn reproduce planted`.
Each fit is a process of its own with one thread, `--processes` at a time. A row is written as soon as it is
known, and a run that was interrupted goes on where it stopped. MNIST and CIFAR-10 are left out without
`--data-root`. Results: results/<set>.json; figure: figures/robustness-<set>.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tasks import PLANTED, make

HERE = Path(__file__).parent
SHORT = {"epochs_steps": 3000, "rounds": 2}  # the matrix's fits: about 3,000 steps and two rounds
SUMS = ("f-fc+conv", "s-fc+s-conv", "conv+gconv-p4", "f-fc+conv+gconv-p4", "conv+gconv-p4m")
SINGLE = ("f-fc", "conv", "gconv-p4")
UNKIND = ("two-class", "20-classes", "100-classes", "imbalanced", "noisy-labels", "regression")
DIGITS = tuple(f"digits:{t}" for t in ("class", "quadrant-digit", "quadrant", "rotated", "quarter-turns"))
REAL = ("mnist", "cifar10")


@dataclass(frozen=True)
class Cell:
    """One fit."""

    task: str
    paths: str
    seed: int
    images: int = 1200
    network: str = "small"
    selection: str = "search"
    short: bool = False
    epochs: int | None = None
    ggn: str = "auto"

    @property
    def name(self) -> str:
        """Its key in the results."""
        parts = (self.task, self.paths, self.network, self.selection, self.images, self.seed)
        own = "" if self.ggn == "auto" else f" {self.ggn}"
        return " ".join(map(str, parts)) + (" short" if self.short else "") + own


def digits_cells() -> list[Cell]:
    """The main job: digits in quadrants, both tasks, defaults, three seeds."""
    return [
        Cell(f"digits:{task}", "f-fc+conv", seed, 1400)
        for seed in range(3)
        for task in ("quadrant-digit", "quadrant")
    ]


def matrix_cells() -> list[Cell]:
    """A subset of tasks x paths x networks x images x seeds: 267 fits, and single paths by MAP beside them.

    In an order of chance (a fixed one), so that whatever was run of it is a fair sample.
    """
    cells = []
    for at, task in enumerate((*PLANTED, *UNKIND, *DIGITS, *REAL)):
        big, two = 2000 if task in REAL else 1200, (at % 3, (at + 1) % 3)
        sizes = (100, 300, big)
        cells += [Cell(task, "f-fc+conv", s, n, short=True) for n in sizes for s in two]
        cells += [Cell(task, "s-fc+s-conv", two[0], n, short=True) for n in (300, big)]
        cells += [Cell(task, "conv+gconv-p4", two[1], (100, big)[at % 2], short=True)]
        cells += [Cell(task, paths, two[0], 300, short=True) for paths in SUMS[3:]]
        cells += [Cell(task, SINGLE[at % 3], two[0], big, short=True)]
        cells += [Cell(task, "f-fc+conv", two[0], 300, selection="gradient", short=True)]
        if task in ("glyph", "digits:class", "mnist"):
            cells += [Cell(task, "free+cyclic-90", two[0], 300, network="unfolded", short=True)]
        if task in REAL:
            cells += [Cell(task, "f-fc+conv", s, 300, network="ten-layer", short=True) for s in two]
        cells += [Cell(task, p, 0, n, selection="none", short=True) for n in sizes for p in SINGLE[:2]]
        cells += [Cell(task, "gconv-p4", 0, big, selection="none", short=True)]
    return random.Random(0).sample(cells, len(cells))


def few_cells() -> list[Cell]:
    """A hundred images, with the curvature of larger sets and with the whole GGN; 300, where it is drawn."""
    tasks = ("digits:class", "two-class", "glyph", "imbalanced", "side", "noisy-labels", "mnist", "cifar10")
    hundred = [
        Cell(task, "f-fc+conv", 0, 100, short=True, ggn=ggn) for task in tasks for ggn in ("whole", "blocks")
    ]
    many = (
        "cifar10",
        "digits:class",
        "100-classes",
        "noisy-labels",
        "mnist",
        "20-classes",
        "digits:quadrant",
    )
    return hundred + [
        Cell(task, "f-fc+conv", 0, 300, short=True, ggn=ggn) for task in many for ggn in ("drawn", "blocks")
    ]


def smoke_cells() -> list[Cell]:
    """One fit of a set that is made for it, to see that this runs."""
    return [Cell("glyph", "conv", 0, 60, selection="none", epochs=2)]


SETS = {"matrix": matrix_cells, "digits": digits_cells, "few": few_cells, "smoke": smoke_cells}


def command(cell: Cell, folder: Path, data_root: Path | None, device: str) -> list[str]:
    """The command line of a fit."""
    kind, _, task = cell.task.partition(":")
    options = ["--seed", str(cell.seed), "--paths", cell.paths, "--selection", cell.selection]
    options += ["--device", device, "--ggn", cell.ggn]
    if kind in REAL:
        assert data_root is not None
        packed = data_root / f"{kind}.npz"
        options += ["--data", str(packed) if packed.exists() else kind, "--test-limit", "1000"]
        options += [] if packed.exists() else ["--data-root", str(data_root)]
        options += ["--size", "32" if cell.network == "ten-layer" else "16"]
    elif kind == "digits":
        options += ["--data", kind, "--task", task]
    else:
        options += [
            "--data",
            str(make(kind, cell.images, Path(tempfile.gettempdir()) / "symlearn-robustness")),
        ]
    options += ["--limit", str(cell.images), "--network", cell.network]
    if kind == "regression":
        options += ["--likelihood", "regression"]
    if cell.network == "ten-layer":
        options += ["--alpha", "2"]
    if cell.network == "unfolded":
        options += ["--alpha", "8"]
    if cell.short:
        steps = max(cell.images // min(max(cell.images // 24, 8), 50), 1)
        options += [
            "--epochs",
            str(max(SHORT["epochs_steps"] // steps, 10)),
            "--rounds",
            str(SHORT["rounds"]),
        ]
        options += ["--burn-in", "500"]
    if cell.epochs is not None:
        options += ["--epochs", str(cell.epochs)]
    return [sys.executable, "-m", "symlearn", "fit", *options, "--out", str(folder)]


def run(cell: Cell, data_root: Path | None, seconds: float, device: str) -> dict[str, Any]:
    """One fit; its row."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        folder = Path(out) / "run"
        line = command(cell, folder, data_root, device)
        try:
            done = subprocess.run(
                line, capture_output=True, text=True, env={**os.environ, **threads}, timeout=seconds
            )
            code, said = done.returncode, (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        except subprocess.TimeoutExpired:
            code, said = None, ["over the time limit"]
        report = folder / "report.json"
        found = json.loads(report.read_text()) if report.exists() else {}
    training = found.get("training", {})
    return {
        **vars(cell),
        "device": device,
        "exit": code,
        "said": said[0] if said and code != 0 else None,
        "learned": training.get("learned"),
        "accuracy": found.get("test", {}).get("accuracy"),
        "nll": found.get("test", {}).get("nll"),
        "log_marginal_likelihood": found.get("log_marginal_likelihood"),
        "constant_log_evidence": training.get("constant_log_evidence"),
        "train_loss": training.get("train_loss"),
        "constant_loss": training.get("constant_loss"),
        "starts": [start["outcome"] for start in training.get("starts", [])],
        "setbacks": training.get("setbacks"),
        "types": [layer["effective_type"] for layer in found.get("layers", [])],
        "verdicts": [layer["verdict"] for layer in found.get("layers", []) if "verdict" in layer],
        "proposals": found.get("selection", {}).get("proposals"),
        "removals": found.get("selection", {}).get("removals"),
        "seconds": round(time.monotonic() - begun, 1),
    }


def write(file: Path, rows: dict[str, Any], limit: float) -> None:
    """The results so far, atomically."""
    made = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    part = file.with_suffix(".part")
    part.write_text(
        json.dumps({"made_with": made, "seconds_at_most": limit, "rows": rows}, indent=1, sort_keys=True)
        + "\n"
    )
    part.replace(file)


def main() -> int:
    """Run what is left, then say how often fits ended, learned and kept up with the best single path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(SETS), default="matrix")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="fits of this sum of paths alone")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--hours", type=float, default=24.0, help="start no fit after so long")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most, for one fit")
    parser.add_argument("--data-root", type=Path, help="where MNIST and CIFAR-10 lie")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--figures", type=Path, default=HERE.parents[1] / "figures")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{options.set}.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    cells = SETS[options.set]()
    if options.data_root is None:
        cells = [cell for cell in cells if cell.task not in REAL]
    if options.only is not None:
        cells = [cell for cell in cells if cell.paths == options.only]
    left = [cell for cell in dict.fromkeys(cells) if cell.name not in rows]
    print(f"{len(rows)} fits are there, {len(left)} are left", flush=True)
    end = time.monotonic() + 3600 * options.hours

    def work(cell: Cell) -> None:
        if time.monotonic() > end:
            return
        limit = min(options.seconds, max(end + 60 - time.monotonic(), 60))
        row = run(cell, options.data_root, limit, options.device)
        if row["exit"] is None and time.monotonic() > end:
            return  # cut by the clock, not by itself
        rows[cell.name] = row
        write(file, dict(rows), options.seconds)
        became = f"exit {row['exit']}, learned {row['learned']}, accuracy {row['accuracy']}"
        print(f"{row['seconds']:6.0f} s  {cell.name}: {became}", flush=True)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(work, left))
    from summary import drawn, summarise

    print(summarise(list(rows.values())))
    drawn(list(rows.values())).savefig(options.figures / f"robustness-{options.set}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
