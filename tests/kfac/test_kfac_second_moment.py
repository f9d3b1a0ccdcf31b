"""Rows or their sum: the same numbers, whichever is kept.

Axes: group, row, d.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kfac
from kfac.second_moment import SecondMoment
from tests.oracles import assert_close


@pytest.mark.parametrize("batches", [(3,), (3, 2), (4, 4), (9,), (2, 3, 4)])
def test_sum_and_spectrum_do_not_depend_on_what_is_kept(batches: tuple[int, ...]) -> None:
    chunks = [torch.randn(2, n, 7, dtype=torch.float64) for n in batches]
    moment = SecondMoment.of_rows(chunks[0])
    for chunk in chunks[1:]:
        moment = moment + SecondMoment.of_rows(chunk)
    rows = torch.cat(chunks, 1)
    truth = torch.einsum("gni,gnj->gij", rows, rows)
    assert (moment.summed is None) == (rows.shape[1] < 7), "rows are kept while they are fewer than d"
    assert (moment.groups, moment.size) == (2, 7)
    assert_close(moment.to_dense(), truth, 1e-12, "sum")
    nonzero = torch.linalg.eigvalsh(moment.smallest())
    expected = torch.linalg.eigvalsh(truth)[:, -nonzero.shape[1] :]
    assert_close(nonzero, expected, 1e-10, "eigenvalues")
    mixed = moment + SecondMoment(truth)
    assert_close(mixed.to_dense(), 2 * truth, 1e-12, "rows plus a sum")


def test_eigenvalues_of_few_data_equal_those_of_the_dense_block() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(8, 30, dtype=torch.float64), torch.arange(8) % 3
    factors = kfac.compute_factors(model, [(x, y)], "classification")
    block = factors["0.weight"]
    assert block.inputs.summed is None
    values = factors.eigendecompose().eigenvalues["0.weight"]
    assert values.shape == (150,)
    truth = torch.linalg.eigvalsh(factors.to_dense("0.weight"))
    assert_close(values.sort().values, truth.clamp_min(0), 1e-10, "spectrum")
    vectors = factors.eigendecompose(vectors=True).eigenvalues["0.weight"]
    assert_close(values, vectors, 1e-10, "in the order of the eigenbasis")


def test_rows_outlive_the_buffer_of_a_loader() -> None:
    model = nn.Linear(6, 2)
    buffer = torch.empty(2, 6)

    def loader():
        for k in range(2):
            buffer.normal_(generator=torch.Generator().manual_seed(k))
            yield buffer, torch.tensor([0, 1])

    reused = kfac.compute_factors(model, loader(), "classification")
    fresh = kfac.compute_factors(model, [(x.clone(), y) for x, y in loader()], "classification")
    assert torch.equal(reused["weight"].input_factor, fresh["weight"].input_factor)
