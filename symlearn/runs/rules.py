"""Rules that decide a claim from the rows of a table's JSON, and from nothing else.

A rule is one of

    {kind = "order", rows = [...], metric, gap}        better first: every row better than the next by `gap`
    {kind = "monotone", rows = [...], metric}          the metric rises along the rows, whatever is better
    {kind = "within", row, of, points, metric, parameters}
                                                       `row` is worse than `of` by `points` at most, with at
                                                       most the fraction `parameters` of its weights
    {kind = "bound", rows = [...], metric, above, below}   every row lies above, below, or between
    {kind = "layers", row, expect = [...], by}         what every layer is, first to last: `verdict`s by
                                                       evidence or `type`s by relative effective parameters;
                                                       "a|b" either of them, "*" anything

Metrics, and the noise that margins are compared with: `margins.py`. A verdict is `held` or `failed` by more
than the noise, `too close` within it, or `not run` where rows have no such number.

Axes: none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from symlearn.runs.margins import CLOSE, FAILED, HELD, OPEN, Cells, Run, relaxed_layers

CLEAR = 1.5  # a layer's type counts where its relative value is this many times the second's


@dataclass(frozen=True)
class Judged:
    """A verdict and what decided it, a line each."""

    verdict: str
    because: tuple[str, ...]


class Rule(Protocol):
    """What a claim says in a form that code can judge."""

    kind: ClassVar[str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The rows it is about."""

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """The verdict, from the finished runs of every row by label; every row has some."""


def together(verdicts: Sequence[str]) -> str:
    """Of several parts: failed where one failed, held where all are."""
    return FAILED if FAILED in verdicts else CLOSE if CLOSE in verdicts else HELD


class OfMetric(ABC):
    """A rule about the metric of several rows; open where a row has no such number."""

    metric: str

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """See `Rule`."""
        cells = Cells(self.metric, runs)
        if cells.missing:
            return Judged(OPEN, tuple(f"{label} has no {self.metric}" for label in cells.missing))
        verdict, because = self.decided(cells)
        return Judged(verdict, (*because, f"noise: {cells.noise.words}"))

    @abstractmethod
    def decided(self, cells: Cells) -> tuple[str, list[str]]:
        """The verdict where every row has the number, and what decided it, a line each."""


@dataclass(frozen=True)
class OfRows(OfMetric):
    """One that names its rows in order."""

    rows: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""
        return self.rows


@dataclass(frozen=True)
class Order(OfRows):
    """Better first, each better than the next by at least `gap`."""

    metric: str = "accuracy"
    gap: float = 0.0
    kind: ClassVar[str] = "order"

    def decided(self, cells: Cells) -> tuple[str, list[str]]:
        """See `OfMetric`."""
        verdicts, because = [], []
        for first, second in zip(self.rows, self.rows[1:], strict=False):
            ahead = cells.metric.better * (cells.mean(first) - cells.mean(second))
            verdicts.append(cells.decide(ahead - self.gap, (first, second)))
            because.append(
                f"{cells.said(first)}, {cells.said(second)}: ahead by {cells.told(ahead, (first, second))}"
            )
        return together(verdicts), because


@dataclass(frozen=True)
class Monotone(OfRows):
    """The metric rises along the rows: from the first to the last, and nowhere back."""

    metric: str
    kind: ClassVar[str] = "monotone"

    def decided(self, cells: Cells) -> tuple[str, list[str]]:
        """See `OfMetric`; steps in between may be too close, the whole way may not."""
        ends = (self.rows[0], self.rows[-1])
        rise = cells.mean(ends[1]) - cells.mean(ends[0])
        back = [
            f"{cells.said(a)}, then {cells.said(b)}: falls"
            for a, b in zip(self.rows, self.rows[1:], strict=False)
            if cells.decide(cells.mean(b) - cells.mean(a), (a, b)) == FAILED
        ]
        values = ", ".join(cells.said(label) for label in self.rows)
        verdict = FAILED if back else cells.decide(rise, ends)
        whole = f"{values}: rises by {cells.told(rise, ends)}"
        return verdict, [whole, *back]


@dataclass(frozen=True)
class Within(OfMetric):
    """`row` is worse than `of` by `points` at most."""

    row: str
    of: str
    points: float
    metric: str = "accuracy"
    parameters: float | None = None
    kind: ClassVar[str] = "within"

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.row, self.of)

    def decided(self, cells: Cells) -> tuple[str, list[str]]:
        """See `OfMetric`."""
        ahead = cells.metric.better * (cells.mean(self.row) - cells.mean(self.of))
        verdict = cells.decide(ahead + self.points, self.labels)
        margin = cells.told(ahead, self.labels)
        because = [f"{cells.said(self.row)}, {cells.said(self.of)}: ahead by {margin}"]
        if self.parameters is not None:
            size, whole = (cells.runs[label][0]["parameters"] for label in self.labels)
            verdict = verdict if size <= self.parameters * whole else FAILED
            because.append(f"{size / whole:.0%} of the parameters")
        return verdict, because


@dataclass(frozen=True)
class Bound(OfRows):
    """Every row's metric lies above, below, or between."""

    metric: str
    above: float = -math.inf
    below: float = math.inf
    kind: ClassVar[str] = "bound"

    def decided(self, cells: Cells) -> tuple[str, list[str]]:
        """See `OfMetric`."""
        verdicts, because = [], []
        for label in self.rows:
            mean = cells.mean(label)
            margin = min(mean - self.above, self.below - mean)
            verdicts.append(cells.decide(margin, (label,)))
            half = f"{cells.half_width((label,)):,.{cells.metric.digits}f}"
            because.append(f"{cells.said(label)} ± {half} {cells.metric.unit}")
        return together(verdicts), because


@dataclass(frozen=True)
class Layers:
    """What every layer became, first to last."""

    row: str
    expect: tuple[str, ...]
    by: Literal["verdict", "type"] = "verdict"
    kind: ClassVar[str] = "layers"

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""
        return (self.row,)

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """See `Rule`: a layer fails where it is another thing on every seed, and holds where it is on all."""
        read = READERS[self.by]
        found = [read(run) for run in runs[self.row]]
        counts = sorted({len(layers) for layers in found})
        if counts != [len(self.expect)]:
            got = " or ".join(map(str, counts))
            return Judged(OPEN, (f"{self.row} has a {self.by} of {got} layers, not {len(self.expect)}",))
        verdicts, because = [], []
        for place, wanted in enumerate(self.expect):
            seen = [layers[place] for layers in found]
            verdict = self._layer(wanted, seen)
            verdicts.append(verdict)
            if verdict != HELD:
                because.append(f"layer {place}: {', '.join(dict.fromkeys(seen))} where {wanted} is claimed")
        right = verdicts.count(HELD)
        return Judged(together(verdicts), (f"{right} of {len(verdicts)} layers as claimed", *because))

    @staticmethod
    def _layer(wanted: str, seen: Sequence[str]) -> str:
        """Of one layer over seeds."""
        allowed = wanted.split("|")
        right = [wanted == "*" or one in allowed for one in seen]
        wrong = [not ok and one != "undecided" for ok, one in zip(right, seen, strict=True)]
        return HELD if all(right) else FAILED if all(wrong) else CLOSE


def layer_verdicts(run: Run) -> list[str]:
    """What each layer commutes with by the evidence, first to last; empty where nobody asked."""
    return [verdict["symmetry"] for verdict in (run.get("verdicts") or {}).values()]


def layer_types(run: Run) -> list[str]:
    """Each layer's effective type, first to last; undecided where the second is nearly as large."""
    return [_clear_type(layer) for layer in relaxed_layers(run)]


def _clear_type(layer: Mapping[str, Any]) -> str:
    values = sorted((v for v in layer.get("relative", {}).values() if v is not None), reverse=True)
    unclear = len(values) > 1 and values[0] < CLEAR * values[1]
    return "undecided" if unclear or (values and values[0] <= 0) else layer["type"]


READERS: dict[str, Callable[[Run], list[str]]] = {"verdict": layer_verdicts, "type": layer_types}
RULES: dict[str, Callable[..., Rule]] = {
    "order": Order,
    "monotone": Monotone,
    "within": Within,
    "bound": Bound,
    "layers": Layers,
}
