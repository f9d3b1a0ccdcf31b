"""The evidence from M of N images, with its standard error (Immer et al. 2023, section 3, has its gradients).

Log-likelihood and curvature are sums over data, so those of a random subset, N / M times, stand for all. The
log-likelihood is unbiased by that. The log determinant is not: it is concave in the curvature, so that

    E log det(N / M H_M + delta I) <= log det(H_N + delta I)

and the evidence of a subset comes out too high. Errors and biases are the jackknife's over disjoint chunks of
the subset (`jackknife.py`). What is noted is corrected for the bias.

Differences of two networks on the same subset have an error of their own, that of the differences chunk by
chunk, which is far smaller than either network's.

Axes: chunk, tensor.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symlearn.evidence.jackknife import Jackknife, standard_error_of
from symlearn.evidence.laplace import EvidenceModel

Precisions = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class SampledEvidence:
    """What chunks of a subset say of the evidence at given hyperparameters.

    Attributes:
        log_likelihood: log p(D | theta), nats.
        log_det: sum_t log det(H_t + delta_t I).
        total: the log marginal likelihood, nats.
        gamma: effective parameters by tensor `[tensor]`; a log precision's gradient has half their error.
        names: the tensors.
    """

    log_likelihood: Jackknife
    log_det: Jackknife
    total: Jackknife
    gamma: Jackknife
    names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        whole: EvidenceModel,
        without: Iterable[EvidenceModel],
        part: float,
        prior_precision: Precisions,
        sigma_noise: float = 1.0,
    ) -> SampledEvidence:
        """Evaluate the evidence from all chunks, and from all but each one.

        Args:
            whole: from all chunks, scaled to all data.
            without: from all but one, the same; used one at a time.
            part: M / N.
            prior_precision: delta by parameter name.
            sigma_noise: of a regression.

        Returns:
            Its terms and gamma, each with the values `[chunk, ...]` that its error and bias come from.
        """
        first = quantities(whole, prior_precision, sigma_noise)
        rest = [quantities(one, prior_precision, sigma_noise) for one in without]
        one = Jackknife(first, torch.stack(rest), part)
        fit, log_det, total = (Jackknife(one.whole[k], one.without[:, k], part) for k in range(3))
        return cls(fit, log_det, total, Jackknife(one.whole[3:], one.without[:, 3:], part), whole.names)

    @property
    def effective_parameters(self) -> dict[str, float]:
        """gamma_t of every tensor, corrected, at least 0."""
        return dict(zip(self.names, self.gamma.corrected.clamp_min(0).tolist(), strict=True))

    @property
    def all_effective_parameters(self) -> Jackknife:
        """Their sum."""
        return Jackknife(self.gamma.whole.sum(), self.gamma.without.sum(1), self.gamma.part)

    def noted(self, images: int, of: int, constant: float = 0.0) -> Noted:
        """Bring it to plain numbers, for checkpoints and report.json.

        Args:
            images: M.
            of: N.
            constant: part of the evidence that depends on no data, in nats.

        Returns:
            The evidence with the constant and without its bias, its deviations by chunk, and standard errors.
        """
        told = {
            "log_marginal_likelihood": self.total,
            "log_likelihood": self.log_likelihood,
            "log_det": self.log_det,
            "effective_parameters": self.all_effective_parameters,
        }
        return Noted(
            images,
            of,
            float(self.total.corrected) + constant,
            (self.total.without - self.total.without.mean()).tolist(),
            {name: float(one.standard_error) for name, one in told.items()},
            {name: float(one.bias) for name, one in told.items()},
            dict(zip(self.names, (0.5 * self.gamma.standard_error).tolist(), strict=True)),
        )


@dataclass(frozen=True)
class Noted:
    """A log evidence from a part of the images, as plain numbers.

    Attributes:
        images: M.
        of: N.
        evidence: the log marginal likelihood in nats, corrected.
        deviations: of the values without one chunk from their mean, in nats, a number a chunk.
        standard_error: of `log_marginal_likelihood`, `log_likelihood`, `log_det`, `effective_parameters`.
        bias: that was taken from them.
        gradient_error: standard error of d log evidence / d log delta_t, by tensor.
    """

    images: int
    of: int
    evidence: float
    deviations: list[float]
    standard_error: dict[str, float] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    gradient_error: dict[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """The `evidence_sample` of report.json."""
        return {
            "images": self.images,
            "of": self.of,
            "chunks": len(self.deviations),
            "standard_error": dict(self.standard_error),
            "bias": dict(self.bias),
            "gradient_error": dict(self.gradient_error),
        }


def quantities(model: EvidenceModel, prior_precision: Precisions, sigma_noise: float) -> Tensor:
    """Log-likelihood, log determinant, log evidence, then gamma of every tensor, float64 `[3 + tensors]`."""
    terms = model.terms(prior_precision, sigma_noise)
    gamma = model.effective_parameters(prior_precision, sigma_noise)
    log_det = model.prior_log_det(prior_precision) - 2 * terms.volume
    parts = torch.stack([terms.log_likelihood, log_det, terms.total]).double()
    return torch.cat([parts, torch.tensor([gamma[name] for name in model.names], dtype=torch.float64)])


def mean_of(noted: Sequence[Noted]) -> Noted:
    """The mean of evidences on the same chunks, such as of several updates."""
    first = noted[0]
    deviations = [statistics.mean(values) for values in zip(*(n.deviations for n in noted), strict=True)]
    return Noted(first.images, first.of, statistics.mean(n.evidence for n in noted), deviations)


def paired_error(one: Noted, others: Sequence[Noted]) -> float:
    """Find how sure the difference is between an evidence and the mean of others on the same images.

    Returns:
        Its standard error in nats, 0 where the images are all that there are.

    Raises:
        ValueError: the images differ.
    """
    if any((other.images, other.of) != (one.images, one.of) for other in others):
        raise ValueError("evidences on different images have no paired difference; take the same subset")
    means = mean_of(others).deviations
    differences = [a - b for a, b in zip(one.deviations, means, strict=True)]
    return standard_error_of(differences, one.images / one.of)
