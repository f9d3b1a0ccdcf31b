"""Layers with curvature rules in BackPACK: its quantities for what it does not know, or reads wrongly.

    from backpack import backpack, extend, extensions
    model, loss = kfac.extend(model), extend(nn.CrossEntropyLoss())
    wanted = kfac.backpack_extensions(model, extensions.BatchGrad(), extensions.DiagGGNExact())
    with backpack(*wanted):
        loss(model(x), y).backward()          # p.grad_batch, p.diag_ggn_exact, p.kflr, p.kfac

A *block* is a module with rules for all its parameters, or without parameters, whose exact type BackPACK does
not map (or maps to a zero-padded convolution where the padding is another): a layer of several factors, a sum
of paths, a pooling. It runs forward once more in the backward pass, is observed as in `kfac.collect`, and
pulls BackPACK's matrix square roots M `[column, batch, *out]` back to its parameters and its input:

    BatchGrad   G_n = sum_r g_r a_r^T        DiagGGN  sum_{column, n} G_n^2
    KFLR, KFAC  [B, A] with B = sum g g^T, A = sum a a^T / (batch * places);  [B] of biases and norm layers

M carries the loss' own average over the batch. Factors of several groups keep them apart, `[group, d, d]`.

Axes: column, batch, group, place, d_in, d_out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import backpack
import torch
from backpack.extensions import KFAC, KFLR, BatchGrad, DiagGGNExact, DiagGGNMC
from backpack.extensions.backprop_extension import BackpropExtension
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kfac.calls import recorded_calls
from kfac.checks import check_modules
from kfac.datum_gradients import Rows, input_rows, rows_by_parameter
from kfac.owners import Owner, find_owners
from kfac.precision import accumulated, working
from kfac.rules import gram

MARK = "_kfac_backpack_block"
Quantity = Callable[[Iterable[Rows], dict[str, Owner], nn.Module], dict[str, Any]]


def entries_of(a: Tensor, g: Tensor, owner: Owner, shape: torch.Size) -> Tensor:
    """G_n `[batch, *shape]` of one parameter."""
    blocks = torch.einsum("gbro,gbri->bgoi", g, a)
    return blocks.permute(0, *(1 + axis for axis in owner.rule.order)).reshape(-1, *shape)


def batch_gradients(columns: Iterable[Rows], owners: dict[str, Owner], module: nn.Module) -> dict[str, Any]:
    """Every datum's own gradient, of the one column there is."""
    return {
        name: entries_of(a, g, owners[name], module.get_parameter(name).shape)
        for rows in columns
        for name, (a, g) in rows.items()
    }


def ggn_diagonals(columns: Iterable[Rows], owners: dict[str, Owner], module: nn.Module) -> dict[str, Any]:
    """Diagonals of the blocks, in the parameters' type."""
    sums: dict[str, Tensor] = {}
    for rows in columns:
        for name, (a, g) in rows.items():
            entries = entries_of(a, g, owners[name], module.get_parameter(name).shape)
            sums[name] = accumulated(sums.get(name), entries.square().sum(0))
    return {name: total.to(module.get_parameter(name).dtype) for name, total in sums.items()}


def kronecker_factors(columns: Iterable[Rows], owners: dict[str, Owner], module: nn.Module) -> dict[str, Any]:
    """[B, A] of weights, [B] of what has one row a datum, in the parameters' type."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for rows in columns:
        for name, (a, g) in rows.items():
            outputs[name] = accumulated(outputs.get(name), gram(g))
            if name not in inputs and name != owners[name].bias and not owners[name].rule.exact:
                inputs[name] = gram(a) / (a.shape[1] * a.shape[2])
    found: dict[str, Any] = {}
    for name, b in outputs.items():
        kind = module.get_parameter(name).dtype
        factors = [f.to(kind) for f in (b, inputs.get(name)) if f is not None]
        found[name] = [factor[0] if len(factor) == 1 else factor for factor in factors]
    return found


QUANTITIES: dict[type[BackpropExtension], Quantity] = {
    BatchGrad: batch_gradients,
    DiagGGNExact: ggn_diagonals,
    DiagGGNMC: ggn_diagonals,
    KFLR: kronecker_factors,
    KFAC: kronecker_factors,
}


@contextmanager
def unhooked(module: nn.Module) -> Iterator[None]:
    """The module without hooks of its own, so that running it again triggers nothing."""
    kept = {key: getattr(module, key) for key in ("_forward_hooks", "_backward_hooks")}
    for key in kept:
        setattr(module, key, OrderedDict())
    try:
        yield
    finally:
        for key, hooks in kept.items():
            setattr(module, key, hooks)


class BlockExtension:
    """What BackPACK calls for a module of a type: ours for blocks, `otherwise` for others.

    Args:
        quantity: what to compute of a block.
        otherwise: BackPACK's own for the type, if it has one.
    """

    def __init__(self, quantity: Quantity, otherwise: Any | None) -> None:
        self.quantity, self.otherwise = quantity, otherwise

    def __call__(
        self, ext: BackpropExtension, module: nn.Module, g_inp: tuple[Tensor], g_out: tuple[Tensor]
    ) -> None:
        """Save the parameters' quantities, and what goes on to the input."""
        if not getattr(module, MARK, False):
            if self.otherwise is None:
                raise NotImplementedError(
                    f"BackPACK has no rule for {type(module).__name__}; prepare the network with kfac.extend"
                )
            self.otherwise(ext, module, g_inp, g_out)
            return
        if ext.get_subsampling() is not None:
            raise NotImplementedError("subsampling is not offered for this layer; take the whole batch")
        second_order = ext.expects_backpropagation_quantities()
        output: Any = module.output
        roots = g_out[0].unsqueeze(0)
        if second_order:
            roots = ext.saved_quantities.retrieve_quantity(output.data_ptr(), delete_old=True)
            if roots is None:
                raise NotImplementedError(
                    f"nothing came back to the output of {type(module).__name__}: an operation outside any "
                    "module follows it; wrap that in a module"
                )
        entry: Any = module.input0
        values, back = self.pulled(module, entry, roots.reshape(-1, *output.shape))
        for name, value in values.items():
            setattr(module.get_parameter(name), ext.savefield, value)
        if second_order and entry.requires_grad:
            ext.saved_quantities.save_quantity(
                entry.data_ptr(), back, ext.accumulate_backpropagated_quantities
            )

    def pulled(self, module: nn.Module, entry: Tensor, roots: Tensor) -> tuple[dict[str, Any], Tensor | None]:
        """Quantities by parameter, and the roots at the input `[column, batch, *in]`."""
        check_modules(module)
        if any(part.training for part in module.modules() if isinstance(part, nn.modules.dropout._DropoutNd)):
            raise ValueError("dropout would draw anew when a layer runs again; use model.eval()")
        owners, _, _ = find_owners(module, {})
        by_name = {name: owner for owner in owners for name in (owner.weight, owner.bias) if name}
        x = entry.detach().requires_grad_(entry.requires_grad)
        with torch.enable_grad(), unhooked(module), recorded_calls(owners, len(x)) as calls:
            y = module(x)
        ends: list[Any] = [*(call.edge for call in calls), *([x] if x.requires_grad else [])]
        inputs = [input_rows(call) for call in calls]
        back: list[Tensor] = []

        def columns() -> Iterator[Rows]:
            for k, root in enumerate(roots if ends else ()):
                grads = torch.autograd.grad(y, ends, root, retain_graph=k + 1 < len(roots), allow_unused=True)
                if x.requires_grad:
                    back.append(torch.zeros_like(x) if grads[-1] is None else grads[-1])
                own: list[Tensor | None] = [None if g is None else working(g) for g in grads[: len(calls)]]
                yield rows_by_parameter(calls, inputs, own)

        values = self.quantity(columns(), by_name, module)
        return values, torch.stack(back) if back else None


def is_block(module: nn.Module, known: set[type]) -> bool:
    """Whether BackPACK must be helped with a module."""
    if isinstance(module, nn.Sequential):
        return False
    misread = isinstance(module, _ConvNd) and (module.padding_mode != "zeros" or module.groups > 1)
    return misread or type(module) not in known


def known_types() -> set[type]:
    """Types that BackPACK has first- and second-order rules for."""
    tables = [ext._BackpropExtension__module_extensions for ext in (DiagGGNExact(), KFLR())]
    return set(tables[0]) & set(tables[1])


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network, outermost ones only."""
    known = known_types()
    waiting = [model]
    while waiting:
        module = waiting.pop(0)
        if is_block(module, known):
            yield module
        else:
            waiting += module.children()


def extend(model: nn.Module) -> nn.Module:
    """`backpack.extend` for networks with blocks.

    Returns:
        The network itself, its blocks marked and its other modules hooked by BackPACK.

    Raises:
        ValueError: a parameter without a curvature rule (named).
    """
    for block in blocks(model):
        find_owners(block, {})
        setattr(block, MARK, True)
        for part in block.modules():
            if part is not block:
                setattr(part, "_backpack_extend", True)  # noqa: B010, BackPACK's mark of what needs no hooks
    return backpack.extend(model)


def backpack_extensions(model: nn.Module, *extensions: BackpropExtension) -> tuple[BackpropExtension, ...]:
    """BackPACK extensions that know a network's blocks.

    Args:
        model: prepared by `extend`.
        extensions: instances of `BatchGrad`, `DiagGGNExact`, `DiagGGNMC`, `KFAC` or `KFLR`; told about the
            blocks in place.

    Returns:
        The very extensions given, in their order, to be passed on to `backpack.backpack(*...)`.

    Raises:
        ValueError: another extension.
    """
    types = {type(module) for module in model.modules() if getattr(module, MARK, False)}
    for ext in extensions:
        if type(ext) not in QUANTITIES:
            offered = ", ".join(kind.__name__ for kind in QUANTITIES)
            raise ValueError(f"{type(ext).__name__} is not offered for these layers; choose of {offered}")
        table = ext._BackpropExtension__module_extensions  # type: ignore[attr-defined]
        for kind in types:
            own = table.get(kind)
            otherwise = own.otherwise if isinstance(own, BlockExtension) else own
            handler: Any = BlockExtension(QUANTITIES[type(ext)], otherwise)
            ext.set_module_extension(kind, handler, overwrite=True)
    return extensions
