"""The main job on the embedded digits: two tasks, one network, and which of its layers became convolutional.

The same network of relaxed layers (F-FC + CONV in each) learns two tasks on the same images, digits placed in
one of four quadrants: which digit (its place does not matter), and which digit in which quadrant (it does).
The two fits run side by side, a thread each. Everything is written to runs/demo/<task>; a demo that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TASKS = {
    "quadrant-digit": "which digit? Its quadrant does not matter: a translation symmetry.",
    "quadrant": "which digit, in which quadrant? Position matters: the symmetry must break somewhere.",
}


SMOKE = ["--limit", "60", "--alpha", "1", "--epochs", "2", "--selection", "none"]


def start(
    task: str, folder: Path, seed: int, log: Path, options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start, or continue, one fit in a process of its own, its output in a log."""
    command = [sys.executable, "-m", "symlearn", "fit", "--out", str(folder)]
    if (folder / "config.toml").exists():
        command.append("--resume")
    else:
        command += ["--data", "digits", "--task", task, "--paths", "f-fc+conv", "--seed", str(seed), *options]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=one_thread)


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "starting"


def follow(fits: dict[str, subprocess.Popen[bytes]], logs: dict[str, Path]) -> None:
    """Wait for the fits, and show where each stands every quarter of a minute."""
    begun = shown = time.monotonic()
    while any(fit.poll() is None for fit in fits.values()):
        time.sleep(0.5)
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            for task, log in logs.items():
                print(f"{shown - begun:4.0f} s  {task:15s} {last_line(log)}", flush=True)


def main() -> int:
    """Run both fits, then print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="two epochs of sixty digits, to see it run")
    options = parser.parse_args()
    chosen = SMOKE if options.smoke else []
    options.out.mkdir(parents=True, exist_ok=True)
    folders = {task: options.out / task for task in TASKS}
    print(f"Fitting f-fc+conv to two tasks on the embedded digits; logs in {options.out}", flush=True)
    begun = time.monotonic()
    logs = {task: options.out / f"{task}.log" for task in TASKS}
    fits = {task: start(task, folder, options.seed, logs[task], chosen) for task, folder in folders.items()}
    try:
        follow(fits, logs)
    except KeyboardInterrupt:
        for fit in fits.values():
            fit.terminate()
        print("\ninterrupted; run the demo again to go on", flush=True)
        return 130
    for task, question in TASKS.items():
        print(f"\n=== {task}: {question}\n", flush=True)
        if fits[task].returncode != 0:
            print(f"the fit failed; see {logs[task]}: {last_line(logs[task])}")
            continue
        subprocess.run([sys.executable, "-m", "symlearn", "report", str(folders[task])], check=True)
    print(f"\nFinished in {time.monotonic() - begun:.0f} s. Figures and pages:")
    for task, folder in folders.items():
        print(f"  {task:15s} {folder / 'figures'}  (heat map: effective-dimension.png)")
        print(f"  {'':15s} {folder / 'report.html'}")
    return max(abs(fit.returncode) for fit in fits.values())


if __name__ == "__main__":
    sys.exit(main())
