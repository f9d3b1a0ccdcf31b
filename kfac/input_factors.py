"""Input factors A anew, with output factors B held fixed: curvature that follows what moves the inputs.

A needs one forward pass and no backward pass for the columns of the loss Hessian's root, so a gradient
through A alone costs about as much as one of the log-likelihood. It is blind to how B changes.

Axes: batch, group, place, d_in.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from kfac.batches import Batches, batches_of
from kfac.calls import recorded_calls
from kfac.checks import prepared, run
from kfac.collect import Collector, Curvature, Role, Sums, WeightSharing
from kfac.draws import Draws
from kfac.factors import Block, KroneckerBlock, KroneckerFactors, NearestKroneckerBlock
from kfac.loss_hessian import Likelihood


def renew_input_factors(
    model: nn.Module,
    loader: Batches,
    likelihood: Likelihood,
    fixed: KroneckerFactors,
    weight_sharing: WeightSharing = "expand",
    at_full_resolution: bool = False,
) -> KroneckerFactors:
    """Compute every A anew from `loader`, differentiable in what the inputs depend on.

    Args:
        model: the network that `fixed` was computed for, in the same set-up.
        loader: the data behind `fixed`, as for `compute_factors`.
        likelihood: "classification" or "regression".
        fixed: of `compute_factors` on these data; its B and log-likelihood count as fixed.
        weight_sharing: as for `fixed`.
        at_full_resolution: as for `fixed`.

    Returns:
        Factors of the same blocks, with the new A and `fixed`'s B, log-likelihood and counts. Blocks without
        A (biases, exact and diagonal ones) are those of `fixed`.

    Raises:
        ValueError: as `compute_factors`.
    """
    curvature = Curvature(likelihood, weight_sharing=weight_sharing, differentiable=True)
    with prepared(model):
        collector = Collector(model, curvature, "diagonal", Draws(), at_full_resolution)
        for x, _ in batches_of(loader, model, likelihood):
            with torch.enable_grad(), recorded_calls(collector.owners, len(x), keep_graph=True) as calls:
                run(model, x)
            collector.add_inputs(calls)
    blocks = {name: _renewed(block, collector.sums.get(name, {})) for name, block in fixed.items()}
    return KroneckerFactors(blocks, fixed.n_data, fixed.log_likelihood, fixed.n_targets)


def _renewed(block: Block, sums: dict[Role, Sums]) -> Block:
    """A block with the A of these sums, use by use."""
    if isinstance(block, NearestKroneckerBlock):
        return replace(block, uses=tuple(_of_use(use, sums) for use in block.uses))
    return _of_use(block, sums) if isinstance(block, KroneckerBlock) else block


def _of_use(block: KroneckerBlock, sums: dict[Role, Sums]) -> KroneckerBlock:
    return block if block.inputs is None else replace(block, inputs=sums[block.order].inputs)
