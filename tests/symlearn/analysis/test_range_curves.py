"""The evidence along a range: the evidence of the network as it is at its own range, and a network untouched.

Axes: none.
"""

from __future__ import annotations

import pytest
import torch
from tiny_fits import options
from torch import nn

import kfac
from symlearn.analysis.range_curves import grid, range_curves
from symlearn.data.samples import Held
from symlearn.evidence.laplace import log_marginal_likelihood
from symlearn.layers import OrbitAverage
from symlearn.layers.transforms import TRANSFORMS


def average(transforms: str, learn: bool = True) -> OrbitAverage:
    """A linear network on 6 x 6 images, averaged."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    return OrbitAverage(network, transforms, copies=3, learn=learn)


def data(n: int = 12) -> Held:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(1)
    return Held(torch.randn(n, 1, 6, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator))


@pytest.mark.parametrize("name", ["rotation", "translation-x", "scale", "flip-x"])
@pytest.mark.parametrize("where", ["inside", "at the lowest", "at the highest"])
def test_grids(name: str, where: str) -> None:
    transform = TRANSFORMS[name]
    low, high = transform.bounds
    value = {"inside": (low + high) / 2, "at the lowest": low, "at the highest": high}[where]
    found = grid(transform, value)
    assert found == sorted(set(found)) and found[0] == low and found[-1] <= high
    assert value in found and len(found) >= 5, "the range itself is tried, and some others"


def test_a_curve_is_the_evidence_at_every_range() -> None:
    model, samples = average("rotation:30"), data()
    config = options(fisher_type="type-2").resolved(len(samples))
    names = [name for name, _ in model.named_parameters()]
    precision = dict.fromkeys(names, 2.0)
    curve = range_curves(model, samples, config, precision)["rotation"]
    assert (curve["images"], curve["of"]) == (12, 12)
    for point in curve["points"]:
        other = average(f"rotation:{max(point['range'], 0.5)}")
        factors = kfac.compute_factors(other, [samples.whole()], "classification", fisher_type="type-2")
        expected = float(log_marginal_likelihood(other, factors, precision).total)
        assert point["log_evidence"] == pytest.approx(expected, rel=1e-4), point
    heights = [point["log_evidence"] for point in curve["points"]]
    assert max(heights) - min(heights) > 0.01, "the range matters"


def test_sums_of_a_part_stand_for_all() -> None:
    model, samples = average("rotation:30,flip-x:0.2"), data(40)
    config = options().resolved(40)
    precision = {name: 2.0 for name, _ in model.named_parameters()}
    found = range_curves(model, samples, config, precision, images=30)
    assert set(found) == {"rotation", "flip-x"}
    assert all((curve["images"], curve["of"]) == (30, 40) for curve in found.values())
    whole = range_curves(model, samples, config, precision)
    here, there = (curve["rotation"]["points"][0]["log_evidence"] for curve in (found, whole))
    assert here == pytest.approx(there, rel=0.2)


def test_the_network_is_left_as_it_was() -> None:
    model, samples = average("rotation:30,translation-x"), data()
    config = options().resolved(len(samples))
    before = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    range_curves(model, samples, config, {name: 1.0 for name, _ in model.named_parameters()})
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_nothing_learned_nothing_drawn() -> None:
    config = options().resolved(12)
    assert range_curves(average("rotation", learn=False), data(), config, {}) == {}
    assert range_curves(nn.Linear(2, 2), data(), config, {}) == {}
