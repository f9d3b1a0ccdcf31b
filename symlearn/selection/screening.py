"""Screening: which changes of a network the evidence would like best, guessed from one curvature pass.

Absent paths are switched on silently (output scaled to zero, so the function does not change). With the
gradient g of the log-likelihood and the curvature eigenvalues lambda of a silent tensor, the evidence that a
prior precision delta would bring is, to second order,

    gain(delta) = 1/2 sum_i g_i^2 / (lambda_i + delta) - 1/2 sum_i log(1 + lambda_i / delta)

whose slope at 1/delta = 0 is 1/2 (||g||^2 - tr H), the gradient of the evidence in the prior variance. One
curvature pass gives it for all absent paths; its maximum over delta orders them. A present path is the
likelier to be removed the smaller its share of its layer's effective parameters.

Axes: params.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from kfac import DiagonalBlock, KroneckerBlock, differentiable_kernels
from symlearn.curvature.sampled import part_of
from symlearn.curvature.training_set import training_factors
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.layers.structure import layer_paths
from symlearn.selection.changes import Proposal, apply
from symlearn.training.state import FitState


def best_gain(coordinates: torch.Tensor, eigenvalues: torch.Tensor) -> float:
    """Max over delta of gain(delta); see the module's notation."""
    log_delta = torch.linspace(-4, 14, 37, dtype=torch.float64, device=eigenvalues.device).unsqueeze(1)
    delta = log_delta.exp()
    fit = (coordinates.square() / (eigenvalues + delta)).sum(1)
    return float((0.5 * fit - 0.5 * torch.log1p(eigenvalues / delta).sum(1)).max())


def screen(state: FitState, changes: list[Proposal], data: SamplesLike) -> list[Proposal]:
    """Proposals with their scores, likeliest gain first; removals by their path's share of the layer."""
    trial = state.clone()
    touched = {p: apply(trial, p, output_scale=0.0) for p in changes if p.action == "add"}
    gains: dict[Proposal, float] = {}
    if touched:
        part, scale = part_of(data, trial.config, trial.sample_seed)
        factors = training_factors(trial.model, trial.config, part).scaled(scale)
        gradients = {name: scale * g for name, g in log_likelihood_gradients(trial, part).items()}
        noise = state.likelihood.variance(state.sigma_noise)
        for proposal, names in touched.items():
            gains[proposal] = 0.0
            for name in names:
                block = factors[name]
                weight = isinstance(block, KroneckerBlock) and len(block.shape) > 1  # biases are not asked
                if weight or isinstance(block, DiagonalBlock):
                    eigen = block.eigendecompose(vectors=True)
                    coordinates = eigen.coordinates(block.to_groups(gradients[name]))
                    gains[proposal] += max(best_gain(coordinates, eigen.eigenvalues / noise), 0.0)
    adds = sorted((replace(p, score=gains[p]) for p in touched), key=lambda p: -(p.score or 0.0))
    removals = sorted((p for p in changes if p.action == "remove"), key=lambda p: remaining_share(state, p))
    return [*interleave(adds, removals)]


def interleave(adds: list[Proposal], removals: list[Proposal]) -> Iterator[Proposal]:
    """Additions and removals in turn, two additions first."""
    adds, removals = adds.copy(), removals.copy()
    while adds or removals:
        yield from (adds.pop(0) for _ in range(min(2, len(adds))))
        if removals:
            yield removals.pop(0)


def remaining_share(state: FitState, proposal: Proposal) -> float:
    """The path's share of its layer's effective parameters."""
    layer = next(lp for lp in layer_paths(state.model) if lp.name == proposal.layer)
    gamma = {
        p: sum(state.effective_parameters.get(n, 0.0) for n in names) for p, names in layer.paths.items()
    }
    return gamma[proposal.path] / max(sum(gamma.values()), 1e-12)


def log_likelihood_gradients(state: FitState, data: SamplesLike) -> dict[str, torch.Tensor]:
    """Gradient of the summed log-likelihood by trainable tensor, in `eval` mode."""
    names = state.active_names()
    parameters = [dict(state.model.named_parameters())[name] for name in names]
    totals = [torch.zeros_like(p) for p in parameters]
    state.model.eval()
    with differentiable_kernels(state.model):
        for x, y in samples_of(data).batches(state.config.curvature.batch_size):
            f = state.model(x)
            loss = len(x) * state.likelihood.loss(f, y, state.sigma_noise)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total -= gradient
    return dict(zip(names, totals, strict=True))
