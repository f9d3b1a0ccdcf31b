"""Low-precision networks: what curvature rounds to is the network's own type, and nothing coarser.

The truth is always the float64 copy of the rounded weights. bfloat16 rounds by 2^-9, float16 by 2^-12, in every
operation of the network itself; the tolerances are a few of those roundings. Sums in the network's type would
miss them by far: bfloat16 sums of one size stop growing after 256 terms.

Axes: batch, classes.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from oracles import assert_close, relative_error
from torch import Tensor, nn

import kfac
from kfac.calls import pull_back, recorded_calls
from kfac.owners import find_owners
from kfac.precision import LARGE, RunningSum, accumulated, rule_view, sum_of, summing_type, working
from symlearn.layers import CircularConv2d, FactoredLinear2d, LiftingConv2d, SparseConv2d

Batch = tuple[Tensor, Tensor]
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


class Attention(nn.Module):
    """`[batch, 5, 6] -> [batch, 3]` by layer norm, attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.body = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        return self.head(torch.tanh(x + self.body(z, z, z)[0]).mean(1))


class Elements(nn.Module):
    """`[batch, c, group, h, w] -> [batch, c * group, h, w]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 3))


def convolutions() -> nn.Module:
    """Group, grouped, sparse, circular and factored maps."""
    return nn.Sequential(
        LiftingConv2d(1, 2, 3, "p4"),
        Elements(),
        nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        SparseConv2d(4, 3),
        CircularConv2d(3, 3),
        FactoredLinear2d(3, 2, (3, 3), (2, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


NETWORKS = {
    "mlp": (mlp, (1, 5, 6)),
    "convolutions": (convolutions, (1, 6, 6)),
    "attention": (Attention, (5, 6)),
}
CASES = pytest.mark.parametrize("case", list(NETWORKS))


def rounded(case: str, dtype: torch.dtype, batches: int = 12) -> tuple[nn.Module, nn.Module, list[Batch]]:
    """A network in the type, its float64 copy, and data that both hold alike."""
    torch.manual_seed(0)
    build, shape = NETWORKS[case]
    low = build().to(dtype).eval()
    data = [(torch.rand(16, *shape).to(dtype), torch.randint(0, 3, (16,))) for _ in range(batches)]
    return low, copy.deepcopy(low).double(), data


def doubled(data: list[Batch]) -> list[Batch]:
    return [(x.double(), y) for x, y in data]


def within(found: float, truth: float, tolerance: float, what: str) -> None:
    error = abs(found - truth) / max(abs(truth), 1e-30)
    assert error <= tolerance, f"{what}: {found:.6g} for {truth:.6g}, relative error {error:.1e}"


@TYPES
@CASES
def test_factors_are_those_of_the_float64_copy(case: str, dtype: torch.dtype) -> None:
    low, high, data = rounded(case, dtype)
    options = {"fallback": "diagonal", "likelihood": "classification"}
    found = kfac.compute_factors(low, data, **options)
    truth = kfac.compute_factors(high, doubled(data), **options)
    few = 4 * ROUNDING[dtype]
    ones = dict.fromkeys(truth.names, 1.0)
    for name in truth.names:
        trace = float(found.to_dense(name).double().trace())
        within(trace, float(truth.to_dense(name).trace()), few, f"trace of {name}")
        assert_close(found.to_dense(name).double(), truth.to_dense(name), 2 * few, name)
    eigen, exact = found.eigendecompose(), truth.eigendecompose()
    within(float(eigen.logdet(ones)), float(exact.logdet(ones)), few, "log determinant")
    gamma, expected = eigen.effective_parameters(ones), exact.effective_parameters(ones)
    total = float(sum(expected.values()))
    for name in truth.names:
        assert abs(float(gamma[name] - expected[name])) < few * total, f"gamma of {name}"
    assert found.n_data == 192
    within(float(found.log_likelihood), float(truth.log_likelihood), few, "log-likelihood")


@TYPES
@CASES
def test_corrections_and_partial_traces(case: str, dtype: torch.dtype) -> None:
    """In one basis, the exact one's: eigenvectors of the two differ where eigenvalues lie close."""
    low, high, data = rounded(case, dtype, 6)
    truth = kfac.partial_trace_basis(high, doubled(data), "classification", fallback="diagonal")
    found = kfac.partial_trace_basis(low, data, "classification", fallback="diagonal")
    corrected = kfac.correct_eigenvalues(high, doubled(data), "classification", truth)
    coarse = kfac.correct_eigenvalues(low, data, "classification", truth)
    for name in truth.names:
        few = 6 * ROUNDING[dtype]
        within(float(found.eigenvalues[name].sum()), float(truth.eigenvalues[name].sum()), few, name)
        assert_close(coarse.eigenvalues[name], corrected.eigenvalues[name], few, f"corrections of {name}")


@TYPES
@CASES
def test_the_oracle_and_the_diagonal(case: str, dtype: torch.dtype) -> None:
    low, high, data = rounded(case, dtype, 1)
    names = list(dict(low.named_parameters()))
    everywhere = dict.fromkeys(names, "diagonal")
    diagonals = kfac.compute_factors(low, data, "classification", fallback=everywhere)
    for name in names:
        truth = kfac.ggn_block(high, doubled(data)[0], "classification", name)
        block = kfac.ggn_block(low, data[0], "classification", name)
        assert block.dtype == torch.float32
        if float(truth.trace()) < 1e-20:  # a shift that softmax does not see
            continue
        few = 6 * ROUNDING[dtype]
        assert_close(block.double(), truth, few, f"block of {name}")
        assert_close(diagonals[name].diagonal, truth.diag(), few, f"diagonal of {name}")


@TYPES
def test_sums_do_not_stop_growing(dtype: torch.dtype) -> None:
    """`shared/cases/low_precision_sums.py`: hundreds of batches: bfloat16 sums had long stopped growing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 3)).to(dtype)
    data = [(torch.rand(8, 1, 5, 6).to(dtype), torch.randint(0, 3, (8,))) for _ in range(600)]
    low = kfac.compute_factors(net, data, "classification")
    high = kfac.compute_factors(copy.deepcopy(net).double(), doubled(data), "classification")
    ones = dict.fromkeys(low.names, 1.0)
    trace = [float(f.to_dense("1.weight").double().trace()) for f in (low, high)]
    eigen = [f.eigendecompose() for f in (low, high)]
    gamma = [e.effective_parameters(ones) for e in eigen]
    within(*trace, ROUNDING[dtype], "trace")
    within(float(eigen[0].logdet(ones)), float(eigen[1].logdet(ones)), ROUNDING[dtype], "log determinant")
    for name in low.names:
        within(float(gamma[0][name]), float(gamma[1][name]), 2 * ROUNDING[dtype], f"gamma of {name}")


@pytest.mark.parametrize("fisher_type", ["type-2", "mc", "sketch", "empirical"])
def test_confident_data_do_not_vanish_in_float16(fisher_type: str) -> None:
    """Cotangents of 1e-7 and less, which float16 rounds to zero or to one digit."""
    torch.manual_seed(0)
    low = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).half()
    with torch.no_grad():
        low[2].bias.copy_(torch.tensor([26.0, -10.0]))
    high = copy.deepcopy(low).double()
    x, y = torch.randn(12, 6).half(), torch.zeros(12, dtype=torch.long)
    options = {"likelihood": "classification", "fisher_type": fisher_type, "seed": 0}
    found = kfac.compute_factors(low, [(x, y)], **options)
    truth = kfac.compute_factors(high, [(x.double(), y)], **options)
    for name in truth.names:
        a, b = found[name].output_factor, truth[name].output_factor
        assert 0 < float(b.norm()) < 1e-12, "the case is what it says"
        assert relative_error(a, b) < 0.05, f"{name}: {a.norm()} for {b.norm()}"
    diagonal = {name: "diagonal" for name in truth.names}
    found = kfac.compute_factors(low, [(x, y)], **options, fallback=diagonal)
    truth = kfac.compute_factors(high, [(x.double(), y)], **options, fallback=diagonal)
    for name in truth.names:
        assert_close(found[name].diagonal, truth[name].diagonal, 0.05, name)


def test_gradients_that_overflow_float16_are_brought_down_or_refused() -> None:
    torch.manual_seed(0)
    low = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)).half()
    with torch.no_grad():
        low[0].weight.mul_(1e-4), low[0].bias.zero_()
        low[1].weight.copy_(1000 * torch.eye(4)), low[2].weight.mul_(10)
    high, (x, y) = copy.deepcopy(low).double(), (torch.randn(5, 4).half(), torch.tensor([0, 1, 2, 0, 1]))
    found = kfac.compute_factors(low, [(x, y)], "classification")
    truth = kfac.compute_factors(high, [(x.double(), y)], "classification")
    assert_close(found["0.weight"].output_factor, truth["0.weight"].output_factor, 0.01, "overflows at first")

    class Blown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.first(x) * 1e-30 * 3e4).half() * 6e4 * 6e4  # zero, with a slope of infinity

    with pytest.raises(kfac.NonFiniteError, match="float16") as error:
        kfac.compute_factors(Blown().half(), [(x, y)], "classification")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("within_forward", [False, True], ids=["around the pass", "in the network"])
@CASES
def test_autocast(case: str, within_forward: bool, dtype: torch.dtype) -> None:
    """The network's forward pass is rounded, nothing else: factors within its roundings of the exact ones."""
    torch.manual_seed(1)
    build, shape = NETWORKS[case]
    model = build().eval()
    x, y = torch.rand(40, *shape), torch.randint(0, 3, (40,))
    high = copy.deepcopy(model).double()
    asked = kfac.uncovered(model)

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype):
                return self.inner(x)

    def run(network: nn.Module, data: Batch, prefix: str = "") -> kfac.KroneckerFactors:
        return kfac.compute_factors(
            network, [data], "classification", fallback={prefix + name: "diagonal" for name in asked}
        )

    if within_forward:
        found, prefix = run(Casting(), (x, y), "inner."), "inner."
    else:
        with torch.autocast("cpu", dtype):
            found, prefix = run(model, (x, y)), ""
            assert torch.is_autocast_enabled("cpu"), "the caller's state is as it was"
        assert not model._forward_hooks and not model._forward_pre_hooks
    truth = run(high, (x.double(), y))
    for name in truth.names:
        few = 6 * ROUNDING[dtype]
        if float(truth.to_dense(name).trace()) > 1e-20:
            assert_close(found.to_dense(prefix + name).double(), truth.to_dense(name), few, name)
    if not within_forward:
        with torch.autocast("cpu", dtype):
            block = kfac.ggn_block(model, (x, y), "classification", truth.names[-1])
        assert block.dtype == torch.float32


def test_a_weight_used_outside_its_module_is_named_in_bfloat16() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.first(x)) @ self.first.weight

    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"first\.weight"):
        kfac.compute_factors(
            Tied().bfloat16(), [(torch.randn(8, 6).bfloat16(), torch.arange(8) % 6)], "classification"
        )


def test_float64_stays_float64_and_float32_sums_in_float64() -> None:
    for dtype in (torch.float32, torch.float64):
        model = mlp().to(dtype)
        data = [(torch.rand(40, 1, 5, 6, dtype=dtype), torch.randint(0, 3, (40,))) for _ in range(3)]
        factors = kfac.compute_factors(model, data, "classification")
        for block in factors.values():
            assert block.output_factor.dtype == torch.float64
            if block.inputs is not None:
                assert block.input_factor.dtype == torch.float64
        kept = kfac.compute_factors(model, [(x[:2], y[:2]) for x, y in data], "classification")["1.weight"]
        assert {rows.dtype for rows in kept.inputs.rows} == {dtype}
    piecewise = kfac.compute_factors(model, [(x[:12], y[:12]) for x, y in data], "classification")["1.weight"]
    assert piecewise.input_factor.dtype == torch.float64, "rows that were kept and then summed"
    low = mlp().bfloat16()
    few = [(torch.rand(2, 1, 5, 6).bfloat16(), torch.tensor([0, 1]))]
    moment = kfac.compute_factors(low, few, "classification")["1.weight"].inputs
    assert {rows.dtype for rows in moment.rows} == {
        torch.bfloat16
    } and moment.to_dense().dtype == torch.float32


def test_many_float32_batches_keep_float64_digits() -> None:
    """One image over and over: n times its factors, to float64's rounding of n additions."""
    torch.manual_seed(0)
    model = mlp()
    batch = (torch.rand(40, 1, 5, 6), torch.randint(0, 3, (40,)))
    once = kfac.compute_factors(model, [batch], "classification")
    often = kfac.compute_factors(model, [batch] * 300, "classification")
    added = sum((once for _ in range(299)), start=once) if hasattr(once, "__add__") else once
    for name, block in once.items():
        assert_close(often[name].output_factor, 300 * block.output_factor, 1e-13, name)
        assert_close(added[name].output_factor, 300 * block.output_factor, 1e-13, f"{name}, added up")


def test_sums_have_the_type_and_the_memory_they_promise() -> None:
    small, large = torch.ones(3, 3), torch.ones(1, device="meta").expand(LARGE // 8 + 1)
    assert summing_type(small) == torch.float64 and summing_type(large) == torch.float32
    assert summing_type(large.bfloat16()) == torch.float32
    total = accumulated(None, small)
    again = accumulated(total, small)
    assert again is total and float(total[0, 0]) == 2 and float(small[0, 0]) == 1
    wide = torch.ones(700, 700)
    assert torch.equal(accumulated(accumulated(None, wide), wide), 2 * wide.double()), "slice by slice"
    turned = torch.arange(700.0 * 800).reshape(700, 800).T
    assert torch.equal(accumulated(accumulated(None, turned), turned), 2 * turned.double()), "in any layout"
    doubles = torch.ones(2, dtype=torch.float64)
    assert accumulated(None, doubles) is not doubles, "a rule's own tensor is not written to"
    tracked = torch.ones(2, requires_grad=True)
    accumulated(accumulated(None, tracked), tracked).sum().backward()
    assert torch.equal(tracked.grad, torch.full((2,), 2.0))
    assert sum_of(small, small).dtype == torch.float64
    term, running = torch.full((2,), 1.0), RunningSum()
    for _ in range(50):
        running.add(term)
    running.settle()
    assert running.total.tolist() == [50.0, 50.0] and term.tolist() == [1.0, 1.0]
    assert working(torch.arange(3)).dtype == torch.int64


def test_rules_see_the_module_in_float32_and_graphs_lead_through() -> None:
    layer = SparseConv2d(2, 2).bfloat16()
    view = rule_view(layer)
    assert view.weight.dtype == torch.float32 and layer.weight.dtype == torch.bfloat16
    assert view.basis().dtype == torch.float32 and type(view) is SparseConv2d
    view.weight.sum().backward()
    assert layer.weight.grad is not None
    single = nn.Linear(2, 2)
    assert rule_view(single) is single


def test_differentiable_factors_in_low_precision() -> None:
    """d log det / d x through bfloat16 factors against the float64 copy's."""
    low, high, data = rounded("mlp", torch.bfloat16, 2)

    def slope(model: nn.Module, batches: list[Batch]) -> Tensor:
        x = batches[0][0].clone().requires_grad_()
        factors = kfac.compute_factors(model, [(x, batches[0][1])], "classification", differentiable=True)
        value = factors.eigendecompose().logdet(dict.fromkeys(factors.names, 1.0))
        (gradient,) = torch.autograd.grad(value, x)
        return gradient.double()

    assert math.isfinite(float(slope(low, data).norm()))
    assert_close(slope(low, data), slope(high, doubled(data)), 0.05, "slope")


def test_pull_back_gives_float32_at_least() -> None:
    model = mlp().half()
    x = torch.rand(4, 1, 5, 6).half()
    with recorded_calls(find_owners(model, {})[0], 4) as calls:
        f = model(x)
    grads = pull_back(f, calls, torch.full((4, 3), 1e-9), keep=False)
    assert all(g.dtype == torch.float32 and float(g.abs().max()) > 0 for g in grads)
