"""The generator as a hyperparameter: gradients of the evidence, and planted angles that it finds.

Axes: datum, filter, turn, h, w.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn
from toys import batch_of

import kfac
from symlearn.evidence.gradient import HyperObjective, evidence_gradients
from symlearn.evidence.hyperparameters import Hyperparameters
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.layers import CyclicUnfolded2d, UnfoldingOptions
from symlearn.layers.cyclic_bank import Rotations, Synthesis2d
from symlearn.layers.declared import Hyperparameter, hyperparameters_of
from symlearn.layers.rotation import rotate


def unfolded(generator: str) -> nn.Sequential:
    """Two cyclic banks in three layers, with norms that have seen noise."""
    torch.manual_seed(0)
    options = UnfoldingOptions(
        filters=12, kernel_size=4, step=0.1, threshold=0.2, generator=generator, generator_offset=-7.0
    )
    encoder = CyclicUnfolded2d(1, 5, "cyclic-60+cyclic-90", 3, options=options)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(24 * 16, 3)).double()
    for seed in range(20):
        model.train()(batch_of((1, 5, 5), 12, seed=seed)[0])
    return model.eval()


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("generator", ["layer", "shared"])
def test_gradient_is_that_of_central_differences(generator: str, likelihood: str) -> None:
    model = unfolded(generator)
    data = batch_of((1, 5, 5), 6, likelihood=likelihood)
    declared = hyperparameters_of(model)
    assert len(declared) == (2 if generator == "shared" else 6)
    precision = {name: 0.7 for name, _ in model.named_parameters()}
    objective = HyperObjective(model, data, precision, likelihood, 0.8)
    found = evidence_gradients(objective, declared)
    assert set(found) == set(declared)
    step = 1e-5
    for name, one in declared.items():
        ends = []
        for sign in (-1, 1):
            before = one.value.clone()
            one.value.add_(sign * step)
            ends.append(objective.full().detach())
            one.value.copy_(before)
        assert_close(found[name], (ends[1] - ends[0]) / (2 * step), 1e-5, name)


def test_the_local_estimator_is_refused() -> None:
    model = unfolded("shared")
    objective = HyperObjective(
        model, batch_of((1, 5, 5), 6), {name: 1.0 for name, _ in model.named_parameters()}
    )
    with pytest.raises(ValueError, match="use the full one"):
        evidence_gradients(objective, hyperparameters_of(model), "local")


class Decoder(nn.Module):
    """Images from known codes by a bank's synthesis, `[datum, filter * turn] -> [datum, pixel]`."""

    def __init__(self, k: int, turns: int, start: float) -> None:
        super().__init__()
        self.rotations = Rotations(k, turns, start, learn=True)
        self.synthesis = Synthesis2d(nn.Parameter(torch.randn(1, 1, k, k) / k), self.rotations, 0)

    def forward(self, code: Tensor) -> Tensor:
        """See the class."""
        return self.synthesis(code[:, :, None, None]).flatten(1)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The generator."""
        return self.rotations.hyperparameters()


def planted_images(angle: float, turns: int, seed: int, k: int = 9, n: int = 120) -> tuple[Tensor, Tensor]:
    """Codes with two entries, and images of a random smooth filter turned by multiples of the angle."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    axis = torch.arange(k, dtype=torch.float64)
    blur = torch.exp(-(axis[:, None] - axis).square())
    smooth = blur @ drawn(k, k) @ blur
    filters = torch.stack([rotate(smooth / smooth.norm(), torch.tensor(angle * h)) for h in range(turns)])
    places = torch.randint(turns, (n, 2), generator=generator)
    codes = torch.zeros(n, turns, dtype=torch.float64).scatter_(1, places, drawn(n, 2))
    images = torch.einsum("nh,hxy->nxy", codes, filters).flatten(1)
    return codes, images + 0.05 * drawn(n, k * k)


@dataclass
class Search:
    """Alternating MAP steps on the filter and evidence steps on precision, noise and angle."""

    model: Decoder
    data: tuple[Tensor, Tensor]
    sigma: float = 0.1
    evidence: list[float] = field(default_factory=list)
    curvature: dict[str, object] = field(
        default_factory=lambda: {"fisher_type": "sketch", "mc_samples": 4, "seed": 0}
    )

    def __post_init__(self) -> None:
        self.hyper = Hyperparameters(self.model, "tensor", 1.0)

    @property
    def degrees(self) -> float:
        """The angle."""
        return float(self.model.rotations.degrees)

    def fit(self, steps: int) -> None:
        """MAP weights, by L-BFGS."""
        (delta,) = self.hyper.prior.floats().values()
        codes, images = self.data
        (weight,) = self.model.parameters()
        optimizer = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            misfit = (self.model(codes) - images).square().sum() / (2 * self.sigma**2)
            total = (misfit + delta / 2 * weight.square().sum()) / len(codes)
            total.backward()
            return total

        optimizer.step(loss)

    def step(self, lr: float) -> None:
        """One update of everything."""
        self.fit(8)
        factors = kfac.compute_factors(self.model, [self.data], "regression", **self.curvature)
        model = EvidenceModel(factors, squared_norms(self.model), "regression")
        self.sigma = model.mackay(self.hyper.prior, self.sigma)
        self.evidence.append(float(model.terms(self.hyper.prior.by_tensor(), self.sigma).total))
        objective = HyperObjective(
            self.model,
            self.data,
            self.hyper.prior.floats(),
            "regression",
            self.sigma,
            curvature=self.curvature,
        )
        self.hyper.step(evidence_gradients(objective, self.hyper.declared), lr)


@pytest.mark.parametrize(
    "angle, turns, away, seed",
    [
        *((60.0, 6, away, seed) for away in (-12.0, 12.0) for seed in range(3)),
        *((45.0, 8, 12.0, seed) for seed in range(3)),
    ],
)
@pytest.mark.slow
def test_evidence_finds_a_planted_generator(angle: float, turns: int, away: float, seed: int) -> None:
    """From a random filter at the wrong angle; 24 steps of at most two degrees, then finer ones."""
    torch.manual_seed(seed)
    search = Search(Decoder(9, turns, angle + away).double(), planted_images(angle, turns, seed))
    assert abs(search.degrees - angle - away) < 1e-4
    search.fit(20)
    for k in range(24):
        search.step(0.2 if k < 12 else 0.05)
    assert abs(search.degrees - angle) < 3, f"{search.degrees} degrees for {angle}"
    assert search.evidence[-1] > search.evidence[0], search.evidence
    assert abs(search.sigma - 0.05) < 0.01, "the noise is the planted one"
