"""A datum's gradients as rows: what the passes need that look at sums over places, not at places.

For every column of the loss Hessian's root, a weight's gradient at datum n is G_n = sum_r g_r a_r^T over all
places, copies and calls that use it. A parameter with one gradient a datum (biases, norm layers) has a = 1.

Axes: batch, group, place, d_in, d_out, column, params.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kfac.averages import copies_as_places, sum_over_copies
from kfac.calls import Call, pull_back, recorded_calls
from kfac.checks import run
from kfac.collect import Curvature
from kfac.diagonal import exact_diagonals
from kfac.draws import Draws
from kfac.factors import Order
from kfac.loss_hessian import Columns, check_outputs, square_root
from kfac.owners import Owner

Turn = Callable[[str, Tensor], Tensor]
Rows = dict[str, tuple[Tensor, Tensor]]


def unturned(name: str, rows: Tensor) -> Tensor:
    """Rows as they are."""
    return rows


def input_rows(call: Call, turn: Turn = unturned) -> Tensor | None:
    """Rows a `[group, batch, place, d_in]` of a call's weight, or None if it has none."""
    owner = call.owner
    if not owner.weight or owner.rule.exact:
        return None
    rows = owner.rule.input_rows(owner.module, call.input())
    return turn(owner.weight, copies_as_places(rows, call.copies))


def rows_by_parameter(
    calls: list[Call], inputs: list[Tensor | None], grads: list[Tensor | None], turn: Turn = unturned
) -> Rows:
    """Rows (a, g) of every parameter for one column, all its uses side by side along the places.

    Args:
        calls: of one forward pass.
        inputs: `input_rows` of each.
        grads: gradients at each call's output.
        turn: applied to rows g `[group, batch, place, d_out]`.

    Returns:
        (a `[group, batch, place, d_in]`, g `[group, batch, place, d_out]`) by parameter name, such that the
        gradient of datum n is sum_place g a^T; parameters that took no part are missing.
    """
    uses: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def single(name: str, rows: Tensor, copies: int) -> None:
        g = turn(name, sum_over_copies(rows, copies)[None, :, None])
        uses.setdefault(name, []).append((g.new_ones(*g.shape[:3], 1), g))

    for call, a, g in zip(calls, inputs, grads, strict=True):
        if g is None:
            continue
        owner, rule = call.owner, call.owner.rule
        if owner.weight and a is not None:
            rows = turn(owner.weight, copies_as_places(rule.output_rows(owner.module, g), call.copies))
            uses.setdefault(owner.weight, []).append((a, rows))
        elif owner.weight:
            single(owner.weight, rule.weight_rows(owner.module, call.input(), g), call.copies)
        if owner.bias:
            single(owner.bias, rule.bias_rows(owner.module, g), call.copies)
    return {
        name: pairs[0]
        if len(pairs) == 1
        else (torch.cat([a for a, _ in pairs], 2), torch.cat([g for _, g in pairs], 2))
        for name, pairs in uses.items()
    }


@dataclass
class DatumGradients:
    """Rows of a network's gradients, batch by batch.

    Attributes:
        model: in `eval` mode.
        owners: the modules with rules.
        diagonal: parameters of which only the diagonal is asked for.
        curvature: likelihood and columns.
        draws: what random columns come from.
        turn_input: applied to rows a `[group, batch, place, d_in]` once a batch.
        turn_output: applied to rows g `[group, batch, place, d_out]` of every column.

    Raises:
        ValueError: a weight in several roles, whose rows cannot stand side by side.
    """

    model: nn.Module
    owners: list[Owner]
    diagonal: Mapping[str, Tensor]
    curvature: Curvature
    draws: Draws
    turn_input: Turn = unturned
    turn_output: Turn = unturned

    def __post_init__(self) -> None:
        roles: dict[str, set[Order]] = {}
        for owner in self.owners:
            if owner.weight:
                roles.setdefault(owner.weight, set()).add(owner.rule.order)
        several = sorted(name for name, orders in roles.items() if len(orders) > 1)
        if several:
            others = len(several) - 1
            them = f"{several[0]} and {others} more are" if others else f"{several[0]} is"
            raise ValueError(
                f"{them} used in several roles, whose gradients lie differently in a basis; "
                "keep the Kronecker eigenvalues"
            )

    def of_batch(self, x: Tensor, y: Tensor) -> tuple[Iterator[Rows], dict[str, Tensor]]:
        """Rows (a, g) by parameter for every column, all uses side by side, and the diagonals."""
        with torch.enable_grad(), recorded_calls(self.owners, len(x)) as calls:
            f = run(self.model, x)
        curvature = self.curvature
        check_outputs(f, y, curvature.likelihood)
        columns = square_root(
            f.detach(), y, curvature.likelihood, curvature.fisher_type, curvature.mc_samples, self.draws
        )
        with torch.no_grad():
            diagonals = exact_diagonals(self.model, self.diagonal, x, columns) if self.diagonal else {}
        return self._columns(f, calls, columns), diagonals

    def _columns(self, f: Tensor, calls: list[Call], columns: Columns) -> Iterator[Rows]:
        inputs = [input_rows(call, self.turn_input) for call in calls]
        for k, column in enumerate(columns):
            grads = pull_back(f, calls, column, keep=k + 1 < len(columns))
            yield rows_by_parameter(calls, inputs, grads, self.turn_output)
