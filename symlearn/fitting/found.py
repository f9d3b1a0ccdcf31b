"""'What was found' of a finished fit: measured once, drawn from then on.

Axes: n, c, h, w.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from symlearn.analysis.found import Fitted, measure_found
from symlearn.data.streams import Data
from symlearn.fitting.result import DataInfo, FitResult
from symlearn.report.found_page import found_content, found_figures
from symlearn.report.reading import Report
from symlearn.training.batch_statistics import settle_batch_statistics
from symlearn.training.inputs import dtype_of, samples_from

SETTLED_ON = 500  # training images that an untrained network's batch statistics are from


@dataclass(frozen=True)
class WhatWasFound:
    """What the page for people who skip tables is drawn from; prints as its paragraph.

    Attributes:
        content: found.json; `symlearn.report.found_reading` says what is in it.
        rows: of examples.json.
        report: report.json.
    """

    content: dict[str, Any]
    rows: list[dict[str, Any]]
    report: Report

    def __str__(self) -> str:
        return str(self.content["paragraph"])

    def figures(self) -> dict[str, Figure]:
        """The page's figures by name."""
        return found_figures(self.content, self.rows, self.report)


def what_was_found(
    result: FitResult,
    test: Data | None = None,
    untrained: nn.Module | None = None,
    *,
    seed: int | None = None,
    info: DataInfo | None = None,
) -> WhatWasFound:
    """Measure what a fitted network does not care about, and say it in plain words; nothing is trained.

    Args:
        result: of the fit; evidence curves need its training set, which a result that was only read lacks.
        test: images and targets that symmetries are measured on; None takes the training set.
        untrained: the same network with fresh weights, for what it shows beside the fitted one; its batch
            statistics are set to those of some training images. None: nothing stands beside.
        seed: that `untrained` was drawn by, to be said.
        info: names of the classes, and what raw images went through.

    Returns:
        Content of the page, with its figures.

    Raises:
        ValueError: neither a training set nor test images, or images that no fit could use.
    """
    begun = time.monotonic()
    if test is None and result.train is None:
        raise ValueError("the result was only read, so it has no training set; give test images")
    model, told = result.model, info or DataInfo()
    like = next(model.parameters())
    given = test if test is not None else result.train
    assert given is not None
    looked_at = samples_from(given, like.device, dtype_of(model))
    if untrained is not None:
        untrained = untrained.to(like).eval()
        settle_batch_statistics(
            untrained, (looked_at if result.train is None else result.train).first(SETTLED_ON)
        )
    measured = measure_found(
        Fitted(
            model,
            result.config,
            result.prior_precision,
            result.sigma_noise,
            result.train,
            looked_at,
            "training" if test is None else "test",
            told.class_names,
            told.preprocessing,
            untrained,
            seed,
        )
    )
    content = {**vars(measured), "seconds": round(time.monotonic() - begun, 1)}
    return WhatWasFound(found_content(result.report, content), measured.rows, result.report)
