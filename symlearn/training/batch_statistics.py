"""Running statistics of batch normalisation, measured anew over the training set.

While weights move, the running mean and variance follow them with a lag, and after a short fit they describe
a network that no longer exists. Curvature and evidence are those of the network in `eval` mode, so the
statistics are brought up to the present weights first (as Izmailov et al. 2018, section 3.2, do for averaged
weights).

Axes: batch, c, h, w.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kfac import evaluated
from symlearn.data.samples import SamplesLike, samples_of


@torch.no_grad()
def settle_batch_statistics(model: nn.Module, data: SamplesLike, size: int = 500) -> None:
    """Replace the running statistics by their mean over batches of images, all other parts in `eval` mode.

    Nothing random is drawn; a network without such statistics is left as it is.

    Args:
        model: changed in place.
        data: the training set, taken in batches as equal as can be.
        size: images a batch, at most.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluated(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            for x, _ in samples_of(data).even_batches(size):
                model(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
