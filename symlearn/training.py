"""Alternating steps on weights and hyperparameters: the state of a fit, and how an epoch changes it.

An epoch steps the weights on mean negative log-likelihood + (1 / 2N) sum delta ||theta||^2, the prior by its
proximal map (`optimizer.py`), which grows to its full strength once the loss has begun to fall (`WarmUp`). An
evidence update computes the curvature over the training set, without augmentation, and steps the
hyperparameters (`evidence.py`). Everything random draws from the state's own generator, so that a copied
state continues as the original would.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfac import NonFiniteError
from kfac.checks import explained_backward
from symlearn.batch_statistics import settle_batch_statistics
from symlearn.chance import constant_loss
from symlearn.config import Config
from symlearn.coverage import seen
from symlearn.hyper_gradient import HyperObjective, NonFiniteGradientError, evidence_gradients, subset
from symlearn.hyperparameters import Hyperparameters
from symlearn.optimizer import OPTIMIZERS, ProximalAdam, ProximalSGD
from symlearn.pairs import Pairs, batches
from symlearn.prior import PriorPrecision
from symlearn.rates import rate_scales
from symlearn.training_curvature import curvature_of, curvature_options

FALL, PATIENT = 0.05, 6  # see `WarmUp`
STRIDE = math.log(100)  # of a log precision, the longest in one evidence update
Augment = Callable[[Tensor, torch.Generator], Tensor]


class TrainingStoppedError(ValueError):
    """A fit that cannot go on: non-finite values, or every path of a layer switched off. One clear line."""


@dataclass
class WarmUp:
    """The growth of the prior, which waits until the loss has left its plateau.

    Against gradients that are still tiny the prior would send every weight to zero, and a product of many
    small layers is a saddle. So it begins to grow when the loss has fallen clearly below the constant
    predictor's, or after `PATIENT` times the warm-up.

    Attributes:
        since: step from which the prior grows; None: it waits.
        fallen: whether the loss has left its plateau: `FALL` below the constant predictor's.
    """

    since: int | None = None
    fallen: bool = False

    def strength(self, step: int, length: int) -> float:
        """The prior's share of its full strength."""
        return 0.0 if self.since is None else min((step - self.since) / length, 1.0)

    def after_epoch(self, step: int, begun: int, length: int, loss: float, chance: float) -> None:
        """Judge an epoch by its mean loss and the constant predictor's; the start began at step `begun`."""
        self.fallen = self.fallen or loss < (1 - FALL) * chance
        if self.since is None and (self.fallen or step - begun > PATIENT * length):
            self.since = step


@dataclass
class FitState:
    """Everything that changes while fitting.

    Attributes:
        model: the network.
        config: with its schedules worked out.
        n_data: training images.
        epoch: epochs so far, over all starts.
        step: steps so far, over all starts.
        begun: step at which the present start began.
        evidence: log marginal likelihood at the last update, in nats, or None.
        effective_parameters: of every tensor, at the last update.
        losses: mean training losses of the last epochs.
        setbacks: what the guard took back: epoch, phase, reason, layers.
        lr_scale: factor of the learning rate, as the start has it.
        caution: a further factor, halved by every setback; evidence updates bring it back.
        trust: part of `STRIDE` that precisions may move by in one update, halved by every setback.
        warm_up: the prior's growth.
    """

    model: nn.Module
    config: Config
    n_data: int
    hyper: Hyperparameters = field(init=False)
    optimizer: ProximalAdam | ProximalSGD = field(init=False)
    generator: torch.Generator = field(init=False)
    epoch: int = 0
    step: int = 0
    evidence: float | None = None
    effective_parameters: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    setbacks: list[dict[str, Any]] = field(default_factory=list)
    lr_scale: float = 1.0
    trust: float = 1.0
    caution: float = 1.0
    begun: int = 0
    warm_up: WarmUp = field(default_factory=WarmUp)

    def __post_init__(self) -> None:
        evidence, training = self.config.evidence, self.config.training
        self.hyper = Hyperparameters(
            self.model, evidence.prior_structure, evidence.prior_precision, self.config.curvature.left_out
        )
        named = list(self.model.named_parameters())
        self.optimizer = OPTIMIZERS[training.optimizer](
            named, self.n_data, training.lr, rate_scales(self.model)
        )
        self.generator = torch.Generator().manual_seed(training.seed)

    @property
    def prior(self) -> PriorPrecision:
        """Prior precisions."""
        return self.hyper.prior

    @property
    def sigma_noise(self) -> float:
        """Standard deviation of the observation noise (regression)."""
        return self.hyper.sigma_noise

    def clone(self) -> FitState:
        """An independent copy that would continue exactly as this one."""
        twin = FitState(copy.deepcopy(self.model), self.config, self.n_data)
        twin.load(self.saved())
        return twin

    def saved(self) -> dict[str, Any]:
        """The state as plain tensors and numbers, for checkpoints (loads with `weights_only`)."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "hyper": self.hyper.saved(),
                "epoch": self.epoch,
                "step": self.step,
                "evidence": self.evidence,
                "effective_parameters": self.effective_parameters,
                "losses": self.losses,
                "setbacks": self.setbacks,
                "lr_scale": self.lr_scale,
                "trust": self.trust,
                "caution": self.caution,
                "begun": self.begun,
                "warm_up": vars(self.warm_up),
            }
        )

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` gave."""
        saved = copy.deepcopy(saved)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        self.hyper.load(saved["hyper"])
        for key in (
            "epoch",
            "step",
            "evidence",
            "losses",
            "setbacks",
            "lr_scale",
            "trust",
            "caution",
            "begun",
        ):
            setattr(self, key, saved[key])
        self.effective_parameters = saved["effective_parameters"]
        self.warm_up = WarmUp(**saved["warm_up"])

    def active_names(self) -> list[str]:
        """Parameters that are trained: those of switched-on paths."""
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    def forget(self, names: set[str]) -> None:
        """Drop optimizer state, prior precision and moments of some tensors: they start anew."""
        for name, parameter in self.model.named_parameters():
            if name in names:
                self.optimizer.state.pop(parameter, None)
                self.effective_parameters.pop(name, None)
        self.hyper.forget(names)


def mean_loss(f: Tensor, y: Tensor, state: FitState) -> Tensor:
    """Mean negative log-likelihood of a batch, up to constants."""
    if state.config.data.likelihood == "regression":
        return 0.5 * (f - y.reshape(f.shape)).square().sum(1).mean() / state.sigma_noise**2
    return F.cross_entropy(f, y)


def train_epoch(
    state: FitState, data: Pairs, rates: Callable[[float], float], augment: Augment | None = None
) -> tuple[float, float | None]:
    """One pass of steps on the weights; returns (mean loss, accuracy) as seen during it.

    Accuracy is None for regression.

    Args:
        state: changed in place.
        data: the training set.
        rates: learning rate at a fraction of the epoch.
        augment: applied to every batch, drawing from the state's generator.

    Raises:
        TrainingStoppedError: the loss or a weight is not finite.
        ValueError: an operation in place destroyed what the backward pass needs.
    """
    x, y = data
    size = min(cast(int, state.config.training.batch_size), len(x))
    steps = len(x) // size
    order = torch.randperm(len(x), generator=state.generator)
    state.model.train()
    strength = state.warm_up.strength(state.step, state.config.training.prior_warmup)
    state.optimizer.decay = {name: strength * delta for name, delta in state.prior.floats().items()}
    total, correct = torch.zeros((), device=x.device), 0
    for k in range(steps):
        pick = order[k * size : (k + 1) * size].to(x.device)
        xb, yb = x[pick], y[pick]
        if augment is not None:
            xb = augment(xb, state.generator)
        state.optimizer.set_rate(rates(k / steps) * state.lr_scale * state.caution)
        f = state.model(xb)
        loss = mean_loss(f, yb, state)
        state.optimizer.zero_grad(set_to_none=True)
        with explained_backward():
            loss.backward()
        state.optimizer.step()
        total += loss.detach()
        if state.config.data.likelihood == "classification":
            correct += int((f.detach().argmax(1) == yb).sum())
    state.epoch += 1
    state.step += steps
    mean = float(total) / steps
    if not math.isfinite(mean) or not all(torch.isfinite(p).all() for p in state.model.parameters()):
        what = (
            "a weight became infinite or NaN" if math.isfinite(mean) else f"the training loss became {mean}"
        )
        raise TrainingStoppedError(
            f"{what} in epoch {state.epoch}; lower lr (now {state.config.training.lr:g}) or check the data"
        )
    state.losses = [*state.losses, mean][-10:]
    likelihood = state.config.data.likelihood
    chance = constant_loss(y, likelihood, state.sigma_noise)
    state.warm_up.after_epoch(state.step, state.begun, state.config.training.prior_warmup, mean, chance)
    classification = likelihood == "classification"
    return mean, correct / (steps * size) if classification else None


def step_declared(state: FitState, data: Pairs) -> None:
    """Step what the layers declare up the evidence, on a seeded subset of the data.

    Raises:
        TrainingStoppedError: a gradient is not finite.
    """
    settings, declared = state.config.evidence, state.hyper.declared
    if not declared:
        return
    for step in range(settings.gradient_steps):
        pairs, scale = subset(data, settings.gradient_images, state.config.training.seed + state.step + step)
        objective = HyperObjective(
            state.model,
            pairs,
            state.prior.floats(),
            state.config.data.likelihood,
            state.sigma_noise,
            scale,
            state.config.curvature.batch_size,
            curvature_options(state.model, state.config),
        )
        try:
            with seen(state.model, state.config.curvature):
                gradients = evidence_gradients(objective, declared, settings.gradient)
        except (NonFiniteError, NonFiniteGradientError) as error:
            raise TrainingStoppedError(f"in epoch {state.epoch} {error}") from None
        state.hyper.step(gradients, settings.hyper_lr)


def update_evidence(state: FitState, data: Pairs, step_hyperparameters: bool = True) -> float:
    """Step the hyperparameters, and note evidence and effective parameters.

    Returns what the step gained in evidence at these weights, in nats: what it promises of them. No log
    precision moves by more than the state's `trust` times `STRIDE`.

    Running statistics of batch normalisation are measured anew and what the layers declare moves first, so
    that the curvature and the evidence are those of the state as it is left.

    Raises:
        TrainingStoppedError: a gradient, the curvature or the evidence is not finite.
    """
    settings, hyper = state.config.evidence, state.hyper
    settle_batch_statistics(state.model, data[0], state.config.curvature.batch_size)
    if step_hyperparameters:
        step_declared(state, data)
    try:
        model = curvature_of(state.model, state.config, data)
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
    if not math.isfinite(total):
        raise TrainingStoppedError(
            f"the log marginal likelihood became {total} in epoch {state.epoch}; lower lr or hyper_steps"
        )
    state.evidence = total
    promise = float(model.terms(delta, state.sigma_noise).total - before)
    state.effective_parameters = model.effective_parameters(delta, state.sigma_noise)
    return promise


def log_hyperprior(state: FitState) -> float:
    """Log density of the declared hyperparameters that have a hyperprior, in nats; part of the evidence."""
    return sum(
        float(d.log_prior(d.value.detach()).sum()) for d in state.hyper.declared.values() if d.log_prior
    )


def evaluate(state: FitState, data: Pairs, size: int = 500) -> tuple[float | None, float]:
    """(accuracy, mean negative log-likelihood) on held-out data, for the record only.

    Accuracy is None for regression, whose likelihood includes the learned noise.
    """
    regression = state.config.data.likelihood == "regression"
    state.model.eval()
    correct, total, targets = 0, 0.0, 0
    with torch.no_grad():
        for x, y in batches(data, size):
            f = state.model(x)
            total += float(mean_loss(f.double(), y, state)) * len(x)
            targets += f.numel()
            if not regression:
                correct += int((f.argmax(1) == y).sum())
    nll = total / len(data[0])
    if regression:
        nll += targets / len(data[0]) / 2 * math.log(2 * math.pi * state.sigma_noise**2)
    return (None if regression else correct / len(data[0])), nll
