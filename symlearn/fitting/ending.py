"""The end of a fit: everything that is measured of the state of best evidence, and its report.

Axes: n, c, h, w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symlearn.analysis.calibration import scores
from symlearn.analysis.codes import IMAGES as CODED
from symlearn.analysis.codes import code_sparsity
from symlearn.analysis.equivariance import IMAGES, equivariance_report
from symlearn.analysis.predictive import predictive_of
from symlearn.curvature.coverage import has_evidence
from symlearn.curvature.whole import columns_of, uses_whole
from symlearn.data.samples import Samples
from symlearn.fitting.result import DataInfo
from symlearn.report.notebook import ReportDict
from symlearn.report.numbers import TriedChanges, build_report, calibration, sample_report, training_report
from symlearn.training.state import FitState
from symlearn.training.updates import update_evidence

LOOKED_AT = max(IMAGES, CODED)  # training images that equivariance and codes are measured on


def final_report(
    state: FitState,
    train: Samples,
    test: Samples | None,
    info: DataInfo,
    asked: TriedChanges,
    starts: Sequence[dict[str, Any]],
) -> ReportDict:
    """Measure a fit's last state, and report it.

    Args:
        state: the fit's; its network is left in `eval` mode. Of a fit by MAP its evidence is computed here.
        train: the training set.
        test: the test set, or None.
        info: what the report says about the data.
        asked: what was tried to add and to remove.
        starts: what became of every start.

    Returns:
        The report without the seconds that the fit took.
    """
    model = state.model
    curved = has_evidence(model, state.config.curvature)
    if state.config.evidence.selection == "none" and curved:
        update_evidence(state, train, step_hyperparameters=False)
    model.eval()
    report = ReportDict(
        build_report(
            state,
            info.data,
            info.task,
            asked,
            None if test is None else calibration(state, test),
            training_report(state, starts, train),
            sample_report(state, train),
        )
    )
    if test is not None and curved and state.likelihood.discrete:
        predictive = predictive_of(model, train, state.config, state.prior.floats())
        report["laplace"] = scores(*predictive.labelled(test))
    whole = curved and uses_whole(model, state.config, train, state.ranks)
    report["ggn"] = "whole" if whole else "blocks"
    if whole:
        report["ggn_columns"] = columns_of(model, state.config, train)
    report["test_examples"] = None if test is None else len(test)
    few, _ = train.first(LOOKED_AT)
    report["equivariance"] = equivariance_report(model, few)
    report["sparsity"] = code_sparsity(model, few)
    return report
