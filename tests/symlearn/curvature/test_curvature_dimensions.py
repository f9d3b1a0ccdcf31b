"""Curvature of every path on signals and volumes: exact where it is on images, odd and even sizes.

Axes as in `kfac`.
"""

from __future__ import annotations

import pytest
import torch
from oracles import assert_close, assert_exact
from torch import nn
from toys import batch_of

import kfac
import symlearn
from symlearn.layers import FactoredLinear2d, FullyConnected2d, SparseConv2d, SparseLinear2d
from symlearn.layers.conv import CIRCULAR_CONVS

LIKELIHOODS = ("classification", "regression")
SIZES = {"signal": ((7,), (4,)), "even signal": ((6,), (3,)), "volume": ((3, 2, 2), (2, 1, 3))}


def every_path(case: str) -> nn.Module:
    """CONV, S-CONV, F-FC, S-FC, FC, Linear in a row, tanh in between."""
    size, out = SIZES[case]
    torch.manual_seed(0)
    convolutions = [
        CIRCULAR_CONVS[len(size)](2, 2),
        nn.Tanh(),
        SparseConv2d(2, 2, (3, 2, 2)[: len(size)]),
        nn.Tanh(),
    ]
    model = nn.Sequential(
        *convolutions,
        FactoredLinear2d(2, 3, size, out),
        nn.Tanh(),
        SparseLinear2d(3, 2, out, out),
        nn.Tanh(),
        FullyConnected2d(2, 2, out, (1,) * len(out)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2, 3),
    )
    return model.double()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("case", SIZES)
def test_one_datum_is_exact_within_groups(case: str, likelihood: str) -> None:
    """All maps between places; of convolutions the biases."""
    model, batch = every_path(case), batch_of((2, *SIZES[case][0]), 1, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood)
    assert factors.names == tuple(name for name, _ in model.named_parameters())
    for name in factors.names:
        if not name.startswith(("0.weight", "2.weight")):
            assert_exact(factors, model, batch, likelihood, name)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("case", SIZES)
def test_filters_are_exact_under_reduce_on_constant_maps(case: str, likelihood: str) -> None:
    model = every_path(case)
    x, y = batch_of((2, *SIZES[case][0]), 1, likelihood=likelihood)
    constant = x.flatten(2)[..., :1].reshape(1, 2, *[1] * (x.dim() - 2)).expand(x.shape).contiguous()
    factors = kfac.compute_factors(model, [(constant, y)], likelihood, weight_sharing="reduce")
    for name in ("0.weight", "2.weight"):
        assert_exact(factors, model, (constant, y), likelihood, name)


@pytest.mark.parametrize("case", SIZES)
def test_expanded_filters_are_the_sums_over_places(case: str) -> None:
    """A and B of the definition: by rows, each place by itself, from gradients of a linear function."""
    model, (x, y) = every_path(case), batch_of((2, *SIZES[case][0]), 5, likelihood="regression")
    factors = kfac.compute_factors(model, [(x, y)], "regression")
    layer = model[0]
    dims = tuple(range(2, x.dim()))
    rolls = torch.cartesian_prod(*[torch.arange(-1, 2)] * len(dims)).reshape(-1, len(dims)).tolist()
    patches = torch.stack([x.roll([-r for r in roll], dims) for roll in rolls], 2).flatten(1, 2)
    rows = patches.flatten(2).transpose(1, 2).flatten(0, 1)  # [batch * place, c_in * tap]
    a = rows.mT @ rows
    z = layer(x).detach().requires_grad_()
    f = model[1:](z)
    g = torch.stack([torch.autograd.grad(f[:, k].sum(), z, retain_graph=True)[0] for k in range(3)])
    columns = g.flatten(3).permute(2, 0, 1, 3).flatten(1)
    b = columns @ columns.T
    expected = torch.kron(b, a) / (len(x) * torch.Size(SIZES[case][0]).numel())
    assert_close(factors.to_dense("0.weight"), expected, 1e-10, "block of the filters")


@pytest.mark.parametrize("case", SIZES)
def test_anchors_by_way_of_the_full_resolution(case: str) -> None:
    model, batch = every_path(case), batch_of((2, *SIZES[case][0]), 12)
    direct = kfac.compute_factors(model, [batch], "classification")
    full = kfac.compute_factors(model, [batch], "classification", at_full_resolution=True)
    projected = kfac.project_factors(model, full)
    for name in direct:
        assert_close(projected.to_dense(name), direct.to_dense(name), 1e-12, name)


@pytest.mark.parametrize("size", [(8,), (4, 4, 8)], ids=str)
def test_half_and_half_are_the_whole_of_a_network(size: tuple[int, ...]) -> None:
    """Strides and sums of paths in between."""
    torch.manual_seed(0)
    model = symlearn.build_model("f-fc+conv", network="small", alpha=1, size=size, classes=3).double()
    x, y = batch_of((1, *size), 6)
    whole = kfac.compute_factors(model, [(x, y)], "classification")
    halves = [kfac.compute_factors(model, [(x[s], y[s])], "classification") for s in (slice(2), slice(2, 6))]
    together = halves[0] + halves[1]
    for name in whole:
        assert_close(together.to_dense(name), whole.to_dense(name), 1e-12, name)
