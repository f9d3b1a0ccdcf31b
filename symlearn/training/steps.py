"""Steps on the weights, an epoch at a time, and what held-out data say of them.

Where several processes share a state, each looks at its part of a batch. The gradient is that of the whole
batch; batch normalisation alone is by part, as in `DistributedDataParallel`, and its running statistics are
those of rank 0.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from kfac import explained_backward
from symlearn.data.samples import WHOLE, SamplesLike, samples_of
from symlearn.evidence.likelihood import ObservationModel
from symlearn.ranks import STEP
from symlearn.training.state import Augment, FitState, TrainingStoppedError


@contextmanager
def explained_compilation() -> Iterator[None]:
    """Say what to do where torch cannot compile a network here.

    Raises:
        TrainingStoppedError: no compiler, or an operation that it does not take.
    """
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        said = str(error).strip().partition("\n")[0]
        raise TrainingStoppedError(f"torch.compile failed here ({said}); set compile to false") from error


def loss_with_gradient(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    likelihood: ObservationModel,
    x: Tensor,
    y: Tensor,
    sigma_noise: float = 1.0,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The loss of one batch, and its gradient in every parameter, in place of what lay there.

    Args:
        forward: the network's pass, compiled or not.
        model: whose parameters get the gradient.
        likelihood: of the targets.
        x: images `[batch, c, *size]`.
        y: their targets.
        sigma_noise: of a regression.
        weight: that the loss counts with.

    Returns:
        Outputs `[batch, outputs]` and the weighted loss, both without their graph.

    Raises:
        ValueError: an operation in place destroyed what the backward pass needs.
    """
    f = forward(x)
    loss = weight * likelihood.loss(f, y, sigma_noise)
    model.zero_grad(set_to_none=True)
    with explained_backward():
        loss.backward()
    return f.detach(), loss.detach()


@explained_compilation()
def train_epoch(
    state: FitState,
    data: SamplesLike,
    rates: Callable[[float], float],
    augment: Augment | None = None,
) -> tuple[float, float | None]:
    """One pass of steps on the weights.

    Args:
        state: changed in place.
        data: the training set.
        rates: learning rate at a fraction of the epoch.
        augment: applied to every batch, drawing from the state's generator.

    Returns:
        Mean loss in nats an image and accuracy, both as seen during the pass; accuracy is None for
        regression.

    Raises:
        TrainingStoppedError: the loss or a weight is not finite.
        ValueError: an operation in place destroyed what the backward pass needs.
    """
    samples = samples_of(data)
    size = min(cast(int, state.config.training.batch_size), len(samples))
    steps, shared = len(samples) // size, state.ranks.over(size, STEP)
    start, stop = shared.share.of(size)
    weight = (stop - start) / size
    # augmentation draws for whole batches, so that images are those of one process
    epoch = samples.epoch(size, state.generator, shared.share if augment is None else WHOLE)
    state.model.train()
    strength = state.warm_up.strength(state.step, state.config.training.prior_warmup)
    state.optimizer.decay = {name: strength * delta for name, delta in state.prior.floats().items()}
    total = torch.zeros((), device=samples.device)
    correct = torch.zeros((), dtype=torch.int64, device=samples.device)
    for k, (xb, yb) in enumerate(epoch):
        if augment is not None:
            xb, yb = augment(xb, state.generator)[start:stop], yb[start:stop]
        state.optimizer.set_rate(rates(k / steps) * state.lr_scale * state.caution)
        f, loss = loss_with_gradient(
            state.forward, state.model, state.likelihood, xb, yb, state.sigma_noise, weight
        )
        shared.add_gradients(state.model.parameters())
        state.optimizer.step()
        total += loss
        if (right := state.likelihood.correct(f, yb)) is not None:
            correct += right
    state.epoch += 1
    state.step += steps
    shared.spread(state.model.buffers())
    whole, classified = shared.totals(float(total), float(correct))  # where a GPU is waited for
    mean = whole / steps
    if not math.isfinite(mean) or not all(torch.isfinite(p).all() for p in state.model.parameters()):
        what = (
            "a weight became infinite or NaN" if math.isfinite(mean) else f"the training loss became {mean}"
        )
        raise TrainingStoppedError(
            f"{what} in epoch {state.epoch}; lower lr (now {state.config.training.lr:g}) or check the data"
        )
    state.losses = [*state.losses, mean][-10:]
    chance = state.likelihood.constant_loss(samples.targets, state.sigma_noise)
    state.warm_up.after_epoch(state.step, state.begun, state.config.training.prior_warmup, mean, chance)
    return mean, classified / (steps * size) if state.likelihood.discrete else None


def evaluate(state: FitState, data: SamplesLike, size: int = 500) -> tuple[float | None, float]:
    """Score a network on held-out data, for the record only.

    Returns:
        Accuracy, None for regression, and the mean negative log-likelihood in nats an image, which for
        regression includes the learned noise.
    """
    likelihood, samples = state.likelihood, samples_of(data)
    state.model.eval()
    correct, total, targets = 0.0, 0.0, 0
    shared = state.ranks.over(len(samples))
    with torch.no_grad():
        for x, y in samples.batches(size, shared.share):
            f = state.model(x)
            total += float(likelihood.loss(f.double(), y, state.sigma_noise)) * len(x)
            targets += f.numel()
            if (right := likelihood.correct(f, y)) is not None:
                correct += float(right)
    loss, count, classified = shared.totals(total, targets, correct)
    nll = loss / len(samples) + likelihood.constants(count / len(samples), state.sigma_noise)
    return (classified / len(samples) if likelihood.discrete else None), nll
