"""Jobs in processes of their own, a few at a time, until they are done or the time is over.

A process lives no longer than the one that started it, however that one ends, and is ended by it when time is
over: a fit goes on from its last checkpoint, so at most the epoch under way is lost. It takes no notice of
Ctrl-C, which the starting process answers for all.

Axes: none.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from symlearn.runs.rows import Job

SPAWN = multiprocessing.get_context("spawn")
GRACE = 20.0  # seconds for a process to go


@dataclass(frozen=True)
class Ended:
    """How a job's process ended.

    Attributes:
        job: what it was.
        row: what the job gave, or None.
        error: why it gave nothing, in one line; None where it was ended for time.
    """

    job: Job
    row: dict[str, Any] | None = None
    error: str | None = None


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Job], dict[str, Any]],
    workers: int,
    seconds: float | None = None,
) -> Iterator[Ended]:
    """Run jobs in processes of their own.

    Args:
        jobs: in the order to begin them.
        work: what to do; importable, and ValueErrors are told.
        workers: how many at a time.
        seconds: after which no job is begun and those under way are ended; None waits for all.

    Yields:
        What became of every job that was begun, as they end.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    left, running = list(jobs), dict[Connection, tuple[Job, BaseProcess]]()
    try:
        while left or running:
            over = deadline is not None and time.monotonic() >= deadline
            if over:
                break
            while left and len(running) < workers:
                running.update([_begun(left.pop(0), work)])
            remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            for ready in wait(list(running), remaining):
                assert isinstance(ready, Connection)
                yield _told(ready, *running.pop(ready))
        for connection, (job, process) in list(running.items()):
            del running[connection]
            if connection.poll():
                yield _told(connection, job, process)
            else:
                _end(process)
                yield Ended(job)
    finally:
        for _, process in running.values():
            _end(process)


def _begun(job: Job, work: Callable[[Job], dict[str, Any]]) -> tuple[Connection, tuple[Job, BaseProcess]]:
    """Start a job's process; what it says comes through the connection."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_work, args=(job, work, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its end is seen here
    return ours, (job, process)


def _work(job: Job, work: Callable[[Job], dict[str, Any]], out: Connection) -> None:
    """In the job's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        out.send((work(job), None))
    except (ValueError, MemoryError) as error:
        out.send((None, " ".join(str(error).split()) or "out of memory"))
    out.close()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _told(connection: Connection, job: Job, process: BaseProcess) -> Ended:
    """What a job's process said before it ended."""
    try:
        row, error = connection.recv()
    except EOFError:
        process.join()
        row, error = (
            None,
            f"its process ended by itself (exit code {process.exitcode}), out of memory perhaps",
        )
    process.join()
    connection.close()
    return Ended(job, row, error)


def _end(process: BaseProcess) -> None:
    process.terminate()
    process.join(GRACE)
    if process.is_alive():
        process.kill()
        process.join()
