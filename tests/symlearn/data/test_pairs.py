"""What a loader may give besides whole batches: empty ones, none at all, single items."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_fits
import torch
from oracles import assert_refused
from torch import nn
from torch.utils.data import DataLoader

from symlearn.data.pairs import Pairs, pair_of
from symlearn.fitting.fit import fit
from symlearn.training.inputs import as_tensors

CPU = torch.device("cpu")
X, Y = tiny_fits.directions(10)
EMPTY: list[Pairs] = [(X[:0], Y[:0]), (torch.empty(0), torch.empty(0, dtype=torch.int64))]


def given(batches: list[Any]) -> DataLoader:
    """A loader of these batches as they are."""
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("empty", EMPTY, ids=["of images", "of nothing"])
def test_empty_batches_are_passed_over(empty: Pairs) -> None:
    x, y = pair_of(given([empty, (X[:4], Y[:4]), empty, (X[4:], Y[4:]), empty]))
    assert torch.equal(x, X) and torch.equal(y, Y)


def test_a_fit_to_a_loader_with_empty_batches() -> None:
    def fitted(data: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        tables = {"training": {"epochs": 2}, "evidence": {"selection": "none"}}
        return dict(fit(model, data, data, tables).model.state_dict())

    found = fitted(given([EMPTY[0], (X[:4], Y[:4]), EMPTY[1], (X[4:], Y[4:])]))
    assert not tiny_fits.differences(found, fitted(given([(X[:4], Y[:4]), (X[4:], Y[4:])])))


REFUSED = {
    "no batch": ([], "at least one, got 0 and 0"),
    "empty batches alone": (EMPTY, "at least one, got 0 and 0"),
    "labels without images": ([(X, Y), (X[:0], Y[:3])], "got 10 and 13"),
    "single items": ([(X[0], Y[0]), (X[1], Y[1])], "the loader gives single targets; give it a batch_size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    batches, words = REFUSED[case]
    assert_refused(lambda: as_tensors(given(batches), CPU), words)
