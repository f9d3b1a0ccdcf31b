"""A cyclic bank: m basis filters with their n rotations, and its two uses (Theodosis & Ba 2022, Eq. 7).

    W(f, h, c, t) = (R_theta^h w(f, c, .))(t),    h = 0 .. n - 1
    analysis      (W^T r)(f, h, x) = sum_{c, t} W(f, h, c, t) r(c, x + t)      image -> code
    synthesis     (W z)(c, y)      = sum_{f, h, t} W(f, h, c, t) z(f, h, y - t)  code -> image

each the transpose of the other. A code `[batch, filter * turn, h', w']` has the turns of a filter side by
side. The generator theta is fixed (360 / n degrees unless given) or declared for the evidence to learn; n
stays. Its unconstrained value counts tens of degrees, so that a step of 0.1 is one degree. Rotations are
exact where theta is a fixed multiple of 90 degrees, otherwise interpolated (`rotation.py`).

A quarter turn of the image turns the maps of a code and moves turn h to h + 1 (n = 4); a filter as large as
the padded image has a code of one place.

Axes: batch, filter (f), turn (h), c, h, w, tap (t), row, column.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.layers.declared import Hyperparameter
from symlearn.layers.dense import given_size, matrix_of
from symlearn.layers.kept import Kept
from symlearn.layers.rotation import QUARTER, is_quarter, rotation_matrices
from symlearn.layers.sizes import Size
from symlearn.layers.soft_threshold import SoftThreshold
from symlearn.layers.spatial_filters import SpatialFilters

TENS = 10.0  # degrees a unit of the unconstrained generator


def in_degrees(value: Tensor) -> Tensor:
    """The generator's angle in degrees from its unconstrained value."""
    return TENS * value


class Rotations(nn.Module):
    """R_theta^h for h = 0 .. n - 1 of square filters, `[..., k, k] -> [..., turn, k, k]`.

    Args:
        kernel_size: k.
        turns: n.
        degrees: theta; None takes 360 / n.
        learn: whether theta is declared for the evidence to learn.
    """

    generator: Tensor
    fixed: Tensor

    def __init__(
        self, kernel_size: int, turns: int, degrees: float | None = None, learn: bool = False
    ) -> None:
        super().__init__()
        self.kernel_size, self.turns, self.learn = kernel_size, turns, learn
        self.start = 360 / turns if degrees is None else degrees
        self.exact = not learn and is_quarter(self.start)
        self._kept = Kept()
        if learn:
            self.register_buffer("generator", torch.tensor(self.start / TENS))
        elif not self.exact:
            angles = self.start * torch.arange(turns, dtype=torch.float64)
            self.register_buffer("fixed", rotation_matrices(angles, kernel_size), persistent=False)

    @property
    def degrees(self) -> Tensor:
        """Theta in degrees, float64; differentiable where it is learned."""
        return in_degrees(self.generator.double()) if self.learn else torch.tensor(self.start).double()

    def matrices(self) -> Tensor:
        """R `[turn, tap, tap]` float64; of exact rotations for tests only."""
        if self.exact:
            taps = self.kernel_size**2
            eye = torch.eye(taps, dtype=torch.float64).unflatten(1, (self.kernel_size,) * 2)
            return self(eye).flatten(2).permute(1, 2, 0)
        if not self.learn:
            return self.fixed
        return self._kept.get((self.generator,), self._learned_matrices)

    def _learned_matrices(self) -> Tensor:
        turns = torch.arange(self.turns, dtype=torch.float64, device=self.generator.device)
        return rotation_matrices(self.degrees * turns, self.kernel_size)

    def quarters(self, turn: int) -> int:
        """Quarter turns that an exact rotation stands for."""
        return round(turn * self.start / QUARTER)

    def forward(self, filters: Tensor) -> Tensor:
        """`[..., k, k] -> [..., turn, k, k]`."""
        if self.exact:
            turned = [torch.rot90(filters, self.quarters(h), (-2, -1)) for h in range(self.turns)]
            return torch.stack(turned, -3)
        matrices = self.matrices().to(filters.dtype)
        return torch.einsum("...s,hts->...ht", filters.flatten(-2), matrices).unflatten(
            -1, filters.shape[-2:]
        )

    def _moved_back(self, patches: Tensor, turn: int) -> Tensor:
        """R_theta^h^T a of one exact turn, `[..., tap]`."""
        square = patches.unflatten(-1, (self.kernel_size,) * 2)
        return torch.rot90(square, -self.quarters(turn), (-2, -1)).flatten(-2)

    def turned_back(self, patches: Tensor) -> Tensor:
        """R_theta^h^T a for every turn, `[..., tap] -> [..., turn, tap]`: what the basis filter meets."""
        if self.exact:
            return torch.stack([self._moved_back(patches, h) for h in range(self.turns)], -2)
        return torch.einsum("...t,hts->...hs", patches, self.matrices().to(patches.dtype))

    def summed_covariance(self, covariance: Tensor) -> Tensor:
        """sum_h R^h^T C R^h for every pair of channels: patches' `[c * tap, c * tap]` to basis filters'."""
        taps = self.kernel_size**2
        blocks = covariance.unflatten(1, (-1, taps)).unflatten(0, (-1, taps))  # [c, tap, c, tap]
        if self.exact:
            turned = [
                self._moved_back(self._moved_back(blocks, h).transpose(1, 3), h).transpose(1, 3)
                for h in range(self.turns)
            ]
            total = torch.stack(turned).sum(0)
        else:
            matrices = self.matrices().to(covariance.dtype)
            halfway = torch.einsum("ctdu,huv->hctdv", blocks, matrices)
            total = torch.einsum("hctdv,hts->csdv", halfway, matrices)
        return total.flatten(2).flatten(0, 1)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The generator, where it is learned."""
        if not self.learn:
            return {}
        reach = self.start / 2
        bounds = ((self.start - reach) / TENS, (self.start + reach) / TENS)
        return {"generator": Hyperparameter(self.generator, in_degrees, "generator", bounds)}

    def extra_repr(self) -> str:
        """Filter size, turns and angle, for printing."""
        return f"{self.kernel_size}, turns={self.turns}, degrees={float(self.degrees.detach()):g}"


class BankUse(nn.Module):
    """A use of a bank's weight `[filter, c_in, k, k]`, which the other use holds as well.

    Args:
        weight: the basis filters.
        rotations: of the bank.
        padding: zeros around the image.
        unit_norm: whether filters enter with unit norm in every input channel.
    """

    def __init__(
        self, weight: nn.Parameter, rotations: Rotations, padding: int, unit_norm: bool = False
    ) -> None:
        super().__init__()
        self.weight = weight
        self.rotations, self.padding, self.unit_norm = rotations, padding, unit_norm
        self._kept = Kept()

    def _filters(self) -> Tensor:
        weight = self.weight
        if self.unit_norm:
            weight = F.normalize(weight.flatten(2), dim=2).unflatten(2, weight.shape[2:])
        return self.rotations(weight).transpose(1, 2).flatten(0, 1)

    def filters(self) -> Tensor:
        """All filters `[filter * turn, c_in, k, k]`; kept while nothing changes and no gradient is needed."""
        sources = (self.weight, self.rotations.generator) if self.rotations.learn else (self.weight,)
        return self._kept.get(sources, self._filters)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The matrix `[outputs, inputs]` for maps of this size. For tests."""
        c_in = self.weight.shape[1] if isinstance(self, Analysis2d) else len(self.filters())
        return matrix_of(self, (c_in, *given_size(in_size)), self.weight)

    def extra_repr(self) -> str:
        """The weight's shape and padding, for printing."""
        return f"{list(self.weight.shape)}, padding={self.padding}, unit_norm={self.unit_norm}"


class Analysis2d(BankUse):
    """W^T, `[batch, c_in, h, w] -> [batch, filter * turn, h', w']`, h' = h + 2 padding - k + 1."""

    def forward(self, image: Tensor) -> Tensor:
        """See the module's notation."""
        return F.conv2d(image, self.filters(), padding=self.padding)


class Synthesis2d(BankUse):
    """W, `[batch, filter * turn, h', w'] -> [batch, c_in, h, w]`."""

    def forward(self, code: Tensor) -> Tensor:
        """See the module's notation."""
        return F.conv_transpose2d(code, self.filters(), padding=self.padding)


class CyclicBank2d(nn.Module):
    """A bank with what a layer of an unfolded network does to its code: threshold and normalisation.

    Args:
        c_in: channels of the image.
        filters: m, basis filters.
        rotations: of the bank; banks of several layers may share them.
        padding: zeros around the image.
        threshold: the code's, `[batch, filter * turn, h, w]` to the same.
        norm: the code's normalisation, likewise.
        unit_norm: whether filters enter with unit norm in every input channel.
    """

    def __init__(
        self,
        c_in: int,
        filters: int,
        rotations: Rotations,
        padding: int,
        threshold: SoftThreshold,
        norm: nn.Module,
        unit_norm: bool = False,
    ) -> None:
        super().__init__()
        k = rotations.kernel_size
        weight = nn.Parameter(torch.empty(filters, c_in, k, k))
        self.rotations = rotations
        self.analysis = Analysis2d(weight, rotations, padding, unit_norm)
        self.synthesis = Synthesis2d(weight, rotations, padding, unit_norm)
        self.threshold, self.norm = threshold, norm
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw filters of unit norm in every input channel; thresholds and normalisation start anew."""
        weight = self.analysis.weight
        with torch.no_grad():
            drawn = torch.randn(weight.shape, dtype=weight.dtype).to(weight.device)
            weight.copy_(F.normalize(drawn.flatten(2), dim=2).unflatten(2, weight.shape[2:]))
        for module in (*self.threshold.modules(), *self.norm.modules()):
            if isinstance(module, SoftThreshold | nn.BatchNorm2d | nn.BatchNorm3d):
                module.reset_parameters()

    def forward(self, image: Tensor) -> Tensor:
        """W^T, as `Analysis2d`."""
        return self.analysis(image)

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the filters in place."""
        self.analysis.weight.mul_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """W^T as a matrix. For tests."""
        return self.analysis.to_dense(in_size)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The generator, where it is learned."""
        return {f"rotations.{key}": value for key, value in self.rotations.hyperparameters().items()}

    def spatial_filters(self) -> list[SpatialFilters]:
        """The filters of every turn and channel, a filter's turns one after the other."""
        turned = self.analysis.filters().unflatten(0, (-1, self.rotations.turns))  # [filter, turn, c, k, k]
        return [SpatialFilters("", turned.transpose(1, 2).flatten(0, 2), turns=self.rotations.turns)]
