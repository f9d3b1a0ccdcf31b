"""Steps on the weights, an epoch at a time, and what held-out data say of them.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kfac.checks import explained_backward
from symlearn.data.pairs import Pairs, batches
from symlearn.training.chance import constant_loss
from symlearn.training.state import Augment, FitState, TrainingStoppedError


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
