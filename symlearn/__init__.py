"""Networks that discover their own symmetries, layer by layer, by the Laplace marginal likelihood."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
__kfac_rules__ = "symlearn.curvature"  # where kfac finds the rules of our layers

_PUBLIC = {  # name -> module; imported on first use, so that `symlearn --help` stays quick
    "Config": "symlearn.config",
    "Evidence": "symlearn.evidence",
    "Estimate": "symlearn.costs",
    "FitResult": "symlearn.fitting",
    "GroupAction": "symlearn.layers.group_action",
    "HyperObjective": "symlearn.hyper_gradient",
    "Hyperparameter": "symlearn.declared",
    "LaplacePredictive": "symlearn.analysis.predictive",
    "SymmetryClassifier": "symlearn.estimator",
    "SymmetryRegressor": "symlearn.estimator",
    "TrainingStoppedError": "symlearn.training",
    "build_model": "symlearn.networks",
    "collapse": "symlearn.transfer.collapse",
    "effective_parameters": "symlearn.analysis.effective_parameters",
    "equivarify": "symlearn.layers.equivarify",
    "equivarify_layers": "symlearn.layers.equivarify",
    "equivariance_error": "symlearn.analysis.equivariance",
    "estimate": "symlearn.costs",
    "estimate_experiment": "symlearn.costs",
    "evidence_gradients": "symlearn.hyper_gradient",
    "fit": "symlearn.fitting",
    "hyperparameters_of": "symlearn.declared",
    "load_data": "symlearn.data",
    "log_marginal_likelihood": "symlearn.evidence",
    "read_config": "symlearn.config",
    "relax": "symlearn.transfer.relax",
    "resume_experiment": "symlearn.runs",
    "run_experiment": "symlearn.runs",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it, on first use."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'symlearn' has no attribute {name!r}")
