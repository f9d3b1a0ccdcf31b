"""Jobs in processes: errors are told, time ends them, and one that dies takes no other with it."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from symlearn.runs.processes import run_jobs
from symlearn.runs.rows import Job

WAIT = 60.0  # seconds, longer than any test


def work(job: Job) -> dict[str, Any]:
    """Does what its options say."""
    if job.options.get("dies"):
        os._exit(9)
    if job.options.get("fails"):
        raise ValueError("two\nlines")
    time.sleep(job.options.get("sleeps", 0.0))
    return {"label": job.label}


def job(label: str, **options: Any) -> Job:
    """A job of these options."""
    return Job(label, 0, options, "")


def test_rows_errors_and_deaths_are_told() -> None:
    jobs = [job("a", dies=True), job("b"), job("c", fails=True), job("d")]
    ended = {one.job.label: one for one in run_jobs(jobs, work, 2)}
    assert ended["b"].row == {"label": "b"} and ended["d"].row == {"label": "d"}
    assert ended["c"].row is None and ended["c"].error == "two lines"
    assert "exit code 9" in (ended["a"].error or "")


def test_time_ends_what_runs_and_begins_nothing() -> None:
    began = time.monotonic()
    ended = list(run_jobs([job("a", sleeps=WAIT), job("b", sleeps=WAIT)], work, 1, seconds=1.0))
    assert [(one.job.label, one.row, one.error) for one in ended] == [("a", None, None)]
    assert time.monotonic() - began < WAIT
    assert list(run_jobs([job("a")], work, 1, seconds=0.0)) == []


def test_who_stops_listening_ends_the_rest() -> None:
    began = time.monotonic()
    running = run_jobs([job("a"), job("b", sleeps=WAIT)], work, 2)
    assert next(running).row == {"label": "a"}
    running.close()
    assert time.monotonic() - began < WAIT


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_is_done_once(workers: int) -> None:
    ended = list(run_jobs([job(str(k)) for k in range(4)], work, workers))
    assert sorted(one.job.label for one in ended) == list("0123")
