"""What a fit shows while it runs: a live display on a terminal, plain lines in a pipe or a file.

Both say the stage, the epoch, the train loss, −log evidence per training image and the effective parameters
(gamma) by path, as last computed; notes (proposals and what became of them, setbacks) stay as lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from symlearn.report.reading import HEAD_PATH, finite
from symlearn.report.wording import count, decimal, percent

if TYPE_CHECKING:
    from symlearn.fitting.result import Progress

EVERY = 2.0  # seconds between plain lines


def gamma_by_path(record: dict[str, Any], places: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Effective parameters of the layers by path, largest first; empty where they were not computed."""
    totals: dict[str, float] = {}
    for name, gamma in (record.get("effective_parameters") or {}).items():
        _, path = places[name]
        if path != HEAD_PATH:
            totals[path] = totals.get(path, 0.0) + (finite(gamma) or 0.0)
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


class Status:
    """The last known numbers of a fit, as words.

    Args:
        images: number of training images.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.stage, self.epoch, self.fraction = "", 0, 0.0
        self.loss: float | None = None
        self.accuracy: float | None = None
        self.evidence: float | None = None
        self.gamma: dict[str, float] = {}

    def take(self, told: Progress) -> None:
        """Note what the fit tells; what an epoch did not compute stays as it was."""
        record = told.record
        self.stage, self.epoch, self.fraction = told.stage, told.epoch, told.fraction
        if "train_loss" in record:
            self.loss, self.accuracy = finite(record["train_loss"]), finite(record.get("train_accuracy"))
        if finite(record.get("log_marginal_likelihood")) is not None:
            self.evidence = finite(record["log_marginal_likelihood"])
            self.gamma = gamma_by_path(record, told.places)

    def numbers(self) -> list[str]:
        """Epoch, loss, evidence and gamma, a piece each."""
        pieces = [f"epoch {self.epoch}"]
        if self.loss is not None:
            pieces.append(f"loss {decimal(self.loss)}")
        if self.accuracy is not None:
            pieces.append(f"accuracy {percent(self.accuracy)}")
        if self.evidence is not None:
            pieces.append(f"−log evidence {decimal(-self.evidence / self.images)} nats an image")
        if self.gamma:
            pieces.append("γ " + ", ".join(f"{path} {count(value)}" for path, value in self.gamma.items()))
        return pieces

    def lines(self) -> list[str]:
        """The numbers on two lines that fit a terminal of 80 columns: training above, gamma below."""
        numbers = self.numbers()
        above = [piece for piece in numbers if not piece.startswith("γ")]
        return ["  ".join(above), *(piece for piece in numbers if piece.startswith("γ"))]

    def line(self) -> str:
        """Everything on one line."""
        return f"{percent(self.fraction):>5}  {self.stage:<12}  {'  '.join(self.numbers())}"


@contextmanager
def display(images: Callable[[], int], shown: bool = True) -> Iterator[Callable[[Progress], None]]:
    """Show a fit's progress on stdout while the context is open.

    Args:
        images: says the number of training images, once the fit has begun.
        shown: whether this process is the one to speak.

    Yields:
        What to call with the progress after every epoch: a live display on a terminal, plain lines elsewhere.
    """
    if shown and sys.stdout.isatty():
        with live_display(images) as show:
            yield show
    else:
        yield PlainLines(images, lambda line: print(line, flush=True))  # noqa: T201


class PlainLines:
    """A line every two seconds, at every new stage and for every note.

    Args:
        images: says the number of training images.
        write: takes a line.
        clock: seconds.
    """

    def __init__(
        self,
        images: Callable[[], int],
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.images, self.write, self.clock = images, write, clock
        self.status: Status | None = None
        self.last = -float("inf")

    def __call__(self, told: Progress) -> None:
        """Take what the fit tells."""
        status = self.status = self.status or Status(self.images())
        new_stage = told.stage != status.stage
        status.take(told)
        if told.note:
            self.write(f"       {told.note}")
        elif new_stage or told.fraction >= 1 or self.clock() - self.last >= EVERY:
            self.write(status.line())
            self.last = self.clock()


@contextmanager
def live_display(images: Callable[[], int]) -> Iterator[Callable[[Progress], None]]:
    """A bar with the time that is left and a line of numbers, redrawn in place; notes scroll above."""
    console = Console(highlight=False)
    bar = Bar(
        TextColumn("{task.description:<12}", style="bold"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("starting", total=1.0)
    status: Status | None = None
    with Live(bar, console=console, refresh_per_second=5, transient=True) as live:

        def show(told: Progress) -> None:
            nonlocal status
            status = status or Status(images())
            status.take(told)
            bar.update(task, description=status.stage, completed=status.fraction)
            live.update(
                Group(bar, *(Text(line, overflow="ellipsis", no_wrap=True) for line in status.lines()))
            )
            if told.note:
                style = "bold green" if told.note.endswith("(kept)") else "dim"
                live.console.print(Text(told.note, style=style))

        yield show
