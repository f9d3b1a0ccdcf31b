"""What a paper says of its table, judged from the rows of the JSON alone.

A claim is `text`, `source`, `rule` and `scales`, those at which it is judged. Its verdict is

    held, failed   by more than the noise
    too close      within it
    not run        rows are missing, or have no such number

Rules: `rules.py`. Noise: `margins.py`.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from symlearn.runs.margins import CLOSE, FAILED, HELD, OPEN, Run, metric_named
from symlearn.runs.rules import READERS, RULES, Judged, Rule

JUDGED_AT = ("cpu", "paper")


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


def read_claim(given: Mapping[str, Any], source: str) -> Claim:
    """Read a claim from its table's file.

    Args:
        given: a table of `[[claims]]`.
        source: of the whole table.

    Returns:
        The claim with its rule; the table's source, and scales cpu and paper, where it gives none of its own.

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
