"""The curvature rules of cyclic banks: a weight used in analysis and in synthesis, and thresholds.

Notation as in `kfac.rules` and `layers/cyclic_bank.py`. The weight w `[filter, c * tap]` is linear in the
dictionary, W(., h) = w R^h^T, so the chain rule goes through the rotations. At a turn h and place x,

    analysis    u(f, h, x) = sum w(f, .) a,             a = R^h^T patch(r)(x),     g at the code
    synthesis   dL = sum_{f} z(f, h, x) w(f, .) p,      p = R^h^T patch(g)(x),     z the code itself

so that the roles are swapped: in synthesis the inputs z meet the filters, and patches of the gradient the
taps. Both give a row at every turn and place, n V of them; kfac keeps their products apart and drops the
terms across them (`kfac.NearestKroneckerBlock`). On small trained networks the single product is up to 0.48
from the sum of the two (relative Frobenius error), and nearer to the exact block than either use alone.

Axes: batch, filter, turn, c, tap, place, h, w.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from kfac import Rule, Window
from symlearn.layers.cyclic_bank import BankUse
from symlearn.layers.soft_threshold import SoftThreshold


class BankRule(Rule):
    """What the two uses share."""

    def covers(self, module: nn.Module) -> bool:
        """Filters of unit norm are not linear in the weight."""
        return not cast(BankUse, module).unit_norm

    def patches(self, module: nn.Module, image: Tensor) -> Tensor:
        """Patches `[batch, c * tap, place]` of images `[batch, c, h, w]`."""
        use = cast(BankUse, module)
        return Window((use.rotations.kernel_size,) * 2, pads=(use.padding,) * 4).patches(image)

    def tap_rows(self, module: nn.Module, image: Tensor) -> Tensor:
        """Patches as the basis filters meet them, `[1, batch, turn * place, c * tap]`."""
        use = cast(BankUse, module)
        columns, k = self.patches(module, image), use.rotations.kernel_size
        taps = rearrange(columns, "batch (c tap) place -> batch place c tap", tap=k * k)
        turned = use.rotations.turned_back(taps)
        return rearrange(turned, "batch place c turn tap -> 1 batch (turn place) (c tap)")

    def tap_factor(self, module: nn.Module, image: Tensor) -> Tensor:
        """Sum of outer products of `tap_rows`, from one covariance of the patches."""
        columns = self.patches(module, image)
        covariance = torch.bmm(columns, columns.mT).sum(0)
        return cast(BankUse, module).rotations.summed_covariance(covariance).unsqueeze(0)

    def filter_rows(self, module: nn.Module, code: Tensor) -> Tensor:
        """Codes, or gradients at them, `[1, batch, turn * place, filter]`."""
        turns = cast(BankUse, module).rotations.turns
        return rearrange(code, "batch (f turn) h w -> 1 batch (turn h w) f", turn=turns)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Banks have no bias."""
        raise NotImplementedError


class AnalysisRule(BankRule):
    """`Analysis2d`: patches of the image, gradients at the code."""

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        return self.tap_rows(module, x)

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        return self.tap_factor(module, x)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return self.filter_rows(module, g)

    def places(self, module: nn.Module, y_shape: torch.Size) -> int:
        """Turns times places of the code."""
        return cast(BankUse, module).rotations.turns * y_shape[2] * y_shape[3]


class SynthesisRule(BankRule):
    """`Synthesis2d`: codes, and patches of the gradient at the image."""

    order = (0, 2, 1)  # [c * tap, filter] -> [filter, c * tap]

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """See `Rule`."""
        return self.filter_rows(module, x)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return self.tap_rows(module, g)

    def output_factor(self, module: nn.Module, g: Tensor) -> Tensor:
        """See `Rule`."""
        return self.tap_factor(module, g)

    def places(self, module: nn.Module, y_shape: torch.Size) -> int:
        """Turns times places of the code."""
        use = cast(BankUse, module)
        shrink = use.rotations.kernel_size - 1 - 2 * use.padding
        return use.rotations.turns * (y_shape[2] - shrink) * (y_shape[3] - shrink)


class SoftThresholdRule(Rule):
    """`SoftThreshold`: one gradient a datum for every lambda, so its block is exact."""

    exact = True

    def weight_rows(self, module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """See `Rule`; `[batch, threshold]`."""
        threshold = cast(SoftThreshold, module)
        by_channel = (threshold.slopes(x) * g).sum((2, 3))
        return by_channel.unflatten(1, (-1, threshold.copies)).sum(2)

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """Not used: the block is exact."""
        raise NotImplementedError

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Not used: the block is exact."""
        raise NotImplementedError

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Thresholds have no bias."""
        raise NotImplementedError
