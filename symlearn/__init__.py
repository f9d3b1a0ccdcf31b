"""Networks that discover their own symmetries, layer by layer, by the Laplace marginal likelihood."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see of the names in `_PUBLIC`
    from symlearn import (
        analysis,
        cost,
        curvature,
        data,
        evidence,
        fitting,
        groups,
        layers,
        networks,
        report,
        runs,
        selection,
        training,
        transfer,
    )
    from symlearn.analysis.effective_parameters import effective_parameters
    from symlearn.analysis.equivariance import equivariance_error
    from symlearn.analysis.predictive import LaplacePredictive
    from symlearn.config import Config, read_config
    from symlearn.cost.estimate import Estimate, estimate
    from symlearn.data import load_data
    from symlearn.data.streams import Stream
    from symlearn.estimator import SymmetryClassifier, SymmetryRegressor
    from symlearn.evidence.gradient import HyperObjective, evidence_gradients
    from symlearn.evidence.laplace import Evidence, log_marginal_likelihood
    from symlearn.fitting.fit import fit
    from symlearn.fitting.found import WhatWasFound, what_was_found
    from symlearn.fitting.own_loop import EvidenceUpdates
    from symlearn.fitting.result import FitResult
    from symlearn.layers.declared import Hyperparameter, hyperparameters_of
    from symlearn.layers.equivarify import equivarify, equivarify_layers
    from symlearn.layers.group_action import GroupAction
    from symlearn.networks import build_model
    from symlearn.runs.estimate import estimate_experiment
    from symlearn.runs.experiment import resume_experiment, run_experiment
    from symlearn.training.state import TrainingStoppedError
    from symlearn.transfer.collapse import collapse
    from symlearn.transfer.relax import relax

__version__ = "0.1.0"
__kfac_rules__ = "symlearn.curvature.rules"  # where kfac finds the rules of our layers

_PUBLIC = {  # name -> module; imported on first use, so that `symlearn --help` stays quick
    "Config": "symlearn.config",
    "Estimate": "symlearn.cost.estimate",
    "Evidence": "symlearn.evidence.laplace",
    "EvidenceUpdates": "symlearn.fitting.own_loop",
    "FitResult": "symlearn.fitting.result",
    "GroupAction": "symlearn.layers.group_action",
    "HyperObjective": "symlearn.evidence.gradient",
    "Hyperparameter": "symlearn.layers.declared",
    "LaplacePredictive": "symlearn.analysis.predictive",
    "Stream": "symlearn.data.streams",
    "SymmetryClassifier": "symlearn.estimator",
    "SymmetryRegressor": "symlearn.estimator",
    "TrainingStoppedError": "symlearn.training.state",
    "WhatWasFound": "symlearn.fitting.found",
    "build_model": "symlearn.networks",
    "collapse": "symlearn.transfer.collapse",
    "effective_parameters": "symlearn.analysis.effective_parameters",
    "equivariance_error": "symlearn.analysis.equivariance",
    "equivarify": "symlearn.layers.equivarify",
    "equivarify_layers": "symlearn.layers.equivarify",
    "estimate": "symlearn.cost.estimate",
    "estimate_experiment": "symlearn.runs.estimate",
    "evidence_gradients": "symlearn.evidence.gradient",
    "fit": "symlearn.fitting.fit",
    "hyperparameters_of": "symlearn.layers.declared",
    "load_data": "symlearn.data",
    "log_marginal_likelihood": "symlearn.evidence.laplace",
    "read_config": "symlearn.config",
    "relax": "symlearn.transfer.relax",
    "resume_experiment": "symlearn.runs.experiment",
    "run_experiment": "symlearn.runs.experiment",
    "what_was_found": "symlearn.fitting.found",
}
_ROOMS = (
    "analysis",
    "cost",
    "curvature",
    "data",
    "evidence",
    "fitting",
    "groups",
    "layers",
    "networks",
    "report",
    "runs",
    "selection",
    "training",
    "transfer",
)
__all__ = [
    "Config",
    "Estimate",
    "Evidence",
    "EvidenceUpdates",
    "FitResult",
    "GroupAction",
    "HyperObjective",
    "Hyperparameter",
    "LaplacePredictive",
    "Stream",
    "SymmetryClassifier",
    "SymmetryRegressor",
    "TrainingStoppedError",
    "WhatWasFound",
    "__version__",
    "analysis",
    "build_model",
    "collapse",
    "cost",
    "curvature",
    "data",
    "effective_parameters",
    "equivariance_error",
    "equivarify",
    "equivarify_layers",
    "estimate",
    "estimate_experiment",
    "evidence",
    "evidence_gradients",
    "fit",
    "fitting",
    "groups",
    "hyperparameters_of",
    "layers",
    "load_data",
    "log_marginal_likelihood",
    "networks",
    "read_config",
    "relax",
    "report",
    "resume_experiment",
    "run_experiment",
    "runs",
    "selection",
    "training",
    "transfer",
    "what_was_found",
]


def _expect_own_kfac() -> None:
    """Refuse a `kfac` of another distribution, which takes the name or the files of the one beside us.

    Raises:
        ImportError: where the other one lies, and what to do.
    """
    spec = importlib.util.find_spec("kfac")
    place = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
    ours = Path(__file__).resolve().parents[1] / "kfac"
    if place != ours or not (ours / "loss_hessian.py").is_file():
        raise ImportError(
            f"the package kfac that Python finds ({place or 'none'}) is not symlearn's ({ours}); uninstall "
            "the distribution it belongs to (pip uninstall kfac), and install symlearn again"
        )


_expect_own_kfac()


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, or a room of the package, on first use."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"symlearn.{name}")
    raise AttributeError(f"module 'symlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Everything public, imported or not."""
    return sorted(__all__)
