"""S-CONV: a convolution whose filters are given between anchors (van der Ouderaa et al. 2023, Eq. 6).

    theta(c_out, c_in, t) = sum_p u(c_out, c_in, p) Phi(p, t)
    y(c_out, x)           = sum_{c_in, t} theta(c_out, c_in, t) x(c_in, x + t) + b(c_out)

Axes: batch, c_in, c_out, size (t; h, w; d, h, w), tap, anchor.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.layers.anchor_basis import AnchorBasis, Anchors
from symlearn.layers.conv import CONVOLVE, wrap_around
from symlearn.layers.declared import Hyperparameter
from symlearn.layers.dense import given_size, matrix_of
from symlearn.layers.sizes import Size, expect_channels, sides
from symlearn.layers.spatial_filters import SpatialFilters

PADDING_MODES = ("circular", "zeros", "reflect", "replicate")


class SparseConv2d(nn.Module):
    """S-CONV, `[batch, c_in, *size] -> [batch, c_out, *size]`.

    Weight `[c_out, c_in, anchor]`, bias `[c_out]`.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: of the filters: k, which stands for (k, k), (k_h, k_w), for signals (k_t,), for volumes
            (k_d, k_h, k_w).
        anchors: as `AnchorBasis` takes them; half of the taps, rounded up, if not given.
        lengthscale: at the start, in taps.
        padding_mode: "circular", "zeros", "reflect" or "replicate"; the map keeps its size.
        bias: whether there is one.
        **basis: further options of `AnchorBasis`: noise, learn, lengthscale_precision.

    Raises:
        ValueError: a channel count, kernel size or lengthscale that is not positive, more anchors than taps,
            anchors outside the filter, an unknown padding mode.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: Size = 3,
        anchors: Anchors = 0.5,
        lengthscale: float = 1.0,
        padding_mode: str = "circular",
        bias: bool = True,
        **basis: Any,
    ) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"unknown padding mode {padding_mode!r}; choose one of {', '.join(PADDING_MODES)}"
            )
        self.c_in, self.c_out, self.kernel_size = c_in, c_out, sides(kernel_size)
        self.padding_mode = padding_mode
        self.basis = AnchorBasis(self.kernel_size, anchors, lengthscale, **basis)
        self.weight = nn.Parameter(torch.empty(c_out, c_in, len(self.basis)))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values: closest to those of a fresh Kaiming-uniform filter."""
        dense = torch.empty(self.c_out, self.c_in, *self.kernel_size, dtype=self.weight.dtype)
        nn.init.kaiming_uniform_(dense, nonlinearity="relu")
        with torch.no_grad():
            self.weight.copy_(self.basis.fitted(dense.flatten(2).to(self.weight.device)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def filters(self) -> Tensor:
        """The filters between the anchors' values, `[c_out, c_in, *k]`."""
        return (self.weight @ self.basis()).unflatten(2, self.kernel_size)

    @property
    def pads(self) -> tuple[int, ...]:
        """Padding before and after every axis, the last first; even k pads more at the far side."""
        return tuple(pad for k in reversed(self.kernel_size) for pad in ((k - 1) // 2, k // 2))

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "circular":
            padded = wrap_around(x, self.kernel_size)
        else:
            padded = F.pad(x, self.pads, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        return CONVOLVE[len(self.kernel_size)](padded, self.filters(), bias)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *size] -> [batch, c_out, *size]`."""
        return self._convolve(x, self.bias)

    def plane_filters(self) -> tuple[Tensor, Tensor | None] | None:
        """The filters between the anchors; None with other borders. See `merged.py`."""
        return (self.filters(), self.bias) if self.padding_mode == "circular" else None

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What the basis declares."""
        return {f"basis.{key}": value for key, value in self.basis.hyperparameters((self.weight,)).items()}

    def spatial_filters(self) -> list[SpatialFilters]:
        """The filters of every pair of channels, with the anchors."""
        basis = self.basis
        return [SpatialFilters("", self.filters().flatten(0, 1), basis.anchors, float(basis.lengthscale))]

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.weight.mul_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix at the given input size. For tests.

        Returns:
            `[c_out * x, c_in * x]`, between flattened maps of x places.

        Raises:
            ValueError: `in_size` is missing.
        """
        shape = (self.c_in, *given_size(in_size))
        return matrix_of(lambda x: self._convolve(x, None), shape, self.weight)

    def extra_repr(self) -> str:
        """Channels, filter size and padding, for printing."""
        return (
            f"{self.c_in}, {self.c_out}, kernel_size={self.kernel_size}, padding_mode={self.padding_mode!r}"
        )
