"""How sparse an unfolded network's codes are: share of entries that are not zero, by layer and bank.

Axes: batch, filter, turn, h, w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kfac import evaluated
from symlearn.layers.cyclic_unfolded import CyclicUnfolded2d

IMAGES = 100  # data the shares are measured on


@torch.no_grad()
def code_sparsity(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """The `sparsity` of report.json: layer, path and `nonzero`, a fraction; empty for other networks."""
    if not isinstance(model, CyclicUnfolded2d):
        return []
    with evaluated(model):
        return [
            {"layer": f"layers.{number}", "path": bank, "nonzero": float((code != 0).double().mean())}
            for number in range(model.iterations)
            for bank, code in model.codes(x[:IMAGES], number + 1).items()
            if bank in model.layer(number).active
        ]
