"""Eigendecompositions shared out over the processes of a group, by size.

Sums that have been all-reduced are the same in every process, so each block needs to be decomposed by one of
them only. The costliest go first, each to whoever has least to do; the spectra are then broadcast, so that
all processes hold the same numbers to the last bit, which decompositions on several machines do not promise.

Axes: group, d, params.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kfac.eigen import EigenBlock, EigenFactors
from kfac.process_groups import Ranks

FIELDS = ("eigenvalues", "input_vectors", "output_vectors")


@dataclass(frozen=True)
class Task:
    """A block that is to be decomposed.

    Attributes:
        cost: relative to those of other blocks.
        run: decomposes it.
    """

    cost: float
    run: Callable[[], EigenBlock]


def eigen_cost(groups: int, d: int) -> float:
    """What the decomposition of matrices `[group, d, d]` costs, in multiples of one number's."""
    return float(groups) * float(d) ** 3


def shares(costs: Mapping[str, float], size: int) -> dict[str, int]:
    """Share out tasks by their cost.

    Args:
        costs: by task.
        size: number of processes.

    Returns:
        The number of the process that does each task.
    """
    loads = [0.0] * size
    found = {}
    for name in sorted(costs, key=lambda key: (-costs[key], key)):
        rank = loads.index(min(loads))
        found[name] = rank
        loads[rank] += costs[name]
    return found


def decomposed(ranks: Ranks, tasks: Mapping[str, Task], device: torch.device) -> EigenFactors:
    """Decompose all blocks, each in one process.

    Args:
        ranks: the processes, with the same tasks.
        tasks: by parameter.
        device: of the blocks.

    Returns:
        The spectra of all blocks, the same in every process.

    Raises:
        ValueError: tasks differ, or one fails, on every process.
    """
    if ranks.size == 1:
        return EigenFactors({name: task.run() for name, task in tasks.items()})
    ranks.expect_same("factors", [f"{name} of cost {task.cost:g}" for name, task in tasks.items()])
    doers = shares({name: task.cost for name, task in tasks.items()}, ranks.size)
    own = ranks.together(lambda: {n: task.run() for n, task in tasks.items() if doers[n] == ranks.rank})
    told = ranks.gather({name: (block.needs_vectors, shapes_of(block)) for name, block in own.items()})
    blocks = {}
    for name in tasks:
        needs_vectors, shapes = told[doers[name]][name]
        tensors: list[Tensor | None] = []
        for field, shape in shapes.items():
            if shape is None:
                tensors.append(None)
                continue
            if name in own:
                tensor = getattr(own[name], field).contiguous()
            else:
                tensor = torch.empty(shape, dtype=torch.float64, device=device)
            ranks.broadcast(tensor, doers[name])
            tensors.append(tensor)
        values, inputs, outputs = tensors
        assert values is not None
        blocks[name] = EigenBlock(values, inputs, outputs, needs_vectors)
    return EigenFactors(blocks)


def shapes_of(block: EigenBlock) -> dict[str, tuple[int, ...] | None]:
    """Shapes of a spectrum's tensors, None for those that it has not."""
    tensors = {field: getattr(block, field) for field in FIELDS}
    return {field: None if t is None else tuple(t.shape) for field, t in tensors.items()}
