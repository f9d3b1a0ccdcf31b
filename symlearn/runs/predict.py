"""Predictions of a finished run for new images, by its MAP weights or by the Laplace predictive.

Axes: n, c, h, w, classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symlearn.data import load_images
from symlearn.evidence.likelihood import likelihood_of
from symlearn.kinds import kind_of
from symlearn.run_folder import RunFolder
from symlearn.runs.experiment import Build, load
from symlearn.runs.results import LearnedNetwork, read_learned
from symlearn.training.inputs import samples_from

BATCH = 500


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of some images.

    Attributes:
        names: the images' names.
        outputs: names of the classes, or of a regression's outputs.
        values: probabilities `[n, classes]`, or predicted targets, float64.
        spread: standard deviations `[n, outputs]` of the targets (regression with Laplace), or None.
        discrete: whether the outputs are classes.
    """

    names: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Tensor
    spread: Tensor | None
    discrete: bool

    @property
    def columns(self) -> list[str]:
        """The header of a table of them."""
        if self.discrete:
            return ["name", "class", "probability", *self.outputs]
        spread = [f"{name} (standard deviation)" for name in self.outputs] if self.spread is not None else []
        return ["name", *self.outputs, *spread]

    def rows(self) -> Iterator[list[str | float]]:
        """A row an image."""
        for i, (name, values) in enumerate(zip(self.names, self.values.tolist(), strict=True)):
            if self.discrete:
                top = max(range(len(values)), key=values.__getitem__)
                yield [name, self.outputs[top], values[top], *values]
            else:
                yield [name, *values, *(self.spread[i].tolist() if self.spread is not None else [])]


def predict_images(
    folder: RunFolder, data: str, *, laplace: bool = False, network: Build | None = None
) -> Predictions:
    """Predict images with a finished run's network.

    Args:
        folder: of the run.
        data: what `load_images` reads.
        laplace: the Laplace predictive; loads the run's training data and computes their curvature.
        network: builds a network of the user's own; see `run_experiment`.

    Returns:
        Names of the images and, in the same order, class probabilities `[n, classes]` or targets
        `[n, outputs]`, with their standard deviations where `laplace` gives some.

    Raises:
        ValueError: the run has not finished, or the images cannot be read or do not fit the network.
    """
    learned = read_learned(folder, network)
    channels = len(learned.preprocessing.mean)
    images, names = load_images(
        data,
        channels=channels if channels in (1, 3) else None,
        data_root=learned.config.data.data_root,
        kind=kind_of(learned.preprocessing.size),
    )
    try:
        x = learned.preprocessing(images)
    except ValueError as error:
        raise ValueError(f"{data}: {error}") from None
    likelihood = likelihood_of(learned.config.data.likelihood)
    if laplace:
        values, spread = _laplace(learned, x)
    else:
        with torch.no_grad():
            f = torch.cat([learned.model(part) for part in x.split(BATCH)]).double()
        values, spread = likelihood.predicted(f), None
    return Predictions(names, learned.class_names, values, spread, likelihood.discrete)


def _laplace(learned: LearnedNetwork, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Probabilities `[n, classes]`, or mean and standard deviation of a regression's targets."""
    from symlearn.analysis.predictive import predictive_of

    config, splits = load(learned.config)
    predictive = predictive_of(
        learned.model,
        samples_from(splits.train, x.device),
        config,
        learned.prior_precision,
        learned.sigma_noise,
    )
    if likelihood_of(config.data.likelihood).discrete:
        return predictive.probabilities(x), None
    return predictive.targets(x)
