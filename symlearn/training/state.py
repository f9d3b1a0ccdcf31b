"""Alternating steps on weights and hyperparameters: the state of a fit, and how an epoch changes it.

An epoch steps the weights on mean negative log-likelihood + (1 / 2N) sum delta ||theta||^2, the prior by its
proximal map (`optimizer.py`), which grows to its full strength once the loss has begun to fall (`WarmUp`). An
evidence update computes the curvature over the training set, without augmentation, and steps the
hyperparameters (`updates.py`). Everything random draws from the state's own generator, so that a copied
state continues as the original would.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.config import Config
from symlearn.evidence.hyperparameters import Hyperparameters
from symlearn.evidence.likelihood import ObservationModel, likelihood_of
from symlearn.evidence.prior import PriorPrecision, widest_priors
from symlearn.evidence.sampled import Noted
from symlearn.ranks import ALONE, Ranks
from symlearn.training.optimizer import OPTIMIZERS, ProximalAdam, ProximalSGD
from symlearn.training.rates import rate_scales

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
        input_scale: root mean square of the training images.
        epoch: epochs so far, over all starts.
        step: steps so far, over all starts.
        begun: step at which the present start began.
        evidence: log marginal likelihood at the last update, in nats, or None.
        effective_parameters: of every tensor, at the last update.
        sample: which subset of the images the evidence is estimated from, where it is not from all of them.
        sampled: of the last update, where it was from a subset.
        losses: mean training losses of the last epochs.
        setbacks: what the guard took back: epoch, phase, reason, layers.
        lr_scale: factor of the learning rate, as the start has it.
        caution: a further factor, halved by every setback; evidence updates bring it back.
        trust: part of `STRIDE` that precisions may move by in one update, halved by every setback.
        warm_up: the prior's growth.
        compiled: the network as torch.compile gave it, once it was needed.
        ranks: the processes that share its steps and passes and hold the same state; in no checkpoint.
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
    sample: int = 0
    sampled: Noted | None = None
    losses: list[float] = field(default_factory=list)
    setbacks: list[dict[str, Any]] = field(default_factory=list)
    lr_scale: float = 1.0
    trust: float = 1.0
    caution: float = 1.0
    begun: int = 0
    input_scale: float = 1.0
    warm_up: WarmUp = field(default_factory=WarmUp)
    ranks: Ranks = ALONE
    compiled: Callable[[Tensor], Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        evidence, training = self.config.evidence, self.config.training
        self.hyper = Hyperparameters(
            self.model,
            evidence.prior_structure,
            evidence.prior_precision,
            self.config.curvature.left_out,
            widest_priors(self.model, self.input_scale) if self.likelihood.discrete else None,
        )
        named = list(self.model.named_parameters())
        self.optimizer = OPTIMIZERS[training.optimizer](
            named, self.n_data, training.lr, rate_scales(self.model)
        )
        self.generator = torch.Generator().manual_seed(training.seed)

    @property
    def forward(self) -> Callable[[Tensor], Tensor]:
        """The network as the weights' steps call it: compiled where the configuration says so."""
        if not self.config.training.compile:
            return self.model
        if self.compiled is None:
            self.compiled = torch.compile(self.model)
        return self.compiled

    @property
    def sample_seed(self) -> int:
        """Of the order whose first images the evidence is estimated from."""
        return self.config.training.seed + 104729 * (self.sample + 1)

    @property
    def likelihood(self) -> ObservationModel:
        """Of the targets."""
        return likelihood_of(self.config.data.likelihood)

    @property
    def prior(self) -> PriorPrecision:
        """Prior precisions."""
        return self.hyper.prior

    @property
    def sigma_noise(self) -> float:
        """Standard deviation of the observation noise (regression)."""
        return self.hyper.sigma_noise

    @torch.no_grad()
    def prior_loss(self) -> float:
        """The prior's term of the MAP objective at full strength: sum delta ||theta||^2 / 2N, in nats."""
        precision = self.prior.floats()
        squares = {n: float(p.double().square().sum()) for n, p in self.model.named_parameters()}
        return sum(precision[n] * square for n, square in squares.items()) / (2 * self.n_data)

    def clone(self) -> FitState:
        """An independent copy that would continue exactly as this one, in this process alone."""
        twin = FitState(copy.deepcopy(self.model), self.config, self.n_data, input_scale=self.input_scale)
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
                "sample": self.sample,
                "sampled": None if self.sampled is None else vars(self.sampled),
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
            "sample",
        ):
            setattr(self, key, saved[key])
        self.effective_parameters = saved["effective_parameters"]
        self.warm_up = WarmUp(**saved["warm_up"])
        self.sampled = None if saved["sampled"] is None else Noted(**saved["sampled"])

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
