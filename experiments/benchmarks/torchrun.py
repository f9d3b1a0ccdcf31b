"""A round of the search in one process and in two, one thread each.

    python experiments/benchmarks/torchrun.py

Every measurement starts `torchrun` with this file in so many processes. They prepare the same start (digits,
task quadrant-digit, paths f-fc+conv, the `small` network) and time one `SearchRound` to its end, between two
barriers: imports, data and the start are not in it, exchanges of states are. One and two processes take
turns; the ratio is of one over two within a repeat, its median over the repeats, smallest and largest. The
outcomes of the rounds are compared too: proposals, evidences and the winner's weights must be the same.

`processors` says how many physical cores the machine had; on fewer cores than processes, or where others
compute at the same time, the ratio is that of the machine and not of the code. `load` is the average number
of other runnable processes in the minute before each measurement.

Results: results/torchrun.json. Axes: none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timing import RESULTS, Spread, write

import symlearn
from symlearn.config import Config
from symlearn.ranks import present_ranks
from symlearn.selection.changes import strictest_start
from symlearn.selection.search import SearchRound
from symlearn.training.state import FitState
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence

FULL = {"limit": None, "refit_epochs": 16, "proposals": 6}
SMOKE = {"limit": 40, "refit_epochs": 2, "proposals": 2}
WANTED = 1.7


def searched(smoke: bool) -> dict[str, Any]:
    """One round in this process group: its seconds, and a digest of what it came to."""
    sizes = SMOKE if smoke else FULL
    splits = symlearn.load_data("digits", "quadrant-digit", seed=0, limit=sizes["limit"])
    torch.manual_seed(0)
    model = symlearn.build_model("f-fc+conv", network="small", size=16, classes=splits.classes)
    images = len(splits.train)
    asked = {name: sizes[name] for name in ("refit_epochs", "proposals")}
    config = Config().with_options(paths="f-fc+conv", selection="search", **asked).resolved(images)
    x, y = (torch.stack(found) for found in zip(*splits.train, strict=True)) if smoke else splits.train[:]
    state = FitState(model, config, images)
    strictest_start(state)
    for _ in range(2):
        train_epoch(state, (x, y), lambda _: config.training.lr)
    update_evidence(state, (x, y))
    state.ranks = present_ranks()
    dist.barrier()
    begun = time.perf_counter()
    round_ = SearchRound(state, 0, (x, y), lambda _, __, record: record)
    while not round_.over:
        round_.next_epoch()
    ended, _, proposals, _ = round_.outcome()
    dist.barrier()
    seconds = time.perf_counter() - begun
    told = repr([vars(proposal) for proposal in proposals]).encode()
    weights = torch.cat([p.detach().flatten() for p in ended.model.parameters()]).numpy().tobytes()
    return {
        "seconds": seconds,
        "epochs": round_.progress,
        "outcome": hashlib.sha256(told + weights).hexdigest()[:16],
    }


def worker(folder: Path, smoke: bool) -> None:
    """What every process runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = searched(smoke)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measured(processes: int, smoke: bool) -> dict[str, Any]:
    """A round in so many processes: the slowest one's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), __file__, "--worker", folder]
        own = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, *(["--smoke"] if smoke else [])], check=True, env=own)
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]
    assert len({one["outcome"] for one in found}) == 1, "ranks came to different outcomes"
    return {**found[0], "seconds": max(one["seconds"] for one in found), "processes": processes, "load": load}


def physical_cores() -> int | None:
    """Cores of this machine, hyperthreads counted once; None where nobody says."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return None
    blocks = information.read_text().split("\n\n")
    lines = [
        tuple(line for line in block.splitlines() if line.startswith(("physical id", "core id")))
        for block in blocks
        if block.strip()
    ]
    return len(set(lines)) if all(lines) else None


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="once, at the smallest size")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.worker, options.smoke)
        return 0
    repeats = 1 if options.smoke else options.repeats
    rounds = [[measured(processes, options.smoke) for processes in (1, 2)] for _ in range(repeats)]
    ratio = Spread.of([one["seconds"] / two["seconds"] for one, two in rounds])
    same = len({found["outcome"] for pair in rounds for found in pair}) == 1
    print(f"one process over two: {ratio.median:.2f} ({ratio.low:.2f} - {ratio.high:.2f}), wanted {WANTED}")
    print("outcomes are the same" if same else "OUTCOMES DIFFER")
    write(
        "torchrun.smoke" if options.smoke else "torchrun",
        {
            "processors": physical_cores(),
            "logical_processors": os.cpu_count(),
            "rounds": rounds,
            "ratio": vars(ratio),
            "wanted": WANTED,
            "same_outcome": same,
        },
        options.results,
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
