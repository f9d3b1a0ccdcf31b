"""Looking at a network without changing it, and with derivatives.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

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


@contextmanager
def autocast_within(model: nn.Module) -> Iterator[None]:
    """The caller's `torch.autocast` for the model's forward pass, and for nothing else while this is open.

    Autocast would take the products of rows down to its own type too, and backward passes belong outside it.
    """
    device = next((p.device.type for p in model.parameters()), "cpu")
    if device == "meta" or not torch.is_autocast_enabled(device):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    entered: list[AbstractContextManager[None]] = []

    def enter(*_: object) -> None:
        entered.append(torch.autocast(device, dtype))
        entered[-1].__enter__()

    def leave(*_: object) -> None:
        entered.pop().__exit__(None, None, None)

    handles = [
        model.register_forward_pre_hook(enter, prepend=True),
        model.register_forward_hook(leave, always_call=True),
    ]
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for handle in handles:
            handle.remove()
