"""Updates of the hyperparameters up the evidence: precisions, noise, and what layers declare.

Axes: batch, c, h, w, params.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from kfac import NonFiniteError
from symlearn.curvature.coverage import seen
from symlearn.curvature.sampled import ChunkSums, images_used
from symlearn.curvature.training_set import curvature_of, curvature_options
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.gradient import HyperObjective, NonFiniteGradientError, evidence_gradients, subset
from symlearn.training.batch_statistics import settle_batch_statistics
from symlearn.training.state import STRIDE, FitState, TrainingStoppedError


def objective_on_subset(state: FitState, data: SamplesLike, step: int = 0) -> HyperObjective:
    """The evidence as a function of what the layers declare, on a subset seeded by the state's steps."""
    config = state.config
    pairs, scale = subset(data, config.evidence.gradient_images, config.training.seed + state.step + step)
    return HyperObjective(
        state.model,
        pairs,
        state.prior.floats(),
        config.data.likelihood,
        state.sigma_noise,
        scale,
        config.curvature.batch_size,
        curvature_options(state.model, config),
    )


def gradients_on_subset(state: FitState, data: SamplesLike, step: int) -> dict[str, Tensor]:
    """Gradients of the evidence by what the layers declare; their graph needs the subset in one place."""
    objective = objective_on_subset(state, data, step)
    with seen(state.model, state.config.curvature):
        return evidence_gradients(objective, state.hyper.declared, state.config.evidence.gradient)


def step_declared(state: FitState, data: SamplesLike) -> None:
    """Step what the layers declare up the evidence, on a seeded subset of the data.

    Raises:
        TrainingStoppedError: a gradient is not finite.
    """
    settings, declared = state.config.evidence, state.hyper.declared
    if not declared:
        return
    for step in range(settings.gradient_steps):
        try:
            found = state.ranks.from_first(partial(gradients_on_subset, state, data, step))
        except (NonFiniteError, NonFiniteGradientError) as error:
            raise TrainingStoppedError(f"in epoch {state.epoch} {error}") from None
        gradients = {name: gradient.to(declared[name].value.device) for name, gradient in found.items()}
        state.hyper.step(gradients, settings.hyper_lr)


def update_evidence(state: FitState, data: SamplesLike, step_hyperparameters: bool = True) -> float:
    """Step the hyperparameters, and note evidence and effective parameters.

    No log precision moves by more than the state's `trust` times `STRIDE`.

    Running statistics of batch normalisation are measured anew and what the layers declare moves first, so
    that the curvature and the evidence are those of the state as it is left.

    Where `images_used` says so the curvature is a subset's: the hyperparameters step on it as it is; evidence
    and effective parameters are noted corrected for its bias, with their errors.

    Returns:
        What the step gained in evidence at these weights, in nats: what it promises of them.

    Raises:
        TrainingStoppedError: a gradient, the curvature or the evidence is not finite.
    """
    settings, hyper = state.config.evidence, state.hyper
    settle_batch_statistics(state.model, data, state.config.curvature.batch_size)
    state.ranks.spread(state.model.buffers())
    if step_hyperparameters:
        step_declared(state, data)
    images, sums = len(samples_of(data)), None
    used = images_used(state.config, images)
    try:
        if used < images:
            sums = ChunkSums(state.model, state.config, data, used, state.sample_seed, state.ranks)
            model = sums.whole()
        else:
            model = curvature_of(state.model, state.config, data, state.ranks, state.n_data)
    except NonFiniteError as error:
        raise TrainingStoppedError(f"in epoch {state.epoch} {error}; lower lr or check the data") from None
    before = model.terms(state.prior.by_tensor(), state.sigma_noise).total
    held = state.prior.state()
    if step_hyperparameters:
        fixed = hyper.fixed_groups()
        if settings.method == "mackay":
            hyper.sigma_noise = model.mackay(
                hyper.prior, hyper.sigma_noise, settings.hyper_steps, fixed=fixed
            )
        else:
            hyper.sigma_noise = model.adam(
                hyper.prior,
                hyper.moments,
                hyper.sigma_noise,
                settings.hyper_steps,
                settings.hyper_lr,
                fixed=fixed,
            )
        state.prior.keep_within(held, state.trust * STRIDE)
    delta = state.prior.by_tensor()
    total = float(model.terms(delta, state.sigma_noise).total) + log_hyperprior(state)
    effective_parameters = model.effective_parameters(delta, state.sigma_noise)
    state.sampled = None
    if sums is not None:
        sampled = sums.evidence(delta, state.sigma_noise, model)
        state.sampled = sampled.noted(sums.images, sums.of, log_hyperprior(state))
        total, effective_parameters = state.sampled.evidence, sampled.effective_parameters
    if not math.isfinite(total):
        raise TrainingStoppedError(
            f"the log marginal likelihood became {total} in epoch {state.epoch}; lower lr or hyper_steps"
        )
    state.evidence = total
    promise = float(model.terms(delta, state.sigma_noise).total - before)
    state.effective_parameters = effective_parameters
    return promise


def log_hyperprior(state: FitState) -> float:
    """Log density of the declared hyperparameters that have a hyperprior, in nats; part of the evidence."""
    return sum(
        float(d.log_prior(d.value.detach()).sum()) for d in state.hyper.declared.values() if d.log_prior
    )
