"""The curvature rules of deviations: filters that differ by orientation, amplitudes that differ by place.

*By orientation.* With the rows a_h of the group convolution of the same form, the weight psi meets

    a_h' = e(h) (x) a_h        so        A = sum_h e(h) e(h)^T (x) A_h

once every (h, place), and the bias meets e(h). What KFAC drops is what it drops for group convolutions.

*By place.* y(c_out, v) = sum_{r, q} alpha(c_out, r, q) phi_q(v) z(c_out, r, v), the filters' output z being
held; the filters are a convolution with a rule of its own, the amplitudes being held. The terms between the
two factors are in no block. Two rules for alpha, as of `symmetric_rules.py`: *exact* up to `EXACT_UP_TO`
weights, datum by datum; *Kronecker* beyond, one group an output channel and one use every place, which drops
how places of a datum and output channels go together. It is exact within a channel for one datum on a map
whose output gradient lives at one place.

Biases are exact under all.

Axes: as in `kfac.rules`; function (j, q), h (element), r (rank), v (place).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from kfac import Rule
from symlearn.curvature.group_rules import GroupStageRule, PointwiseGroupRule
from symlearn.layers.group_deviation import GroupDeviationStage
from symlearn.layers.shift_deviation import PlaceAmplitudes

EXACT_UP_TO = 1024  # weights


class GroupDeviationRule(GroupStageRule):
    """`GroupDeviation2d`: the group convolution's rows, times the functions on the group."""

    def functions(self, module: nn.Module, like: Tensor) -> Tensor:
        """The functions e `[function, group]`, in the type of `like`."""
        return cast(GroupDeviationStage, module).functions.to(like.dtype)

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[1, batch, group * place, function * c_in * entry]`."""
        e, rows = self.functions(module, x), super().input_rows(module, x)
        rows = rows.unflatten(2, (e.shape[1], -1))
        return torch.einsum("jh,gnhvd->gnhvjd", e, rows).flatten(4).flatten(2, 3)

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """See the module's notation."""
        e, own = self.functions(module, x), self.covariances(module, x)
        return torch.einsum("jh,kh,hab->jakb", e, e, own).flatten(2).flatten(0, 1).unsqueeze(0)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[batch, c_out * function]`."""
        return torch.einsum("jh,nch->ncj", self.functions(module, g), g.sum((3, 4))).flatten(1)


class PointwiseGroupDeviationRule(GroupDeviationRule, PointwiseGroupRule):
    """`PointwiseGroupDeviation2d`: the same on every element's own patches."""


class PlaceAmplitudesRule(Rule):
    """Kronecker factors over places, a group an output channel; see the module's notation."""

    def of(self, module: nn.Module) -> Rule:
        """The exact rule where there are few weights."""
        return EXACT if cast(PlaceAmplitudes, module).weight.numel() <= EXACT_UP_TO else self

    def functions(self, module: nn.Module, like: Tensor) -> Tensor:
        """The functions phi `[function, h, w]`, in the type of `like`."""
        return cast(PlaceAmplitudes, module).functions.to(like.dtype)

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[batch, c_out * rank, h, w]` -> `[c_out, batch, place, rank * function]`."""
        z = x.unflatten(1, cast(PlaceAmplitudes, module).weight.shape[:2])
        rows = torch.einsum("ncrhw,qhw->cnhwrq", z, self.functions(module, x))
        return rows.flatten(4).flatten(2, 3)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[batch, c_out, h, w]` -> `[c_out, batch, place, 1]`."""
        return g.flatten(2).transpose(0, 1).unsqueeze(3)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[batch, c_out * function]`."""
        return torch.einsum("nchw,qhw->ncq", g, self.functions(module, g)).flatten(1)


class ExactPlaceAmplitudesRule(PlaceAmplitudesRule):
    """One gradient a datum for every weight, so the block is exact."""

    exact = True

    def weight_rows(self, module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """See `Rule`; `[batch, c_out * rank * function]`."""
        z = x.unflatten(1, cast(PlaceAmplitudes, module).weight.shape[:2])
        return torch.einsum("ncrhw,nchw,qhw->ncrq", z, g, self.functions(module, g)).flatten(1)


EXACT = ExactPlaceAmplitudesRule()
