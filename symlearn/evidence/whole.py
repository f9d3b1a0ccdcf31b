"""The evidence with the whole GGN, where data are so few that its Gram matrix is small (`kfac.whole_ggn`).

Kronecker factors leave out the blocks between layers. Of few data that is most of what there is to know: a
hundred digits under the `small` network have four times the effective parameters by them that they have by
the whole GGN, and precisions follow, until a network that has learned is shrunk away.

Axes: row, tensor, params.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from kfac import GramFactors
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.evidence.likelihood import likelihood_of

STILL = 1e-2  # of log precisions: a step on them costs a decomposition here


class WholeEvidence(EvidenceModel):
    """As `EvidenceModel`, of the whole GGN.

    Args:
        factors: `kfac.compute_gram` of the training set.
        norms: ||theta_t||^2 by tensor.
        sizes: number of parameters by tensor.
        likelihood: "classification" or "regression".
    """

    still: ClassVar[float] = STILL

    def __init__(
        self,
        factors: GramFactors,
        norms: Mapping[str, float],
        sizes: Mapping[str, int],
        likelihood: str = "classification",
    ) -> None:
        self.factors = factors
        self.names = factors.names
        self.likelihood = likelihood_of(likelihood)
        self.regression = not self.likelihood.discrete
        self.fit, self.n_targets = factors.log_likelihood, factors.n_targets
        self.counts = torch.tensor([sizes[name] for name in self.names])
        self.norms = torch.tensor([norms[name] for name in self.names], dtype=torch.float64)

    @classmethod
    def of(cls, model: nn.Module, factors: GramFactors, likelihood: str) -> WholeEvidence:
        """Of a network at its present weights."""
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        return cls(factors, squared_norms(model), sizes, likelihood)

    def _log_det_ratio(self, delta: Tensor, variance: Tensor) -> Tensor:
        return self.factors.log_det_ratio(delta, variance.to(self.factors.grams.device)).cpu()

    def _gamma(self, delta: Tensor, sigma_noise: float) -> Tensor:
        return self.factors.effective_parameters(delta, self.likelihood.variance(sigma_noise)).cpu()
