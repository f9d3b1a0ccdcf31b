"""filters.json: what the present paths' filters look like, small enough to keep and enough to draw.

A list with an entry a weight tensor: layer, path, part, size (h, w), of signals (t,), of volumes (d, h, w),
`filters` (the few of largest norm, each as many numbers as places, row by row), `turns` (how many of them in
a row are one filter's rotations), and for sparsified paths `anchors` (row, column) and `lengthscale`.

Axes: filter, size, anchor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from symlearn.layers.spatial_filters import HasSpatialFilters
from symlearn.layers.structure import relaxed_layers

MOST = 6  # filters kept of a tensor


@torch.no_grad()
def filters_of(model: nn.Module) -> list[dict[str, Any]]:
    """The entries of filters.json for a network's present paths."""
    entries = []
    for name, layer in relaxed_layers(model).items():
        for path in layer.active:
            module = layer.paths[path]
            if not isinstance(module, HasSpatialFilters):
                continue
            for shown in module.spatial_filters():
                values = shown.values.double().cpu()
                orbits = values.unflatten(0, (-1, shown.turns))  # [filter, turn, *size]
                order = orbits.flatten(1).norm(dim=1).argsort(descending=True, stable=True)
                kept = orbits[order[:MOST]].flatten(0, 1)
                entries.append(
                    {
                        "layer": name,
                        "path": path,
                        "part": shown.part,
                        "size": list(values.shape[1:]),
                        "turns": shown.turns,
                        "filters": _rounded(kept.flatten(1)),
                        "anchors": None if shown.anchors is None else _rounded(shown.anchors.double().cpu()),
                        "lengthscale": shown.lengthscale,
                    }
                )
    return entries


def _rounded(values: torch.Tensor) -> list[list[float]]:
    """Four significant digits: a figure shows no more."""
    return [[float(f"{v:.4g}") for v in row] for row in values.tolist()]
