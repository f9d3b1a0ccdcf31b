"""Curvature of the ten-layer CONV network in units of one forward and backward pass of the same batch.

alpha 10, 3 x 32 x 32, batch 128, 10 classes. Beside it laplace-torch's curvlinops backend, which reads
circular padding as zeros and so computes other factors at the same cost, and one hyperparameter step
(MacKay's fixed point from eigenvalues) against the factors it needs.

    python experiments/benchmarks/kfac_ten_layer.py
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from timing import Comparison, Prepare, Side, at_scale, benchmark
from torch import Tensor, nn

import kfac
from kfac.loss_hessian import FisherType
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.evidence.prior import PriorPrecision, tensor_groups
from symlearn.networks import build_model

BATCH, ALPHA = at_scale((128, 10), smoke=(2, 1))
CLASSES = 10
UNIT = "forward + backward"
CURVLINOPS = {"type2": "curvlinops type-2", "mc": "curvlinops Monte Carlo"}


def network() -> nn.Module:
    """The ten-layer CONV network."""
    torch.manual_seed(0)
    return build_model("conv", network="ten-layer", alpha=ALPHA, in_channels=3, size=32, classes=CLASSES)


def data() -> tuple[Tensor, Tensor]:
    """One batch of noise with labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    return x, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def unit() -> Side:
    """Loss and the gradients of all weights."""
    model, (x, y) = network(), data()
    parameters = list(model.parameters())
    return lambda: torch.autograd.grad(F.cross_entropy(model(x), y), parameters)


def ours(fisher_type: FisherType) -> Prepare:
    """`kfac.compute_factors` of one batch."""

    def prepare() -> Side:
        model, batch = network(), data()
        return lambda: kfac.compute_factors(model, [batch], "classification", fisher_type, seed=0)

    return prepare


def curvlinops(fisher_type: str) -> Prepare:
    """laplace-torch's curvlinops backend on the same batch."""

    def prepare() -> Side:
        warnings.simplefilter("ignore")  # laplace-torch and what it imports warn about themselves
        from laplace.curvature.curvlinops import CurvlinopsGGN

        model, (x, y) = network(), data()
        backend = CurvlinopsGGN(model, "classification", stochastic=fisher_type == "mc")
        return lambda: backend.kron(x, y, N=BATCH)

    return prepare


def evidence() -> tuple[EvidenceModel, PriorPrecision]:
    """The evidence as a function of the precisions, at a start."""
    model = network()
    factors = kfac.compute_factors(model, [data()], "classification")
    return EvidenceModel(factors, squared_norms(model)), PriorPrecision(tensor_groups(model, "tensor"))


def hyperparameter_step() -> Side:
    """One step of MacKay's fixed point for every tensor."""
    model, prior = evidence()
    return lambda: model.mackay(prior, steps=1)


def eigenvalues() -> Side:
    """Float64 eigenvalues of all factors, needed once for all hyperparameter steps."""
    factors = kfac.compute_factors(network(), [data()], "classification")
    return factors.eigendecompose


if __name__ == "__main__":
    benchmark(
        "kfac_ten_layer",
        {
            UNIT: unit,
            "type-2": ours("type-2"),
            "Monte Carlo (1)": ours("mc"),
            "sketch (1)": ours("sketch"),
            CURVLINOPS["type2"]: curvlinops("type2"),
            CURVLINOPS["mc"]: curvlinops("mc"),
            "eigenvalues": eigenvalues,
            "hyperparameter step": hyperparameter_step,
        },
        [
            Comparison("type-2 / (forward + backward)", "type-2", UNIT, at_most=6),
            Comparison("Monte Carlo / (forward + backward)", "Monte Carlo (1)", UNIT, at_most=2.5),
            Comparison("sketch / (forward + backward)", "sketch (1)", UNIT, at_most=2.5),
            Comparison("curvlinops type-2 / (forward + backward)", CURVLINOPS["type2"], UNIT),
            Comparison("curvlinops Monte Carlo / (forward + backward)", CURVLINOPS["mc"], UNIT),
            Comparison("eigenvalues / type-2 factors", "eigenvalues", "type-2"),
            Comparison("hyperparameter step / type-2 factors", "hyperparameter step", "type-2", at_most=0.05),
        ],
        repeats=5,
    )
