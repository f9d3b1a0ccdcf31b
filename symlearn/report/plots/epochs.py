"""Columns of `metrics.jsonl` as arrays over the epochs, with NaN where a value was not computed."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from symlearn.report.reading import Metrics, finite


def epoch_axis(metrics: Metrics) -> tuple[np.ndarray, str]:
    """`([epochs], axis label)`: the epoch of every line, or the line's number where epochs start over."""
    epochs = [finite(row.get("epoch")) for row in metrics]
    known = [epoch for epoch in epochs if epoch is not None]
    if len(known) == len(epochs) and all(b > a for a, b in pairwise(known)):
        return np.array(known), "epoch"
    return np.arange(1.0, len(metrics) + 1), "epoch, counted over all phases"


def column(metrics: Metrics, key: str) -> np.ndarray:
    """`[epochs]`: one number of every line."""
    return as_array(row.get(key) for row in metrics)


def as_array(values: Iterable[object]) -> np.ndarray:
    """The numbers, NaN for whatever is missing or no finite number."""
    numbers = [finite(value) for value in values]
    return np.array([math.nan if number is None else number for number in numbers])


def points(x: np.ndarray) -> dict[str, Any]:
    """Plot options: points as well as a line where there are few of them."""
    return {"marker": "o", "markersize": 2.8} if len(x) <= 40 else {}
