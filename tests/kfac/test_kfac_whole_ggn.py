"""The whole GGN through its Gram matrix, against the dense one: every rule, ties, and what has no rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracles import assert_close, assert_refused
from torch import Tensor, nn
from toys import batch_of, linear_on_places, mixed, mlp, seeded

import kfac
from kfac import whole_ggn
from kfac.ggn import output_jacobian
from kfac.loss_hessian import square_root
from symlearn.layers import FactoredLinear2d, GroupConv2d, LiftingConv2d, SparseConv2d
from symlearn.networks import build_model


class Tied(nn.Module):
    """One Linear used twice, once on two places, and a bare parameter without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 4] -> [batch, 3]`."""
        h = self.layer(x + self.shift).tanh()
        return self.last(self.layer(torch.stack([h, x], 1)).tanh().sum(1))


class Turned(nn.Module):
    """A weight that one module reads as it is and another turned: two roles, so rows by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Linear(2 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 2, 4, 4] -> [batch, 3]`."""
        return self.last(self.norm(self.conv(x)).tanh().flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "linear on places": (linear_on_places, (3, 2, 5)),
    "conv, f-fc, fc": (mixed, (2, 5, 4)),
    "s-conv": (lambda: seeded(SparseConv2d(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)), (2, 4, 3)),
    "f-fc": (
        lambda: seeded(FactoredLinear2d(2, 3, (4, 3), (2, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
        (2, 4, 3),
    ),
    "group convolutions": (
        lambda: seeded(
            LiftingConv2d(1, 2), nn.Tanh(), GroupConv2d(2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 3)
        ),
        (1, 3, 3),
    ),
    "tied, a bare parameter": (lambda: seeded(Tied()), (4,)),
    "normalised": (lambda: seeded(Turned()), (2, 4, 4)),
    "a relaxed network": (
        lambda: build_model("f-fc+conv", network="small", alpha=1, size=8, classes=3),
        (1, 8, 8),
    ),
}


def dense(model: nn.Module, x: Tensor, y: Tensor, likelihood: str, names: tuple[str, ...]) -> list[Tensor]:
    """Rows of the rooted Jacobian `[row, params]`, tensor by tensor."""
    with torch.no_grad():
        columns = square_root(model(x), y, likelihood).stacked()
    return [
        torch.einsum("kbc,bcp->kbp", columns, output_jacobian(model, x, name)).flatten(0, 1) for name in names
    ]


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("name", NETWORKS)
def test_log_determinant_and_effective_parameters_are_exact(name: str, likelihood: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(1)
    model = make().double().eval()
    x, y = batch_of(shape, 7, likelihood=likelihood)
    found = kfac.compute_gram(model, [(x[:4], y[:4]), (x[4:], y[4:])], likelihood)
    assert found.names == tuple(n for n, _ in model.named_parameters()) and found.n_data == 7
    rows = dense(model, x, y, likelihood, found.names)
    delta = torch.linspace(0.3, 4.0, len(rows), dtype=torch.float64)
    prior = torch.cat([d.expand(r.shape[1]) for d, r in zip(delta, rows, strict=True)])
    jacobian = torch.cat(rows, 1)
    hessian = jacobian.T @ jacobian / 0.7
    whole = hessian + torch.diag(prior)
    assert_close(
        found.log_det_ratio(delta, 0.7), torch.logdet(whole) - prior.log().sum(), 1e-9, "log determinant"
    )
    shares = (torch.linalg.inv(whole) @ hessian).diagonal().split([r.shape[1] for r in rows])
    assert_close(
        found.effective_parameters(delta, 0.7), torch.stack([s.sum() for s in shares]), 1e-8, "gamma"
    )
    assert found.grams.shape[1] == kfac.rows_needed(3, 7, likelihood)
    with torch.no_grad():
        fit = kfac.log_likelihood(model(x), y, likelihood)
    assert found.log_likelihood == pytest.approx(float(fit), rel=1e-12)


def test_drawn_columns_are_right_on_average() -> None:
    """Each tensor's trace, over many seeds; their log determinant on average below the exact one."""
    make, shape = NETWORKS["a relaxed network"]
    torch.manual_seed(1)
    model, (x, y) = make().double().eval(), batch_of(shape, 5)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    exact = kfac.compute_gram(model, batches, "classification")
    drawn = [kfac.compute_gram(model, batches, "classification", 1, seed) for seed in range(100)]
    assert drawn[0].grams.shape[1] == kfac.rows_needed(3, 5, "classification", 1) == 5
    traces = torch.stack([g.grams.diagonal(dim1=1, dim2=2).sum(1) for g in drawn])
    truth = exact.grams.diagonal(dim1=1, dim2=2).sum(1)
    error = traces.std(0) / len(drawn) ** 0.5
    assert bool(((traces.mean(0) - truth).abs() < 4 * error + 1e-12 * truth).all())
    delta = torch.full((len(truth),), 0.1, dtype=torch.float64)
    log_dets = torch.stack([g.log_det_ratio(delta) for g in drawn])
    assert float(log_dets.mean()) < float(exact.log_det_ratio(delta))


def test_drawn_columns_are_the_same_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """In calls, in passes that hold one tensor each, and of modules whose rules are not used."""
    make, shape = NETWORKS["a relaxed network"]
    torch.manual_seed(1)
    model, batches = make().double().eval(), [batch_of(shape, 4), batch_of(shape, 3, 1)]
    once = kfac.compute_gram(model, batches, "classification", 2, 5).grams
    monkeypatch.setattr("kfac.whole_ggn.MEMORY", 1)
    assert_close(kfac.compute_gram(model, batches, "classification", 2, 5).grams, once, 1e-12, "passes")
    monkeypatch.setattr("kfac.whole_ggn.find_owners", lambda *_: ([], {}))
    assert_close(kfac.compute_gram(model, batches, "classification", 2, 5).grams, once, 1e-10, "rules")
    other = kfac.compute_gram(model, batches, "classification", 2, 6).grams
    assert float((other - once).norm() / once.norm()) > 0.01


def test_memory_only_makes_more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = mixed().double(), batch_of((2, 5, 4), 6)
    data = (data[0].double(), data[1])
    once = kfac.compute_gram(model, data, "classification")
    monkeypatch.setattr(whole_ggn, "MEMORY", 2000)
    trained = dict(model.named_parameters())
    assert len(list(whole_ggn.passes(trained, 12))) > 2
    assert_close(kfac.compute_gram(model, data, "classification").grams, once.grams, 1e-12, "grams")


def test_frozen_parameters_are_no_part() -> None:
    model = mlp().double()
    frozen = next(iter(dict(model.named_parameters())))
    model.get_parameter(frozen).requires_grad_(False)
    x, y = batch_of((5,), 6)
    assert frozen not in kfac.compute_gram(model, (x.double(), y), "classification").names


def test_gradients_reach_precisions_and_variance() -> None:
    model = mlp().double()
    x, y = batch_of((5,), 6)
    found = kfac.compute_gram(model, (x.double(), y), "classification")
    delta = torch.rand(len(found.names), dtype=torch.float64) + 0.5
    assert torch.autograd.gradcheck(
        lambda d, v: found.log_det_ratio(d, v),
        (delta.requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)),
    )


def test_refusals() -> None:
    model, (x, y) = mlp(), batch_of((5,), 4)
    assert_refused(
        lambda: kfac.compute_gram(model.requires_grad_(False), (x, y), "classification"), "no train"
    )
    idle = Tied().double()
    idle.unused = nn.Linear(2, 2).double()
    data = batch_of((4,), 4)
    assert_refused(lambda: kfac.compute_gram(idle, data, "classification"), "never influenced an output")
    model = mlp()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    assert_refused(lambda: kfac.compute_gram(model, (x, y), "classification"), "not finite")


@pytest.mark.parametrize("precision", [1e-3, 1e-9, 1e-14])
def test_precisions_so_small_that_rounding_is_seen(precision: float) -> None:
    """In float32 rounding can make the smallest eigenvalues negative: they are 1 at least, and stay so."""
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", alpha=1, size=8, classes=3)
    x, y = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    found = kfac.compute_gram(model, (x, y), "classification")
    exact = kfac.compute_gram(model.double(), (x.double(), y), "classification")
    delta = torch.full((len(found.names),), precision, dtype=torch.float64)
    gamma, truth = (one.effective_parameters(delta) for one in (found, exact))
    assert torch.isfinite(gamma).all() and (gamma >= -1e-3).all()
    assert float(gamma.sum()) == pytest.approx(float(truth.sum()), rel=0.02)
    assert float(found.log_det_ratio(delta)) == pytest.approx(float(exact.log_det_ratio(delta)), rel=0.02)
