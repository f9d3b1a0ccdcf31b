"""BackPACK on our layers: its quantities against autograd, the exact blocks and our own factors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from oracles import assert_close, per_datum_gradients
from torch import Tensor, nn
from toys import Batch, batch_of, factored, linear_on_places, mixed, seeded

import kfac
from symlearn.layers import GroupConv2d, LiftingConv2d, SparseConv2d, SparseLinear2d
from symlearn.networks import build_model

pytestmark = pytest.mark.filterwarnings("ignore")  # BackPACK warns about modules without parameters


def relaxed_network() -> nn.Module:
    """A whole network of sums of paths with strides: one block."""
    torch.manual_seed(0)
    return build_model("f-fc+conv", network="small", alpha=1, size=8, classes=3).double().eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "f-fc": (factored, (2, 4, 3)),
    "conv, f-fc, fc": (mixed, (2, 5, 4)),
    "s-fc, s-conv": (
        lambda: seeded(
            SparseConv2d(2, 2),
            nn.Tanh(),
            SparseLinear2d(2, 3, (4, 3), (2, 2)),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (2, 4, 3),
    ),
    "group convolutions": (
        lambda: seeded(
            LiftingConv2d(1, 2),
            nn.Tanh(),
            GroupConv2d(2, 2, variant="separable"),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(72, 3),
        ),
        (1, 3, 3),
    ),
    "circular and grouped Conv2d": (
        lambda: seeded(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(80, 3),
        ),
        (2, 5, 4),
    ),
    "layer norm": (
        lambda: seeded(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)),
        (5,),
    ),
    "linear on places, mean": (linear_on_places, (3, 2, 5)),
    "a whole relaxed network": (relaxed_network, (1, 8, 8)),
}


def backward(model: nn.Module, batch: Batch, *names: str, likelihood: str = "classification") -> None:
    """One backward pass of the mean loss with the named extensions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from backpack import backpack, extend, extensions
    kfac.extend(model)
    loss = extend(nn.CrossEntropyLoss() if likelihood == "classification" else nn.MSELoss())
    wanted = kfac.backpack_extensions(model, *(getattr(extensions, name)() for name in names))
    x, y = batch
    with backpack(*wanted):
        loss(model(x), y).backward()


@pytest.mark.parametrize("case", NETWORKS)
def test_batch_gradients(case: str) -> None:
    build, shape = NETWORKS[case]
    model, batch = build(), batch_of(shape, 5)
    plain = copy.deepcopy(model)
    nn.functional.cross_entropy(plain(batch[0]), batch[1]).backward()
    truth = {name: per_datum_gradients(model, batch, name) / 5 for name, _ in model.named_parameters()}
    backward(model, batch, "BatchGrad")
    for (name, p), twin in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert_close(p.grad_batch.flatten(1), truth[name], 1e-10, f"gradients by datum of {name}")
        assert_close(p.grad, twin.grad, 1e-12, f"gradient of {name}")


@pytest.mark.parametrize("case", NETWORKS)
def test_diagonal_of_the_exact_ggn(case: str) -> None:
    build, shape = NETWORKS[case]
    model, batch = build(), batch_of(shape, 5)
    truth = {
        name: kfac.ggn_block(model, batch, "classification", name).diagonal() / 5
        for name, _ in model.named_parameters()
    }
    backward(model, batch, "DiagGGNExact", "BatchGrad")
    for name, p in model.named_parameters():
        assert p.diag_ggn_exact.shape == p.shape, name
        assert_close(p.diag_ggn_exact.flatten(), truth[name], 1e-10, f"diagonal of {name}")


@pytest.mark.parametrize("case", NETWORKS)
def test_kronecker_factors_are_ours(case: str) -> None:
    """Of the blocks; BackPACK's own layers keep its own conventions."""
    build, shape = NETWORKS[case]
    model, batch = build(), batch_of(shape, 5)
    if case == "linear on places, mean":
        pytest.skip("BackPACK's KFLR refuses Linear on more than two axes")
    factors = kfac.compute_factors(model, [batch], "classification")
    backward(model, batch, "KFLR", "KFAC")
    ours = [
        f"{path}.{name}".lstrip(".")
        for path, block in model.named_modules()
        if getattr(block, "_kfac_backpack_block", False)
        for name, _ in block.named_parameters()
    ]
    assert ours
    for name in ours:
        p, block = model.get_parameter(name), factors[name]
        b, *a = p.kflr
        assert_close(5 * b, block.output_factor.reshape(b.shape), 1e-10, f"B of {name}")
        if a:
            assert_close(a[0] * block.rows, block.input_factor.reshape(a[0].shape), 1e-10, f"A of {name}")
        assert len(p.kfac) == len(p.kflr)
        assert [f.shape for f in p.kfac] == [f.shape for f in p.kflr]


@pytest.mark.slow
def test_sampled_factors_converge() -> None:
    from backpack import backpack, extend
    from backpack.extensions import KFAC

    model, (x, y) = mixed(), batch_of((2, 5, 4), 5)
    factors = kfac.compute_factors(model, [(x, y)], "classification")
    torch.manual_seed(0)
    kfac.extend(model)
    loss = extend(nn.CrossEntropyLoss())
    with backpack(*kfac.backpack_extensions(model, KFAC(mc_samples=3000))):
        loss(model(x), y).backward()
    block = factors["2.theta2.weight"]
    assert_close(5 * model[2].theta2.weight.kfac[0], block.output_factor, 0.1, "sampled B")


def test_regression_diagonal() -> None:
    """BackPACK's mean squared loss averages over data and outputs: its Hessian is 2 / outputs of ours."""
    model, (x, y) = mixed(), batch_of((2, 5, 4), 5, likelihood="regression")
    truth = {
        name: 2 / 3 * kfac.ggn_block(model, (x, y), "regression", name).diagonal() / 5
        for name, _ in model.named_parameters()
    }
    backward(model, (x, y), "DiagGGNExact", likelihood="regression")
    for name, p in model.named_parameters():
        assert_close(p.diag_ggn_exact.flatten(), truth[name], 1e-10, name)


class Uncovered(nn.Module):
    """A parameter of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 5]`."""
        return x * self.gain


def test_wrong_input_is_named() -> None:
    from backpack.extensions import DiagHessian

    with pytest.raises(ValueError, match="no curvature rule covers gain"):
        kfac.extend(seeded(Uncovered(), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="DiagHessian is not offered for these layers; choose of BatchGrad"):
        kfac.backpack_extensions(kfac.extend(mixed()), DiagHessian())
    torch.manual_seed(0)
    model = seeded(nn.Linear(5, 4), nn.Sequential(nn.LayerNorm(4)), nn.Linear(4, 3)).train()
    backward(model, batch_of((5,), 3), "BatchGrad")
    dropping = seeded(Dropping())
    with pytest.raises(ValueError, match=r"use model\.eval"):
        backward(dropping.train(), batch_of((5,), 3), "BatchGrad")


class Dropping(nn.Module):
    """A layer that drops out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(5, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        return self.drop(self.layer(x))
