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
from pathlib import Path

TASKS = {
    "quadrant-digit": "which digit? Its quadrant does not matter: a translation symmetry.",
    "quadrant": "which digit, in which quadrant? Position matters: the symmetry must break somewhere.",
}


def start(task: str, folder: Path, seed: int) -> subprocess.Popen[str]:
    """Start, or continue, one fit in a process of its own."""
    command = [sys.executable, "-m", "symlearn", "fit", "--out", str(folder)]
    if (folder / "config.toml").exists():
        command.append("--resume")
    else:
        command += ["--data", "digits", "--task", task, "--paths", "f-fc+conv", "--seed", str(seed)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=one_thread
    )


def follow(fits: dict[str, subprocess.Popen[str]], logs: Path) -> None:
    """Wait for the fits; their last line of progress every few seconds."""
    files = {}
    for task, fit in fits.items():
        assert fit.stdout is not None
        os.set_blocking(fit.stdout.fileno(), False)
        files[task] = (logs / f"{task}.log").open("w", encoding="utf-8")
    begun, last, shown = time.monotonic(), dict.fromkeys(fits, "starting"), 0.0
    while any(fit.poll() is None for fit in fits.values()):
        time.sleep(0.5)
        drain(fits, files, last)
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            for task, line in last.items():
                print(f"{shown - begun:4.0f} s  {task:15s} {line}", flush=True)
    drain(fits, files, last)
    for file in files.values():
        file.close()


def drain(fits: dict[str, subprocess.Popen[str]], files: dict, last: dict[str, str]) -> None:
    """Move what the fits have printed to their logs, and remember each one's last line."""
    for task, fit in fits.items():
        assert fit.stdout is not None
        text = fit.stdout.read() or ""
        files[task].write(text)
        files[task].flush()
        lines = [line for line in text.splitlines() if line.strip()]
        last[task] = lines[-1] if lines else last[task]


def main() -> int:
    """Run both fits, then print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folders = {task: options.out / task for task in TASKS}
    print(f"Fitting f-fc+conv to two tasks on the embedded digits; logs in {options.out}", flush=True)
    begun = time.monotonic()
    fits = {task: start(task, folder, options.seed) for task, folder in folders.items()}
    try:
        follow(fits, options.out)
    except KeyboardInterrupt:
        for fit in fits.values():
            fit.terminate()
        print("\ninterrupted; run the demo again to go on", flush=True)
        return 130
    for task, question in TASKS.items():
        print(f"\n=== {task}: {question}\n", flush=True)
        if fits[task].returncode != 0:
            print(f"the fit failed; see {options.out / f'{task}.log'}")
            continue
        subprocess.run([sys.executable, "-m", "symlearn", "report", str(folders[task])], check=True)
    print(f"\nFinished in {time.monotonic() - begun:.0f} s. Figures and pages:")
    for task, folder in folders.items():
        print(f"  {task:15s} {folder / 'figures'}  (heat map: effective-dimension.png)")
        print(f"  {'':15s} {folder / 'report.html'}")
    return max(abs(fit.returncode) for fit in fits.values())


if __name__ == "__main__":
    sys.exit(main())
