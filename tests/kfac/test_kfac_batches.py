"""Every pass takes what a user brings: labels of any integer type, arrays, lists, empty batches between."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from oracles import assert_close, assert_refused
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from toys import batch_of, mlp, seeded

import kfac

X, Y = batch_of((5,), 6)
TARGETS = batch_of((5,), 6, likelihood="regression")[1]
Pass = Callable[[nn.Module, Any, str], dict[str, Tensor]]


def factors(model: nn.Module, loader: Any, likelihood: str) -> dict[str, Tensor]:
    found = kfac.compute_factors(model, loader, likelihood)
    return {name: block.to_dense() for name, block in found.items()} | {
        "log-likelihood": torch.as_tensor(found.log_likelihood)
    }


def observed(model: nn.Module, loader: Any, likelihood: str) -> dict[str, Tensor]:
    found = kfac.compute_factors(model, loader, likelihood, "empirical")
    return {name: block.to_dense() for name, block in found.items()}


def corrected(model: nn.Module, loader: Any, likelihood: str) -> dict[str, Tensor]:
    y = Y if likelihood == "classification" else TARGETS
    x = X.to(next(model.parameters()).dtype)
    basis = kfac.compute_factors(model, [(x, y)], likelihood).eigendecompose(vectors=True)
    return dict(kfac.correct_eigenvalues(model, loader, likelihood, basis, "empirical").eigenvalues)


def traced(model: nn.Module, loader: Any, likelihood: str) -> dict[str, Tensor]:
    return dict(kfac.partial_trace_basis(model, loader, likelihood, "empirical").eigenvalues)


def dense(model: nn.Module, loader: Any, likelihood: str) -> dict[str, Tensor]:
    batches = [loader] if isinstance(loader, tuple) else loader
    blocks = [kfac.ggn_block(model, batch, likelihood, "0.weight") for batch in batches]
    return {"0.weight": torch.stack(blocks).sum(0)}


PASSES: dict[str, Pass] = {
    "factors": factors,
    "empirical factors": observed,
    "corrected eigenvalues": corrected,
    "partial traces": traced,
    "dense block": dense,
}
LOADERS = {name: one for name, one in PASSES.items() if name != "dense block"}  # takes one batch


def assert_same(one: Pass, given: Any, like: Any, likelihood: str, model: nn.Module) -> None:
    found, wanted = one(model, given, likelihood), one(model, like, likelihood)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert_close(value, wanted[name], 1e-12, name)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("one", PASSES)
def test_labels_of_any_integer_type(one: str, kind: str) -> None:
    for labels in (Y.to(getattr(torch, kind)), Y.numpy().astype(kind)):
        assert_same(PASSES[one], [(X, labels)], [(X, Y)], "classification", mlp())


INPUTS: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda t: t.numpy(),
    "array that is no block of memory": lambda t: np.repeat(t.numpy(), 2, 0)[::2],
    "array that may not be written": lambda t: np.broadcast_to(t.numpy(), t.shape),
    "list of arrays": lambda t: list(t.numpy()),
    "list of tensors": lambda t: list(t),
    "list of lists": lambda t: t.tolist(),
    "tuple of lists": lambda t: tuple(t.tolist()),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("one", PASSES)
def test_arrays_and_lists(one: str, likelihood: str, kind: str) -> None:
    given = INPUTS[kind]
    y = Y if likelihood == "classification" else TARGETS
    assert_same(PASSES[one], [(given(X), given(y))], [(X, y)], likelihood, mlp())


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("one", PASSES)
def test_real_arrays_come_to_the_networks_type(one: str, likelihood: str) -> None:
    x, y = X.float(), Y if likelihood == "classification" else TARGETS.float()
    wide = (x.double().numpy(), y.numpy() if likelihood == "classification" else y.double().numpy())
    assert_same(PASSES[one], [wide], [(x, y)], likelihood, mlp().float())
    half = [(x.half().numpy(), y.numpy())]
    assert_same(PASSES[one], half, [(x.half().float(), y)], likelihood, mlp().float())


def test_targets_of_a_half_network_keep_single_precision() -> None:
    x, y = X.bfloat16(), TARGETS.float()
    model = mlp().bfloat16()
    found = kfac.compute_factors(model, [(x, y.double().numpy())], "regression", "empirical")
    wanted = kfac.compute_factors(model, [(x, y)], "regression", "empirical")
    assert float(found.log_likelihood) == float(wanted.log_likelihood)


@pytest.mark.parametrize("one", PASSES)
def test_real_targets_of_another_type(one: str) -> None:
    whole = TARGETS.round()
    for y in (whole.float(), whole.int(), whole.int().tolist()):
        assert_same(PASSES[one], [(X, y)], [(X, whole)], "regression", mlp())


def test_integer_inputs_stay_integers() -> None:
    model = seeded(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3))
    tokens = torch.tensor([[0, 1], [2, 6], [3, 3], [5, 4], [1, 1], [6, 0]])
    wanted = kfac.compute_factors(model, [(tokens, Y)], "classification", fallback="diagonal")
    for given in (tokens.numpy(), tokens.numpy().astype(np.int32), tokens.tolist()):
        found = kfac.compute_factors(model, [(given, Y)], "classification", fallback="diagonal")
        for name in wanted.names:
            assert_close(found.to_dense(name), wanted.to_dense(name), 1e-12, name)


def test_integer_images_are_refused_where_reals_are_taken() -> None:
    model = mlp()
    given = [(np.ones((6, 5), np.uint8), Y)]
    assert_refused(
        lambda: kfac.compute_factors(model, given, "classification"),
        "the inputs are torch.uint8 and the model's parameters torch.float64; convert one of them",
    )


Batch = namedtuple("Batch", "x y index")


class Streamed(IterableDataset):
    """Batches one after the other."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Two batches."""
        yield from zip(X.split(4), Y.split(4), strict=True)


WHOLE: dict[str, Callable[[], Any]] = {
    "one batch by itself": lambda: (X, Y),
    "one batch of arrays": lambda: [X.numpy(), Y.numpy()],
    "two batches": lambda: ((X[:2], Y[:2]), (X[2:], Y[2:])),
    "generator": lambda: (pair for pair in zip(X.split(2), Y.split(2), strict=True)),
    "loader": lambda: DataLoader(TensorDataset(X, Y), 4),
    "stream": lambda: Streamed(),
    "more than a pair": lambda: [Batch(X, Y, torch.arange(6))],
}


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("one", LOADERS)
def test_kinds_of_loaders(one: str, case: str) -> None:
    assert_same(LOADERS[one], WHOLE[case](), [(X, Y)], "classification", mlp())


EMPTY = (X[:0], Y[:0])


@pytest.mark.parametrize("one", LOADERS)
@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_empty_batches_are_passed_over(one: str, likelihood: str) -> None:
    y = Y if likelihood == "classification" else TARGETS
    empty = [(X[:0], y[:0]), (X[:0].numpy(), y[:0].numpy()), ([], [])]
    given = [*empty, (X[:2], y[:2]), *empty, (X[2:], y[2:]), *empty]
    assert_same(LOADERS[one], given, [(X[:2], y[:2]), (X[2:], y[2:])], likelihood, mlp())


def test_empty_batches_draw_nothing() -> None:
    options = {"fisher_type": "mc", "mc_samples": 2, "seed": 3}
    parts = [(X[:2], Y[:2]), (X[2:], Y[2:])]
    found = kfac.compute_factors(mlp(), [EMPTY, parts[0], EMPTY, parts[1]], "classification", **options)
    wanted = kfac.compute_factors(mlp(), parts, "classification", **options)
    assert torch.equal(found.to_dense("0.weight"), wanted.to_dense("0.weight"))
    assert (found.n_data, found.n_targets) == (wanted.n_data, wanted.n_targets)


@pytest.mark.parametrize("given", [[], [EMPTY], [EMPTY, EMPTY], iter(())], ids=["none", "one", "two", "used"])
@pytest.mark.parametrize("one", LOADERS)
def test_no_data_at_all(one: str, given: Any) -> None:
    assert_refused(lambda: LOADERS[one](mlp(), given, "classification"), "the loader gave no data")


def test_a_block_of_an_empty_batch() -> None:
    assert_refused(lambda: kfac.ggn_block(mlp(), EMPTY, "classification", "0.weight"), "the batch is empty")


class Items(Dataset):
    """Single items."""

    def __len__(self) -> int:
        """Six."""
        return 6

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        """One."""
        return X[k], int(Y[k])


REFUSED: dict[str, tuple[Any, str]] = {
    "truth values": ((X, Y > 0), "needs integer labels [batch], got torch.bool"),
    "truth values in a list": ((X, [True, False] * 3), "needs integer labels [batch], got torch.bool"),
    "labels as reals in a list": ((X, [0.0, 1.0] * 3), "needs integer labels [batch], got torch.float64"),
    "complex labels": ((X, Y * 1j), "needs integer labels [batch], got torch.complex64"),
    "label too large in a byte": ((X, (Y + 253).byte()), "labels run from 254 to 255"),
    "negative label": ((X, (Y - 2).to(torch.int8)), "labels run from -1 to 0"),
    "words": ((X, ["cat"] * 6), "y of batch 0: expected an array or tensor of numbers, got a list"),
    "objects": ((X, np.array([None] * 6)), "expected an array or tensor of numbers, got an array of object"),
    "ragged": (
        ([[1.0], [1.0, 2.0]], Y[:2]),
        "x of batch 0: expected an array or tensor of numbers, got a list",
    ),
    "tensors of several shapes": (([X[0], X[1, :2]], Y[:2]), "x of batch 0: expected an array or tensor"),
    "fewer labels": ((X, Y[:4]), "batch 0 has 6 inputs and 4 targets"),
    "labels of an empty batch": ((X[:0], Y), "batch 0 has 0 inputs and 6 targets"),
    "an item": ((X[0], 2), "batch 0 has x [5] and y []"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("one", PASSES)
def test_batches_that_no_pass_takes(one: str, case: str) -> None:
    batch, words = REFUSED[case]
    name = "the batch" if one == "dense block" else "batch 0"
    assert_refused(lambda: PASSES[one](mlp(), [batch], "classification"), words.replace("batch 0", name))


@pytest.mark.parametrize("one", PASSES)
def test_targets_that_are_no_reals(one: str) -> None:
    for wrong, kind in ((TARGETS > 0, "bool"), (TARGETS * 1j, "complex128")):
        assert_refused(
            lambda wrong=wrong: PASSES[one](mlp(), [(X, wrong)], "regression"),
            f"regression needs real targets, got torch.{kind}",
        )


NO_LOADERS: dict[str, tuple[Any, str]] = {
    "data set": (Items(), "got a data set of single items, Items; put it into a DataLoader"),
    "tensors": (TensorDataset(X, Y), "got a data set of single items, TensorDataset"),
    "tensor": (X, "batch 0 is a Tensor"),
    "inputs alone": ([(X,)], "batch 0 is a tuple"),
    "dictionary": ({"x": X, "y": Y}, "got dict"),
    "dictionaries": ([{"x": X, "y": Y}], "batch 0 is a dict"),
    "nothing": (None, "got NoneType"),
    "number": (3, "got int"),
    "name": ("digits", "got str"),
}


@pytest.mark.parametrize("case", NO_LOADERS)
@pytest.mark.parametrize("one", LOADERS)
def test_what_is_no_loader(one: str, case: str) -> None:
    given, words = NO_LOADERS[case]
    assert_refused(lambda: LOADERS[one](mlp(), given, "classification"), words)


def test_the_oracle_takes_no_unknown_likelihood() -> None:
    assert_refused(
        lambda: kfac.ggn_block(mlp(), (X, Y), "poisson", "0.weight"), "unknown likelihood 'poisson'"
    )
