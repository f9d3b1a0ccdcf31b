"""What kfac refuses, by name and in one line; what it leaves as it was; what the diagonal fallback gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_close
from torch import Tensor, nn
from toys import batch_of, mlp, seeded

import kfac
from symlearn.layers import FactoredLinear2d, GroupConv2d, LiftingConv2d


class UsesWeightOutside(nn.Module):
    """Reads its layer's weight behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        return self.layer(x).tanh() + F.linear(x, self.layer.weight.sin())


class NeverCalled(nn.Module):
    """Owns a layer that plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        return self.used(x)


class Doubled(nn.Linear):
    """An `nn.Linear` only by descent."""

    def forward(self, input: Tensor) -> Tensor:
        """Twice the base's output."""
        return 2 * super().forward(input)


class Renamed(nn.Linear):
    """An `nn.Linear` in all that matters."""


class Gain(nn.Module):
    """A user's own parameters: a scalar and a vector."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.shift = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, d] -> [batch, d]`."""
        return x * self.gain + self.shift


def assert_one_line(error: pytest.ExceptionInfo[ValueError]) -> None:
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


UNCOVERED = {
    "transposed convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 5)), nn.ConvTranspose1d(1, 2, 3, padding=2), nn.Flatten(), nn.Linear(6, 3)
        ),
        "1.weight, 1.bias",
    ),
    "own parameters": (lambda: nn.Sequential(nn.Linear(5, 4), Gain(4), nn.Linear(4, 3)), "1.gain, 1.shift"),
    "own forward": (lambda: nn.Sequential(Doubled(5, 4), nn.Linear(4, 3)), "0.weight, 0.bias"),
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_uncovered_parameter_is_named(case: str) -> None:
    build, names = UNCOVERED[case]
    with pytest.raises(ValueError, match=f"no curvature rule covers {names}") as error:
        kfac.compute_factors(build().double(), [batch_of((5,), 3)], "classification")
    assert_one_line(error)


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("case", UNCOVERED)
def test_diagonal_fallback_is_the_exact_diagonal(case: str, likelihood: str) -> None:
    build, names = UNCOVERED[case]
    model, batch = seeded(*build()), batch_of((5,), 6, likelihood=likelihood)
    everywhere = kfac.compute_factors(model, [batch], likelihood, fallback="diagonal")
    declared = kfac.compute_factors(
        model, [batch], likelihood, fallback=dict.fromkeys(names.split(", "), "diagonal")
    )
    for factors in (everywhere, declared):
        assert factors.names == tuple(name for name, _ in model.named_parameters())
        for name in names.split(", "):
            truth = torch.diag(torch.diag(kfac.ggn_block(model, batch, likelihood, name)))
            assert isinstance(factors[name], kfac.DiagonalBlock)
            assert_close(factors.to_dense(name), truth, 1e-12, name)
    halves = [
        kfac.compute_factors(model, [tuple(t[s] for t in batch)], likelihood, fallback="diagonal")
        for s in (slice(2), slice(2, 6))
    ]
    for name in names.split(", "):
        assert_close((halves[0] + halves[1]).to_dense(name), everywhere.to_dense(name), 1e-12, name)


def test_network_of_diagonal_blocks_alone() -> None:
    model, batch = seeded(Gain(3)), batch_of((3,), 4)
    factors = kfac.compute_factors(model, [batch], "classification", fallback="diagonal")
    for name in factors.names:
        truth = torch.diag(torch.diag(kfac.ggn_block(model, batch, "classification", name)))
        assert_close(factors.to_dense(name), truth, 1e-12, name)


def test_declared_diagonal_for_a_covered_weight() -> None:
    model, batch = seeded(UsesWeightOutside()), batch_of((5,), 4)
    factors = kfac.compute_factors(model, [batch], "classification", fallback={"0.layer.weight": "diagonal"})
    truth = torch.diag(torch.diag(kfac.ggn_block(model, batch, "classification", "0.layer.weight")))
    assert_close(factors.to_dense("0.layer.weight"), truth, 1e-12, "weight")
    assert_close(
        factors.to_dense("0.layer.bias"),
        kfac.ggn_block(model, batch, "classification", "0.layer.bias"),
        1e-12,
        "bias",
    )


def test_weight_used_outside_its_module_is_named() -> None:
    with pytest.raises(ValueError, match=r"'0\.layer\.weight' is used in a way") as error:
        kfac.compute_factors(seeded(UsesWeightOutside()), [batch_of((5,), 4)], "classification")
    assert_one_line(error)


def test_layer_that_is_never_called_is_named() -> None:
    with pytest.raises(ValueError, match=r"'0\.idle\.weight' never influenced an output") as error:
        kfac.compute_factors(seeded(NeverCalled()), [batch_of((5,), 4)], "classification")
    assert_one_line(error)


def test_subclass_that_keeps_the_forward_pass_is_covered() -> None:
    model, batch = seeded(Renamed(5, 3)), batch_of((5,), 4)
    factors = kfac.compute_factors(model, [batch], "classification")
    assert isinstance(factors["0.weight"], kfac.KroneckerBlock)


X, Y = batch_of((5,), 4)
WRONG = {
    "label too large": (
        [(X, torch.tensor([0, 1, 2, 3]))],
        "classification",
        "labels run from 0 to 3.*3 classes",
    ),
    "label negative": ([(X, torch.tensor([0, -1, 2, 1]))], "classification", "labels run from -1 to 2"),
    "labels as floats": ([(X, Y.double())], "classification", "integer labels"),
    "labels one-hot": ([(X, F.one_hot(Y, 3))], "classification", "integer labels"),
    "targets of another width": ([(X, torch.zeros(4, 2))], "regression", "do not match the outputs"),
    "empty loader": ([], "classification", "the loader gave no data"),
    "pixels not finite": ([(X * torch.nan, Y)], "classification", "outputs are not finite"),
    "unknown likelihood": ([(X, Y)], "poisson", "unknown likelihood 'poisson'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_refused_in_one_line(case: str) -> None:
    loader, likelihood, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        kfac.compute_factors(mlp(), loader, likelihood)
    assert_one_line(error)


def test_inputs_and_outputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"does not run on inputs \[2, 7\] \(RuntimeError: .*shapes"
    ) as error:
        kfac.compute_factors(mlp(), [batch_of((7,), 4)], "classification")
    assert_one_line(error)
    with pytest.raises(ValueError, match=r"must return a tensor .*, got a tuple") as error:
        kfac.compute_factors(
            nn.LSTM(5, 3).double(), [batch_of((5,), 4)], "classification", fallback="diagonal"
        )
    assert_one_line(error)


def test_outputs_with_places_are_refused() -> None:
    x, y = batch_of((2, 5), 4)
    with pytest.raises(ValueError, match=r"must return \[batch, classes\], got shape \(4, 2, 3\)") as error:
        kfac.compute_factors(mlp(), [(x, y)], "classification")
    assert_one_line(error)


def test_single_softmax_output_is_refused() -> None:
    model = seeded(nn.Linear(5, 1))
    with pytest.raises(ValueError, match="at least two outputs"):
        kfac.compute_factors(model, [(X, torch.zeros(4, dtype=torch.long))], "classification")


def test_batch_axis_folded_into_places_is_refused() -> None:
    model = seeded(nn.Flatten(0, 1), nn.Linear(5, 4), nn.Unflatten(0, (4, 2)), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="keep the batch axis first"):
        kfac.compute_factors(model, [batch_of((2, 5), 4)], "classification")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fisher_type": "type-3"}, "unknown fisher_type"),
        ({"weight_sharing": "both"}, "unknown weight_sharing"),
        ({"group_factors": "none"}, "unknown group_factors"),
        ({"mc_samples": 0}, "mc_samples"),
        ({"fallback": {"nowhere": "diagonal"}}, "nowhere"),
        ({"fallback": "dense"}, "the only fallback is 'diagonal'"),
    ],
    ids=["fisher_type", "weight_sharing", "group_factors", "mc_samples", "fallback name", "fallback kind"],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        kfac.compute_factors(mlp(), [(X, Y)], "classification", **options)
    assert_one_line(error)


def test_unknown_parameter_of_the_oracle_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter 'nowhere'"):
        kfac.ggn_block(mlp(), (X, Y), "classification", "nowhere")


def test_every_module_keeps_its_own_mode() -> None:
    model = seeded(nn.Linear(5, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    model[2].eval()
    modes = [m.training for m in model.modules()]
    first = kfac.compute_factors(model, [(X, Y)], "classification", fallback="diagonal")
    kfac.ggn_block(model, (X, Y), "classification", "0.weight")
    assert [m.training for m in model.modules()] == modes
    again = kfac.compute_factors(model.eval(), [(X, Y)], "classification", fallback="diagonal")
    assert torch.equal(first.to_dense("0.weight"), again.to_dense("0.weight")), (
        "factors are those of eval mode"
    )
    model.train()
    with pytest.raises(ValueError):
        kfac.compute_factors(model, [(X, Y + 7)], "classification", fallback="diagonal")
    assert all(m.training for m in model.modules()), "restored after an error as well"
    assert not any(m._forward_hooks for m in model.modules()), "no hook is left behind"


def test_parameters_and_gradients_are_untouched() -> None:
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    kfac.compute_factors(model, [(X, Y)], "classification")
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_factors_under_no_grad() -> None:
    with torch.no_grad():
        inside = kfac.compute_factors(mlp(), [(X, Y)], "classification")
    outside = kfac.compute_factors(mlp(), [(X, Y)], "classification")
    assert torch.equal(inside.to_dense("0.weight"), outside.to_dense("0.weight"))


class Overwrites(nn.Module):
    """Changes tensors in place: the layer's input, or an output that its backward pass needs."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.last, self.what = nn.Linear(5, 5), nn.Linear(5, 3), what

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        x = self.first(x)
        h = self.last(x)
        if self.what == "input":
            return h + x.mul_(2)[:, :3]
        h = h.exp()
        return h.mul_(2) if self.what == "output" else h


@pytest.mark.parametrize("what", ["input", "output"])
def test_what_is_overwritten_in_place_is_said(what: str) -> None:
    with pytest.raises(ValueError, match=r"in place.*out-of-place form of the operation") as error:
        kfac.compute_factors(seeded(Overwrites(what)), [(X, Y)], "classification")
    assert_one_line(error)


def test_harmless_operations_in_place_change_nothing() -> None:
    model = seeded(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    plain = seeded(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    for name, block in kfac.compute_factors(model, [(X, Y)], "classification").items():
        other = kfac.compute_factors(plain, [(X, Y)], "classification")[name]
        assert torch.equal(block.to_dense(), other.to_dense())


@pytest.mark.parametrize(
    "layer",
    [
        lambda: FactoredLinear2d(1, 2, 4, 2),
        lambda: LiftingConv2d(1, 2),
        lambda: nn.Sequential(LiftingConv2d(1, 2), GroupConv2d(2, 2, variant="separable")),
    ],
    ids=["f-fc", "lifting", "separable"],
)
def test_a_view_may_be_overwritten_in_place(layer: Callable[[], nn.Module]) -> None:
    """Layers whose outputs are views of what they computed, followed by a ReLU in place."""
    torch.manual_seed(0)
    body, x = layer().double(), torch.randn(3, 1, 4, 4, dtype=torch.float64)
    head = nn.Linear(body(x)[0].numel(), 3).double()
    found, wanted = (
        kfac.compute_factors(nn.Sequential(body, relu, nn.Flatten(), head), [(x, Y[:3])], "classification")
        for relu in (nn.ReLU(inplace=True), nn.ReLU())
    )
    assert found.names == wanted.names
    for name, block in found.items():
        assert torch.equal(block.to_dense(), wanted[name].to_dense()), name


class StaysInTrainMode(nn.BatchNorm1d):
    """A batch normalisation that `eval()` does not reach."""

    def train(self, mode: bool = True) -> StaysInTrainMode:
        """Always train mode."""
        return super().train(True)


REFUSED = {
    "data parallel": (lambda: nn.DataParallel(mlp()), "the model is wrapped in DataParallel.*its .module"),
    "data parallel inside": (lambda: seeded(nn.DataParallel(mlp())), "'0' is wrapped in DataParallel"),
    "batch statistics": (
        lambda: seeded(nn.BatchNorm1d(5, affine=False, track_running_stats=False), nn.Linear(5, 3)),
        "'0' has no running statistics.*track_running_stats=True",
    ),
    "train mode": (lambda: seeded(StaysInTrainMode(5), nn.Linear(5, 3)), "'0' stays in train mode"),
    "another dtype": (lambda: mlp().float(), "inputs are torch.float64 and the model's .* torch.float32"),
    "another device": (lambda: mlp().to("meta"), "inputs are on cpu and the model is on meta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_without_curvature_by_datum(case: str) -> None:
    build, message = REFUSED[case]
    eigen = kfac.compute_factors(mlp(), [(X, Y)], "classification").eigendecompose(vectors=True)
    model = build()
    prefix = {"data parallel": "module.", "data parallel inside": "0.module."}.get(case, "")
    eigen = kfac.EigenFactors({prefix + name: block for name, block in eigen.blocks.items()})
    passes = [
        lambda: kfac.compute_factors(model, [(X, Y)], "classification"),
        lambda: kfac.partial_trace_basis(model, [(X, Y)], "classification"),
    ]
    if {name for name, _ in model.named_parameters()} == set(eigen.names):
        passes.append(lambda: kfac.correct_eigenvalues(model, [(X, Y)], "classification", eigen))
    for one in passes:
        with pytest.raises(ValueError, match=message) as error:
            one()
        assert_one_line(error)


def test_targets_on_another_device_are_refused() -> None:
    with pytest.raises(ValueError, match="targets are on meta and outputs on cpu") as error:
        kfac.compute_factors(mlp(), [(X, Y.to("meta"))], "classification")
    assert_one_line(error)
