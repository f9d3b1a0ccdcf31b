"""The curvature rules of `SymmetricLinear`, by the chain rule through its basis.

With rows a(v; k, c_in) = (B_k x(c_in))(v),

    y(c_out, v) = sum_{k, c_in} theta(k, c_in, c_out) a(v; k, c_in)

so every output place v uses the weight once, as a convolution's does. Two rules:

*Exact*, up to `EXACT_UP_TO` weights: the gradient of a datum, sum_v g(., v) a(v), whose outer products are
the block. The factor has as many rows as there are weights.

*Kronecker*, beyond: A = sum a a^T over data and places, B = sum g g^T, H = A (x) B / (batch places). It drops
what KFAC drops for convolutions: how places of a datum go together, and that a and g do. A is exact in one
respect more than it shows: coefficients that write different places never meet, and their entries of A are
zero. It equals the exact block for one datum and a layer of one output place.

Biases are exact under both.

Axes: as in `kfac.rules`; k (basis), c_in, c_out, v (place), point (places of one part of the basis).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from kfac import Rule
from symlearn.layers.commutant import CommutantBasis
from symlearn.layers.symmetric_linear import SymmetricLinear

EXACT_UP_TO = 1024  # weights
AT_ONCE = 2**24  # numbers of rows held at once


def rows_of(basis: CommutantBasis, x: Tensor) -> Iterator[tuple[Tensor, slice, slice, Tensor]]:
    """Rows a `[datum, c, point, k]` of `x [batch, c, d_in]`, part by part and a few data at once.

    Yields:
        The part's places, its coefficients, the data, and the rows.
    """
    for part, (points, (start, stop)) in enumerate(basis.parts):
        size = x.shape[1] * len(points) * max(stop - start, basis.d_in)
        few = max(AT_ONCE // size, 1)
        for first in range(0, len(x), few):
            data = slice(first, min(first + few, len(x)))
            where = torch.tensor(points, device=x.device)
            yield where, slice(start, stop), data, basis.rows(part, x[data])


class SymmetricLinearRule(Rule):
    """Kronecker factors over output places; see the module's notation."""

    order = (0, 2, 1)  # [k, c_in, c_out] -> [c_out, k * c_in]

    def of(self, module: nn.Module) -> Rule:
        """The exact rule where there are few weights."""
        return EXACT if cast(SymmetricLinear, module).weight.numel() <= EXACT_UP_TO else self

    def input_rows(self, module: nn.Module, x: Tensor) -> Tensor:
        """`[1, batch, v, k * c_in]`, zeros and all."""
        layer = cast(SymmetricLinear, module)
        x = layer.copies(x)
        rows = x.new_zeros(len(x), layer.d_out, len(layer.basis), layer.c_in)
        for points, own, data, a in rows_of(layer.basis, x):
            rows[data, points, own] = a.permute(0, 2, 3, 1)
        return rows.flatten(2).unsqueeze(0)

    def input_factor(self, module: nn.Module, x: Tensor) -> Tensor:
        """A `[1, k * c_in, k * c_in]`, part by part."""
        layer = cast(SymmetricLinear, module)
        x, k = layer.copies(x), len(layer.basis)
        factor = x.new_zeros(k, layer.c_in, k, layer.c_in)
        for _, own, _, a in rows_of(layer.basis, x):
            flat = a.permute(0, 2, 3, 1).flatten(2).flatten(0, 1)
            width = own.stop - own.start
            factor[own, :, own] += (flat.T @ flat).reshape(width, layer.c_in, width, layer.c_in)
        return factor.reshape(1, k * layer.c_in, k * layer.c_in)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """`[1, batch, v, c_out]`."""
        return cast(SymmetricLinear, module).copies(g).transpose(1, 2).unsqueeze(0)

    def bias_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """Sums over the vectors that no element moves, `[batch, k_bias * c_out]`."""
        layer = cast(SymmetricLinear, module)
        eye = torch.eye(len(layer.bias_basis), dtype=g.dtype, device=g.device)
        still = layer.bias_basis.matrix(eye)[:, 0]  # [v, k_bias]
        return torch.einsum("nov,vk->nko", layer.copies(g), still).flatten(1)

    def places(self, module: nn.Module, y_shape: torch.Size) -> int:
        """Output places."""
        return y_shape[-1]


class ExactSymmetricLinearRule(SymmetricLinearRule):
    """One gradient a datum for every weight, so the block is exact."""

    exact = True

    def weight_rows(self, module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """See `Rule`; `[batch, k * c_in * c_out]`."""
        layer = cast(SymmetricLinear, module)
        x, g = layer.copies(x), layer.copies(g)
        rows: dict[int, list[Tensor]] = {}
        for points, own, data, a in rows_of(layer.basis, x):
            gradient = torch.einsum("ncvk,nov->nkco", a, g[data][:, :, points])
            rows.setdefault(own.start, []).append(gradient)
        return torch.cat([torch.cat(parts) for parts in rows.values()], 1).flatten(1)


EXACT = ExactSymmetricLinearRule()
