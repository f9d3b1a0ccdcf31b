"""Symmetries measured on networks: zero where they hold, not where they were broken, and nothing is changed.

Axes: batch, c, group, h, w, classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor, nn
from toys import drawn, noise

from symlearn.analysis.motions import MOTIONS
from symlearn.analysis.symmetries import MOST, layer_errors, measured_symmetries, network_errors
from symlearn.layers import CosetPool2d, LiftingConv2d, OrbitAverage
from symlearn.networks import build_model

NAMES = [motion.name for motion in MOTIONS]


class Mean(nn.Module):
    """Average over places, and over a group's axis."""

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, ...] -> [batch, c]`."""
        return x.flatten(2).mean(2)


class Mapped(nn.Module):
    """A layer with a weight that maps images by a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c, h, w] -> [batch, c, h, w]`."""
        return self.weight * self.function(x)


def small(paths: str, size: int = 8) -> nn.Module:
    """The small network, one channel wide, float64."""
    torch.manual_seed(0)
    return build_model(paths, network="small", size=size, alpha=1, classes=3).double()


def ramp(x: Tensor) -> Tensor:
    """Places weighted from left to right: no shift, no turn, no mirror left to right."""
    return x * torch.linspace(0.2, 2, x.shape[-1], dtype=x.dtype)


HELD = {
    "shifts of conv": ("conv", "shifts"),
    "shifts of gconv-p4": ("gconv-p4", "shifts"),
    "quarter turns of gconv-p4": ("gconv-p4", "quarter turns"),
    "quarter turns of gconv-p4m": ("gconv-p4m", "quarter turns"),
    "mirrors of gconv-p4m": ("gconv-p4m", "mirrors"),
}
BROKEN = {
    "shifts of f-fc": ("f-fc", "shifts"),
    "quarter turns of conv": ("conv", "quarter turns"),
    "mirrors of conv": ("conv", "mirrors"),
    "quarter turns of f-fc": ("f-fc", "quarter turns"),
}


@pytest.mark.parametrize("case", HELD)
def test_exact_layers_are_exact(case: str) -> None:
    paths, motion = HELD[case]
    for name, found in layer_errors(small(paths), noise(5, 1, 8, 8)).items():
        assert found["errors"][motion] < 1e-10, f"{name}: {found['errors'][motion]:.1e}"
        assert found["floors"][motion] == 0


@pytest.mark.parametrize("case", BROKEN)
def test_broken_ones_are_not(case: str) -> None:
    """In the layers whose maps have more than 2 x 2 places, of which mirrors are shifts."""
    paths, motion = BROKEN[case]
    for name, found in [*layer_errors(small(paths), noise(5, 1, 8, 8)).items()][:4]:
        assert found["errors"][motion] > 0.1, f"{name}: {found['errors'][motion]:.1e}"


def test_the_network_is_invariant_where_it_must_be() -> None:
    model = nn.Sequential(drawn(LiftingConv2d(1, 3, 3, "p4")), CosetPool2d("p4"), Mean()).double()
    found = network_errors(model, noise(6, 1, 9, 9), None)["errors"]
    assert max(found["shifts"], found["quarter turns"]) < 1e-10
    assert min(found["mirrors"], found["small turns"], found["scales"]) > 1e-3


def test_known_errors() -> None:
    """A layer that takes its input to its mirror image commutes with mirrors, not with shifts."""
    model = nn.Sequential(Mapped(lambda x: x.flip(-1)), Mapped(ramp), Mapped(torch.relu), Mean())
    found = layer_errors(model, noise(4, 2, 8, 8))
    assert list(found) == ["0", "1", "2"], "leaves with weights that map maps"
    assert found["0"]["errors"]["mirrors"] < 1e-12 and found["0"]["errors"]["shifts"] > 0.5
    assert min(found["1"]["errors"][name] for name in ("shifts", "mirrors", "quarter turns")) > 0.3
    assert max(found["2"]["errors"][name] for name in ("shifts", "mirrors", "quarter turns")) < 1e-12


@pytest.mark.parametrize("motion", ["small turns", "scales"])
def test_interpolated_errors_of_an_isotropic_layer_are_near_their_floor(motion: str) -> None:
    """On smooth maps a blur by a round filter turns and scales; a filter that looks to one side does not."""
    round_, aside = (
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double() for _ in "ab"
    )
    with torch.no_grad():
        round_.weight.copy_(torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16)
        aside.weight.copy_(torch.tensor([[0.0, 0, 0], [-1, 0, 1], [0, 0, 0]], dtype=torch.float64))
    x = noise(4, 1, 32, 32)
    for _ in range(8):
        x = round_(x).detach()
    found, broken = (layer_errors(nn.Sequential(layer), x)["0"] for layer in (round_, aside))
    error, floor = found["errors"][motion], found["floors"][motion]
    assert 0 < error < 0.05 and floor < 0.05, (error, floor)
    if motion == "small turns":
        assert broken["errors"][motion] > 0.1 > 2 * broken["floors"][motion], broken


def test_constant_outputs_have_no_error() -> None:
    model = nn.Sequential(Mapped(lambda x: torch.ones_like(x)), Mean())
    report = measured_symmetries(model, None, noise(4, 1, 8, 8), None)
    assert set(report["layers"][0]["fitted"].values()) == {None}
    assert set(report["network"]["fitted"].values()) == {None}
    assert report["layers"][0]["untrained"] == {} and report["network"]["same"] == {}


def test_answers() -> None:
    """A network that sees whether the left or the right half is brighter."""

    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left, right = x.flatten(1, 2).chunk(2, -1)
            return torch.stack([left.sum((1, 2)), right.sum((1, 2))], 1)

    x = noise(50, 1, 8, 8)
    x[:25, ..., :4] += 3
    x[25:, ..., 4:] += 3
    labels = torch.tensor([0] * 25 + [1] * 25)
    found = network_errors(Halves(), x, labels)
    assert found["accuracy_unmoved"] == 1
    assert found["same"]["mirrors"] == pytest.approx(0.5), "left to right all change, top to bottom none"
    assert found["same"]["quarter turns"] == pytest.approx(1 / 3, abs=0.35)
    assert found["accuracy"]["mirrors"] == pytest.approx(0.5)


class TestMeasuredSymmetries:
    """The entry of found.json."""

    def test_is_json_and_names_every_motion(self) -> None:
        model, x = small("f-fc+conv"), noise(20, 1, 8, 8)
        found = measured_symmetries(model, small("conv"), x, torch.zeros(20, dtype=torch.int64))
        assert json.loads(json.dumps(found)) == found
        assert [m["name"] for m in found["motions"]] == NAMES
        assert (found["layer_images"], found["answer_images"], found["left_out"]) == (16, 20, 0)
        for layer in found["layers"]:
            assert set(layer["fitted"]) == set(NAMES) == set(layer["untrained"]), layer["name"]
            assert layer["untrained"]["shifts"] < 1e-10 < layer["fitted"]["shifts"]
        assert set(found["network"]["same"]) == set(found["network"]["accuracy"]) == set(NAMES)

    def test_reasons(self) -> None:
        found = measured_symmetries(small("gconv-p4"), None, noise(3, 1, 8, 8), None)
        for layer in found["layers"]:
            assert set(layer["reasons"]) == {"mirrors", "small turns"}
            assert set(layer["fitted"]) == {"shifts", "quarter turns", "scales"}
        assert found["network"]["reasons"] == {}, "images have no orientations"

    def test_oblong_images(self) -> None:
        torch.manual_seed(0)
        model = build_model("conv", network="small", size=(8, 12), alpha=1, classes=3).double()
        found = measured_symmetries(model, None, noise(3, 1, 8, 12), None)
        assert "not square" in found["network"]["reasons"]["quarter turns"]
        assert found["layers"][0]["fitted"]["shifts"] < 1e-10
        assert found["layers"][0]["fitted"]["mirrors"] > 0.01

    def test_of_an_average(self) -> None:
        model = OrbitAverage(small("conv"), "rotation:30", copies=2).double()
        found = measured_symmetries(model, None, noise(3, 1, 8, 8), None)
        assert len(found["layers"]) == 6 and found["layers"][0]["name"] == "network.layers.0"

    def test_of_networks_on_one_group_and_unfolded(self) -> None:
        torch.manual_seed(0)
        for name, paths, size in (("p4cnn", "gconv-p4", 28), ("unfolded", "cyclic-90", 12)):
            model = build_model(paths, network=name, size=size, alpha=4, classes=3).double()
            found = measured_symmetries(model, None, noise(2, 1, size, size), None)
            assert found["layers"], name
            for layer in found["layers"]:
                assert layer["fitted"]["quarter turns"] < 1e-6, f"{name}: {layer}"

    def test_deep_networks_are_cut(self) -> None:
        convs = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(MOST + 3)]
        model = nn.Sequential(*chain(*([conv, nn.ReLU()] for conv in convs)), Mean()).double()
        found = measured_symmetries(model, None, noise(2, 1, 6, 6), None)
        assert (len(found["layers"]), found["left_out"]) == (MOST, 3)

    def test_it_leaves_networks_as_they_were(self) -> None:
        model = small("f-fc+conv").train()
        before = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
        measured_symmetries(model, None, noise(3, 1, 8, 8), None)
        assert all(module.training for module in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())

    def test_no_images(self) -> None:
        with pytest.raises(ValueError, match=r"expected images \[batch, c, h, w\], got \[3, 8\]"):
            measured_symmetries(nn.Linear(8, 2).double(), None, noise(3, 8), None)
