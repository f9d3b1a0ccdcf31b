"""What the sums are made of: halves add, frozen parameters stay out, a weight used twice counts once."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_close, assert_exact
from torch import Tensor, nn
from toys import batch_of, convolutional, linear_on_places, mixed, mlp, seeded

import kfac

BUILDS = {"mixed": (mixed, (2, 5, 4)), "convolutional": (convolutional, (2, 5, 4))}


def assert_same_factors(left: kfac.KroneckerFactors, right: kfac.KroneckerFactors, tolerance: float) -> None:
    assert left.names == right.names
    assert (left.n_data, left.n_targets) == (right.n_data, right.n_targets)
    assert left.log_likelihood == pytest.approx(right.log_likelihood, rel=tolerance)
    for name in left.names:
        one, other = left[name], right[name]
        assert isinstance(one, kfac.KroneckerBlock) and isinstance(other, kfac.KroneckerBlock)
        assert one.rows == other.rows, name
        assert_close(one.output_factor, other.output_factor, tolerance, f"B of {name}")
        if one.input_factor is not None and other.input_factor is not None:
            assert_close(one.input_factor, other.input_factor, tolerance, f"A of {name}")
        assert_close(one.to_dense(), other.to_dense(), tolerance, f"block of {name}")


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("group_factors", ["grouped", "shared"])
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
@pytest.mark.parametrize("case", BUILDS)
def test_half_and_half_is_whole(case: str, weight_sharing: str, group_factors: str, likelihood: str) -> None:
    build, shape = BUILDS[case]
    model, (x, y) = build(), batch_of(shape, 9, likelihood=likelihood)
    options = {"weight_sharing": weight_sharing, "group_factors": group_factors}
    whole = kfac.compute_factors(model, [(x, y)], likelihood, **options)
    halves = [
        kfac.compute_factors(model, [(x[s], y[s])], likelihood, **options) for s in (slice(5), slice(5, 9))
    ]
    assert_same_factors(halves[0] + halves[1], whole, 1e-12)
    batches = kfac.compute_factors(
        model, [(x[s], y[s]) for s in (slice(4), slice(4, 9))], likelihood, **options
    )
    assert_same_factors(batches, whole, 1e-12)


def test_factors_of_different_networks_do_not_add() -> None:
    one = kfac.compute_factors(mlp(), [batch_of((5,), 2)], "classification")
    other = kfac.compute_factors(mixed(), [batch_of((2, 5, 4), 2)], "classification")
    with pytest.raises(ValueError, match="different networks"):
        one + other


def test_frozen_parameters_are_left_out() -> None:
    model, batch = convolutional(), batch_of((2, 5, 4), 5)
    whole = kfac.compute_factors(model, [batch], "classification")
    frozen = {"0.weight", "0.bias", "2.bias"}
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    rest = kfac.compute_factors(model, [batch], "classification")
    assert rest.names == tuple(name for name in whole.names if name not in frozen)
    for name in rest.names:
        assert_close(rest.to_dense(name), whole.to_dense(name), 1e-12, name)


class CalledTwice(nn.Module):
    """One layer, called twice on the same input, read by two different heads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
        self.bend = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        return self.heads[0](self.bend(self.layer(x))) + self.heads[1](self.bend(2 * self.layer(x)))


class Tied(CalledTwice):
    """The same function with two modules that share their parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(5, 4)
        self.other.weight, self.other.bias = self.layer.weight, self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        return self.heads[0](self.bend(self.layer(x))) + self.heads[1](self.bend(2 * self.other(x)))


class CalledOnItself(nn.Module):
    """A recurrent use: the layer sees its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 3] -> [batch, 3]`."""
        return self.layer(self.layer(x).tanh())


@pytest.mark.parametrize("build", [CalledTwice, Tied])
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_weight_used_twice_is_counted_once_and_right(build: type[nn.Module], likelihood: str) -> None:
    """Both uses see the same input, so `reduce` is exact for one datum, and the bias always."""
    model = seeded(build())
    x, y = batch_of((5,), 6, likelihood=likelihood)
    factors = kfac.compute_factors(model, [(x, y)], likelihood)
    assert factors.names.count("0.layer.weight") == 1
    assert [n for n in factors.names if "other" in n] == []
    assert factors["0.layer.weight"].rows == 2 * len(x), "the rows of both uses together"
    assert_exact(factors, model, (x, y), likelihood, "0.layer.bias")
    one = (x[:1], y[:1])
    reduced = kfac.compute_factors(model, [one], likelihood, weight_sharing="reduce")
    assert_exact(reduced, model, one, likelihood, "0.layer.weight")


@pytest.mark.parametrize("build", [CalledTwice, Tied])
def test_weight_used_twice_in_a_deep_linear_network(build: type[nn.Module]) -> None:
    """Gaussian likelihood, no nonlinearity: `reduce` is exact for many data."""
    model = build()
    model.bend = nn.Identity()
    model, batch = seeded(model), batch_of((5,), 8, likelihood="regression")
    factors = kfac.compute_factors(model, [batch], "regression", weight_sharing="reduce")
    for name in ("0.layer.weight", "0.layer.bias"):
        assert_exact(factors, model, batch, "regression", name)


def test_bias_of_a_layer_called_on_its_own_output() -> None:
    model, batch = seeded(CalledOnItself()), batch_of((3,), 6)
    factors = kfac.compute_factors(model, [batch], "classification")
    assert_exact(factors, model, batch, "classification", "0.layer.bias")


def test_in_place_relu_after_a_layer_spoils_nothing() -> None:
    shape, batch = (2, 5, 4), batch_of((2, 5, 4), 4)

    def build(inplace: bool) -> nn.Module:
        relu = nn.ReLU(inplace)
        return seeded(
            nn.Conv2d(2, 3, 3, padding=1), relu, nn.Flatten(), nn.Linear(60, 4), relu, nn.Linear(4, 3)
        )

    assert batch[0].shape[1:] == shape
    for weight_sharing in ("expand", "reduce"):
        ours, plain = (
            kfac.compute_factors(build(i), [batch], "classification", weight_sharing=weight_sharing)
            for i in (True, False)
        )
        assert_same_factors(ours, plain, 1e-14)


def test_input_given_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(input=x)

    model, batch = seeded(Keyword()), batch_of((5,), 1)
    factors = kfac.compute_factors(model, [batch], "classification")
    assert_exact(factors, model, batch, "classification", "0.linear.weight")


class Standardise(nn.Module):
    """Zero mean over places: a bias before it has no influence, only rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, place, d] -> [batch, place, d]`."""
        return x - x.mean(1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_that_cancels_is_not_mistaken_for_a_hidden_use(dtype: torch.dtype) -> None:
    """The autograd check tells rounding (all there is in this bias' gradient) from a hidden use."""
    model = seeded(nn.Linear(5, 4), Standardise(), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)).to(dtype)
    x, y = batch_of((6, 5), 4)
    factors = kfac.compute_factors(model, [(x.to(dtype), y)], "classification")
    assert float(factors.to_dense("0.bias").norm()) < 1e-6


@pytest.mark.parametrize("fisher_type", ["type-2", "mc", "empirical", "sketch"])
@pytest.mark.parametrize("group_factors", ["grouped", "shared"])
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
def test_factors_are_positive_semidefinite(weight_sharing: str, group_factors: str, fisher_type: str) -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 6)
    factors = kfac.compute_factors(
        model, [batch], "classification", fisher_type, 2, weight_sharing, group_factors, seed=0
    )
    for name, block in factors.items():
        assert isinstance(block, kfac.KroneckerBlock)
        for factor in (block.input_factor, block.output_factor):
            if factor is not None:
                values = torch.linalg.eigvalsh(factor)
                assert float(values.min()) >= -1e-12 * float(values.max()), f"{name}: {values.min()}"


@pytest.mark.parametrize("case", ["mixed", "convolutional", "places"])
def test_float32_agrees_with_float64(case: str) -> None:
    build, shape = {**BUILDS, "places": (linear_on_places, (3, 2, 5))}[case]
    model, (x, y) = build(), batch_of(shape, 6)
    double = kfac.compute_factors(model, [(x, y)], "classification")
    single = kfac.compute_factors(model.float(), [(x.float(), y)], "classification")
    for name in double.names:
        assert single[name].output_factor.dtype == torch.float64, "sums over batches"
        assert_close(single.to_dense(name).double(), double.to_dense(name), 1e-4, name)
        assert single.eigendecompose().eigenvalues[name].dtype == torch.float64
