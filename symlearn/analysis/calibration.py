"""How far predicted probabilities can be trusted: scores and reliability.

With the probability of the predicted class as its confidence, data are put into bins of equal width;
calibration error is the mean distance of a bin's accuracy from its mean confidence, weighted by its data:

    ECE = sum_b n_b / n |accuracy_b - confidence_b|            (Guo et al. 2017, equation 5)

Axes: batch, classes, bin.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

BINS = 15
Scores = dict[str, float | None]


class ReliabilityBin(TypedDict):
    """One bin of confidence: its bounds, its data, and what they say."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> list[ReliabilityBin]:
    """Accuracy beside confidence, bin by bin; bins without data are left out.

    Args:
        probabilities: `[batch, classes]`.
        labels: `[batch]`.
        bins: how many of equal width.

    Returns:
        One entry a bin that holds data, from low confidence to high: its borders, its count, mean confidence
        and accuracy.
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (low, high]
    found: list[ReliabilityBin] = []
    for b in range(bins):
        inside = place == b
        if inside.any():
            found.append(
                {
                    "low": b / bins,
                    "high": (b + 1) / bins,
                    "count": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                }
            )
    return found


def scores(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Scores:
    """How good predicted probabilities are.

    Args:
        probabilities: `[batch, classes]`.
        labels: `[batch]`.
        bins: of the calibration error.

    Returns:
        `accuracy`, `nll` (mean negative log-likelihood in nats) and `ece` (expected calibration error), the
        first and the last between 0 and 1.
    """
    rows = probabilities.double()
    at_label = rows.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float64).tiny)
    found = reliability(rows, labels, bins)
    return {
        "accuracy": float((rows.argmax(1) == labels).double().mean()),
        "nll": float(-at_label.log().mean()),
        "ece": sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in found) / len(labels),
    }
