"""The numbers of report.json, from a finished fit.

`log_marginal_likelihood` is the total over the training set in nats; accuracies are fractions; `nll` is the
mean negative log-likelihood in nats; `ece` is the expected calibration error over 15 bins (Guo et al. 2017).

Axes: batch, classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from symlearn.analysis.calibration import scores
from symlearn.analysis.deviation import deviation_share
from symlearn.analysis.effective_parameters import layer_reports
from symlearn.analysis.ranges import range_report
from symlearn.curvature.coverage import seen
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.gradient import sampled_gradients
from symlearn.evidence.jackknife import CHUNKS
from symlearn.layers.structure import relaxed_layers, tensor_places
from symlearn.selection.removal import Removal, least_worth
from symlearn.selection.verdict import Asked, decision
from symlearn.training.state import FitState
from symlearn.training.steps import evaluate
from symlearn.training.updates import objective_on_subset

if TYPE_CHECKING:
    from symlearn.selection.changes import Proposal

SCHEMA = 2  # 1: no verdicts by evidence


def calibration(state: FitState, data: SamplesLike) -> dict[str, float | None]:
    """Accuracy, negative log-likelihood and calibration error of the MAP predictions."""
    accuracy, nll = evaluate(state, data)
    if not state.likelihood.discrete:
        return {"accuracy": None, "nll": nll, "ece": None}
    with torch.no_grad():
        found = [(state.model(x).softmax(1), y) for x, y in samples_of(data).batches(500)]
    probabilities, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return {"accuracy": accuracy, "nll": nll, "ece": scores(probabilities, labels)["ece"]}


def training_report(state: FitState, tried: Sequence[dict[str, Any]], data: SamplesLike) -> dict[str, Any]:
    """How the fit went: what was tried, what was taken back, and whether anything was learned.

    Args:
        state: at the end of the fit.
        tried: the starts, as `Beginning.tried`.
        data: the training set.

    Returns:
        `learned`: whether the network beats the constant predictor, in its loss and in the evidence, unless
        no evidence was maximised (MAP at fixed precisions); `constant_log_evidence` and `constant_loss`
        of that predictor, in nats; `starts`;
        `setbacks`; `epoch`: the one whose state was kept.
    """
    likelihood, targets = state.likelihood, samples_of(data).targets
    constant = likelihood.constant_log_evidence(targets)
    chance = likelihood.constant_loss(targets, state.sigma_noise)
    _, loss = evaluate(state, data)
    loss -= likelihood.constants(targets.numel() / len(targets), state.sigma_noise)  # which `evaluate` adds
    by_evidence = state.evidence is not None and state.config.evidence.selection != "none"
    return {
        "learned": loss < chance and (not by_evidence or cast(float, state.evidence) > constant),
        "constant_log_evidence": constant,
        "constant_loss": chance,
        "train_loss": loss,
        "starts": list(tried),
        "setbacks": list(state.setbacks),
        "epoch": state.epoch,
    }


def sample_report(state: FitState, data: SamplesLike) -> dict[str, Any] | None:
    """How sure the evidence is for being from a part of the images; None where it is from all of them.

    Args:
        state: at the end of the fit.
        data: the training set.

    Returns:
        `images` of `of`, in `chunks`; `standard_error` and the `bias` that was taken out, of
        `log_marginal_likelihood`, `log_likelihood`, `log_det` and `effective_parameters`; `gradient_error`,
        the standard error of d log evidence / d log delta by tensor; `declared_gradients` by hyperparameter,
        from `gradient_images`: `value` and `standard_error`, nested as the hyperparameter is.
    """
    if state.sampled is None:
        return None
    declared = state.hyper.declared
    gradients = {}
    if declared and state.config.evidence.gradient_images >= CHUNKS:
        objective = objective_on_subset(state, data)
        with seen(state.model, state.config.curvature):
            gradients = sampled_gradients(objective, declared, state.config.evidence.gradient)
    return {
        **state.sampled.told(),
        "declared_gradients": {
            name: {"value": g.whole.tolist(), "standard_error": g.standard_error.tolist()}
            for name, g in gradients.items()
        },
    }


@dataclass(frozen=True)
class TriedChanges:
    """What a fit tried to add and to remove.

    Attributes:
        proposals: of the search.
        removals: that the fit ended with.
        search_controls: log evidences of the search's controls, a list a round.
        controls: of the removals', the same.
    """

    proposals: Sequence[Proposal] = ()
    removals: Sequence[Removal] = ()
    search_controls: Sequence[Sequence[float]] = ()
    controls: Sequence[Sequence[float]] = ()


def build_report(
    state: FitState,
    data: str,
    task: str,
    tried: TriedChanges,
    test: dict[str, float | None] | None,
    training: dict[str, Any],
    sample: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather what is known at the end of a fit.

    Args:
        state: at the end of the fit.
        data: name of the data set.
        task: name of the task.
        tried: to add and to remove.
        test: scores on the test set, or None.
        training: as `training_report`.
        sample: as `sample_report`.

    Returns:
        report.json as a dictionary (schema 2).
    """
    chosen = state.config.evidence
    asked = Asked(
        tried.removals,
        tried.proposals,
        chosen.selection == "search" and chosen.rounds > 0,
        least_worth(state.config, state.n_data),
        bool(training["learned"]),
    )
    layers = relaxed_layers(state.model)
    declared = list(dict.fromkeys(path for layer in layers.values() for path in layer.path_names))
    trained = [p.numel() for p in state.model.parameters() if p.requires_grad]
    config = state.config
    return {
        "schema": SCHEMA,
        "data": data,
        "task": task,
        "paths": declared,
        "network": config.model.network or config.model.model,
        "seed": config.training.seed,
        "train_examples": state.n_data,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "active_parameters": sum(trained),
        "log_marginal_likelihood": state.evidence,
        "evidence_sample": sample,
        "sigma_noise": None if state.likelihood.discrete else state.sigma_noise,
        "test": test or {"accuracy": None, "nll": None, "ece": None},
        "laplace": None,
        "selection": {
            "method": config.evidence.selection,
            "proposals": [asdict(p) for p in tried.proposals],
            "search_controls": [list(ended) for ended in tried.search_controls],
            "removals": [asdict(r) for r in tried.removals],
            "controls": [list(ended) for ended in tried.controls],
        },
        "ranges": range_report(state.model),
        "eigenvalues": config.curvature.eigenvalues,
        "diagonal": list(config.curvature.diagonal),
        "left_out": list(config.curvature.left_out),
        "training": training,
        "tensors": {name: list(place) for name, place in tensor_places(state.model).items()},
        "layers": [
            layer
            if (relaxed := layers.get(layer["name"])) is None
            else {
                **layer,
                "verdict": decision(
                    layer["name"], relaxed.path_names, relaxed.active, asked, deviation_share(relaxed)
                ),
            }
            for layer in layer_reports(
                state.model, state.effective_parameters, state.prior.floats(), config.curvature.left_out
            )
        ],
    }
