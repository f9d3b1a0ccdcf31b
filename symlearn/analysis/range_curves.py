"""The log evidence along the range of one transformation, everything else fixed.

Weights, precisions, noise and the other ranges are those that the fit ended with; the curvature is computed
anew at every range, on a seeded part of the training images whose sums stand for all of them. So a curve says
how the evidence judges a range for *this* network; a network that was trained at another range would do
better there than the curve says.

Axes: none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from symlearn.config import Config
from symlearn.curvature.training_set import training_factors
from symlearn.data.samples import SamplesLike, samples_of, seeded_order
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.evidence.sampled import Precisions
from symlearn.layers.orbit_average import OrbitAverage
from symlearn.layers.transforms import Transform

IMAGES = 300  # that a curve is from, at most
PARTS = (1 / 4, 1 / 2, 3 / 4, 1.0, 4 / 3, 2.0, 3.0)  # of the learned range, or of its odds


def grid(transform: Transform, value: float) -> list[float]:
    """Unconstrained values to try: no effect, parts and multiples of the range, and the range itself."""
    low, high = transform.bounds
    reading = float(transform.scale.read(torch.tensor(value, dtype=torch.float64)))
    base = transform.scale.value(transform.start) if transform.at_lowest(reading) else value
    tried = {low, value, *(min(max(base + math.log(part), low), high) for part in PARTS)}
    return sorted(tried)


def average_within(model: nn.Module) -> tuple[str, OrbitAverage] | None:
    """The average over transformed images of a network, and what its ranges' names begin with."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, OrbitAverage)]
    return found[0] if found else None


@torch.no_grad()
def log_evidence(
    model: nn.Module, data: SamplesLike, scale: float, config: Config, precisions: Precisions, sigma: float
) -> float:
    """The log evidence of a network as it is, sums over `data` counting `scale` times; in nats."""
    factors = training_factors(model, config, data).scaled(scale)
    found = EvidenceModel(factors, squared_norms(model), config.data.likelihood)
    return float(found.terms(precisions, sigma).total)


def range_curves(
    model: nn.Module,
    train: SamplesLike,
    config: Config,
    prior_precision: Precisions,
    sigma_noise: float = 1.0,
    images: int = IMAGES,
) -> dict[str, dict[str, Any]]:
    """The evidence curve of every learned range of a network; the network is left as it was.

    Args:
        model: the fitted network.
        train: its training set.
        config: of its fit.
        prior_precision: delta by parameter name.
        sigma_noise: of a regression.
        images: that a curve is from, at most.

    Returns:
        By transform: `images` of `of`, and `points` with `range` in the transform's own units and
        `log_evidence` in nats, in order of the range; none where nothing is learned.
    """
    within = average_within(model)
    if within is None or not within[1].learn:
        return {}
    average, samples = within[1], samples_of(train)
    n = len(samples)
    used = min(images, n)
    part = samples.subset(seeded_order(n, config.training.seed)[:used])
    found = {}
    for transform in average.transforms:
        buffer = average.value(transform)
        kept = buffer.clone()
        points = []
        try:
            for value in grid(transform, float(kept)):
                buffer.fill_(value)
                reading = float(transform.scale.read(buffer.double()))
                evidence = log_evidence(model, part, n / used, config, prior_precision, sigma_noise)
                points.append({"range": reading, "log_evidence": evidence})
        finally:
            buffer.copy_(kept)
        found[transform.name] = {"images": used, "of": n, "points": points}
    return found
