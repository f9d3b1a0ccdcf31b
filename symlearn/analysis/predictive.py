"""Predictions with the uncertainty of the weights: the linearised Laplace predictive.

At the MAP weights the network is taken as linear in them, f(x) + J(x) (theta - theta_MAP), so the Gaussian
posterior with covariance T (H / sigma^2 + Delta)^-1 gives Gaussian outputs of mean f(x) and covariance

    V(x) = T sum_t J_t (H_t / sigma^2 + delta_t I)^-1 J_t^T      J_t = d f / d theta_t   [classes, params]

summed over the tensors t, whose blocks are inverted in their Kronecker eigenbasis (Immer et al. 2021,
"Improving predictions of Bayesian neural nets via local linearization"); T = 1 is the posterior, less makes
it cold. A regression's targets have the variance V + sigma^2.

Class probabilities are the softmax averaged over N(f, V), by draws, or in closed form with the probit
approximation of every pair of classes (MacKay 1992 for two; Lu, Ie & Sha 2020, "Mean-field approximation to
Gaussian-softmax integral", equation 13),

    p_c ~ 1 / sum_k exp(-(f_c - f_k) / sqrt(1 + pi / 8 s_ck)),      s_ck = V_cc + V_kk - 2 V_ck

normalised. It takes differences alone, as the softmax does. A shift of all outputs, of which the data say
nothing, has the prior's variance, and the usual form softmax(f / sqrt(1 + pi / 8 V_cc)) counts it in full;
and where V_cc differs between classes, that form even changes which of them is first.

How sure these predictions are: where a network is sure of its training data, the loss is flat at the MAP and
steep away from it, and the Gaussian of the curvature at the MAP is too wide. That holds for the exact GGN of
the whole network as for its Kronecker factors; at T = 1 both are far less sure than they are right. Classes
are predicted by the last layer's posterior alone (Kristiadi et al. 2020), whose scores are near the MAP's.

Axes: batch, c, h, w, classes, group, d_out, d_in, params, draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kfac import EigenFactors, KroneckerFactors, evaluated, find_owners, gradients_by_datum, recorded_calls
from symlearn.config import Config, CurvatureConfig
from symlearn.curvature.coverage import trainable
from symlearn.curvature.training_set import spectra, training_factors
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.likelihood import likelihood_of

TYPE_2_UP_TO = 40  # classes; beyond, the columns that the fit drew have to do
MEMORY = 2**26  # bytes that the gradients of one chunk of data may take
Link = Literal["probit", "mc"]


def predictive_factors(
    model: nn.Module, data: SamplesLike, config: Config, names: Collection[str] | None = None
) -> KroneckerFactors:
    """Curvature over the training set for predictions: exact loss Hessians where there are few classes.

    Args:
        model: the learned network.
        data: its training set, `[n, c, h, w]` and `[n]`.
        config: of its fit.
        names: the parameters wanted; None takes all that are trainable and not left out.

    Returns:
        Kronecker factors of the parameters wanted, summed over the training set.
    """
    with trainable(model, names):
        return training_factors(model, with_exact_columns(model, config, data), data)


def corrected_spectra(
    model: nn.Module, factors: KroneckerFactors, data: SamplesLike, config: Config
) -> EigenFactors:
    """Corrected spectra of `predictive_factors`: as the fit corrected them, or else in their own basis."""
    chosen = with_exact_columns(model, config, data)
    if chosen.curvature.eigenvalues == "kronecker":
        chosen = chosen.with_options(eigenvalues="corrected")
    with trainable(model, factors.names):
        return spectra(model, chosen, data, factors)


def with_exact_columns(model: nn.Module, config: Config, data: SamplesLike) -> Config:
    """The configuration with every column of the loss Hessian, where there are few classes."""
    with torch.no_grad():
        classes = model.eval()(samples_of(data).first(1)[0]).shape[1]
    return config.with_options(fisher_type="type-2") if classes <= TYPE_2_UP_TO else config


def last_layer(model: nn.Module, x: Tensor, curvature: CurvatureConfig | None = None) -> list[str]:
    """Find the module that runs last, of those with a curvature rule.

    Args:
        model: the network.
        x: images `[batch, c, h, w]`, of which the first goes through; the order of registration says nothing.
        curvature: whose declared parameters do not count.

    Returns:
        Names of its trainable parameters, weight first.

    Raises:
        ValueError: no module with a rule ran.
    """
    declared = set() if curvature is None else {*curvature.diagonal, *curvature.left_out}
    owners, _, _ = find_owners(model, "diagonal")
    names = [[name for name in (o.weight, o.bias) if name and name not in declared] for o in owners]
    with evaluated(model), torch.enable_grad(), recorded_calls(owners, 1) as calls:
        model(x[:1])
    by_module = dict(zip((o.module for o in owners), names, strict=True))
    for call in reversed(calls):
        if by_module[call.owner.module]:
            return by_module[call.owner.module]
    raise ValueError(
        "no layer of which kfac has a curvature rule ran, so none is the last; name parameters instead"
    )


def bytes_a_datum(classes: int, sizes: Sequence[int]) -> int:
    """What the gradients of one datum take: their coordinates by class, and once more those of one tensor.

    Args:
        classes: number of outputs.
        sizes: numbers of entries of the parameters with a posterior.

    Returns:
        Bytes, at eight a number (float64).
    """
    return 8 * ((classes + 2) * sum(sizes) + classes * max(sizes))


def predictive_of(
    model: nn.Module,
    data: SamplesLike,
    config: Config,
    prior_precision: Mapping[str, Tensor | float],
    sigma_noise: float = 1.0,
) -> LaplacePredictive:
    """The predictive of a fit: classes by the last layer's posterior, targets by all weights'.

    Args:
        model: the learned network.
        data: its training set, `[n, c, h, w]` and `[n]`.
        config: of its fit.
        prior_precision: delta by parameter name.
        sigma_noise: the learned noise (regression only).

    Returns:
        A predictive over the last layer's weights (classes) or over all trainable ones (targets).
    """
    discrete = likelihood_of(config.data.likelihood).discrete
    names = last_layer(model, samples_of(data).first(1)[0], config.curvature) if discrete else None
    factors = predictive_factors(model, data, config, names)
    sharper = config.curvature.eigenvalues != "kronecker"
    eigen = corrected_spectra(model, factors, data, config) if sharper else None
    return LaplacePredictive(model, factors, prior_precision, sigma_noise, eigen)


class LaplacePredictive:
    """The linearised Laplace predictive of a network.

    Args:
        model: the network at its MAP weights; put in `eval` mode.
        factors: `kfac.compute_factors` of it over the training set.
        prior_precision: delta by parameter name.
        sigma_noise: the Gaussian likelihood's standard deviation (regression only).
        eigen: spectra with vectors to take in place of the factors' own, such as corrected ones.
        temperature: T.
        names: parameters with a posterior, the others count as known; None takes all. A last layer's alone
            make the last-layer Laplace approximation.

    Raises:
        ValueError: a tensor without prior precision, an unknown name, a temperature below zero.
    """

    def __init__(
        self,
        model: nn.Module,
        factors: KroneckerFactors,
        prior_precision: Mapping[str, Tensor | float],
        sigma_noise: float = 1.0,
        eigen: EigenFactors | None = None,
        temperature: float = 1.0,
        names: Collection[str] | None = None,
    ) -> None:
        missing = [name for name in factors.names if name not in prior_precision]
        if missing:
            raise ValueError(f"no prior precision for {', '.join(missing)}; give a positive value for each")
        unknown = sorted(set(names or ()) - set(factors.names))
        if unknown:
            raise ValueError(f"no factors for {', '.join(unknown)}; there are: {', '.join(factors.names)}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"the temperature must be zero or more, got {temperature}")
        self.model, self.factors, self.sigma_noise = model.eval(), factors, sigma_noise
        self.temperature = temperature
        self.eigen = factors.eigendecompose(vectors=True) if eigen is None else eigen
        parameters = dict(model.named_parameters())
        chosen = [name for name in factors.names if names is None or name in names]
        self.parameters = {name: parameters[name].detach() for name in chosen}
        self.known = {name: p.detach() for name, p in parameters.items() if name not in self.parameters}
        self.precision = {
            name: self.eigen.eigenvalues[name] / sigma_noise**2
            + torch.as_tensor(prior_precision[name]).to(self.eigen.eigenvalues[name])
            for name in chosen
        }

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the network's outputs on images `[batch, c, h, w]`.

        Returns:
            Mean `[batch, classes]` in the network's type, and covariance `[batch, classes, classes]` in
            float64.
        """
        parts = [self._chunk(part) for part in x.split(self.chunk(x))]
        return torch.cat([mean for mean, _ in parts]), torch.cat([covariance for _, covariance in parts])

    @torch.no_grad()
    def chunk(self, x: Tensor) -> int:
        """How many images' gradients fit into `MEMORY`; the first of x goes through the network."""
        classes = self.model(x[:1]).shape[1]
        return max(MEMORY // bytes_a_datum(classes, [p.numel() for p in self.parameters.values()]), 1)

    def _chunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`outputs` of data whose gradients fit into memory: one backward pass a class for all of them."""
        mean, pull_back = gradients_by_datum(self.model, self.parameters, x, self.known)
        whitened: dict[str, list[Tensor]] = {name: [] for name in self.parameters}
        for c in range(mean.shape[1]):
            cotangent = torch.zeros_like(mean)
            cotangent[:, c] = 1
            for name, rows in pull_back(cotangent).items():
                coordinates = self.eigen.blocks[name].coordinates(self.factors[name].to_groups(rows))
                whitened[name].append(coordinates / self.precision[name].sqrt())
        covariance = torch.zeros(*mean.shape, mean.shape[1], dtype=torch.float64, device=mean.device)
        for by_class in whitened.values():
            rows = torch.stack(by_class, 1)  # [batch, classes, params]
            covariance += rows @ rows.mT
        return mean.detach(), self.temperature * covariance

    def probabilities(self, x: Tensor, link: Link = "mc", draws: int = 500, seed: int = 0) -> Tensor:
        """Class probabilities under the posterior of the weights.

        Args:
            x: images `[batch, c, h, w]`.
            link: "mc" for the average over draws of the outputs, or "probit" for the closed form.
            draws: how many; the same for every image, so that none depends on its batch.
            seed: of the draws.

        Returns:
            `[batch, classes]` float64; every row sums to 1.
        """
        mean, covariance = self.outputs(x)
        if link == "probit":
            return probit(mean, covariance)
        return averaged_softmax(mean, covariance, draws, seed)

    def labelled(self, data: SamplesLike) -> tuple[Tensor, Tensor]:
        """Class probabilities `[n, classes]`, float64, of a set, read a chunk at a time; and its labels."""
        samples = samples_of(data)
        found = [(*self.outputs(x), y) for x, y in samples.batches(self.chunk(samples.first(1)[0]))]
        mean, covariance, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return averaged_softmax(mean, covariance), labels

    def targets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[batch, outputs]`, float64, of a regression's targets."""
        mean, covariance = self.outputs(x)
        return mean.double(), (covariance.diagonal(dim1=1, dim2=2) + self.sigma_noise**2).sqrt()

    def sample(self, draws: int, seed: int = 0) -> dict[str, Tensor]:
        """Weights drawn from the posterior, `[draw, *shape]` by name, in the parameters' type."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for name, mean in self.parameters.items():
            block, eigen, precision = self.factors[name], self.eigen.blocks[name], self.precision[name]
            noise = torch.randn(draws, len(precision), generator=generator, dtype=torch.float64)
            scaled = noise.to(precision.device) * (self.temperature / precision).sqrt()
            like = block.to_groups(mean.expand(draws, *mean.shape))
            drawn[name] = mean + block.from_groups(eigen.entries(scaled, like)).to(mean.dtype)
        return drawn


def probit(mean: Tensor, covariance: Tensor) -> Tensor:
    """Pairwise probit probabilities `[batch, classes]`, float64; see the module's notation."""
    variance = covariance.diagonal(dim1=1, dim2=2)
    spread = variance.unsqueeze(2) + variance.unsqueeze(1) - 2 * covariance
    difference = mean.double().unsqueeze(2) - mean.double().unsqueeze(1)
    scaled = difference / (1 + math.pi / 8 * spread.clamp_min(0)).sqrt()  # [batch, class, other]
    return (-torch.logsumexp(-scaled, 2)).softmax(1)


def averaged_softmax(mean: Tensor, covariance: Tensor, draws: int = 500, seed: int = 0) -> Tensor:
    """The softmax averaged over draws of N(f, V), `[batch, classes]` float64; the same for every datum."""
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT  # the symmetric one is unique
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(mean, dtype=torch.float64)
    for _ in range(draws):
        noise = torch.randn(mean.shape[1], generator=generator, dtype=torch.float64)
        total += (mean + root @ noise.to(root)).softmax(1)
    return total / draws
