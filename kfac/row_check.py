"""Whether rows reproduce autograd's own gradients, asked before the first batch counts.

A weight that is also used outside its module, or a rule that is wrong for its layer, is named instead of half
counted. What may differ is rounding: in the coarsest type that the network computes in.

Axes: batch, group, place, d_in, d_out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kfac.calls import lowest_precision, pull_back, recorded_calls
from kfac.checks import explained_backward, run
from kfac.owners import Owner
from kfac.precision import working

TOLERANCES = {  # of gradients that are compared: relative, and in roundings of sums without cancellation
    torch.float64: (1e-6, 100),
    torch.float32: (1e-2, 100),
    torch.float16: (2e-2, 8),
    torch.bfloat16: (2e-2, 8),
}


def compare_with_autograd(
    model: nn.Module, owners: list[Owner], parameters: Mapping[str, Tensor], x: Tensor
) -> None:
    """Check that rows reproduce autograd's gradients on a few data.

    Raises:
        ValueError: they do not, for a named parameter.
    """
    with torch.enable_grad(), recorded_calls(owners, len(x)) as calls:
        f = run(model, x)
    cotangent = torch.cos(torch.arange(f.numel(), dtype=f.dtype, device=f.device)).reshape(f.shape)
    grads = pull_back(f, calls, cotangent, keep=True)
    names = [n for owner in owners for n in (owner.weight, owner.bias) if n]
    names = list(dict.fromkeys(names))
    if not names:
        return
    with explained_backward():
        truths = torch.autograd.grad(f, [parameters[n] for n in names], cotangent, allow_unused=True)
    expected = [None if truth is None else working(truth) for truth in truths]
    found: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}  # the same sums without cancellation: what rounding is measured against
    for call, g in zip(calls, grads, strict=True):
        if g is None:
            continue
        owner, rule = call.owner, call.owner.rule
        if owner.weight and rule.exact:
            gradient = rule.weight_rows(owner.module, call.input(), g)
            total = gradient.sum(0).reshape(parameters[owner.weight].shape)
            found[owner.weight] = found.get(owner.weight, 0) + total
            size[owner.weight] = size.get(owner.weight, 0) + gradient.abs().sum()
        elif owner.weight:
            a, rows = rule.input_rows(owner.module, call.input()), rule.output_rows(owner.module, g)
            blocks = torch.einsum("gbro,gbri->goi", rows, a).permute(rule.order)
            found[owner.weight] = found.get(owner.weight, 0) + blocks.reshape(parameters[owner.weight].shape)
            size[owner.weight] = size.get(owner.weight, 0) + (rows.norm(dim=-1) * a.norm(dim=-1)).sum()
        if owner.bias:
            bias = rule.bias_rows(owner.module, g).sum(0).reshape(parameters[owner.bias].shape)
            found[owner.bias] = found.get(owner.bias, 0) + bias
            size[owner.bias] = size.get(owner.bias, 0) + rule.bias_rows(owner.module, g.abs()).sum()
    coarsest = lowest_precision(f, calls)
    tolerance, roundings = TOLERANCES[coarsest]
    rounding = roundings * torch.finfo(coarsest).eps
    for name, truth in zip(names, expected, strict=True):
        truth = torch.zeros_like(working(parameters[name])) if truth is None else truth
        difference = (found.get(name, torch.zeros_like(truth)) - truth).norm()
        if difference > tolerance * truth.norm() + rounding * size.get(name, 0.0) + 1e-12:
            raise ValueError(
                f"{name!r} is used in a way its curvature rule does not see (relative error of its gradient "
                f"{float(difference / truth.norm().clamp_min(1e-30)):.1e}): call the weight only through its "
                'own module, or declare fallback={name: "diagonal"}'
            )
