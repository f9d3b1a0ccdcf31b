"""Timing and memory of several ways to the same result, measured side by side in one run.

Sides take turns, A B C A B C, so that whatever else the machine does meets all of them alike. A comparison is
the ratio of two sides within a round; reported are its median over the rounds and its smallest and largest
value. Peak memory is measured by a process of its own for every side: the rise of its resident set from the
moment its inputs stand to its largest, over two runs of the side.

Results are written as JSON with commit and environment to `results/`. With `--smoke` every script runs once
at its smallest sizes, to see that it runs; its numbers mean nothing, and go to `results/NAME.smoke.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
Side = Callable[[], object]
Prepare = Callable[[], Side]
Measure = Literal["seconds", "peak_mebibytes"]
Sizes = TypeVar("Sizes")
PAGE = 4096 / 2**20  # MiB; no rise of memory is smaller


@dataclass(frozen=True)
class Comparison:
    """A ratio of two sides' times or peak memories, and the bound it must keep.

    Attributes:
        name: what the ratio says.
        numerator: a side's name.
        denominator: a side's name.
        at_least: the ratio must reach this (None: no such bound).
        at_most: the ratio must not exceed this (None: no such bound).
        measure: what is compared.
    """

    name: str
    numerator: str
    denominator: str
    at_least: float | None = None
    at_most: float | None = None
    measure: Measure = "seconds"

    def holds(self, ratio: float) -> bool:
        """Whether a ratio keeps the bounds."""
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= ratio <= high

    def required(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"required >= {self.at_least:g}"
        return "" if self.at_most is None else f"required <= {self.at_most:g}"


@dataclass(frozen=True)
class Spread:
    """Median and range of a ratio or of seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Median, smallest and largest of the values."""
        return cls(statistics.median(values), min(values), max(values))


def seconds_of(side: Side, calls: int) -> float:
    """Mean seconds of a call over several in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - start) / calls


def interleaved(sides: Mapping[str, Side], repeats: int, at_least: float = 0.2) -> dict[str, list[float]]:
    """Seconds a call of every side in every round, the sides taking turns.

    Every side is warmed up twice; a side shorter than `at_least` seconds is called several times a round.
    """
    calls = {}
    for name, side in sides.items():
        side()
        calls[name] = max(1, round(at_least / seconds_of(side, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            seconds[name].append(seconds_of(side, calls[name]))
    return seconds


def ratios(measured: Mapping[str, list[float]], comparison: Comparison) -> Spread:
    """The comparison's ratio, value by value of what was measured."""
    least = PAGE if comparison.measure == "peak_mebibytes" else 0.0
    pairs = zip(measured[comparison.numerator], measured[comparison.denominator], strict=True)
    return Spread.of([a / max(b, least) for a, b in pairs])


def resident_mebibytes(peak: bool) -> float:
    """This process' resident set, now or at its largest, in MiB.

    Linux' own counter, as `ru_maxrss` there is inherited from the parent process; elsewhere `ru_maxrss`.
    """
    status = Path("/proc/self/status")
    if status.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


def forget_peak() -> None:
    """Let the largest resident set start anew from the present one, where Linux can."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def peak_mebibytes(prepare: Prepare) -> float:
    """Rise of this process' largest resident set while the side runs twice, in MiB."""
    side = prepare()
    before = resident_mebibytes(peak=False)
    forget_peak()
    side()
    side()
    return resident_mebibytes(peak=True) - before


def peak_in_a_process_of_its_own(name: str, threads: int) -> float:
    """`peak_mebibytes` of one side of the running script, in a fresh process."""
    command = [sys.executable, sys.argv[0], "--peak", name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])


def environment() -> dict[str, str | int]:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """The commit the numbers were measured at, with `+changes` where the working tree differs."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True).stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../../kfac", "../../symlearn", ".")
    return f"{head}+changes" if changed else head


def options() -> argparse.Namespace:
    """The options of every benchmark script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--peak", metavar="SIDE", help="print one side's peak memory in MiB and stop")
    parser.add_argument("--smoke", action="store_true", help="once, at the smallest sizes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    return parser.parse_args()


def at_scale(full: Sizes, smoke: Sizes) -> Sizes:
    """The sizes of the results or, where the command line says `--smoke`, the smallest that run."""
    return smoke if options().smoke else full


def benchmark(name: str, sides: Mapping[str, Prepare], comparisons: list[Comparison], repeats: int) -> None:
    """Measure, print and write one benchmark; with `--peak SIDE` only that side's memory, printed.

    Args:
        name: of the benchmark and its JSON.
        sides: what to time; each prepares its inputs and returns the function to time.
        comparisons: the ratios to report.
        repeats: rounds that count.
    """
    chosen = options()
    torch.set_num_threads(chosen.threads)
    if chosen.peak:
        if chosen.peak in sides:
            print(peak_mebibytes(sides[chosen.peak]))
        return
    if chosen.smoke:
        name, repeats = f"{name}.smoke", 1
        peaks = {side: peak_mebibytes(prepare) for side, prepare in sides.items()}
    else:
        peaks = {side: peak_in_a_process_of_its_own(side, chosen.threads) for side in sides}
    prepared = {side: prepare() for side, prepare in sides.items()}
    seconds = interleaved(prepared, repeats, 0.0 if chosen.smoke else 0.2)
    print(f"{name}: {repeats} rounds, {chosen.threads} threads")
    for side, values in seconds.items():
        spread = Spread.of(values)
        print(f"  {side:32} {spread.median * 1e3:10.2f} ms   peak memory {peaks[side]:8.1f} MiB")
    measured: dict[Measure, dict[str, list[float]]]
    measured = {"seconds": seconds, "peak_mebibytes": {side: [peak] for side, peak in peaks.items()}}
    found = []
    for comparison in comparisons:
        spread = ratios(measured[comparison.measure], comparison)
        held = comparison.holds(spread.median)
        judged = f"{comparison.required()}{'' if held else '   MISSED'}"
        note = "" if chosen.smoke else judged
        print(f"  {comparison.name:48} {spread.median:8.3f}  ({spread.low:.3f} - {spread.high:.3f})  {note}")
        found.append({**asdict(comparison), **asdict(spread), "holds": held})
    numbers = {"rounds": repeats, "seconds": seconds, "peak_mebibytes": peaks, "comparisons": found}
    write(name, numbers, chosen.results)


def write(name: str, numbers: dict[str, object], folder: Path = RESULTS) -> None:
    """Write the numbers with date, commit and environment to `NAME.json` in the folder of results."""
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = {"benchmark": name, "date": date, "commit": commit(), "environment": environment(), **numbers}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
