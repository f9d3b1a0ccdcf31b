"""Kronecker-factored curvature for layers with several kinds of weight sharing.

`compute_factors` makes one pass over data and returns `KroneckerFactors`: for every parameter the raw sums
of a Kronecker-factored generalized Gauss-Newton block. They add up over data, turn into eigenvalues with
`eigendecompose`, and from these come log determinants and effective numbers of parameters. A second pass,
`correct_eigenvalues`, makes the eigenvalues exact in their basis (EKFAC). Of few data `compute_gram` gives
the whole GGN, blocks between layers included. The package knows nothing of any particular network; layer
types join by `register_rule`.

`KfacGGN` and `KfacLaplace` plug it into laplace-torch, `extend` and `backpack_extensions` into BackPACK; both
libraries are slow to import, and loaded when these are first named.

For packages that build on this one: rules are made of `Rule`, `ConvRule`, `Window`, `gram` and
`circular_patch_gram`; networks are looked at through `evaluated`, `differentiable_kernels`, `find_owners`,
`recorded_calls`, `gradients_by_datum`, `log_likelihood` and `run`; errors of other people's code are told by
`check_modules`, `explained_backward`, `one_line` and `tensor_of`.
"""

import importlib
from typing import TYPE_CHECKING, Any

import kfac.norm_rules as _norm_rules  # noqa: F401, registers the rules of normalisation layers
from kfac.averages import Averages
from kfac.batches import tensor_of
from kfac.calls import recorded_calls
from kfac.checks import check_modules, explained_backward, one_line, run
from kfac.collect import compute_factors, project_factors
from kfac.diagonal import gradients_by_datum
from kfac.draws import Place
from kfac.eigen import EigenFactors
from kfac.ekfac import correct_eigenvalues
from kfac.errors import NonFiniteError
from kfac.factors import DiagonalBlock, KroneckerBlock, KroneckerFactors, NearestKroneckerBlock
from kfac.ggn import ggn_block
from kfac.input_factors import renew_input_factors
from kfac.loss_hessian import Likelihood, log_likelihood
from kfac.modes import differentiable_kernels, evaluated
from kfac.owners import find_owners, uncovered
from kfac.partial_traces import partial_trace_basis
from kfac.rules import Conv2dRule, ConvRule, Rule, gram, register_rule
from kfac.whole_ggn import GramFactors, compute_gram, rows_needed
from kfac.windows import Window, circular_patch_gram

if TYPE_CHECKING:  # what editors and type checkers see of the names in `_LAZY`
    from kfac.backpack_backend import backpack_extensions, extend
    from kfac.laplace_backend import KfacGGN, KfacLaplace

__all__ = [
    "Averages",
    "Conv2dRule",
    "ConvRule",
    "DiagonalBlock",
    "EigenFactors",
    "GramFactors",
    "KfacGGN",
    "KfacLaplace",
    "KroneckerBlock",
    "KroneckerFactors",
    "Likelihood",
    "NearestKroneckerBlock",
    "NonFiniteError",
    "Place",
    "Rule",
    "Window",
    "backpack_extensions",
    "check_modules",
    "circular_patch_gram",
    "compute_factors",
    "compute_gram",
    "correct_eigenvalues",
    "differentiable_kernels",
    "evaluated",
    "explained_backward",
    "extend",
    "find_owners",
    "ggn_block",
    "gradients_by_datum",
    "gram",
    "log_likelihood",
    "one_line",
    "partial_trace_basis",
    "project_factors",
    "recorded_calls",
    "register_rule",
    "renew_input_factors",
    "rows_needed",
    "run",
    "tensor_of",
    "uncovered",
]

_LAZY = {
    "KfacGGN": "kfac.laplace_backend",
    "KfacLaplace": "kfac.laplace_backend",
    "backpack_extensions": "kfac.backpack_backend",
    "extend": "kfac.backpack_backend",
}


def __getattr__(name: str) -> Any:
    """Load what other libraries need only when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'kfac' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """Everything public, imported or not."""
    return sorted(__all__)
