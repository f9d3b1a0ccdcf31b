"""Numbers and runs as words: one way of writing each kind of number, for table, page and figures.

A number that is missing (None, NaN, infinite) is written as a dash everywhere.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from symlearn.report.reading import Report, finite, path_names

MISSING = "–"


def percent(value: object, digits: int = 0) -> str:
    """A fraction as percent: 0.973 is "97 %"."""
    number = finite(value)
    return MISSING if number is None else f"{100 * number:.{digits}f} %"


def count(value: object) -> str:
    """A number of (effective) parameters: "12,345", and one decimal below 100 unless it is whole."""
    number = finite(value)
    if number is None:
        return MISSING
    return f"{number:,.0f}" if isinstance(value, int) or abs(number) >= 99.95 else f"{number:.1f}"


def few(names: Sequence[str], width: int = 56) -> str:
    """Names in one line, as many as the width takes: "a, b and 7 more"."""
    for kept in range(len(names), 0, -1):
        line = ", ".join(names[:kept]) + (f" and {len(names) - kept} more" if kept < len(names) else "")
        if len(line) <= width:
            return line
    return f"{len(names)} parameters"


def decimal(value: object, digits: int = 3) -> str:
    """A quantity with a fixed number of decimals and a true minus sign."""
    number = finite(value)
    return MISSING if number is None else f"{number:,.{digits}f}".replace("-", "−")


def magnitude(value: object) -> str:
    """A positive quantity that spans many powers of ten, to three digits: "0.0123", "310", "1.2e+06"."""
    number = finite(value)
    if number is None:
        return MISSING
    return f"{number:.1e}" if number and not 1e-3 <= abs(number) < 1e5 else f"{number:.3g}"


def signed(value: object) -> str:
    """A difference with its sign: "+1,204", "−13.0"."""
    number = finite(value)
    return MISSING if number is None else f"{number:+,.{0 if abs(number) >= 99.95 else 1}f}".replace("-", "−")


def precision_range(prior_precision: Mapping[str, object] | None) -> str:
    """A path's prior precisions: their geometric mean, or "min–max" where they span over tenfold."""
    values = [finite(value) for value in (prior_precision or {}).values()]
    positive = [value for value in values if value is not None and value > 0]
    if not positive:
        return MISSING
    if max(positive) > 10 * min(positive):
        return f"{magnitude(min(positive))}–{magnitude(max(positive))}"
    return magnitude(math.exp(sum(map(math.log, positive)) / len(positive)))


def action_phrase(proposal: Mapping[str, Any]) -> str:
    """A proposal's action in words: "add f-fc", "remove conv"."""
    return f"{proposal.get('action') or 'change'} {proposal.get('path')}"


def shortened(text: str, width: int = 48) -> str:
    """The text on one line and at most `width` characters wide, its middle left out."""
    text = " ".join(text.split())
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def subject(report: Report | None) -> str:
    """What the run was about: "digits, quadrant: f-fc + conv"."""
    if not report:
        return ""
    names = ", ".join(shortened(str(report[key])) for key in ("data", "task") if report.get(key))
    return ": ".join(part for part in (names, " + ".join(path_names(report))) if part)
