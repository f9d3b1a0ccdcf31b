"""Optimizers whose prior step is proximal.

The MAP objective is mean cross-entropy + (1 / 2N) sum_t delta_t ||theta_t||^2. Adam normalises gradients, so
weights under a huge delta would jitter by the learning rate instead of vanishing. Here the data gradient
alone goes through the optimizer, and the prior acts by its proximal map in the optimizer's own metric,

    theta <- theta / (1 + lr delta / (N (sqrt(v) + eps)))        (Adam)
    theta <- theta / (1 + lr delta / (N (1 - momentum)))         (SGD: momentum lengthens the data's steps so)

which has the same MAP fixed point, is stable for every delta, and sends switched-off weights to zero. Adam's
rate is scaled by tensor (`rates.py`); tensors of one scale are one group of the optimizer.

Axes: params.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class ProximalAdam(torch.optim.Adam):
    """Adam on the data gradient, then the proximal map of the Gaussian prior.

    Args:
        named_parameters: (name, parameter) pairs.
        n_data: N of the objective.
        lr: learning rate.
        scales: factor of the learning rate by parameter name; 1 where there is none.

    `decay` maps parameter names to delta and is set by the training loop.
    """

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, Tensor]],
        n_data: int,
        lr: float,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.decay: Mapping[str, float] = {}
        self.n_data = n_data
        groups: dict[float, list[tuple[str, Tensor]]] = {}
        for name, parameter in named_parameters:
            groups.setdefault((scales or {}).get(name, 1.0), []).append((name, parameter))
        self.names = [[name for name, _ in members] for members in groups.values()]
        super().__init__(
            [{"params": [p for _, p in members], "scale": scale} for scale, members in groups.items()],
            lr=lr,
            fused=True,
        )

    def set_rate(self, lr: float) -> None:
        """Set the learning rate; every group gets its own part of it."""
        for group in self.param_groups:
            group["lr"] = lr * group["scale"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; every parameter must have a gradient."""
        loss = super().step(closure)
        for names, group in zip(self.names, self.param_groups, strict=True):
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            strength = [
                self.decay[n] for n, p in zip(names, group["params"], strict=True) if p.grad is not None
            ]
            states = [self.state[p] for p in parameters]
            scale = unbiased_squares(states, group["betas"][1], parameters[0].is_cuda)
            torch._foreach_sqrt_(scale)
            torch._foreach_add_(scale, group["eps"])
            torch._foreach_reciprocal_(scale)
            torch._foreach_mul_(scale, [group["lr"] * s / self.n_data for s in strength])
            torch._foreach_add_(scale, 1.0)
            torch._foreach_div_(parameters, scale)
        return loss


def unbiased_squares(states: Sequence[Mapping[str, Tensor]], beta: float, on_gpu: bool) -> list[Tensor]:
    """Adam's second moments over 1 - beta^step; on a GPU, where the steps are, nothing waits for them."""
    squares = [state["exp_avg_sq"] for state in states]
    if on_gpu:
        return list(torch._foreach_div(squares, [1 - beta ** state["step"].double() for state in states]))
    return list(torch._foreach_div(squares, [1 - beta ** float(state["step"]) for state in states]))


class ProximalSGD(torch.optim.SGD):
    """SGD with momentum 0.9 on the data gradient, then the proximal map of the Gaussian prior."""

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, Tensor]],
        n_data: int,
        lr: float,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        """As `ProximalAdam`; scales are Adam's, and steps along the gradient need none."""
        self.names = [name for name, _ in named_parameters]
        self.decay: Mapping[str, float] = {}
        self.n_data = n_data
        super().__init__([p for _, p in named_parameters], lr=lr, momentum=0.9, foreach=True)

    def set_rate(self, lr: float) -> None:
        """Set the learning rate."""
        self.param_groups[0]["lr"] = lr

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step."""
        loss = super().step(closure)
        group = self.param_groups[0]
        lr = group["lr"] / (1 - group["momentum"])
        for name, p in zip(self.names, group["params"], strict=True):
            if p.grad is not None:
                p.div_(1 + lr * self.decay[name] / self.n_data)
        return loss


OPTIMIZERS: dict[str, type[ProximalAdam] | type[ProximalSGD]] = {"adam": ProximalAdam, "sgd": ProximalSGD}
