"""Looking at a network without changing it, and with derivatives.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Put a module into `eval` mode, and every part back into the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def differentiable_kernels(module: nn.Module) -> Iterator[None]:
    """Without the fused kernels that `eval` mode picks and that have no derivatives.

    Those are attention's fast path, and cuDNN's recurrent layers; cuDNN stays on for networks without them.
    """
    fast_path, cudnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cudnn.enabled = cudnn and not recurrent  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.cudnn.enabled = cudnn  # type: ignore[assignment]
