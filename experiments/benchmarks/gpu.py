"""A GPU against the CPU: steps, curvature passes, memory predicted and measured, and a fit end to end.

    python experiments/benchmarks/gpu.py --data-root ~/data     MNIST in torchvision's layout or as mnist.npz

In this order, in less than eight minutes:

1. Seconds of a step on the weights (on the GPU also through `torch.compile`, after its compilation) and of a
   curvature pass over 1,000 images, of the networks `small` and `ten-layer` (F-FC + CONV), on both sides, and
   how much faster the GPU is.
2. Bytes that `symlearn.estimate` predicts for the GPU, and torch's own peak over a short fit.
3. The main job on MNIST (which digit, in which quadrant): defaults, one seed, seconds and what was learned.

Everything is written as it is known. Without a GPU the script says so and measures nothing; `--device cpu`
runs it all on the CPU in place of the GPU, `--smoke` at the smallest sizes, to see that it runs.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timing import RESULTS, write
from torch import Tensor, nn

import symlearn
from symlearn.config import Config
from symlearn.curvature.training_set import curvature_of
from symlearn.training.state import FitState
from symlearn.training.steps import train_epoch

IMAGES, BATCHES, ROUNDS = 1000, (50, 500), 3
NETWORKS = {
    "small": {"alpha": 4, "size": 16, "channels": 1},
    "ten-layer": {"alpha": 10, "size": 32, "channels": 3},
}
SMOKE = {"small": {"alpha": 1, "size": 16, "channels": 1}}
LIMIT = 280  # seconds for the fit end to end


def network(name: str, given: dict[str, int]) -> nn.Module:
    torch.manual_seed(0)
    return symlearn.build_model(
        "f-fc+conv", network=name, alpha=given["alpha"], size=given["size"], in_channels=given["channels"]
    )


def images(given: dict[str, int], count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, given["channels"], given["size"], given["size"])
    return torch.randn(shape, generator=generator), torch.arange(count) % 10


def seconds(call: Callable[[], object], device: str) -> float:
    """Of the quickest of some calls, after a first one; the GPU's work is waited for."""
    best = float("inf")
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best


def speed(name: str, given: dict[str, int], device: str, count: int) -> dict[str, float]:
    """Seconds of steps and of a curvature pass on one device."""
    model = network(name, given).to(device)
    data = tuple(t.to(device) for t in images(given, count))
    found, ways = {}, [(batch, False) for batch in BATCHES] + [(BATCHES[0], True)] * (device == "cuda")
    for batch, compiled in ways:
        config = (
            Config().with_options(batch_size=min(batch, count), epochs=1, compile=compiled).resolved(count)
        )
        state = FitState(model, config, count)
        few = (data[0][: 2 * batch], data[1][: 2 * batch])
        steps = max(len(few[0]) // batch, 1)
        took = seconds(lambda s=state, d=few: train_epoch(s, d, lambda _: 1e-5), device)
        found[f"step of {batch}{', compiled' * compiled}"] = took / steps
    found[f"pass over {count:,}"] = seconds(lambda: curvature_of(model, state.config, data), device)
    return found


def memory(name: str, given: dict[str, int], device: str, count: int) -> dict[str, float]:
    """MiB: predicted, and torch's peak over a short fit."""
    options = {"epochs": 2, "batch_size": 50, "selection": "gradient", "burn_in": 1, "frequency": 1}
    config = Config().with_options(device=device, **options)
    model, data = network(name, given), images(given, count)
    predicted = symlearn.estimate(copy.deepcopy(model), data, None, config, seconds=False).memory.peak
    if device != "cuda":
        symlearn.fit(model, data, None, config)
        return {"predicted": predicted / 2**20}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    symlearn.fit(model, data, None, config)
    return {"predicted": predicted / 2**20, "measured": torch.cuda.max_memory_allocated() / 2**20}


def main_job(root: Path | None, device: str, smoke: bool) -> dict[str, Any]:
    """The fit on MNIST in quadrants from the command line, or on the embedded digits without a data root."""
    packed = None if root is None else root / "mnist.npz"
    data = "digits" if root is None else str(packed) if packed is not None and packed.exists() else "mnist"
    options = ["--data", data, "--task", "quadrant-digit", "--paths", "f-fc+conv", "--seed", "0"]
    options += ["--device", device]
    options += ["--data-root", str(root)] if data == "mnist" else []
    options += (
        ["--epochs", "2", "--limit", "50", "--selection", "gradient", "--removal-rounds", "0"]
        if smoke
        else []
    )
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        line = [sys.executable, "-m", "symlearn", "fit", *options, "--out", str(out)]
        begun = time.perf_counter()
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            epochs = len((out / "metrics.jsonl").read_text().splitlines()) if out.exists() else 0
            return {"data": data, "stopped_after_seconds": LIMIT, "epochs": epochs}
        took = time.perf_counter() - begun
        if done.returncode:
            return {"data": data, "exit": done.returncode, "said": done.stderr.strip().splitlines()[-1:]}
        report = json.loads((out / "report.json").read_text())
    return {
        "data": data,
        "seconds": took,
        "accuracy": report["test"]["accuracy"],
        "log_marginal_likelihood": report["log_marginal_likelihood"],
        "symmetries": [layer["verdict"]["symmetry"] for layer in report["layers"] if "verdict" in layer],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="where MNIST lies; the embedded digits without it")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="once, at the smallest sizes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that torch can use here: nothing was measured; --device cpu runs it all on the CPU")
        return 0
    name = "gpu.smoke" if chosen.smoke else "gpu"
    count = 100 if chosen.smoke else IMAGES
    where = torch.cuda.get_device_name() if chosen.device == "cuda" else "cpu"
    found: dict[str, Any] = {"device": where, "speed": {}, "mebibytes": {}, "fit": None}
    for net, given in (SMOKE if chosen.smoke else NETWORKS).items():
        sides = {side: speed(net, given, side, count) for side in dict.fromkeys(("cpu", chosen.device))}
        found["speed"][net] = sides
        for what, fast in sides[chosen.device].items():
            slow = sides["cpu"][what.removesuffix(", compiled")]
            print(
                f"{net:10} {what:20} {slow:9.4f} s  {fast:9.4f} s  {slow / fast:6.1f} times as fast",
                flush=True,
            )
        found["mebibytes"][net] = memory(net, given, chosen.device, count)
        print(f"{net:10} MiB {found['mebibytes'][net]}", flush=True)
        write(name, found, chosen.results)
    found["fit"] = main_job(chosen.data_root, chosen.device, chosen.smoke)
    print(found["fit"])
    write(name, found, chosen.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
