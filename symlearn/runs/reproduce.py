"""Running a published table: what is left of it, in processes, each finished row in the JSON at once.

A table that is killed, or whose time is over, goes on where it was: finished rows are in the JSON, the others
resume from the checkpoints of their own folders (`rows.py`). Two processes never run one table from one
folder of runs.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from symlearn.run_folder import METRICS, RunFolder
from symlearn.runs.processes import Ended, run_jobs
from symlearn.runs.provenance import commit
from symlearn.runs.rows import Job, folder_name, run_one, with_own_copy
from symlearn.runs.table_file import Content, content_of, key_of, read_rows, row_key, write_content
from symlearn.runs.table_text import percent
from symlearn.runs.tables import Experiment, Wanted, results_file

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A table at a scale, with what is done and what is left of it.

    Attributes:
        experiment: the table.
        scale: one of its scales.
        path: of its JSON.
        wanted: every run that is asked for.
        rows: that are there, of whatever options.
        jobs: that are left, in their order.
    """

    experiment: Experiment
    scale: str
    path: Path
    wanted: list[Wanted]
    rows: list[dict[str, Any]]
    jobs: list[Job] = field(default_factory=list)

    @property
    def content(self) -> Content:
        """The JSON as it stands."""
        return content_of(self.experiment, self.scale, self.wanted, self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished row, in place of one of the same run, and write the JSON."""
        key = row_key(row)
        self.rows[:] = [known for known in self.rows if row_key(known) != key] + [row]
        write_content(self.path, self.content)


def plan_table(
    experiment: Experiment,
    scale: str,
    runs: Path,
    seeds: list[int] | None = None,
    extra: Mapping[str, Any] | None = None,
    rows: str = "",
) -> Plan:
    """Work out what is done and what is left of a table.

    Args:
        experiment: the table.
        scale: one of its scales.
        runs: where the runs' folders go.
        seeds: of every row; None takes those of the file.
        extra: options of this machine (data_root, device).
        rows: how many of those that are left, or labels of rows or parts of them, joined by commas; all if
            empty.

    Returns:
        A plan whose jobs are the wanted runs that have no row yet, whole seeds first.

    Raises:
        ValueError: an unknown scale, no row of that label, or a damaged JSON.
    """
    wanted = experiment.wanted(scale, seeds)
    path = results_file(experiment, scale, runs)
    known = read_rows(path)
    done = {row_key(row) for row in known}
    if rows and not rows.isdecimal():
        labels = chosen_labels([row.label for row in experiment.rows_at(scale)], rows)
        if not labels:
            raise ValueError(f"no row of {experiment.name} is called {rows!r}; expected part of a label")
        wanted = [run for run in wanted if run.label in labels]
    left = [run for run in wanted if key_of(*run) not in done]
    if rows.isdecimal():
        left = left[: int(rows)]
    place = runs / f"{experiment.name}-{scale}"
    stands = commit(Path(__file__).resolve().parent)
    jobs = [_job(run, place, extra or {}, stands) for run in left]
    return Plan(experiment, scale, path, wanted, known, jobs)


def expect_fits(experiment: Experiment, scale: str) -> None:
    """Refuse a table whose rows are not made by `symlearn fit`.

    Raises:
        ValueError: it is one; what makes its rows.
    """
    if experiment.script is not None:
        made = experiment.path.parent / experiment.script
        raise ValueError(
            f"the rows of {experiment.name} are no fits; make them with: python {made} --scale {scale}"
        )


def _job(run: Wanted, place: Path, extra: Mapping[str, Any], stands: str) -> Job:
    options, copy = with_own_copy({**run.options, **extra})
    folder = place / folder_name(run.label, run.seed, run.options)
    return Job(run.label, run.seed, options, str(folder), stands, copy)


def chosen_labels(labels: Sequence[str], only: str) -> list[str]:
    """The labels that are meant: the one that is given whole, or all that have one of the words in them."""
    if only.strip().casefold() in {label.casefold() for label in labels}:
        return [label for label in labels if label.casefold() == only.strip().casefold()]
    words = [word.strip().casefold() for word in only.split(",")]
    whole = {label.casefold() for label in labels}
    return [
        label
        for label in labels
        if any(w == label.casefold() or (w not in whole and w in label.casefold()) for w in words if w)
    ]


def run_table(plan: Plan, runs: Path, workers: int, hours: float | None, tell: Tell) -> Content:
    """Run what is left; returns the JSON's content, which holds what was finished before, too.

    Args:
        plan: see `plan_table`.
        runs: where the runs' folders go.
        workers: runs at a time, a thread each.
        hours: after which no run is begun and those under way are stopped, to go on another time; None waits
            for all.
        tell: told a line a run.

    Returns:
        That JSON's content: a row a fit, beside what was published, with seeds, commit and environment.

    Raises:
        ValueError: another process runs this table, or no run was possible.
    """
    errors = []
    with _alone(runs / f"{plan.experiment.name}-{plan.scale}"):
        for ended in run_jobs(plan.jobs, run_one, workers, None if hours is None else 3600 * hours):
            tell(said(ended))
            if ended.row is not None:
                plan.add(ended.row)
            elif ended.error is not None:
                errors.append(ended.error)
    if errors and len(errors) == len(plan.jobs):
        raise ValueError(errors[0])
    if plan.rows:
        write_content(plan.path, plan.content)
    return plan.content


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold a table's folder of runs.

    Raises:
        ValueError: another process does.
    """
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another process runs this table from {place}; wait for it, or give another --runs"
        ) from None
    try:
        yield
    finally:
        lock.release()


def said(ended: Ended) -> str:
    """A line about a run that ended."""
    name, row = f"{ended.job.label}, seed {ended.job.seed}", ended.row
    if ended.error is not None:
        return f"{name}: not run: {ended.error}"
    if row is None:
        return f"{name}: {progress_of(Path(ended.job.folder))}"
    if "stopped" in row:
        return f"{name}: {row['stopped']}"
    return f"{name}: accuracy {percent(row['accuracy'])} %, {row['seconds']:.0f} s"


def progress_of(folder: Path) -> str:
    """How far an unfinished run is, and how fast it went."""
    lines = RunFolder(folder).metrics() if (folder / METRICS).is_file() else []
    if not lines or not lines[-1]["seconds"]:
        return "stopped before its first epoch ended"
    rate = 3600 * len(lines) / lines[-1]["seconds"]
    return f"stopped after epoch {lines[-1]['epoch']}, {rate:,.0f} epochs an hour; it goes on from there"


def run_all(jobs: Iterable[Job], workers: int, tell: Tell) -> list[dict[str, Any]]:
    """Run jobs until all have ended; finished runs are read, not repeated.

    Returns:
        A row a job, in the order of the jobs.

    Raises:
        ValueError: a run was not possible.
    """
    wanted, rows = list(jobs), dict[str, dict[str, Any]]()
    for ended in run_jobs(wanted, run_one, workers):
        if ended.row is None:
            raise ValueError(f"{ended.job.label}, seed {ended.job.seed}: {ended.error}")
        tell(said(ended))
        rows[ended.job.folder] = ended.row
    return [rows[job.folder] for job in wanted]
