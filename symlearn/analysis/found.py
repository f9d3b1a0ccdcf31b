"""Everything that is measured on a fitted network for the page 'What was found', in one go.

What of it cannot be measured is left out with the reason, never guessed: a network or data of an unusual kind
must not cost a fit its results.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kfac import one_line
from symlearn.analysis.edges import edge_transforms, edges, middle_edge, spread_out, told
from symlearn.analysis.examples import Shown, edge_sheet
from symlearn.analysis.range_curves import average_within, range_curves
from symlearn.analysis.symmetries import ANSWERED, measured_symmetries
from symlearn.config import Config
from symlearn.curvature.coverage import has_evidence
from symlearn.data import Preprocessing
from symlearn.data.samples import Samples
from symlearn.evidence.likelihood import likelihood_of
from symlearn.evidence.sampled import Precisions
from symlearn.networks.operations import operations_of

EDGED = 24  # images whose edges are looked for
SHOWN = 6  # of them, that are shown
BUDGET = 3e11  # floating-point operations of all passes together: some ten seconds on one core
PASSES = 60  # an image, fitted and untrained network, about
LEAST = 8  # images at least, however large the network
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted network and what it was fitted to.

    Attributes:
        model: the network.
        config: of the fit.
        prior_precision: delta by parameter name.
        sigma_noise: of a regression.
        train: the training set, which evidence curves are from; None: there are none.
        looked_at: the images that symmetries are measured on, test images where there are some.
        set_name: what those are called.
        class_names: of the outputs.
        preprocessing: what raw images went through, where it is known.
        untrained: the network with fresh weights, drawn by `untrained_seed`; None: nothing stands beside.
    """

    model: nn.Module
    config: Config
    prior_precision: Precisions
    sigma_noise: float
    train: Samples | None
    looked_at: Samples
    set_name: str
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    untrained: nn.Module | None = None
    untrained_seed: int | None = None


@dataclass
class Measured:
    """What was measured, for found.json and examples.json.

    Attributes:
        curves: of learned ranges, by transform.
        symmetries: as `measured_symmetries`, with the `set` and the `seed`; None where not measured.
        edges: how far images may go; None where not measured.
        rows: of the sheet of examples.
        skipped: why a part is missing, by its name.
    """

    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    symmetries: dict[str, Any] | None = None
    edges: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def attempt(self, part: str, measure: Callable[[], T], otherwise: T) -> T:
        """Measure a part, or note why it cannot be."""
        try:
            return measure()
        except Exception as error:  # noqa: BLE001 - a user's network may raise anything; its fit is over
            self.skipped[part] = one_line(error)
            return otherwise


def affordable(model: nn.Module, x: Tensor) -> Callable[[int], int]:
    """How many images to measure on, of so many: fewer where a pass costs much, `LEAST` at least."""
    operations = operations_of(model, x[:1])
    if operations is None:
        return lambda most: most
    work = PASSES * ANSWERED * operations
    return lambda most: most if work <= BUDGET else max(int(most * BUDGET / work), LEAST)


def measure_found(fitted: Fitted) -> Measured:
    """Measure evidence curves, symmetries and edges of a fitted network, which is left as it was.

    Returns:
        What was measured, of fewer images where the network costs much; how many stands beside it.
    """
    found = Measured()
    discrete = likelihood_of(fitted.config.data.likelihood).discrete
    x, y = fitted.looked_at.first(ANSWERED)
    if x.dim() != 4:
        told = f"the data are no images [n, c, h, w] but {list(x.shape)}, and only images are moved"
        found.skipped = {"symmetries": told, "edges": told}
        return found
    few = affordable(fitted.model, x)
    x, y = x[: few(len(x))], y[: few(len(x))]
    labels = y if discrete else None
    found.curves = found.attempt("curves", lambda: _curves(fitted, found), {})
    symmetries = found.attempt(
        "symmetries", lambda: measured_symmetries(fitted.model, fitted.untrained, x, labels), None
    )
    if symmetries is not None:
        found.symmetries = {"set": fitted.set_name, "seed": fitted.untrained_seed, **symmetries}
    found.edges = found.attempt("edges", lambda: _edges(fitted, x[: few(EDGED)], labels, found), None)
    return found


def _curves(fitted: Fitted, found: Measured) -> dict[str, dict[str, Any]]:
    within = average_within(fitted.model)
    if within is None or not within[1].learn:
        return {}
    if fitted.train is None:
        found.skipped["curves"] = "the training images are not at hand"
        return {}
    if not has_evidence(fitted.model, fitted.config.curvature):
        found.skipped["curves"] = "the network has no evidence"
        return {}
    return range_curves(fitted.model, fitted.train, fitted.config, fitted.prior_precision, fitted.sigma_noise)


def _edges(fitted: Fitted, x: Tensor, labels: Tensor | None, found: Measured) -> dict[str, Any]:
    """The `edges` of found.json; the sheet's rows go to `found`."""
    model = fitted.model
    by_transform = {
        transform: edges(model, x, transform, labels is not None)
        for transform in edge_transforms(x.shape[1], (x.shape[2], x.shape[3]))
    }
    right = None if labels is None else _right(model, x, labels[: len(x)])
    few = None if labels is None else labels[: len(x)]
    picks = spread_out(few, min(SHOWN, len(x)), lambda at: right is None or right[at])
    scale = _scale(model, x) if labels is None else None
    shown = Shown(model, x[picks], scale, fitted.class_names, fitted.preprocessing)
    chosen = {transform: [each[at] for at in picks] for transform, each in by_transform.items()}
    found.rows = edge_sheet(shown, chosen)
    transforms = []
    for transform, each in by_transform.items():
        middle, (read, _) = middle_edge(each), transform.scale.unit
        transforms.append(
            {
                "transform": transform.name,
                "verb": transform.verb,
                "middle": None if middle is None else read(middle),
                "words": None if middle is None else _plain(told(transform, middle, shown.side)),
                "never": sum(edge.amplitude is None for edge in each),
                "edges": [None if edge.amplitude is None else read(edge.amplitude) for edge in each],
            }
        )
    return {"set": fitted.set_name, "images": len(x), "transforms": transforms}


def _plain(amount: str) -> str:
    """An amount without direction, for a sentence."""
    return amount.lstrip("+").replace(" px", " pixels")


@torch.no_grad()
def _scale(model: nn.Module, x: Tensor) -> Tensor:
    """Standard deviations of outputs over images."""
    return model(x).std(0)


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, labels: Tensor) -> list[bool]:
    """Whether images are classified rightly."""
    return (model(x).argmax(1) == labels).tolist()
