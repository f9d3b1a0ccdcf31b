"""Numbers of a table's rows, and how far they move by chance.

Metrics are those of `METRICS`, and `share PATH` (its part of all effective parameters, in percent) and
`relative PATH` (the mean over layers of its relative effective parameters, in percent).

Margins m between rows are compared with h = t s_m, t the 95 % point of Student's t, so that what is not so is
found so in one of twenty tables. s_m^2 sums over the rows that the margin is between

    s^2 / seeds                      s: over seeds, pooled over the rows at hand that have two or more
    p (100 - p) / test images        of accuracies and errors: seeds share their test images

Where no row has two seeds s is assumed (`Metric.assumed`), and that is said. Neither counts that the rows
may be far from trained.

Axes: none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

HELD, FAILED, CLOSE, OPEN = "held", "failed", "too close", "not run"
QUANTILE = 0.95  # of margins
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a row.

    Attributes:
        read: from a row of the JSON; None where it has none.
        better: +1 where more is better, -1 where less is.
        unit: in words.
        digits: to print.
        assumed: standard deviation over seeds where nobody measured it, from the value.
        counted: whether it is a percentage of test images.
    """

    read: Callable[[Run], float | None]
    better: Literal[1, -1]
    unit: str
    digits: int
    assumed: Callable[[float], float]
    counted: bool = False


def _percent(key: str) -> Callable[[Run], float | None]:
    return lambda run: None if run.get(key) is None else 100 * run[key]


def _error(run: Run) -> float | None:
    return None if run.get("accuracy") is None else 100 - 100 * run["accuracy"]


def _evidence(run: Run) -> float | None:
    known = run.get("log_marginal_likelihood")
    return None if known is None else -known / run["train_examples"]


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_percent("accuracy"), 1, "points", 1, lambda _: 0.7, counted=True),
    "error": Metric(_error, -1, "points", 2, lambda _: 0.7, counted=True),
    "nll": Metric(lambda run: run.get("nll"), -1, "nats", 3, lambda v: 0.03 * v),
    "evidence": Metric(_evidence, -1, "nats an image", 3, lambda v: 0.02 * abs(v)),
    "parameters": Metric(lambda run: run.get("parameters"), -1, "parameters", 0, lambda _: 0.0),
}


def metric_named(name: str) -> Metric:
    """Look up a metric; see the module's notation.

    Returns:
        One of `METRICS`, or one made for the path that the name gives, in percent.

    Raises:
        ValueError: there is none.
    """
    if name in METRICS:
        return METRICS[name]
    word, _, path = name.partition(" ")
    readers = {"share": share_of, "relative": relative_of}
    if word not in readers or not path:
        known = ", ".join([*METRICS, "share PATH", "relative PATH"])
        raise ValueError(f"unknown metric {name!r}; expected one of {known}")
    return Metric(lambda run: readers[word](run, path), 1, "points", 1, lambda _: 5.0)


def share_of(run: Run, path: str) -> float | None:
    """A path's part of the effective parameters of all paths, in percent."""
    gamma = run.get("effective_parameters") or {}
    whole = sum(gamma.values())
    return None if path not in gamma or not whole else 100 * gamma[path] / whole


def relative_of(run: Run, path: str) -> float | None:
    """The mean over layers of a path's relative effective parameters, in percent."""
    values = [layer["relative"][path] for layer in relaxed_layers(run) if path in layer.get("relative", {})]
    return 100 * statistics.mean(values) if values else None


def relaxed_layers(run: Run) -> list[Mapping[str, Any]]:
    """The layers with paths to choose from."""
    return [layer for layer in run.get("layers") or [] if set(layer["paths"]) != {"linear"}]


@dataclass(frozen=True)
class Noise:
    """How far a number of a row moves, in the metric's unit.

    Attributes:
        seeds: standard deviation over seeds.
        freedom: its degrees of freedom; None where it is assumed.
    """

    seeds: float
    freedom: int | None

    @property
    def quantile(self) -> float:
        """The 95 % point that margins are compared with."""
        from scipy import stats  # type: ignore[import-untyped]

        law = stats.norm if self.freedom is None else stats.t(self.freedom)
        return float(law.ppf(QUANTILE))

    @property
    def words(self) -> str:
        """Where it comes from."""
        if self.freedom is None:
            return "assumed, one seed a row" if self.seeds else "none, the number is exact"
        return "from the spread over seeds"


class Cells:
    """The numbers of one metric in the rows of one claim."""

    def __init__(self, name: str, runs: Mapping[str, Sequence[Run]]) -> None:
        self.metric = metric_named(name)
        self.runs = runs
        self.values = {
            label: [value for run in own if (value := self.metric.read(run)) is not None]
            for label, own in runs.items()
        }
        spreads = [values for values in self.values.values() if len(values) > 1]
        if spreads:
            freedom = sum(len(values) - 1 for values in spreads)
            squares = sum(statistics.variance(values) * (len(values) - 1) for values in spreads)
            self.noise = Noise(math.sqrt(squares / freedom), freedom)
        else:
            known = [values[0] for values in self.values.values() if values]
            self.noise = Noise(max((self.metric.assumed(value) for value in known), default=0.0), None)

    @property
    def missing(self) -> list[str]:
        """Rows without the number."""
        return [label for label, values in self.values.items() if not values]

    def mean(self, label: str) -> float:
        """Over seeds."""
        return statistics.mean(self.values[label])

    def variance(self, label: str) -> float:
        """Of the mean."""
        found = self.noise.seeds**2 / len(self.values[label])
        counts = [run["test_examples"] for run in self.runs[label] if run.get("test_examples")]
        if self.metric.counted and counts:
            mean = min(max(self.mean(label), 0.0), 100.0)
            found += mean * (100 - mean) / min(counts)
        return found

    def said(self, label: str) -> str:
        """A row's number in words."""
        return f"{label} {self.mean(label):,.{self.metric.digits}f}"

    def decide(self, margin: float, labels: Sequence[str]) -> str:
        """Held, failed or too close for a margin that these rows' noise moves."""
        half = self.half_width(labels)
        return HELD if margin >= half else FAILED if margin < -half else CLOSE

    def half_width(self, labels: Sequence[str]) -> float:
        """Of the interval of a margin."""
        return self.noise.quantile * math.sqrt(sum(self.variance(label) for label in labels))

    def told(self, margin: float, labels: Sequence[str]) -> str:
        """A margin with its interval."""
        digits = self.metric.digits
        return f"{margin:+,.{digits}f} ± {self.half_width(labels):,.{digits}f} {self.metric.unit}"
