"""The proximal prior step: its formula by hand, its fixed point, and its calm under huge precisions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from symlearn.training.optimizer import OPTIMIZERS, ProximalAdam, ProximalSGD, unbiased_squares

N_DATA = 60


def parameters(*values: list[float]) -> list[tuple[str, Tensor]]:
    """Named leaves "a", "b", ... in float64."""
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    return list(zip("abcdef", leaves, strict=False))


def test_adam_steps_by_hand() -> None:
    """Three steps: Adam on the data gradient alone, then theta / (1 + lr delta / (N (sqrt(v) + eps)))."""
    ((name, theta),) = named = parameters([1.0, -2.0, 0.5])
    lr, delta = 0.03, 40.0
    optimizer = ProximalAdam(named, N_DATA, lr)
    optimizer.decay = {name: delta}
    hand, m, v = (
        theta.detach().clone(),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    )
    for t in range(1, 4):
        gradient = torch.tensor([0.3 * t, -1e-3, 2.0 / t], dtype=torch.float64)
        theta.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        metric = (v / (1 - 0.999**t)).sqrt() + 1e-8
        hand = hand - lr * m / (1 - 0.9**t) / metric
        hand = hand / (1 + lr * delta / (N_DATA * metric))
        assert torch.allclose(theta.detach(), hand, rtol=1e-12), (
            f"step {t}: {theta.tolist()}, {hand.tolist()}"
        )


def test_sgd_steps_by_hand() -> None:
    """Momentum 0.9 multiplies the data gradient's step by 1 / (1 - 0.9), and so the prior's must be."""
    ((name, theta),) = named = parameters([1.0, -2.0, 0.5])
    lr, delta = 0.03, 40.0
    optimizer = ProximalSGD(named, N_DATA, lr)
    optimizer.decay = {name: delta}
    hand, velocity = theta.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for t in range(1, 4):
        gradient = torch.tensor([0.3 * t, -1e-3, 2.0 / t], dtype=torch.float64)
        theta.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        hand = (hand - lr * velocity) / (1 + lr / (1 - 0.9) * delta / N_DATA)
        assert torch.allclose(theta.detach(), hand, rtol=1e-12), (
            f"step {t}: {theta.tolist()}, {hand.tolist()}"
        )


def logistic() -> tuple[Tensor, Tensor]:
    """A convex problem: sixty points, three overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_DATA, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(N_DATA, 3, generator=generator, dtype=torch.float64)
    return x, (x[:, :3] + noise).argmax(1)


def regularised_minimum(x: Tensor, y: Tensor, delta: dict[str, float]) -> dict[str, Tensor]:
    """Minimum of mean cross-entropy + (1 / 2N) sum delta ||theta||^2, full batch, by L-BFGS."""
    weight = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = delta["weight"] * weight.square().sum() + delta["bias"] * bias.square().sum()
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + penalty / (2 * N_DATA)
        loss.backward()
        return loss

    optimizer.step(closure)
    return {"weight": weight.detach(), "bias": bias.detach()}


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("delta", [{"weight": 0.5, "bias": 3.0}, {"weight": 30.0, "bias": 0.5}], ids=str)
def test_fixed_point_is_the_map_estimate(kind: str, delta: dict[str, float]) -> None:
    x, y = logistic()
    truth = regularised_minimum(x, y, delta)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = OPTIMIZERS[kind]([("weight", weight), ("bias", bias)], N_DATA, 0.05)
    optimizer.decay = delta
    steps, lr = 3000, {"adam": 0.05, "sgd": 0.2}[kind]
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * t / steps)) + 1e-5
        optimizer.zero_grad()
        F.cross_entropy(F.linear(x, weight, bias), y).backward()
        optimizer.step()
    for name, found in (("weight", weight), ("bias", bias)):
        gap = float((found.detach() - truth[name]).norm() / truth[name].norm())
        assert gap < 1e-3, f"{kind}: {name} is {gap:.1e} off the regularised minimum"


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_huge_precisions_send_weights_to_zero(kind: str) -> None:
    """Also where explicit steps diverge: lr delta / N is 10^5 here. The neighbour trains on."""
    named = parameters([3.0, -2.0], [3.0, -2.0])
    off, on = named[0][1], named[1][1]
    optimizer = OPTIMIZERS[kind](named, N_DATA, 0.05)
    optimizer.decay = {"a": math.exp(18.0), "b": 1e-3}
    generator = torch.Generator().manual_seed(0)
    largest = []
    for _ in range(200):
        optimizer.zero_grad()
        noise = torch.randn(2, generator=generator, dtype=torch.float64)
        ((off + on - 1 - noise).square().mean()).backward()
        optimizer.step()
        largest.append(float(off.detach().abs().max()))
        assert math.isfinite(largest[-1])
    assert max(largest[20:]) < 1e-4, f"jitter {max(largest[20:]):.1e}: off must mean zero"
    assert float(on.detach().sub(1).abs().max()) < 0.7, f"the neighbour ended at {on.tolist()}"


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_frozen_parameters_are_left_alone(kind: str) -> None:
    """Neither the data nor the prior moves what has no gradient."""
    named = parameters([1.0, 2.0], [1.0, 2.0])
    frozen, live = named[0][1].requires_grad_(False), named[1][1]
    optimizer = OPTIMIZERS[kind](named, N_DATA, 0.1)
    optimizer.decay = {"a": 10.0, "b": 10.0}
    for _ in range(3):
        optimizer.zero_grad()
        ((frozen * live).sum() ** 2).backward()
        optimizer.step()
    assert frozen.tolist() == [1.0, 2.0] and live.tolist() != [1.0, 2.0]


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_no_prior_is_the_plain_optimizer(kind: str) -> None:
    """With delta = 0 the steps are torch's own."""
    named, plain = parameters([1.0, -2.0]), parameters([1.0, -2.0])[0][1]
    ours = OPTIMIZERS[kind](named, N_DATA, 0.1)
    ours.decay = {"a": 0.0}
    theirs = torch.optim.Adam([plain], 0.1) if kind == "adam" else torch.optim.SGD([plain], 0.1, momentum=0.9)
    for t in range(5):
        for theta, optimizer in ((named[0][1], ours), (plain, theirs)):
            theta.grad = torch.tensor([math.sin(t + 1.0), 0.1 * t], dtype=torch.float64)
            optimizer.step()
    assert torch.allclose(named[0][1], plain, rtol=1e-12)


def test_a_gpu_need_not_be_waited_for_to_correct_the_moments() -> None:
    """Steps that stay tensors give what steps that are read give."""
    states = [{"exp_avg_sq": torch.rand(3, 2) + 0.1, "step": torch.tensor(float(n))} for n in (1, 7, 4000)]
    read, kept = (unbiased_squares(states, 0.999, on_gpu) for on_gpu in (False, True))
    for one, other in zip(read, kept, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
