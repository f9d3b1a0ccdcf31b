"""Whether the machine has room for a fit, asked before its first pass.

Axes: c, h, w, group, d.
"""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor, nn

from kfac import evaluated, find_owners, recorded_calls
from symlearn.analysis.predictive import MEMORY
from symlearn.cost.dry_fit import EVALUATED, FLOAT64, FitSizes, memory_of
from symlearn.cost.memory import available_bytes, fewer_weights, needed_and_free
from symlearn.curvature.coverage import has_evidence

PLENTY = 4  # times the rough count that must be free for no closer look


def expect_room(model: nn.Module, given: FitSizes, device: torch.device) -> None:
    """Refuse a fit that the machine has no memory for; data and network are there already.

    A closer look is taken only where a rough count, far above what fits hold, is no fraction of what is free.

    Raises:
        ValueError: bytes needed, bytes free, and what to change.
    """
    free = available_bytes(device)
    if free is None or PLENTY * rough_bytes(model, given) < free:
        return
    try:
        memory = memory_of(model, given)
    except ValueError as error:
        warnings.warn(f"{error}, so its memory is not predicted", stacklevel=3)
        return
    if memory.rise > free:
        told = needed_and_free(memory, memory.rise, free, given.config, fewer_weights(model))
        raise ValueError(f"the fit does not fit into memory: {told}")


def rough_bytes(model: nn.Module, given: FitSizes) -> int:
    """A count above what a fit of these sizes holds: parameters, outputs and factors, many times each."""
    like = next(model.parameters())
    image = torch.zeros(1, *given.image, dtype=like.dtype, device=like.device)
    config = given.config
    batch = max(cast(int, config.training.batch_size), config.curvature.batch_size, EVALUATED)
    parameters = sum(p.numel() for p in model.parameters())
    curved = has_evidence(model, config.curvature)
    factors = sum(groups * d * d for groups, d in factor_shapes(model, image)) if curved else 0
    outputs = numbers_put_out(model, image) + image.numel()
    candidates = 10 * config.evidence.proposals if config.evidence.selection == "search" else 0
    counted = (
        (50 + candidates) * parameters + 20 * factors + 60 * outputs * min(batch, given.train + given.test)
    )
    return FLOAT64 * counted + 2 * MEMORY


def factor_shapes(model: nn.Module, image: Tensor, shared: bool = False) -> list[tuple[int, int]]:
    """Shapes of the Kronecker factors of a network, A of every weight and B of every tensor.

    Args:
        model: the network.
        image: one, `[1, c, h, w]`.
        shared: whether groups that count as places share their B.

    Returns:
        (group, d) of every factor `[group, d, d]`, in the order of their first use.
    """
    owners, _, _ = find_owners(model, "diagonal")
    with evaluated(model), torch.enable_grad(), recorded_calls(owners, 1) as calls:
        model(image)
    found: dict[tuple[str, object], list[tuple[int, int]]] = {}
    for call in calls:
        owner, rule = call.owner, call.owner.rule
        g = torch.empty(call.y_shape, dtype=image.dtype, device=image.device)
        if owner.weight and rule.exact:
            found[owner.weight, None] = [(1, rule.weight_rows(owner.module, call.x, g).shape[-1])]
        elif owner.weight:
            a_groups, _, _, d_in = rule.input_rows(owner.module, call.x).shape
            b_groups, _, _, d_out = rule.output_rows(owner.module, g).shape
            one = shared and rule.groups_are_places
            found[owner.weight, rule.order] = [(a_groups, d_in), (1 if one else b_groups, d_out)]
        if owner.bias:
            found[owner.bias, None] = [(1, rule.bias_rows(owner.module, g).shape[-1])]
    return [shape for shapes in found.values() for shape in shapes]


def numbers_put_out(model: nn.Module, image: Tensor) -> int:
    """Numbers that the modules without children put out for one image."""
    total = 0

    def count(_: nn.Module, __: object, y: object) -> None:
        nonlocal total
        total += y.numel() if isinstance(y, Tensor) else 0

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with evaluated(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return total
