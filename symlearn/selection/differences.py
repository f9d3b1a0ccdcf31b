"""A difference of evidence between a refit and its controls, and how far it can be trusted.

Refits differ by their batches and by where rounding takes them, so a difference means nothing without its
noise. A round runs several *controls*: the same refit with nothing changed, on batches of their own. With e
the log evidence at the end of a refit, k controls and their variance s^2 about their mean, pooled over the
rounds so far,

    value = e - mean of the controls' e
    spread^2 = s^2 (1 + EXCESS + 1 / k) + (RELATIVE value)^2 + sampling error^2
    interval = value -+ t spread

t being Student's quantile for the degrees of freedom of spread^2 (those of s^2 and of the sampling error,
which evidences from a part of the images have, see `growth.py`; more where the middle term, which is known,
is the larger part: Welch 1947), so that the interval holds `COVERAGE` of what further refits
would give. A refit with a path less varies more than one with nothing changed, and the more the more was
lost: the two constants are measured, `experiments/discovery/coverage.py`.

Axes: none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes as long to load as symlearn

from symlearn.evidence.jackknife import CHUNKS

CONTROLS = 3
COVERAGE = 0.9  # of the stated intervals
EXCESS = 0.5  # variance of a changed refit above an unchanged one's, as a part of it
RELATIVE = 0.1  # standard deviation of a changed refit, as a part of what it lost or gained


@dataclass(frozen=True)
class Difference:
    """What a refit's evidence is above its controls', in nats.

    Attributes:
        value: the difference.
        spread: its standard deviation; None: fewer than two controls ended.
        freedom: degrees of freedom behind it.
    """

    value: float
    spread: float | None = None
    freedom: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """That holds `COVERAGE` of what further refits would give."""
        if self.spread is None:
            return None
        half = float(stdtrit(self.freedom, 0.5 + COVERAGE / 2)) * self.spread
        return self.value - half, self.value + half

    def probability_below(self, nats: float) -> float | None:
        """That the true difference lies below so many nats."""
        if self.spread is None:
            return None
        return float(stdtr(self.freedom, (nats - self.value) / self.spread))


def difference(
    evidence: float,
    controls: Sequence[float],
    earlier: Sequence[Sequence[float]] = (),
    error: float = 0.0,
) -> Difference:
    """A refit's evidence against its controls'.

    Args:
        evidence: of the refit.
        controls: evidences of this round's controls, at least one.
        earlier: those of earlier rounds, a sequence a round.
        error: standard error of the difference for being from a part of the images, of `CHUNKS` chunks.

    Returns:
        The difference in nats with its spread, None where too few controls ended to know it.
    """
    value = evidence - statistics.mean(controls)
    measured, freedom = control_spread(controls, earlier)
    if measured is None:
        return Difference(value)
    spread = math.hypot(math.hypot(measured, RELATIVE * value), error)
    sampled = 1 + freedom / (CHUNKS - 1) * (error / measured) ** 4
    return Difference(value, spread, freedom * (spread / measured) ** 4 / sampled)


def control_spread(
    controls: Sequence[float], earlier: Sequence[Sequence[float]] = ()
) -> tuple[float | None, int]:
    """Standard deviation of a small difference to the mean of these controls, and its freedom."""
    groups = [group for group in [*earlier, controls] if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom or not controls:
        return None, 0
    variance = sum((len(group) - 1) * statistics.variance(group) for group in groups) / freedom
    return max(math.sqrt(variance * (1 + EXCESS + 1 / len(controls))), 1e-9), freedom


def within(interval: Sequence[float] | None) -> str:
    """An interval in words that follow a number of nats, or nothing."""
    return "" if interval is None else f" ({100 * COVERAGE:.0f} %: {interval[0]:+.0f} to {interval[1]:+.0f})"
