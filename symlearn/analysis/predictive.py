"""Predictions with the uncertainty of the weights: the linearised Laplace predictive.

At the MAP weights the network is taken as linear in them, f(x) + J(x) (theta - theta_MAP), so the Gaussian
posterior with covariance (H / sigma^2 + Delta)^-1 gives Gaussian outputs of mean f(x) and variance

    v_c(x) = sum_t J_tc (H_t / sigma^2 + delta_t I)^-1 J_tc^T        J_tc = d f_c / d theta_t   [params]

by class c, summed over the tensors t, whose blocks are inverted in their Kronecker eigenbasis (Immer et al.
2021, "Improving predictions of Bayesian neural nets via local linearization"). Class probabilities follow by
the probit approximation, softmax(f / sqrt(1 + pi v / 8)) (MacKay 1992; Spiegelhalter & Lauritzen 1990), which
needs the variances alone. A regression's targets have the variance v + sigma^2.

Axes: batch, c, h, w, classes, group, d_out, d_in, params.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from kfac import EigenFactors, KroneckerFactors, compute_factors
from symlearn.config import Config
from symlearn.training import Pairs, batches

TYPE_2_UP_TO = 40  # classes; beyond, the columns that the fit drew have to do
MEMORY = 2**28  # bytes that the gradients of one chunk of data may take


def predictive_factors(model: nn.Module, data: Pairs, config: Config) -> KroneckerFactors:
    """Curvature over the training set for predictions: exact loss Hessians where there are few classes.

    Args:
        model: the learned network.
        data: its training set, `[n, c, h, w]` and `[n]`.
        config: of its fit.
    """
    curvature = config.curvature
    with torch.no_grad():
        classes = model.eval()(data[0][:1]).shape[1]
    return compute_factors(
        model,
        batches(data, curvature.batch_size),
        config.data.likelihood,
        "type-2" if classes <= TYPE_2_UP_TO else curvature.fisher_type,
        curvature.mc_samples,
        curvature.weight_sharing,
        curvature.group_factors,
        seed=config.training.seed,
    )


class LaplacePredictive:
    """The linearised Laplace predictive of a network.

    Args:
        model: the network at its MAP weights; put in `eval` mode.
        factors: `kfac.compute_factors` of it over the training set.
        prior_precision: delta by parameter name.
        sigma_noise: the Gaussian likelihood's standard deviation (regression only).

    Raises:
        ValueError: a tensor without prior precision.
    """

    def __init__(
        self,
        model: nn.Module,
        factors: KroneckerFactors,
        prior_precision: Mapping[str, Tensor | float],
        sigma_noise: float = 1.0,
    ) -> None:
        missing = [name for name in factors.names if name not in prior_precision]
        if missing:
            raise ValueError(f"no prior precision for {', '.join(missing)}; give a positive value for each")
        self.model, self.factors, self.sigma_noise = model.eval(), factors, sigma_noise
        self.eigen: EigenFactors = factors.eigendecompose(vectors=True)
        self.precision = {
            name: values / sigma_noise**2 + torch.as_tensor(prior_precision[name]).to(values)
            for name, values in self.eigen.eigenvalues.items()
        }
        parameters = dict(model.named_parameters())
        self.parameters = {name: parameters[name].detach() for name in factors.names}

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the network's outputs.

        `[batch, c, h, w]` -> `[batch, classes]` in the network's type and `[batch, classes]` float64.
        """
        held = 4 * sum(p.numel() * max(p.element_size(), 8) for p in self.parameters.values())
        parts = [self._chunk(part) for part in x.split(max(MEMORY // held, 1))]
        return torch.cat([mean for mean, _ in parts]), torch.cat([variance for _, variance in parts])

    def _chunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`outputs` of data whose gradients fit into memory: one backward pass a class for all of them."""

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            def output(own: dict[str, Tensor], datum: Tensor) -> Any:
                return functional_call(self.model, own, (datum.unsqueeze(0),))[0]

            return vmap(output)(parameters, x)

        own = {name: p.expand(len(x), *p.shape) for name, p in self.parameters.items()}
        pulled = vjp(outputs, own)
        mean, pull_back = pulled[0], pulled[1]
        variance = torch.zeros(mean.shape, dtype=torch.float64, device=mean.device)
        for c in range(mean.shape[1]):
            cotangent = torch.zeros_like(mean)
            cotangent[:, c] = 1
            (jacobian,) = pull_back(cotangent)
            for name, rows in jacobian.items():
                block, eigen = self.factors[name], self.eigen.blocks[name]
                coordinates = vmap(lambda row: eigen.coordinates(block.to_groups(row)))(rows)  # noqa: B023
                variance[:, c] += (coordinates.square() / self.precision[name]).sum(1)
        return mean.detach(), variance

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities `[batch, classes]`, float64, by the probit approximation."""
        mean, variance = self.outputs(x)
        return probit(mean, variance)

    def targets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[batch, outputs]`, float64, of a regression's targets."""
        mean, variance = self.outputs(x)
        return mean.double(), (variance + self.sigma_noise**2).sqrt()


def probit(mean: Tensor, variance: Tensor) -> Tensor:
    """softmax(f / sqrt(1 + pi v / 8)), `[batch, classes]` float64."""
    return (mean.double() / (1 + math.pi / 8 * variance).sqrt()).softmax(1)
