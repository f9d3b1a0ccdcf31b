"""Stated errors and biases of quantities from a part of the data, against formulas and against repeated draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from symlearn.evidence.jackknife import CHUNKS, Jackknife, standard_error_of
from symlearn.evidence.sampled import Noted, mean_of, paired_error


def jackknife(values: Tensor, drawn: Tensor, function) -> Jackknife:
    """A function of the mean of values `[n, ...]`, from the drawn places in chunks."""
    chunks = values[drawn].reshape(CHUNKS, -1, *values.shape[1:])
    without = [function(torch.cat([*chunks[:c], *chunks[c + 1 :]]).mean(0)) for c in range(CHUNKS)]
    return Jackknife(function(values[drawn].mean(0)), torch.stack(without), len(drawn) / len(values))


def population(n: int = 400) -> Tensor:
    """Positive numbers, float64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, generator=generator, dtype=torch.float64).square()


def test_of_a_mean_is_the_usual_error() -> None:
    """s^2 / M (1 - M / N) with s^2 of the chunks' means, and no bias."""
    values, drawn = population(), torch.randperm(400, generator=torch.Generator().manual_seed(1))[:80]
    found = jackknife(values, drawn, lambda mean: mean)
    means = values[drawn].reshape(CHUNKS, -1).mean(1)
    assert found.standard_error == pytest.approx(float((0.8 * means.var() / CHUNKS).sqrt()))
    assert float(found.bias) == pytest.approx(0.0, abs=1e-14)
    assert standard_error_of((found.without - 5).tolist(), 0.2) == pytest.approx(float(found.standard_error))


def test_all_data_leave_no_error() -> None:
    found = jackknife(population(), torch.arange(400), torch.log)
    assert float(found.standard_error) == 0 and float(found.bias) == 0
    assert found.corrected == population().mean().log()


@pytest.mark.parametrize("part", [0.1, 0.4])
def test_against_repeated_draws(part: float) -> None:
    """A concave function: the stated error is that of the draws, the correction takes most of the bias."""
    values, used = population(), int(part * 400)
    truth = values.mean().log()
    draws = []
    for seed in range(1500):
        drawn = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:used]
        draws.append(jackknife(values, drawn, torch.log))
    errors = torch.stack([d.whole for d in draws]) - truth
    stated = torch.stack([d.standard_error.square() for d in draws]).mean().sqrt()
    assert float(stated / errors.std()) == pytest.approx(1.0, abs=0.1)
    assert float(errors.mean()) < 0, "a concave function of a subset is too low on average"
    corrected = torch.stack([d.corrected for d in draws]) - truth
    assert abs(float(corrected.mean())) < 0.35 * abs(float(errors.mean()))
    within = (errors.abs() <= 1.645 * torch.stack([d.standard_error for d in draws])).double().mean()
    assert 0.8 < float(within) < 0.9, "Student's t of 7 degrees of freedom says 86 %"


class TestPaired:
    """Differences on the same images."""

    ONE = Noted(80, 400, -100.0, [3.0, -3.0, 1.0, -1.0, 2.0, -2.0, 0.0, 0.0])

    def test_what_both_share_cancels(self) -> None:
        other = Noted(80, 400, -90.0, list(self.ONE.deviations))
        assert paired_error(self.ONE, [other, other]) == 0

    def test_against_the_formula(self) -> None:
        other = Noted(80, 400, -90.0, [0.0] * 8)
        expected = (0.8 * 7 / 8 * sum(d**2 for d in self.ONE.deviations)) ** 0.5
        assert paired_error(self.ONE, [other]) == pytest.approx(expected)

    def test_mean_of_several(self) -> None:
        negative = Noted(80, 400, -90.0, [-d for d in self.ONE.deviations])
        mean = mean_of([self.ONE, negative])
        assert mean.evidence == -95 and mean.deviations == [0.0] * 8

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="take the same subset"):
            paired_error(self.ONE, [Noted(160, 400, -90.0, [0.0] * 8)])
