"""Linear maps that commute with any finite group, given by its generators.

    y(c_out, v) = sum_{c_in, x} W(c_out, v, c_in, x) x(c_in, x) + b(c_out, v)
    W(c_out, v, c_in, x) = sum_k theta(k, c_in, c_out) B_k(v, x)

with B_k a basis of the maps that commute with the actions on places (`commutant.py`), and b a sum over the
vectors that no element moves (Finzi, Welling & Wilson 2021, sections 3 and 4). The layer is equivariant by
construction, and costs what a dense layer of its size costs; what is few are the weights.

Axes: batch, c_in, c_out (copies of the action), x (input place), v (output place), k.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.layers.commutant import OrbitBasis, commutant, invariants
from symlearn.layers.generators import Given, product_action, read_action
from symlearn.layers.one_group import read_actions
from symlearn.layers.sizes import Size, expect_channels, expect_map, pair


class SymmetricLinear(nn.Module):
    """W rho_in(g) = rho_out(g) W: `[batch, d_in] -> [batch, d_out]`, or copies, `[batch, c_in, d_in]`.

    Weight `[k, c_in, c_out]`, uniform, so that outputs have twice the inputs' variance (He et al. 2015) where
    those are independent; bias `[k_bias * c_out]`, zero at the start.

    Args:
        generators_in: of the action on the input: permutations p `[d]` with (g x)_i = x[p_i], or invertible
            matrices `[d, d]`; None: nothing moves.
        generators_out: the same of the output, generator by generator of the same elements.
        d_in: length of the input where nothing moves.
        d_out: length of the output where nothing moves.
        c_in: copies of the input's action, `[batch, c_in, d_in]`.
        c_out: copies of the output's.
        bias: whether there is one, of the vectors that no element moves.

    Raises:
        ValueError: generators that make no finite group, actions of two groups, lengths that do not match, no
            map but zero that commutes; an input of another shape; a checkpoint of another group.
    """

    def __init__(
        self,
        generators_in: Given | None,
        generators_out: Given | None,
        *,
        d_in: int | None = None,
        d_out: int | None = None,
        c_in: int = 1,
        c_out: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        action_in, action_out = read_actions(generators_in, generators_out, d_in, d_out)
        self.c_in, self.c_out, self.d_in, self.d_out = c_in, c_out, action_in.d, action_out.d
        self.basis = commutant(action_in, action_out)
        if not len(self.basis):
            raise ValueError(
                f"no map from {self.d_in} to {self.d_out} numbers but zero commutes with these actions; "
                "choose another action on the output"
            )
        self.bias_basis = invariants(action_out)
        self.weight = nn.Parameter(torch.empty(len(self.basis), c_in, c_out))
        moving = bias and len(self.bias_basis) > 0
        self.bias = nn.Parameter(torch.zeros(len(self.bias_basis) * c_out)) if moving else None
        self.fan_in = max(round(c_in * self.basis.step_of_output()), 1)
        self.mark = mark_of(self.basis)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        bound = math.sqrt(6 * self.d_out / (self.c_in * len(self.basis)))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def copies(self, x: Tensor) -> Tensor:
        """The input as `[batch, c_in, d_in]`."""
        return x.unsqueeze(1) if x.dim() == 2 else x

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, d_in] -> [batch, d_out]`, `[batch, c_in, d_in] -> [batch, c_out, d_out]`."""
        single = self.c_in == self.c_out == 1 and x.dim() == 2
        if (not single and x.dim() != 3) or self.copies(x).shape[1:] != (self.c_in, self.d_in):
            raise ValueError(
                f"expected vectors [batch, {self.c_in}, {self.d_in}]"
                f"{f' or [batch, {self.d_in}]' if self.c_in == self.c_out == 1 else ''}, got {list(x.shape)}"
            )
        y = (self.copies(x).flatten(1) @ self.to_dense().T).unflatten(1, (self.c_out, self.d_out))
        if self.bias is not None:
            y = y + self.bias_basis.matrix(self.bias.unflatten(0, (-1, self.c_out)))[:, 0].T
        return y.squeeze(1) if single else y

    @torch.no_grad()
    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.weight.mul_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """W `[c_out * d_out, c_in * d_in]`."""
        w = self.basis.matrix(self.weight.flatten(1)).unflatten(2, (self.c_in, self.c_out))
        return w.permute(3, 0, 2, 1).reshape(self.c_out * self.d_out, self.c_in * self.d_in)

    def get_extra_state(self) -> dict[str, Any]:
        """A mark of the group's basis, for the `state_dict`: the same weights mean another map in another."""
        return {"basis": self.mark}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the weights of another group.

        Raises:
            ValueError: the mark differs.
        """
        if state["basis"] != self.mark:
            raise ValueError(
                "these weights were learned with another group, or its generators in another order of "
                "places; give the generators they were learned with"
            )

    def extra_repr(self) -> str:
        """Copies, lengths and basis, for printing."""
        return f"{self.c_in}x{self.d_in}, {self.c_out}x{self.d_out}, basis={len(self.basis)}"


def mark_of(basis: nn.Module) -> int:
    """A checksum of a basis: of its orbits, or of its size where it is found numerically."""
    if not isinstance(basis, OrbitBasis):
        return len(basis.exact)  # type: ignore[arg-type]
    sign = b"" if basis.sign is None else basis.sign.cpu().numpy().tobytes()
    return zlib.crc32(basis.index.cpu().numpy().tobytes() + sign)


class SymmetricLinear2d(nn.Module):
    """The path: maps `[batch, c_in, h, w] -> [batch, c_out, h', w']` that commute with a group of exchanges.

    The group is a product: one acts on places, on all channels alike, and one on `channels` neighbouring
    channels, at all places alike and alike on every `channels` of them.

    Args:
        c_in: input channels, a multiple of the channels that are exchanged.
        c_out: output channels, the same.
        in_size: h, or (h, w), of the input.
        out_size: the same of the output.
        places_in: generators on the input's h w places, row by row; None: places do not move.
        places_out: the same of the output's; None: places do not move.
        channels: generators on channels; None: channels do not move.

    Raises:
        ValueError: as `SymmetricLinear`; a number of channels that is no multiple; an input of another shape.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        in_size: Size,
        out_size: Size,
        places_in: Given | None = None,
        places_out: Given | None = None,
        channels: Given | None = None,
    ) -> None:
        super().__init__()
        expect_channels(c_in, c_out)
        self.c_in, self.c_out = c_in, c_out
        self.in_size, self.out_size = pair(in_size), pair(out_size)
        on_in, on_out = read_actions(places_in, places_out, math.prod(self.in_size), math.prod(self.out_size))
        exchanged = 1
        if channels is not None:
            on_channels = read_action(channels, "the channels' action")
            exchanged, same = on_channels.d, places_in is places_out and self.in_size == self.out_size
            on_in = product_action(on_channels, on_in)
            on_out = on_in if same else product_action(on_channels, on_out)
        if c_in % exchanged or c_out % exchanged:
            raise ValueError(
                f"a path exchanges {exchanged} channels, and the layer has {c_in} in and {c_out} out; give "
                f"multiples of {exchanged}"
            )
        self.linear = SymmetricLinear(on_in, on_out, c_in=c_in // exchanged, c_out=c_out // exchanged)

    def reset_parameters(self) -> None:
        """Draw the initial values."""
        self.linear.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, h, w] -> [batch, c_out, h', w']`."""
        expect_map(x, self.c_in, self.in_size)
        y = self.linear(x.reshape(len(x), self.linear.c_in, self.linear.d_in))
        return y.reshape(len(x), self.c_out, *self.out_size)

    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place; 0 silences a path that is about to be tried."""
        self.linear.scale_output_(factor)

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix `[c_out * v, c_in * x]`."""
        return self.linear.to_dense()

    def extra_repr(self) -> str:
        """Channels and sizes, for printing."""
        return f"{self.c_in}, {self.c_out}, in_size={self.in_size}, out_size={self.out_size}"
