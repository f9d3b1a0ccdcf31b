"""Kronecker-factored curvature for layers with several kinds of weight sharing.

`compute_factors` makes one pass over data and returns `KroneckerFactors`: for every parameter the raw sums
of a Kronecker-factored generalized Gauss-Newton block. They add up over data, turn into eigenvalues with
`eigendecompose`, and from these come log determinants and effective numbers of parameters. The package
knows nothing of any particular network; layer types join by `register_rule`.
"""

import kfac.norm_rules as _norm_rules  # noqa: F401, registers the rules of normalisation layers
from kfac.collect import compute_factors, project_factors
from kfac.eigen import EigenFactors
from kfac.errors import NonFiniteError
from kfac.factors import DiagonalBlock, KroneckerBlock, KroneckerFactors, NearestKroneckerBlock
from kfac.ggn import ggn_block
from kfac.owners import uncovered
from kfac.rules import Rule, register_rule

__all__ = [
    "DiagonalBlock",
    "EigenFactors",
    "KroneckerBlock",
    "KroneckerFactors",
    "NearestKroneckerBlock",
    "NonFiniteError",
    "Rule",
    "compute_factors",
    "ggn_block",
    "project_factors",
    "register_rule",
    "uncovered",
]
