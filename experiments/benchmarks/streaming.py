"""Memory and time of a fit to a folder of many small images: held in memory, and read as they are needed.

The folder is made by this script: colour PNGs of 32x32, bars of two directions in noise. Each fit runs in a
process of its own, after a first tiny fit that has loaded every library. Reported are the rise of its largest
resident set above that, in MiB (the C allocator gives freed memory back at once, `RETURNED`); the seconds of
loading (colours, statistics, and for the streamed fit nothing else), of an epoch of steps, and of all; and
whether the two fits end with the same weights.

    python experiments/benchmarks/streaming.py                    20,000 images, both ways
    python experiments/benchmarks/streaming.py --more 200000      and so many, streamed

Axes: c, h, w.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import forget_peak, resident_mebibytes, write
from torch import nn

import symlearn

SIDE, TESTED = 32, 1000  # pixels, and test images
EPOCHS = 2  # one of the start, one of the anneal; an evidence update after each at most
OPTIONS = {"epochs": EPOCHS, "batch_size": 100, "selection": "gradient", "burn_in": 1, "frequency": 1}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}


def make_folder(root: Path, images: int, seed: int = 0) -> Path:
    """`train/<class>/*.png` and `test/<class>/*.png`, so many of the former."""
    random = np.random.default_rng(seed)
    for half, count in (("train", images), ("test", TESTED)):
        for name in ("across", "down"):
            (root / half / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
            row, column = random.integers(0, SIDE - 8, 2)
            across = number % 2 == 0
            pixels[row : row + (1 if across else 8), column : column + (8 if across else 1)] = 255
            file = root / half / ("across" if across else "down") / f"{number:07}.png"
            Image.fromarray(pixels).save(file, compress_level=1)
    return root


def network() -> nn.Module:
    """Two convolutions, the average over places, a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def measured(root: Path, hold: bool, workers: int) -> dict[str, Any]:
    """What a fit to the folder takes."""
    tiny = symlearn.load_data("digits", limit=100, test_limit=50)
    first = symlearn.build_model("conv", alpha=1, size=16)
    symlearn.fit(first, tiny.train, tiny.test, {"training": {"epochs": 1}})
    gc.collect()
    before = resident_mebibytes(peak=False)
    forget_peak()
    began = time.perf_counter()
    splits = symlearn.load_data(root, hold=hold, workers=workers)
    loaded = time.perf_counter()
    config = symlearn.Config().with_options(workers=workers, **OPTIONS)
    epochs: list[float] = []
    result = symlearn.fit(
        network(), splits.train, splits.test, config, progress=lambda _: epochs.append(time.perf_counter())
    )
    ended = time.perf_counter()
    weights = b"".join(p.detach().numpy().tobytes() for p in result.model.parameters())
    return {
        "images": len(splits.train),
        "held": hold,
        "workers": workers,
        "peak_mebibytes": resident_mebibytes(peak=True) - before,
        "pixels_mebibytes": 4 * (len(splits.train) + len(splits.test)) * 3 * SIDE**2 / 2**20,
        "loading_seconds": loaded - began,
        "epoch_seconds": epochs[-1] - epochs[-2],
        "seconds": ended - began,
        "log_marginal_likelihood": result.report["log_marginal_likelihood"],
        "weights": hashlib.sha256(weights).hexdigest()[:16],
    }


def in_a_process_of_its_own(root: Path, hold: bool, workers: int) -> dict[str, Any]:
    """`measured` there."""
    given = ["--measure", str(root), "held" if hold else "streamed", "--workers", str(workers)]
    command = [sys.executable, sys.argv[0], *given]
    environment = {**os.environ, **RETURNED}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000, help="of the fits side by side")
    parser.add_argument("--more", type=int, help="images of a further streamed fit, such as 200000")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument(
        "--measure", nargs=2, metavar=("FOLDER", "HOW"), help="print one fit's numbers, and stop"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.measure:
        print(json.dumps(measured(Path(chosen.measure[0]), chosen.measure[1] == "held", chosen.workers)))
        sys.exit()
    rows = []
    plan = [(chosen.images, True), (chosen.images, False)] + ([(chosen.more, False)] if chosen.more else [])
    with TemporaryDirectory() as place:
        folders: dict[int, Path] = {}
        for images, hold in plan:
            if images not in folders:
                folders[images] = make_folder(Path(place) / str(images), images)
            rows.append(in_a_process_of_its_own(folders[images], hold, chosen.workers))
            print(rows[-1], flush=True)
        same = rows[0]["weights"] == rows[1]["weights"]
        write("streaming", {"options": OPTIONS, "rows": rows, "same_weights": same})
