"""The declared diagonal of what `vmap` cannot batch: attention, recurrent layers, functions and branches."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import assert_close, assert_refused
from torch import Tensor, nn
from toys import batch_of, convolutional, drawn, mixed, mlp, seeded

import kfac
from kfac.diagonal import datum_by_datum, exact_diagonals, gradients_by_datum, side_by_side
from kfac.loss_hessian import square_root

Run = Callable[[nn.Module, Tensor], Tensor]


class Sequences(nn.Module):
    """A body on sequences `[batch, place, 4]`, then a head."""

    def __init__(self, body: nn.Module, run: Run, width: int = 4) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(4, 4), body, nn.Linear(width, 3)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, place, 4] -> [batch, 3]`."""
        return self.head(self.run(self.body, self.first(x).tanh()))


def attended(**options: Any) -> Run:
    return lambda body, x: body(x, x, x, **options)[0].mean(1)


def last(body: nn.Module, x: Tensor) -> Tensor:
    return body(x)[0][:, -1]


class Cubed(torch.autograd.Function):
    """x^3, without a rule for `vmap`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.square() * g


class Gain(nn.Module):
    """A gain of one's own, applied by a function of one's own."""

    def __init__(self, apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.function = apply

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, place, 4] -> [batch, 4]`."""
        return self.function(x, self.gain).mean(1)


def branching(x: Tensor, gain: Tensor) -> Tensor:
    return torch.stack([x_n * gain if float(x_n.detach().sum()) > 0 else x_n * gain.sin() for x_n in x])


def in_place(x: Tensor, gain: Tensor) -> Tensor:
    y = torch.zeros(x.shape, dtype=x.dtype)
    for n, x_n in enumerate(x):
        y[n] = x_n * gain
    return y


def by_own_function(x: Tensor, gain: Tensor) -> Tensor:
    return Cubed.apply(x * gain)


def called(body: nn.Module, x: Tensor) -> Tensor:
    return body(x)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Sequences(nn.MultiheadAttention(4, 2, batch_first=True), attended()),
    "fused attention": lambda: Sequences(
        nn.MultiheadAttention(4, 2, batch_first=True), attended(need_weights=False)
    ),
    "attention, places first": lambda: Sequences(
        nn.MultiheadAttention(4, 2, bias=False), lambda body, x: body(*[x.transpose(0, 1)] * 3)[0].mean(0)
    ),
    "attention, own projections": lambda: Sequences(
        nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True, batch_first=True),
        lambda body, x: body(x, x[..., :3], x[..., 2:])[0].mean(1),
    ),
    "transformer layer": lambda: Sequences(
        nn.TransformerEncoderLayer(4, 2, 5, batch_first=True), lambda body, x: body(x).mean(1)
    ),
    "lstm": lambda: Sequences(nn.LSTM(4, 3, batch_first=True), last, 3),
    "deep lstm both ways": lambda: Sequences(
        nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2, batch_first=True), last, 4
    ),
    "gru": lambda: Sequences(nn.GRU(4, 3, batch_first=True), last, 3),
    "rnn": lambda: Sequences(nn.RNN(4, 3, batch_first=True), last, 3),
    "lstm cell": lambda: Sequences(nn.LSTMCell(4, 3), lambda body, x: body(x[:, 0])[0], 3),
    "gru cell": lambda: Sequences(nn.GRUCell(4, 3), lambda body, x: body(x[:, 0]), 3),
    "own function": lambda: Sequences(Gain(by_own_function), called),
    "branch on values": lambda: Sequences(Gain(branching), called),
    "in place": lambda: Sequences(Gain(in_place), called),
}
SEPARATE = {"lstm", "deep lstm both ways", "gru", "rnn", "lstm cell", *list(NETWORKS)[-3:]}


def diagonal_of(
    model: nn.Module, batch: tuple[Tensor, Tensor], likelihood: str, name: str, fisher_type: str = "type-2"
) -> Tensor:
    """By plain autograd, one datum and one column after the other."""
    parameter = dict(model.named_parameters())[name]
    total = torch.zeros_like(parameter)
    for x, y in zip(*(part.split(1) for part in batch), strict=True):
        f = model(x)
        for column in square_root(f.detach(), y, likelihood, fisher_type):
            (gradient,) = torch.autograd.grad(f, parameter, column, retain_graph=True)
            total += gradient.square()
    return total.flatten()


def body_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if name.startswith("body")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("case", NETWORKS)
def test_the_diagonal_is_exact(case: str, likelihood: str, seed: int) -> None:
    model = drawn(NETWORKS[case](), seed).eval()
    batch = batch_of((5, 4), 6, likelihood=likelihood, seed=seed)
    named = dict.fromkeys(body_of(model), "diagonal")
    found = kfac.compute_factors(model, [batch], likelihood, fallback=named)
    everywhere = kfac.compute_factors(model, [batch], likelihood, fallback="diagonal")
    for name in named:
        truth = diagonal_of(model, batch, likelihood, name)
        assert_close(kfac.ggn_block(model, batch, likelihood, name).diag(), truth, 1e-10, f"oracle, {name}")
        block = found[name]
        assert isinstance(block, kfac.DiagonalBlock)
        assert_close(block.diagonal, truth, 1e-10, name)
        if name in kfac.uncovered(model):
            assert_close(everywhere.to_dense(name).diag(), truth, 1e-10, f"{name}, not named")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("build", [convolutional, mixed], ids=["convolutions", "every kind of layer"])
def test_one_by_one_is_side_by_side(build: Callable[[], nn.Module], seed: int) -> None:
    """Both ways give the diagonals of networks that `vmap` can batch, and the dense blocks' own."""
    torch.manual_seed(seed)
    model, (x, y) = drawn(build(), seed).eval(), batch_of((2, 5, 4), 4, seed=seed)
    named = {name: p.detach() for name, p in model.named_parameters()}
    columns = square_root(model(x).detach(), y, "classification")
    together = exact_diagonals(model, named, x, columns)
    _, batched = side_by_side(model, named, x)
    alone = list(datum_by_datum(model, named, x))
    for name in named:
        truth = kfac.ggn_block(model, (x, y), "classification", name).diag()
        assert_close(together[name], truth, 1e-10, name)
        for column in columns:
            rows = [pull_back(c)[name] for (_, pull_back), c in zip(alone, column.split(1), strict=True)]
            assert_close(torch.cat(rows), batched(column)[name], 1e-10, f"gradients of {name}")


def test_what_vmap_batches_stays_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    separate: list[int] = []

    def counted(*args: Any) -> Any:
        separate.append(1)
        return datum_by_datum(*args)

    monkeypatch.setattr("kfac.diagonal.datum_by_datum", counted)
    for case, build in NETWORKS.items():
        if case == "gru cell":  # torch maps it, if slowly, and warns about that
            continue
        model, separate[:] = drawn(build()), []
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as torch's of a slow fallback within vmap
            kfac.compute_factors(
                model,
                [batch_of((5, 4), 6)],
                "classification",
                fallback=dict.fromkeys(body_of(model), "diagonal"),
            )
        assert bool(separate) == (case in SEPARATE), case


@pytest.mark.parametrize("case", ["attention", "lstm", "own function"])
def test_diagonals_add_over_data_and_chunks(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = drawn(NETWORKS[case]()), batch_of((5, 4), 7)
    named = dict.fromkeys(body_of(model), "diagonal")
    whole = kfac.compute_factors(model, [(x, y)], "classification", fallback=named)
    monkeypatch.setattr("kfac.diagonal.MEMORY", 2 * 8 * sum(whole[name].shape.numel() for name in named))
    parts = kfac.compute_factors(model, [(x[:3], y[:3]), (x[3:], y[3:])], "classification", fallback=named)
    for name in named:
        assert_close(parts.to_dense(name), whole.to_dense(name), 1e-12, name)


@pytest.mark.parametrize("case", ["attention", "gru", "in place"])
def test_every_pass_has_the_diagonal(case: str) -> None:
    model, batch = drawn(NETWORKS[case]()), batch_of((5, 4), 6)
    named = dict.fromkeys(body_of(model), "diagonal")
    factors = kfac.compute_factors(model, [batch], "classification", fallback=named)
    basis = kfac.partial_trace_basis(model, [batch], "classification", fallback=named)
    corrected = kfac.correct_eigenvalues(
        model, [batch], "classification", factors.eigendecompose(vectors=True)
    )
    for name in named:
        truth = diagonal_of(model, batch, "classification", name)
        for eigen in (basis, corrected, factors.eigendecompose()):
            assert_close(eigen.eigenvalues[name].double(), truth, 1e-10, name)


def test_gradients_by_datum_whatever_vmap_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its forward pass (LSTM), or of the backward pass alone."""
    x, _ = batch_of((5, 4), 3)

    def refuse(_: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("no rule")

    for build in (NETWORKS["lstm"], NETWORKS["attention"]):
        model = drawn(build()).eval()
        named = {name: p.detach() for name, p in model.named_parameters() if name.startswith("body")}
        known = {name: p.detach() for name, p in model.named_parameters() if name not in named}
        f, pull_back = gradients_by_datum(model, named, x, known)
        assert_close(f.detach(), model(x), 1e-12, "outputs")
        cotangent = torch.cos(torch.arange(9.0, dtype=torch.float64)).reshape(3, 3)
        found = pull_back(cotangent)
        for n in range(3):
            grads = torch.autograd.grad(
                model(x[n : n + 1]), [model.get_parameter(name) for name in named], cotangent[n : n + 1]
            )
            for name, truth in zip(named, grads, strict=True):
                assert_close(found[name][n], truth, 1e-10, name)
        with monkeypatch.context() as patch:
            patch.setattr("kfac.diagonal.side_by_side", lambda *args: (None, refuse))
            again = gradients_by_datum(model, named, x, known)[1](cotangent)
        for name in named:
            assert_close(again[name], found[name], 1e-12, name)


class Scaled(nn.Module):
    """A recurrent layer whose input is scaled by a hyperparameter."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 3)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, place, 4] -> [batch, 3]`."""
        return self.head(last(self.body, x * self.scale))


def test_the_diagonal_is_differentiable() -> None:
    model, batch = drawn(Scaled()).eval(), batch_of((5, 4), 4)

    def total(scale: Tensor, differentiable: bool) -> Tensor:
        model.scale = scale
        factors = kfac.compute_factors(
            model, [batch], "classification", fallback="diagonal", differentiable=differentiable
        )
        return sum(block.diagonal.sum() for name, block in factors.items() if name.startswith("body"))

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(scale, True), scale)
    up, down = (total(torch.tensor(1 + step, dtype=torch.float64), False) for step in (1e-5, -1e-5))
    assert not up.requires_grad
    assert float(slope) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("case", ["attention", "deep lstm both ways"])
def test_network_and_torch_are_left_as_they_were(case: str) -> None:
    model, batch = drawn(NETWORKS[case]()), batch_of((5, 4), 4)
    before, outputs = copy.deepcopy(model.state_dict()), model(batch[0])
    kfac.compute_factors(model, [batch], "classification", fallback="diagonal")
    assert_refused(
        lambda: kfac.compute_factors(
            model, [(batch[0], batch[1] + 7)], "classification", fallback="diagonal"
        ),
        "labels run from",
    )
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cudnn.enabled
    assert torch.equal(model(batch[0]), outputs) and model.training
    assert all(p.grad is None and p.is_leaf for p in model.parameters())
    for name, value in copy.deepcopy(model).state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.save(model.state_dict(), io.BytesIO())


@pytest.mark.parametrize("case", ["attention", "lstm", "gru"])
def test_shapes_alone(case: str) -> None:
    model = NETWORKS[case]().to("meta")
    batch = torch.empty(40, 5, 4, device="meta"), torch.empty(40, dtype=torch.int64, device="meta")
    factors = kfac.compute_factors(model, [batch], "classification", fallback="diagonal")
    for name, p in model.named_parameters():
        assert factors[name].shape == p.shape


def test_a_weight_without_influence_has_no_curvature() -> None:
    model = drawn(Sequences(nn.LSTM(4, 3, batch_first=True), lambda body, x: x.mean(1)))
    factors = kfac.compute_factors(model, [batch_of((5, 4), 4)], "classification", fallback="diagonal")
    for name in body_of(model):
        assert not factors[name].diagonal.any(), name


class InPairs(nn.Module):
    """Runs on pairs of data alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.head = nn.Parameter(torch.ones(5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 5] -> [batch, 3]`."""
        return self.head((x.reshape(-1, 2, 5) * self.gain).reshape(-1, 5))


def test_no_gradients_by_datum_are_said_in_one_line() -> None:
    for words in ("'0.gain' has no gradients datum by datum", "freeze them", "curvature.left_out"):
        assert_refused(
            lambda: kfac.compute_factors(
                seeded(InPairs()), [batch_of((5,), 4)], "classification", fallback="diagonal"
            ),
            words,
        )


def test_attention_names_all_its_weights() -> None:
    with pytest.raises(
        ValueError, match=r"body\.in_proj_weight, .*body\.out_proj\.weight, body\.out_proj\.bias;"
    ):
        kfac.compute_factors(NETWORKS["attention"](), [batch_of((5, 4), 4)], "classification")
    assert kfac.uncovered(mlp()) == []
