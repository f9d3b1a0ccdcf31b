"""What a network's forward pass costs.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kfac import evaluated


def operations_of(model: nn.Module, x: Tensor) -> int | None:
    """Floating-point operations of a forward pass, a multiplication and an addition counting as two.

    Args:
        model: any network.
        x: a batch for it; one image is enough.

    Returns:
        Those that torch can count (convolutions and products of matrices); None where a network stops it.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads triton

    try:
        with torch.no_grad(), evaluated(model), FlopCounterMode(display=False) as counted:
            model(x)
    except Exception:  # noqa: BLE001 - what it cannot count it raises anything at; running says the rest
        return None
    return int(counted.get_total_flops())
