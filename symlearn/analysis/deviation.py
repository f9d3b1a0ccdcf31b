"""How large a layer's deviations are beside the whole: whether it is nearly symmetric or hardly.

The share of a layer's deviations is the mean square of their output over that of the layer's, for white
noise, biases apart: the squared Frobenius norm of their map over that of the whole map. A deviation is
orthogonal to the path it stands beside, so the share lies in [0, 1] there; filters that have nothing in
common over the elements of a group deviate by 1 - 1 / |group|, by 3/4 for p4. Paths that map straight to a
layer's output size (F-FC) are left out of the whole: a layer that needs one is not nearly symmetric.

Axes: batch, c, group, h, w.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from symlearn.layers.path_sum import PathSum
from symlearn.layers.registry import path_kind
from symlearn.layers.relaxed import RelaxedLayer2d

IMAGES = 64  # of white noise, the same at every call


@torch.no_grad()
def deviation_share(layer: PathSum) -> float | None:
    """Measure the deviations of a layer; see the module's notation.

    Args:
        layer: with any paths.

    Returns:
        The share, 0 if all its deviations are switched off; None if it has no such paths, or no output at
        full resolution.
    """
    deviating = {name for name in layer.path_names if path_kind(name).deviates_from}
    if not deviating:
        return None
    assert isinstance(layer, RelaxedLayer2d), "nothing else takes deviations"
    shape = (layer.c_in, *(() if layer.group is None else (layer.members,)), *layer.in_size)
    noise = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(layer.parameters()))

    def output(names: Collection[str]) -> Tensor:
        quiet = torch.zeros_like(noise[:1])
        return torch.stack([layer.through(name, noise) - layer.through(name, quiet) for name in names]).sum(0)

    full = [name for name in layer.active if path_kind(name).full_resolution]
    part = [name for name in full if name in deviating]
    whole = float(output(full).square().mean()) if full else 0.0
    if whole == 0:
        return None
    return float(output(part).square().mean()) / whole if part else 0.0
