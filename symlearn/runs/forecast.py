"""What is left of a table, and what it will take, before it is run.

Seconds are those of one thread: of another seed of the same row where the same kind of processor has made
one, otherwise from a few steps (`cost/estimate.py`), less what an unfinished run has behind it. Passes count
images taken forward and backward: the steps on the weights, and the columns of every curvature pass.

Axes: none.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symlearn.config import Config
from symlearn.run_folder import METRICS
from symlearn.runs.provenance import processor
from symlearn.runs.rows import Job, said_options
from symlearn.units import duration, size


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        seconds: of one thread; None where the fit does not fit into memory.
        passes: images forward and backward; None where it was not worked out.
        memory: bytes at once; None where it was not worked out.
        basis: where the seconds come from.
    """

    seconds: float | None
    passes: float | None
    memory: int | None
    basis: str


@dataclass(frozen=True)
class Left:
    """A run that is left.

    Attributes:
        job: what it is.
        cost: of the whole run.
        spent: seconds that lie behind it.
    """

    job: Job
    cost: Cost
    spent: float

    @property
    def seconds(self) -> float | None:
        """That it will still take."""
        return None if self.cost.seconds is None else max(self.cost.seconds - self.spent, 0.0)


def estimated_cost(options: Mapping[str, Any]) -> Cost:
    """Estimate the cost of a row by a few of its steps, on one thread.

    Returns:
        The most that the whole fit may take; without seconds and passes where it does not fit into memory,
        which `basis` says.

    Raises:
        ValueError: whatever the fit would refuse except for memory.
    """
    import torch

    from symlearn.runs.estimate import estimate_experiment

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = estimate_experiment(Config().with_options(**options))
    finally:
        torch.set_num_threads(threads)
    if found.seconds is None:
        basis = f"does not fit: {size(found.needed)} are needed, {size(found.available or 0)} are free"
        return Cost(None, None, found.needed, basis)
    return Cost(found.seconds.most, found.seconds.passes, found.needed, "estimated")


def known_cost(job: Job, rows: Iterable[Mapping[str, Any]]) -> Cost | None:
    """The cost of a row as its other seeds took, on this kind of processor."""
    here, asked = processor(), said_options(job.options)
    times = [
        row["seconds"]
        for row in rows
        if row["label"] == job.label
        and "seconds" in row
        and {**said_options(row["options"]), "data": None} == {**asked, "data": None}
        and {made["processor"] for made in row["made"]} == {here}
    ]
    if not times:
        return None
    return Cost(statistics.mean(times), None, None, f"as {len(times)} seed{'s' * (len(times) > 1)} took")


def spent_seconds(folder: Path) -> float:
    """Seconds that an unfinished run has behind it."""
    path = folder / METRICS
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            return float(json.loads(line)["seconds"])
        except (ValueError, KeyError, TypeError):  # a line that was cut off
            continue
    return 0.0


def forecast(
    jobs: Sequence[Job],
    rows: Sequence[Mapping[str, Any]],
    estimate: Callable[[Mapping[str, Any]], Cost] = estimated_cost,
) -> list[Left]:
    """What every job will take; each row is estimated once, whatever its seeds."""
    costs: dict[str, Cost] = {}
    for job in jobs:
        if job.label not in costs:
            costs[job.label] = known_cost(job, rows) or estimate(job.options)
    return [Left(job, costs[job.label], spent_seconds(Path(job.folder))) for job in jobs]


def forecast_text(left: Sequence[Left], workers: int) -> str:
    """A line a run, and what all of them take."""
    if not left:
        return "nothing is left"
    lines = [_line(one) for one in left]
    known = [one.seconds for one in left if one.seconds is not None]
    passes = [one.cost.passes for one in left if one.cost.passes is not None]
    total = f"{len(left)} left: {duration(sum(known))} of one thread"
    if workers > 1:
        total += f", {duration(max(sum(known) / workers, max(known, default=0.0)))} with {workers} at a time"
    if len(passes) == len(left):
        total += f"; {sum(passes) / 1e6:.2f} million passes"
    if len(known) < len(left):
        total += f"; {len(left) - len(known)} do not fit into memory"
    return "\n".join([*lines, total])


def _line(one: Left) -> str:
    time = "–" if one.seconds is None else duration(one.seconds)
    return f"{one.job.label}, seed {one.job.seed}: {time}{_size(one.cost)} ({one.cost.basis}{_behind(one)})"


def _size(cost: Cost) -> str:
    return "" if cost.memory is None or cost.seconds is None else f", {size(cost.memory)}"


def _behind(one: Left) -> str:
    return f"; {duration(one.spent)} lie behind it" if one.spent else ""
