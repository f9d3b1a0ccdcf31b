"""Many classes: a column costs what an output costs, and no pass holds all columns at once.

Axes: column, batch, classes.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close
from torch import Tensor, nn

import kfac
from kfac.draws import Draws
from kfac.loss_hessian import Columns, exact_classification, square_root

LIMIT = 300  # MiB beyond the network and torch


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 12), scale=st.sampled_from([0.1, 1.0, 10.0, 30.0]), seed=st.integers(0, 99))
def test_a_sketched_column_is_the_exact_ones_mixed_by_its_signs(
    classes: int, scale: float, seed: int
) -> None:
    """The signs are those drawn as one tensor `[samples, classes - 1, batch]`."""
    f = scale * torch.randn(5, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = torch.zeros(5, dtype=torch.long)
    found = square_root(
        f, y, "classification", "sketch", 3, Draws(torch.Generator().manual_seed(seed))
    ).stacked()
    signs = torch.randint(0, 2, (3, classes - 1, 5), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    truth = torch.einsum("mkb,kbc->mbc", signs.double(), exact_classification(f)) / 3**0.5
    assert float((found - truth).abs().max()) < 1e-14


def householder(f: Tensor) -> Tensor:
    """diag(r) times the reflection as matrices, `[classes - 1, batch, classes]`."""
    root = f.softmax(-1).sqrt()
    v = root + torch.eye(f.shape[1], dtype=f.dtype)[-1]
    matrices = (
        torch.eye(f.shape[1], dtype=f.dtype)
        - 2 * v[:, :, None] * v[:, None] / v.square().sum(-1)[:, None, None]
    )
    return (root[:, :, None] * matrices[:, :, :-1]).permute(2, 0, 1)


@pytest.mark.parametrize("classes", [2, 3, 7, 40])
def test_exact_columns_are_the_householder_reflections(classes: int) -> None:
    f = 3 * torch.randn(6, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float((exact_classification(f) - householder(f)).abs().max()) < 1e-14


@pytest.mark.parametrize("where", [0, 3, 4])
@pytest.mark.parametrize("fisher_type", ["type-2", "mc", "sketch", "empirical"])
def test_confident_data_keep_their_digits_in_float32(fisher_type: str, where: int) -> None:
    """A logit 25 above the others: float32 alone would round 1 - p to zero."""
    f = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    f[:, where] += 25
    y = torch.full((4,), where)

    def columns(outputs: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return square_root(outputs, y, "classification", fisher_type, 2, Draws(generator)).stacked().double()

    single, double = columns(f), columns(f.double())
    worst = ((single - double).abs() / double.abs()).max()
    assert float(worst) < 1e-4, f"relative error {worst} of an entry"


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("fisher_type", ["type-2", "mc", "sketch", "empirical"])
def test_columns_of_parts_of_the_data(fisher_type: str, likelihood: str) -> None:
    f, y = torch.randn(7, 4), torch.arange(7) % 4 if likelihood == "classification" else torch.randn(7, 4)
    columns = square_root(f, y, likelihood, fisher_type, 3)
    whole = columns.stacked()
    parts = [part.stacked() for part in columns.split(3)]
    assert [p.shape[1] for p in parts] == [3, 3, 1] and torch.equal(torch.cat(parts, 1), whole)
    inner = columns.of_data(slice(2, 6)).of_data(slice(1, None))
    assert torch.equal(inner.stacked(), whole[:, 3:6]) and (len(inner), inner.batch) == (len(columns), 3)


def test_columns_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def make(k: int, part: slice) -> Tensor:
        made.append(k)
        return torch.zeros(2, 3)[part]

    columns = iter(Columns(make, 1000, 2))
    next(columns)
    assert made == [0]


def test_one_column_of_many_classes_costs_what_an_output_costs() -> None:
    """`shared/cases/sketch_cost.py`: one sketched column of 2,000 classes took 5.5 s and 2.5 GB."""
    seconds = {}
    for kind in ("mc", "sketch"):
        f, y = torch.randn(64, 2000), torch.zeros(64, dtype=torch.long)
        square_root(f, y, "classification", kind).stacked()
        start = time.process_time()
        square_root(f, y, "classification", kind).stacked()
        seconds[kind] = time.process_time() - start
    assert max(seconds.values()) < 0.2, seconds


MEMORY_SCRIPT = """
    import dataclasses, torch, kfac
    from kfac import loss_hessian
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1000))
    data = [(torch.randn(128, 30), torch.randint(0, 1000, (128,)))]
    exact = loss_hessian.EXACT["classification"]
    loss_hessian.EXACT["classification"] = lambda f: dataclasses.replace(exact(f), count=4)
    diagonal = {n: "diagonal" for n, _ in net.named_parameters()}
    backend = kfac.KfacGGN(net, "classification")
    basis = kfac.compute_factors(net, data, "classification", "sketch").eigendecompose(vectors=True)
    passes = {
        "factors": lambda: kfac.compute_factors(net, data, "classification"),
        "corrections": lambda: kfac.correct_eigenvalues(net, data, "classification", basis),
        "traces": lambda: kfac.partial_trace_basis(net, data, "classification"),
        "diagonal": lambda: kfac.compute_factors(net, data, "classification", fallback=diagonal),
        "laplace": lambda: backend.kron(*data[0], N=128),
    }
    def resident(key):
        line = next(line for line in open("/proc/self/status") if line.startswith(key))
        return int(line.split()[1]) / 1024
    for name, run in passes.items():
        before = resident("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        run()
        print(name, resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory as Linux does")
def test_a_thousand_classes_in_bounded_memory() -> None:
    """1,000 classes and 128 data, where all columns at once are 512 MB; the first 4 of 999 are enough to see.

    All of them: `experiments/benchmarks/classes.py`.
    """
    script = [sys.executable, "-c", textwrap.dedent(MEMORY_SCRIPT)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    rises = dict(line.split() for line in done.stdout.splitlines())
    assert len(rises) == 5 and max(map(float, rises.values())) < LIMIT, rises


def test_streamed_factors_equal_the_stacked_columns_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 30)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6)
    columns = exact_classification(net(x).detach()).flatten(0, 1)
    found = kfac.compute_factors(net, [(x, y)], "classification")["0.weight"].output_factor[0]
    assert_close(found, columns.T @ columns, 1e-12, "B of a linear map")
