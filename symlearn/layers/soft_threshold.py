"""Soft thresholding of codes, the proximal map of lambda ||z||_1 with step alpha (Beck & Teboulle 2009).

    two-sided   S(u) = sign(u) max(|u| - alpha lambda, 0)
    one-sided   S(u) = max(u - alpha lambda, 0)            that of a code z >= 0

Theodosis & Ba (2022, Eq. 4) print S_lambda; the proximal map of the stated objective is S_{alpha lambda}. A
lambda is shared by a filter's turns, so that thresholding commutes with rotations, or every turn has its own.
A learned one is lambda = |lambda_0 + weight|: a prior on the weight pulls it back to where it started, not to
zero, where nothing would be sparse.

Axes: batch, filter, turn, h, w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SoftThreshold(nn.Module):
    """Soft thresholding, `[batch, filter * turn, h, w]` to the same.

    Args:
        filters: basis filters.
        turns: rotations of each.
        threshold: lambda_0.
        step: alpha.
        learned: whether lambda's distance from lambda_0, `weight` `[filter]`, is trained.
        shared: whether a filter's turns share one; otherwise `weight` is `[filter * turn]`.
        one_sided: whether codes are non-negative.
    """

    weight: Tensor

    def __init__(
        self,
        filters: int,
        turns: int,
        threshold: float,
        step: float,
        learned: bool = True,
        shared: bool = True,
        one_sided: bool = False,
    ) -> None:
        super().__init__()
        self.start, self.step, self.one_sided = threshold, step, one_sided
        self.copies = turns if shared else 1
        values = torch.zeros(filters if shared else filters * turns)
        if learned:
            self.weight = nn.Parameter(values)
        else:
            self.register_buffer("weight", values)

    def reset_parameters(self) -> None:
        """Back to the start."""
        with torch.no_grad():
            self.weight.zero_()

    def levels(self) -> Tensor:
        """Alpha lambda of every channel, `[filter * turn, 1, 1]`."""
        return self.step * (self.start + self.weight).abs().repeat_interleave(self.copies).reshape(-1, 1, 1)

    def slopes(self, code: Tensor) -> Tensor:
        """Derivative of S by lambda in every channel, at inputs `[batch, filter * turn, h, w]`."""
        passed = (code if self.one_sided else code.abs()) > self.levels()
        sign = (self.start + self.weight).sign().repeat_interleave(self.copies).reshape(-1, 1, 1)
        return -self.step * code.sign() * sign * passed

    def forward(self, code: Tensor) -> Tensor:
        """See the module's notation."""
        if self.one_sided:
            return (code - self.levels()).relu()
        return code.sign() * (code.abs() - self.levels()).relu()

    def extra_repr(self) -> str:
        """Step and kind, for printing."""
        return f"{len(self.weight)}, step={self.step:g}, one_sided={self.one_sided}"
