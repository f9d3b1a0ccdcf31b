"""Precisions by evidence in a training loop of one's own: the weights by the user's optimizer.

    updates = symlearn.EvidenceUpdates(model, train=train)
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            updates.add_gradients()             # (1 / N) delta theta, the prior's share
            optimizer.step()
        if epoch >= burn_in:
            evidence = updates.step()
    result = updates.result(test)               # report, tables, figures, collapse

The objective is the mean negative log-likelihood plus (1 / 2N) sum delta ||theta||^2, as everywhere. A
regression's learned noise is in the former: take `updates.loss(model(x), y)`.

Axes: n, c, h, w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symlearn.config import Config
from symlearn.data.samples import Samples
from symlearn.data.streams import Data
from symlearn.fitting.result import DataInfo, FitResult
from symlearn.networks.unread import expect_own_options
from symlearn.report.notebook import ReportDict
from symlearn.report.numbers import TriedChanges, build_report, calibration, sample_report, training_report
from symlearn.training.inputs import check_fits, dtype_of, inputs_of, samples_from
from symlearn.training.state import FitState
from symlearn.training.updates import update_evidence


class EvidenceUpdates:
    """Evidence updates of a network that somebody else trains.

    Args:
        model: any network that `fit` takes; its weights are left to the caller.
        config: a `Config`, or tables as in config.toml; what concerns evidence and curvature counts.
        train: the training set, as for `fit`, unless `step` gets it.

    Raises:
        ValueError: whatever `fit` would refuse.
    """

    def __init__(
        self, model: nn.Module, config: Config | dict[str, Any] | None = None, train: Data | None = None
    ) -> None:
        dtype_of(model)
        self.model, self._given = model, config
        self._train: Samples | None = None
        self._state: FitState | None = None
        if train is not None:
            self._ready(train)

    def _ready(self, train: Data) -> None:
        device = next(self.model.parameters()).device
        config, samples, _ = inputs_of(self.model, train, None, self._given, device)
        expect_own_options(self.model, config.model)
        training = self.model.training
        check_fits(self.model, samples, None, config)
        self.model.train(training)
        self._train = samples
        self._state = FitState(self.model, config, len(samples), input_scale=samples.input_scale())

    @property
    def state(self) -> FitState:
        """Precisions, noise, evidence and effective parameters.

        Raises:
            ValueError: no training data were given yet.
        """
        if self._state is None:
            raise ValueError("no training data yet; give them to EvidenceUpdates(…, train=…) or step(train)")
        return self._state

    @property
    def prior_precision(self) -> dict[str, float]:
        """Delta by parameter name."""
        return self.state.prior.floats()

    @property
    def sigma_noise(self) -> float:
        """The learned noise of a regression."""
        return self.state.sigma_noise

    def loss(self, f: Tensor, y: Tensor) -> Tensor:
        """Mean negative log-likelihood of outputs `[batch, outputs]`, at the present noise."""
        return self.state.likelihood.loss(f, y, self.sigma_noise)

    def penalty(self) -> Tensor:
        """(1 / 2N) sum delta ||theta||^2, to add to a mean loss; differentiable."""
        delta = self.prior_precision
        parts = [
            delta[name] * parameter.square().sum()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        ]
        return torch.stack(parts).sum() / (2 * self.state.n_data)

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the penalty's gradient, delta theta / N, to the gradients that are there."""
        delta = self.prior_precision
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=delta[name] / self.state.n_data)

    def step(self, train: Data | None = None) -> float:
        """Curvature over the training set, then a step of precisions, noise and declared hyperparameters.

        The network is left in the mode that it was in.

        Args:
            train: the training set, if none was given before.

        Returns:
            The log marginal likelihood after the step, in nats.

        Raises:
            ValueError: no training data, or such as `fit` would refuse.
            TrainingStoppedError: the evidence is not finite.
        """
        if train is not None and self._train is None:
            self._ready(train)
        state = self.state
        assert self._train is not None
        training = self.model.training
        update_evidence(state, self._train)
        state.step += 1  # another subset for what layers declare
        state.epoch += 1
        self.model.train(training)
        assert state.evidence is not None
        return state.evidence

    def state_dict(self) -> dict[str, Any]:
        """Hyperparameters as plain values, for a checkpoint; the weights are the caller's."""
        saved = self.state.saved()
        names = ("hyper", "evidence", "effective_parameters", "sample", "sampled", "trust", "epoch", "step")
        return {name: saved[name] for name in names}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the same network and data.

        Raises:
            ValueError: the precisions belong to another network.
        """
        self.state.load({**self.state.saved(), **saved})

    def result(self, test: Data | None = None) -> FitResult:
        """The network as it is, with report, tables and figures; `collapse` takes it.

        Equivariance errors, codes and Laplace scores, which a whole fit ends with, are left out.

        Returns:
            As of `fit`, around the very network that is trained, and without metrics.

        Raises:
            ValueError: test data that do not fit the network.
        """
        state = self.state
        assert self._train is not None
        held_out = None
        if test is not None:
            held_out = samples_from(test, self._train.device, dtype_of(self.model))
            check_fits(self.model, self._train, held_out, state.config)
        update_evidence(state, self._train, step_hyperparameters=False)
        self.model.eval()
        info, config = DataInfo(), state.config.with_options(selection="gradient", removal_rounds=0)
        state.config = config
        report = build_report(
            state,
            info.data,
            info.task,
            TriedChanges(),
            calibration(state, held_out) if held_out is not None else None,
            training_report(state, [], self._train),
            sample_report(state, self._train),
        )
        return FitResult(
            self.model,
            ReportDict(report),
            [],
            state.prior.floats(),
            state.sigma_noise,
            config,
            self._train,
        )
