"""How sparse an unfolded network's codes are: share of entries that are not zero, by layer and bank.

Axes: batch, filter, turn, h, w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kfac import evaluated
from symlearn.layers.cyclic_unfolded import CyclicUnfolded2d
from symlearn.layers.orbit_average import network_within

IMAGES = 100  # data the shares are measured on


@torch.no_grad()
def code_sparsity(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """The `sparsity` of report.json: layer, path and `nonzero`, a fraction; empty for other networks."""
    network = network_within(model)
    if not isinstance(network, CyclicUnfolded2d):
        return []
    with evaluated(network):
        return [
            {"layer": f"layers.{number}", "path": bank, "nonzero": float((code != 0).double().mean())}
            for number in range(network.iterations)
            for bank, code in network.codes(x[:IMAGES], number + 1).items()
            if bank in network.layer(number).active
        ]
