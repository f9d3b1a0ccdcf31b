"""What the experiments on digits in quadrants share: one run, its row, and the table of all rows.

Axes: none.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from symlearn.config import Config
from symlearn.run_folder import environment, to_json
from symlearn.runs.provenance import commit
from symlearn.runs.reproduce import run_all as run_jobs
from symlearn.runs.rows import Job as Fit

HERE = Path(__file__).resolve().parent
TASKS = ("quadrant-digit", "quadrant")
SMOKE = {
    "limit": 60,
    "alpha": 1,
    "epochs": 2,
    "burn_in": 1,
    "rounds": 1,
    "refit_epochs": 1,
    "proposals": 1,
    "removal_rounds": 1,
}
Job = tuple[str, Mapping[str, Any], str, int, str]  # name, options, task, seed, folder of all runs


def run_all(jobs: Iterable[Job], workers: int) -> list[dict[str, Any]]:
    """Every job's row, in order, one thread a fit; finished runs are read, not repeated."""
    wanted = list(jobs)
    fits = [
        Fit(
            name,
            seed,
            {"data": "digits", "task": task, **options},
            str(Path(runs) / f"{task}-{name}-seed{seed}"),
            commit(HERE),
        )
        for name, options, task, seed, runs in wanted
    ]
    rows = run_jobs(fits, workers, lambda line: print(line, flush=True))
    return [{"network": job[0], "task": job[2], **row} for job, row in zip(wanted, rows, strict=True)]


def run_networks(
    networks: Mapping[str, Mapping[str, Any]], title: str, results: Path
) -> tuple[argparse.Namespace, list[dict[str, Any]]]:
    """An experiment over networks, tasks and seeds, as its command line asks: the options and the rows."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=list(networks), choices=networks)
    parser.add_argument("--scale", choices=("small", "smoke"), default="small", help="smoke: to see it run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="default: runs/quadrant-digits, or -smoke")
    parser.add_argument("--out", type=Path, help="default: in results/, of smoke among the runs")
    options = parser.parse_args()
    smoke = options.scale == "smoke"
    options.runs = options.runs or Path("runs/quadrant-digits-smoke" if smoke else "runs/quadrant-digits")
    options.out = options.out or (options.runs / results.name if smoke else results)
    scaled = {name: {**chosen, **(SMOKE if smoke else {})} for name, chosen in networks.items()}
    runs = str(options.runs)
    jobs = [(n, scaled[n], t, s, runs) for n in options.networks for s in options.seeds for t in TASKS]
    return options, run_all(jobs, options.workers)


def fc_share(row: dict) -> float:
    """Share of the relaxed layers' effective parameters in fully connected paths."""
    gamma = row["effective_parameters"]
    return sum(g for p, g in gamma.items() if p in ("fc", "f-fc", "s-fc")) / max(sum(gamma.values()), 1e-12)


def table(rows: list[dict[str, Any]]) -> str:
    """Means and ranges over seeds, a line a network and task."""
    lines = [
        f"{'task':15s} {'network':24s} {'accuracy %':>18s} {'NLL':>20s} {'-log q/N':>20s}"
        f" {'FC share':>9s} {'parameters':>11s} {'s':>5s}"
    ]
    for task in TASKS:
        for name in dict.fromkeys(row["network"] for row in rows):
            tried = [r for r in rows if r["task"] == task and r["network"] == name]
            runs = [r for r in tried if "stopped" not in r]
            if not tried:
                continue
            if not runs:
                lines.append(f"{task:15s} {name:24s} stopped")
                continue

            def spread(values: list[float], digits: int) -> str:
                mean, low, high = statistics.mean(values), min(values), max(values)
                return f"{mean:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

            evidence = [-r["log_marginal_likelihood"] / r["train_examples"] for r in runs]
            lines.append(
                f"{task:15s} {name:24s} {spread([100 * r['accuracy'] for r in runs], 1):>18s}"
                f" {spread([r['nll'] for r in runs], 3):>20s} {spread(evidence, 3):>20s}"
                f" {statistics.mean(map(fc_share, runs)):9.0%}"
                f" {runs[0]['parameters']:11,d} {statistics.mean(r['seconds'] for r in runs):5.0f}"
            )
    return "\n".join(lines)


def keep_run(runs: Path, results: Path, name: str, seed: int) -> None:
    """Copy what the gallery draws: report, metrics and filters of one network on both tasks."""
    results.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        folder = runs / f"{task}-{name}-seed{seed}"
        for file in ("report.json", "metrics.jsonl", "filters.json"):
            if (folder / file).exists():
                shutil.copyfile(folder / file, results / f"{name}-{task}.{file}")


def write_results(path: Path, scale: str, content: dict[str, Any]) -> None:
    """Write an experiment's JSON, with the commit, the environment and the default configuration in it."""
    known = {
        "scale": scale,
        "commit": commit(HERE),
        "environment": environment(),
        "config": json.loads(Config().model_dump_json()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json({**known, **content}) + "\n", encoding="utf-8")
    print(f"written to {path}")
