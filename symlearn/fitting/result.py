"""What goes into a fit besides data and network, what it tells on its way, and what it gives back.

Axes: n, c, h, w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from symlearn.analysis.filters import filters_of
from symlearn.config import Config
from symlearn.data import Preprocessing
from symlearn.data.samples import Samples
from symlearn.report.notebook import report_html
from symlearn.report.plots import run_figures
from symlearn.report.sentence import verdict_sentence


@dataclass(frozen=True)
class DataInfo:
    """What the report says about the data.

    Attributes:
        data: name or path of the data set.
        task: name of the task.
        class_names: names of the classes.
        preprocessing: what new images must go through.
    """

    data: str = "given"
    task: str = "class"
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class Progress:
    """What a fit tells while it runs.

    Attributes:
        stage: "start", "round 0", "anneal", or "map".
        epoch: epochs of the learned network so far (a trial's own within a round).
        record: the epoch's metrics.
        note: a line worth printing by itself, or None.
        fraction: how much of the planned work is done, between 0 and 1.
        places: the layer and path of every tensor that the record names.
    """

    stage: str
    epoch: int
    record: dict[str, Any]
    note: str | None
    fraction: float
    places: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(repr=False)
class FitResult:
    """A finished fit; shows itself in notebooks.

    Attributes:
        model: the learned network, in `eval` mode, at the state of best evidence.
        report: the numbers of report.json.
        metrics: a dictionary an epoch, as in metrics.jsonl.
        prior_precision: delta by parameter name.
        sigma_noise: learned noise (regression).
        config: the configuration, every schedule worked out.
        train: the training set, or None for a run that was only read.
    """

    model: nn.Module
    report: dict[str, Any]
    metrics: list[dict[str, Any]]
    prior_precision: dict[str, float]
    sigma_noise: float
    config: Config
    train: Samples | None = None

    def __repr__(self) -> str:
        return f"FitResult: {verdict_sentence(self.report)}"

    def _repr_html_(self) -> str:
        return report_html(self.report)

    def figures(self) -> dict[str, Figure]:
        """Every figure of the fit by its name, as the page of a run shows them."""
        return run_figures(self.report, self.metrics, filters_of(self.model))

    def plot(self, name: str = "removals") -> Figure:
        """One figure: what the evidence needs, layers by paths, unless another is named.

        Returns:
            The figure, also to be had as `figures()[name]`.

        Raises:
            ValueError: no figure of this name.
        """
        figures = self.figures()
        if name not in figures:
            raise ValueError(f"no figure {name!r}; expected one of {', '.join(figures)}")
        return figures[name]
