"""What a paper says of its table, as rules that are judged from the rows of the JSON alone.

A claim is `text`, `source`, `rule` and `scales`; a rule is one of

    {kind = "order", rows = [...], metric, gap}        better first: every row better than the next by `gap`
    {kind = "monotone", rows = [...], metric}          the metric rises along the rows, whatever is better
    {kind = "within", row, of, points, metric, parameters}
                                                       `row` is worse than `of` by `points` at most, with at
                                                       most the fraction `parameters` of its weights
    {kind = "bound", rows = [...], metric, above, below}   every row lies above, below, or between
    {kind = "layers", row, expect = [...], by}         what every layer is, first to last: `verdict`s by
                                                       evidence or `type`s by relative effective parameters;
                                                       "a|b" either of them, "*" anything

Metrics are those of `METRICS`, and `share PATH` (its part of all effective parameters, in percent) and
`relative PATH` (the mean over layers of its relative effective parameters, in percent).

A verdict is one of

    held, failed   by more than the noise
    too close      within it
    not run        rows are missing, or have no such number

**Noise.** Margins m are compared with h = t s_m, t the 95 % point of Student's t, so that a claim without
truth is held in one of twenty tables. s_m^2 sums over both rows

    s^2 / seeds                      s: over seeds, pooled over the rows of the claim that have two or more
    p (100 - p) / test images        of accuracies and errors: seeds share their test images

Where no row has two seeds s is assumed (`Metric.assumed`), and that is said. Neither counts that the rows
may be far from trained.

Axes: none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol

HELD, FAILED, CLOSE, OPEN = "held", "failed", "too close", "not run"
JUDGED_AT = ("cpu", "paper")
TWO_SIDED = 0.95  # quantile of margins
CLEAR = 1.5  # a layer's type counts where its relative value is this many times the second's
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


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper about its table.

    Attributes:
        text: in our words.
        source: paper and place.
        rule: what decides it.
        scales: at which it is judged.
    """

    text: str
    source: str
    rule: Rule
    scales: tuple[str, ...] = JUDGED_AT

    @property
    def labels(self) -> tuple[str, ...]:
        """The rows it is about."""
        return self.rule.labels


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
    """The metric of a name; see the module's notation.

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
    values = [layer["relative"][path] for layer in _relaxed(run) if path in layer.get("relative", {})]
    return 100 * statistics.mean(values) if values else None


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
        return float(law.ppf(TWO_SIDED))

    @property
    def words(self) -> str:
        """Where it comes from."""
        return "assumed, one seed a row" if self.freedom is None else "from the spread over seeds"


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


def together(verdicts: Sequence[str]) -> str:
    """Of several parts: failed where one failed, held where all are."""
    return FAILED if FAILED in verdicts else CLOSE if CLOSE in verdicts else HELD


def _without(cells: Cells, name: str) -> Judged:
    return Judged(OPEN, tuple(f"{label} has no {name}" for label in cells.missing))


@dataclass(frozen=True)
class Order:
    """Better first, each better than the next by at least `gap`."""

    rows: tuple[str, ...]
    metric: str = "accuracy"
    gap: float = 0.0
    kind: ClassVar[str] = "order"

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""
        return self.rows

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """See `Rule`."""
        cells = Cells(self.metric, runs)
        if cells.missing:
            return _without(cells, self.metric)
        verdicts, because = [], []
        for first, second in zip(self.rows, self.rows[1:], strict=False):
            ahead = cells.metric.better * (cells.mean(first) - cells.mean(second))
            verdicts.append(cells.decide(ahead - self.gap, (first, second)))
            because.append(
                f"{cells.said(first)}, {cells.said(second)}: ahead by {cells.told(ahead, (first, second))}"
            )
        return Judged(together(verdicts), (*because, f"± {cells.noise.words}"))


@dataclass(frozen=True)
class Monotone:
    """The metric rises along the rows: from the first to the last, and nowhere back."""

    rows: tuple[str, ...]
    metric: str
    kind: ClassVar[str] = "monotone"

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""
        return self.rows

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """See `Rule`; steps in between may be too close, the whole way may not."""
        cells = Cells(self.metric, runs)
        if cells.missing:
            return _without(cells, self.metric)
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
        return Judged(verdict, (whole, *back, f"± {cells.noise.words}"))


@dataclass(frozen=True)
class Within:
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

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """See `Rule`."""
        cells = Cells(self.metric, runs)
        if cells.missing:
            return _without(cells, self.metric)
        ahead = cells.metric.better * (cells.mean(self.row) - cells.mean(self.of))
        verdict = cells.decide(ahead + self.points, self.labels)
        margin = cells.told(ahead, self.labels)
        because = [f"{cells.said(self.row)}, {cells.said(self.of)}: ahead by {margin}"]
        if self.parameters is not None:
            size, whole = (runs[label][0]["parameters"] for label in self.labels)
            verdict = verdict if size <= self.parameters * whole else FAILED
            because.append(f"{size / whole:.0%} of the parameters")
        return Judged(verdict, (*because, f"± {cells.noise.words}"))


@dataclass(frozen=True)
class Bound:
    """Every row's metric lies above, below, or between."""

    rows: tuple[str, ...]
    metric: str
    above: float = -math.inf
    below: float = math.inf
    kind: ClassVar[str] = "bound"

    @property
    def labels(self) -> tuple[str, ...]:
        """See `Rule`."""
        return self.rows

    def judge(self, runs: Mapping[str, Sequence[Run]]) -> Judged:
        """See `Rule`."""
        cells = Cells(self.metric, runs)
        if cells.missing:
            return _without(cells, self.metric)
        verdicts, because = [], []
        for label in self.rows:
            mean = cells.mean(label)
            margin = min(mean - self.above, self.below - mean)
            verdicts.append(cells.decide(margin, (label,)))
            half = f"{cells.half_width((label,)):,.{cells.metric.digits}f}"
            because.append(f"{cells.said(label)} ± {half} {cells.metric.unit}")
        return Judged(together(verdicts), (*because, f"± {cells.noise.words}"))


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


def _relaxed(run: Run) -> list[Mapping[str, Any]]:
    """The layers with paths to choose from."""
    return [layer for layer in run.get("layers") or [] if set(layer["paths"]) != {"linear"}]


def layer_verdicts(run: Run) -> list[str]:
    """What each layer commutes with by the evidence, first to last; empty where nobody asked."""
    return [verdict["symmetry"] for verdict in (run.get("verdicts") or {}).values()]


def layer_types(run: Run) -> list[str]:
    """Each layer's effective type, first to last; undecided where the second is nearly as large."""
    return [_clear_type(layer) for layer in _relaxed(run)]


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


def read_claim(given: Mapping[str, Any], source: str) -> Claim:
    """A claim from its file.

    Args:
        given: a table of `[[claims]]`.
        source: of the whole table.

    Raises:
        ValueError: an unknown kind, metric or key, or a rule that says nothing.
    """
    unknown = sorted(set(given) - {"text", "rule", "source", "scales"})
    if unknown or not {"text", "rule"} <= set(given):
        raise ValueError(f"a claim has text and rule, and may have source and scales; got {sorted(given)}")
    rule = dict(given["rule"])
    kind = rule.pop("kind", None)
    if kind not in RULES:
        raise ValueError(f"unknown kind of rule {kind!r}; expected one of {', '.join(RULES)}")
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in rule.items()}
    try:
        made = RULES[kind](**lists)
    except TypeError as error:
        raise ValueError(f"a rule of kind {kind}: {error}") from None
    if rule.get("by", "verdict") not in READERS:
        raise ValueError(f"layers are told by {' or '.join(READERS)}, got {rule['by']!r}")
    if "metric" in rule:
        metric_named(rule["metric"])
    if len(made.labels) < (2 if kind in ("order", "monotone") else 1):
        raise ValueError(f"a rule of kind {kind} has too few rows")
    if kind == "bound" and not {"above", "below"} & set(rule):
        raise ValueError("a rule of kind bound has neither above nor below")
    return Claim(given["text"], given.get("source", source), made, tuple(given.get("scales", JUDGED_AT)))


@dataclass(frozen=True)
class Tally:
    """How many claims came out how."""

    counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items() if count) or "none"


def tally(judged: Sequence[Mapping[str, Any]]) -> Tally:
    """Of the JSON's claims."""
    return Tally({v: sum(claim["verdict"] == v for claim in judged) for v in (HELD, FAILED, CLOSE, OPEN)})


def judge(claim: Claim, rows: Sequence[Run]) -> Judged:
    """One claim's verdict from the rows of a table; rows that stopped count as missing."""
    runs = {
        label: [run for run in rows if run["label"] == label and "stopped" not in run]
        for label in claim.labels
    }
    missing = [label for label, own in runs.items() if not own]
    if missing:
        return Judged(OPEN, tuple(f"no finished run of {label}" for label in missing))
    return claim.rule.judge(runs)


def judged(claims: Sequence[Claim], rows: Sequence[Run], scale: str) -> list[dict[str, Any]]:
    """All claims of a table that are judged at a scale, as they stand in its JSON."""
    found = []
    for claim in claims:
        if scale in claim.scales:
            told = judge(claim, rows)
            rule = {"kind": claim.rule.kind, **asdict(claim.rule)}  # type: ignore[call-overload]
            found.append(
                {
                    "text": claim.text,
                    "source": claim.source,
                    "rule": rule,
                    "verdict": told.verdict,
                    "because": list(told.because),
                }
            )
    return found
