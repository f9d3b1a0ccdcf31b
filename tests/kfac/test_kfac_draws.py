"""Signs of sketched columns: those of one process, however the data are cut up."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_refused

from kfac import Place
from kfac.draws import Draws, seeded_draws

CPU = torch.device("cpu")
TOTAL, BATCH = 23, 5


def signs(draws: Draws, batches: list[int]) -> torch.Tensor:
    """Of consecutive batches, side by side."""
    return torch.cat([draws.signs(2, 3, n, CPU) for n in batches], 2)


@pytest.mark.parametrize(
    ("first", "batches"),
    [(0, [23]), (0, [1] * 23), (0, [4, 9, 10]), (5, [5, 5, 5, 3]), (7, [6, 6, 4]), (22, [1]), (10, [3])],
)
def test_a_part_has_its_part_of_the_signs(first: int, batches: list[int]) -> None:
    whole = signs(seeded_draws(CPU, 4), [5, 5, 5, 5, 3])
    for rank in (0, 1):
        found = signs(seeded_draws(CPU, 4, rank, Place(first, TOTAL, BATCH)), batches)
        assert torch.equal(found, whole[:, :, first : first + sum(batches)])
    assert set(whole.unique().tolist()) == {-1, 1} and whole.dtype == torch.int8


def test_without_a_place_every_process_draws_its_own() -> None:
    first, second = (signs(seeded_draws(CPU, 4, rank), [23]) for rank in (0, 1))
    assert not torch.equal(first, second)


def test_without_a_seed_torch_draws() -> None:
    torch.manual_seed(1)
    expected = torch.randint(0, 2, (2, 3, 4)) * 2 - 1
    torch.manual_seed(1)
    assert torch.equal(signs(seeded_draws(CPU, None, 1, Place(0, 4, 4)), [4]), expected)


def test_more_data_than_there_are() -> None:
    draws = seeded_draws(CPU, 4, 1, Place(20, TOTAL, BATCH))
    assert_refused(lambda: signs(draws, [4]), "more data than place says")


@pytest.mark.parametrize("given", [(-1, 3, 2), (4, 3, 2), (0, 3, 0)])
def test_places_that_cannot_be(given: tuple[int, int, int]) -> None:
    assert_refused(lambda: Place(*given), "expected a batch of 1 or more")
