"""S-FC against F-FC at 32 x 32 with half of the anchors, and the price of a hyperparameter's gradient.

Per datum F-FC costs c_in c_out (x + v) products; S-FC costs c_in c_out (p + q) and, for its projections,
c_in x p + c_out q v. So there are two regimes. `wide` (64 -> 64 channels, 32 x 32 -> 16 x 16, batches of 2)
is bound by moving the weights, of which S-FC has half: forward + backward, factors (of 1,280 images, 128 at a
time) and the memory of both must be less. `narrow` (20 -> 40, batch 128) is bound by arithmetic, and at p =
x / 2 the projections cost more than they save below about a thousand channels: that ratio is printed and has
no bound.

    python experiments/benchmarks/s_fc.py

Axes: batch, c_in, c_out, h, w.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import Comparison, Measure, Prepare, Side, at_scale, benchmark
from torch import Tensor, nn

import kfac
from symlearn.evidence.gradient import Estimator, HyperObjective, evidence_gradients
from symlearn.layers import FactoredLinear2d, SparseLinear2d
from symlearn.layers.declared import hyperparameters_of
from symlearn.networks import build_model

SIZE, CLASSES = at_scale(32, smoke=4), 10
FORMS: dict[str, type[nn.Module]] = {"F-FC": FactoredLinear2d, "S-FC": SparseLinear2d}
REGIMES = {  # batch, c_in, c_out, size of the output
    "wide": at_scale((2, 64, 64, SIZE // 2), smoke=(2, 4, 4, SIZE // 2)),
    "narrow": at_scale((128, 20, 40, SIZE // 2), smoke=(3, 2, 3, SIZE // 2)),
}
IMAGES = at_scale(256, smoke=10)  # of the whole network
BATCHES, BATCH = at_scale(
    (10, 128), smoke=(2, 10)
)  # of the factors' data: more rows than an input has places, as in training


def layer_and_images(form: str, batch: int, c_in: int, c_out: int, out: int) -> tuple[nn.Module, Tensor]:
    """One layer, and noise `[batch, c_in, h, w]`."""
    torch.manual_seed(0)
    return FORMS[form](c_in, c_out, SIZE, out), torch.randn(batch, c_in, SIZE, SIZE)


def forward_backward(form: str, regime: str) -> Prepare:
    """Output, and the gradients of the weights and of the input."""

    def prepare() -> Side:
        layer, x = layer_and_images(form, *REGIMES[regime])
        inputs = [x.requires_grad_(), *layer.parameters()]
        cotangent = torch.randn_like(layer(x))
        return lambda: torch.autograd.grad(layer(x), inputs, cotangent)

    return prepare


def factors(form: str, regime: str) -> Prepare:
    """Type-2 factors of the layer's parameters under a frozen linear head, and their eigenvalues."""

    def prepare() -> Side:
        _, c_in, c_out, out = REGIMES[regime]
        layer, x = layer_and_images(form, BATCH, c_in, c_out, out)
        head = nn.Linear(c_out * out**2, CLASSES).requires_grad_(False)
        model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), head)
        loader = [(torch.randn_like(x), torch.arange(BATCH) % CLASSES) for _ in range(BATCHES)]
        return lambda: kfac.compute_factors(model, loader, "classification").eigendecompose()

    return prepare


def sparse_network() -> HyperObjective:
    """The `small` network with S-FC and S-CONV in every layer, and `IMAGES` images; one sketched column."""
    torch.manual_seed(0)
    model = build_model("s-fc+s-conv", network="small", size=16, learn=("lengthscale",))
    data = (torch.randn(IMAGES, 1, 16, 16), torch.arange(IMAGES) % CLASSES)
    delta = {name: 1.0 for name, _ in model.named_parameters()}
    return HyperObjective(
        model, data, delta, curvature={"fisher_type": "sketch", "group_factors": "shared", "seed": 0}
    )


def hyper_gradient(estimator: Estimator) -> Prepare:
    """The gradient of the evidence with respect to all eighteen lengthscales."""

    def prepare() -> Side:
        goal = sparse_network()
        declared = hyperparameters_of(goal.model)
        return lambda: evidence_gradients(goal, declared, estimator)

    return prepare


def kfac_pass() -> Side:
    """The curvature pass of the same data, with eigenvalues."""
    goal = sparse_network()

    def run() -> object:
        factors = kfac.compute_factors(goal.model, [goal.data], "classification", **goal.curvature)
        return factors.eigendecompose()

    return run


def sides() -> dict[str, Callable[[], Side]]:
    """Everything that is timed."""
    found: dict[str, Callable[[], Side]] = {}
    for regime in REGIMES:
        for form in FORMS:
            found[f"{form}, forward + backward, {regime}"] = forward_backward(form, regime)
            found[f"{form}, factors, {regime}"] = factors(form, regime)
    found["KFAC pass"] = kfac_pass
    found["full gradient"] = hyper_gradient("full")
    found["local gradient"] = hyper_gradient("local")
    return found


def against(what: str, at_least: float | None = 1, measure: Measure = "seconds") -> Comparison:
    """F-FC over S-FC."""
    unit = "" if measure == "seconds" else ", memory"
    name, ffc, sfc = f"F-FC / S-FC, {what}{unit}", f"F-FC, {what}", f"S-FC, {what}"
    return Comparison(name, ffc, sfc, at_least=at_least, measure=measure)


if __name__ == "__main__":
    benchmark(
        "s_fc",
        sides(),
        [
            against("forward + backward, wide"),
            against("forward + backward, wide", measure="peak_mebibytes"),
            against("factors, wide"),
            against("factors, wide", measure="peak_mebibytes"),
            against("forward + backward, narrow", at_least=None),
            against("factors, narrow"),
            Comparison("full gradient / KFAC pass", "full gradient", "KFAC pass"),
            Comparison("local gradient / KFAC pass", "local gradient", "KFAC pass"),
        ],
        repeats=3,
    )
