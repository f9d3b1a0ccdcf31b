"""Arithmetic without subnormal numbers, while a network is trained.

Paths that the evidence switches off shrink by a factor a step, and so do the moments of weights that get no
gradient any more. On their way to zero they pass through the subnormal floats (below 1.2e-38), on which many
processors compute ten to a hundred times slower; they contribute nothing to a result.

Processors keep the setting by thread. Threads that torch starts later take it over, those that run already
keep their own; so a process that trains on several threads should enter before its first large operation, as
the command line does. Otherwise a part of every large tensor keeps its subnormals.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALLEST = torch.finfo(torch.float32).tiny  # of the normal float32 numbers


def flushes() -> bool:
    """Whether this thread rounds subnormal results to zero."""
    return not bool(torch.full((1,), SMALLEST).mul_(0.5).item())


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Round subnormal numbers to zero where the processor can, and undo it for this thread afterwards.

    Threads that it starts meanwhile keep the setting for as long as they live.
    """
    before = flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
