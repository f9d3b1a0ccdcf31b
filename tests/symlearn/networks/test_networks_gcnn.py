"""Networks on one group: published parameter counts, exact invariance, curvature of everything, refusals.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_close
from torch import Tensor, nn
from torch.func import vmap

import kfac
from symlearn.groups import find_group
from symlearn.networks import NETWORKS, build_model
from symlearn.networks.all_cnn import AllCNN
from symlearn.networks.gcnn import RotatedMnistNetwork
from symlearn.networks.resnet44 import ResidualBlock, ResNet44

COUNTS = {  # network, paths: first width, parameters, the published figure; Cohen & Welling 2016, Table 2
    ("p4cnn", "conv"): (20, 21_630, None),
    ("p4cnn", "gconv-p4"): (10, 24_620, None),
    ("p4cnn", "gconv-p4m"): (7, 26_757, None),
    ("p4cnn-rotation-pooling", "conv"): (20, 21_630, None),
    ("p4cnn-rotation-pooling", "gconv-p4"): (20, 21_630, None),
    ("all-cnn", "conv"): (96, 1_370_996, "1.37"),
    ("all-cnn", "gconv-p4"): (48, 1_370_372, "1.37"),
    ("all-cnn", "gconv-p4m"): (32, 1_219_252, "1.22"),
    ("resnet44", "conv"): (32, 2_636_074, "2.64"),
    ("resnet44", "gconv-p4"): (16, 2_631_834, None),
    ("resnet44", "gconv-p4m"): (11, 2_618_543, "2.62"),
}
CIRCULAR = {"padding_mode": "circular"}


@dataclass(frozen=True)
class Case:
    """A network at a toy size.

    Attributes:
        network: its name.
        paths: "conv" or "gconv-<group>".
        size: h = w of the image.
        options: of the network's own.
    """

    network: str
    paths: str
    size: int
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.network, self.paths, str(self.size), *self.options.values()])

    def images(self, batch: int, seed: int = 1) -> Tensor:
        """Random images `[batch, 2, size, size]`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 2, self.size, self.size, generator=generator, dtype=torch.float64)

    def model(self) -> nn.Module:
        """In `eval` mode, with normalisation as after some training."""
        torch.manual_seed(0)
        model = NETWORKS[self.network](
            self.paths, alpha=2, in_channels=2, size=self.size, classes=3, **self.options
        ).double()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm3d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
                    module.momentum = None  # statistics of all batches alike
            for seed in (2, 3):
                model(self.images(8, seed))
        return model.eval()


PLANE = [
    Case("p4cnn", "conv", 24),
    Case("all-cnn", "conv", 12),
    Case("all-cnn", "conv", 12, CIRCULAR),
    Case("resnet44", "conv", 12),
    Case("resnet44", "conv", 12, CIRCULAR),
]
GROUPS = [
    *(
        Case(network, paths, 24)
        for network in ("p4cnn", "p4cnn-rotation-pooling")
        for paths in ("gconv-p4", "gconv-p4m")
    ),
    Case("p4cnn", "gconv-p4", 28),
    Case("p4cnn", "gconv-d2", 26),
    *(
        Case(network, paths, 12, options)
        for network in ("all-cnn", "resnet44")
        for paths in ("gconv-p4", "gconv-p4m")
        for options in ({}, CIRCULAR)
    ),
    Case("all-cnn", "gconv-c2:full", 8),
]
SHIFTING = [case for case in PLANE + GROUPS if case.options == CIRCULAR]
SMALL = [Case("p4cnn", "gconv-p4", 24), Case("all-cnn", "gconv-p4", 8), Case("resnet44", "gconv-p4", 8)]


@pytest.mark.parametrize("key", COUNTS, ids="-".join)
def test_parameter_counts(key: tuple[str, str]) -> None:
    network, paths = key
    width, count, published = COUNTS[key]
    model = NETWORKS[network](paths)
    found = sum(p.numel() for p in model.parameters())
    assert (model.alpha, found) == (width, count)
    assert published is None or f"{found / 1e6:.2f}" == published


@pytest.mark.parametrize("paths", ["conv", "gconv-p4", "gconv-p4m"])
@pytest.mark.parametrize("network", ["p4cnn", "p4cnn-rotation-pooling", "all-cnn", "resnet44"])
def test_width_of_a_network_builds_it_again(network: str, paths: str) -> None:
    """A run's configuration keeps alpha, and its weights must fit the network built from that."""
    size = 28 if network.startswith("p4cnn") else 32
    by_default = NETWORKS[network](paths)
    again = build_model(
        paths, network=network, alpha=by_default.alpha, size=size, in_channels=by_default.in_channels
    )
    again.load_state_dict(by_default.state_dict())


def test_shortcuts_of_the_resnet_are_convolutions_where_the_width_changes() -> None:
    """Zero padding (option A) would leave 2.63 and 2.61 M parameters, not the published 2.64 and 2.62 M."""
    for paths, without in (("conv", 2_625_834), ("gconv-p4m", 2_608_239)):
        blocks = [m for m in ResNet44(paths).modules() if isinstance(m, ResidualBlock)]
        convolutions = [p for block in blocks for p in block.shortcut.parameters()]
        assert len(blocks) == 21 and len(convolutions) == 2
        count = COUNTS["resnet44", paths][1]
        assert count - sum(p.numel() for p in convolutions) == without


@pytest.mark.parametrize("case", PLANE + GROUPS, ids=str)
def test_output_and_batch_mates(case: Case) -> None:
    """`[batch, classes]`, and every sample as if it were alone."""
    model, x = case.model(), case.images(4)
    x = x * torch.logspace(-1, 1, 4, dtype=x.dtype).reshape(-1, 1, 1, 1)  # loud neighbours
    y = model(x).detach()
    assert y.shape == (4, 3)
    for i in range(4):
        assert_close(model(x[i : i + 1])[0], y[i], 1e-12, f"sample {i} alone and in a batch of 4")


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_outputs_are_invariant_under_every_element(case: Case) -> None:
    model, group = case.model(), find_group(case.paths.removeprefix("gconv-").partition(":")[0])
    x = case.images(4)
    x[2:, :, :, : case.size // 2] = 0  # blank halves, where maps are flat and polyphase components tie
    x[3] = x[3].round().clamp(0, 1)  # and saturated values
    with torch.no_grad():
        y = model(x)
        assert float((y[0] - y[1]).abs().max()) > 1e-3, "the outputs do not depend on the image"
        for element in range(len(group)):
            gap = float((model(group.act_on_image(x, element)) - y).abs().max())
            assert gap <= 1e-12 * max(1.0, float(y.abs().max())), (
                f"element {element}: outputs move by {gap:.1e}"
            )


@pytest.mark.parametrize("paths", ["conv", "gconv-p4"])
@pytest.mark.parametrize("network", ["p4cnn", "all-cnn", "resnet44"])
def test_only_elements_of_the_group_leave_the_outputs_alone(network: str, paths: str) -> None:
    """What is claimed is not there for free: without the group, a quarter turn or a mirror changes much."""
    case = Case(network, paths, 24 if network == "p4cnn" else 12)
    model, x, p4m = case.model(), case.images(4), find_group("p4m")
    element = 1 if paths == "conv" else 4
    y, moved = model(x).detach(), model(p4m.act_on_image(x, element)).detach()
    assert float((y - moved).norm() / y.norm()) > 0.05


@pytest.mark.parametrize("case", SHIFTING, ids=str)
def test_outputs_are_invariant_to_circular_shifts(case: Case) -> None:
    model, x = case.model(), case.images(3)
    with torch.no_grad():
        y = model(x)
        for shift in ((1, 0), (0, 1), (2, 2), (3, 5), (7, 11)):
            gap = float((model(x.roll(shift, (2, 3))) - y).abs().max())
            assert gap <= 1e-12 * max(1.0, float(y.abs().max())), f"shift {shift}: outputs move by {gap:.1e}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("paths", ["c1", "p4", "p4m"])
def test_residual_block_commutes_with_shifts_and_the_group(paths: str, stride: int) -> None:
    """Also where the branch to be subsampled is flat and says nothing: one choice, made from both, serves both."""
    torch.manual_seed(0)
    group = find_group(paths)
    block = ResidualBlock(2, 3, group, "circular", stride).double().eval()
    x = torch.randn(3, 2, len(group), 8, 8, dtype=torch.float64)
    with torch.no_grad():
        nn.init.constant_(block.norm1.bias[:1], -50.0)  # a channel that never passes the ReLU
        for flat in (False, True):
            if flat:
                nn.init.constant_(block.norm1.bias, -50.0)  # none passes: conv1 puts out zeros
            y = block(x)
            for element in range(len(group)):
                moved = block(group.act_on_regular(x, element))
                assert_close(
                    moved, group.act_on_regular(y, element), 1e-12, f"element {element}, flat {flat}"
                )
            for shift in ((1, 0), (0, 1), (3, 5)):
                found = block(x.roll(shift, (3, 4)))
                h = 8 // stride  # a subsampled map may shift by any amount, every sample by its own
                shifts = [shift] if stride == 1 else [(i, j) for i in range(h) for j in range(h)]
                gaps = torch.stack([(found - y.roll(s, (3, 4))).abs().amax((1, 2, 3, 4)) for s in shifts])
                worst = float(gaps.amin(0).max())
                assert worst < 1e-12, f"shift {shift}, flat {flat}: off by {worst:.1e}"


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_vmap_over_data(case: Case) -> None:
    model, x = case.model(), case.images(3)
    assert_close(vmap(lambda datum: model(datum[None])[0])(x), model(x), 1e-12, "vmap over data")


@pytest.mark.parametrize(
    "case",
    [case for case in PLANE + GROUPS if case.paths in ("conv", "gconv-p4") or case.size == 24],
    ids=str,
)
def test_curvature_covers_every_parameter(case: Case) -> None:
    model, x = case.model(), case.images(4)
    factors = kfac.compute_factors(model, [(x, torch.tensor([0, 1, 2, 0]))], "classification", seed=0)
    assert set(factors) == {name for name, _ in model.named_parameters()}
    assert sum(factors[name].shape.numel() for name in factors) == sum(p.numel() for p in model.parameters())


def test_gradients_reach_every_parameter() -> None:
    for case in (
        Case("p4cnn", "gconv-p4", 24),
        Case("all-cnn", "gconv-p4", 8),
        Case("resnet44", "gconv-p4", 8),
    ):
        model = case.model().train()
        F.cross_entropy(model(case.images(4)), torch.tensor([0, 1, 2, 0])).backward()
        silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not silent, f"{case}: no gradient reaches {silent}"


def test_dropout_in_training_only() -> None:
    """Z2CNN drops as published; the others, and All-CNN-C unless asked, do not."""
    x = torch.randn(2, 1, 24, 24)

    def noisy(model: nn.Module, x: Tensor) -> bool:
        return not torch.equal(model(x), model(x))

    cases = {
        "z2cnn": (RotatedMnistNetwork("conv", 4, size=24), True),
        "p4cnn": (RotatedMnistNetwork("gconv-p4", 4, size=24), False),
        "p4cnn with dropout": (RotatedMnistNetwork("gconv-p4", 4, size=24, dropout=0.3), True),
        "all-cnn": (AllCNN("gconv-p4", 4, 1, size=24), False),
        "all-cnn with dropout": (AllCNN("gconv-p4", 4, 1, size=24, dropout=True), True),
    }
    for name, (model, drops) in cases.items():
        assert noisy(model, x) is drops, name
        assert not noisy(model.eval(), x), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": "f-fc+conv"}, r"one path, conv or gconv-<group>.*got 'f-fc\+conv'"),
        ({"paths": "conv+gconv-p4"}, r"one path.*got 'conv\+gconv-p4'"),
        ({"paths": "fc"}, "one path, conv or gconv-<group>.*ten-layer and small"),
        ({"paths": "gconv-p4:separable"}, "one path.*got 'gconv-p4:separable'"),
        ({"paths": "gconv-p5"}, "unknown group 'p5'"),
        ({"network": "p4cnn", "size": 16}, "22 pixels or more .28 as published., got 16x16"),
        ({"network": "p4cnn", "size": 27}, "even side"),
        ({"network": "p4cnn", "size": (28, 32)}, "square"),
        ({"network": "p4cnn-rotation-pooling", "size": 20}, "got 20x20; resize"),
        ({"network": "all-cnn", "size": 18}, "multiples of 4, got 18x18; resize"),
        ({"size": (16, 32)}, "p4 turns rows into columns, so images must be square, got 16x32"),
        ({"size": 30}, "multiples of 4, got 30x30"),
        ({"alpha": 0}, "alpha must be a positive integer, got 0"),
        ({"network": "p4cnn", "size": 28, "classes": 0}, "classes must be a positive integer"),
        ({"network": "all-cnn", "in_channels": -1}, "in_channels must be a positive integer"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_model(**{"network": "resnet44", "paths": "gconv-p4", "size": 32, **options})
    assert "\n" not in str(error.value)


def test_own_options_are_checked() -> None:
    with pytest.raises(ValueError, match="rotation_pooling must be 'last' or 'every', got 'never'"):
        RotatedMnistNetwork(rotation_pooling="never")
    for network in (AllCNN, ResNet44):
        with pytest.raises(ValueError, match="padding_mode must be 'zeros' or 'circular', got 'valid'"):
            network(padding_mode="valid")


@pytest.mark.parametrize("network", ["p4cnn", "all-cnn", "resnet44"])
def test_images_of_another_shape_are_refused(network: str) -> None:
    model = build_model("conv", network=network, alpha=1, size=28)
    for shape in ((2, 3, 28, 28), (2, 1, 24, 24), (1, 28, 28)):
        with pytest.raises(ValueError, match=r"expected a map \[batch, 1, 28, 28\]"):
            model(torch.zeros(shape))


def test_rectangular_images_on_the_plane() -> None:
    for network in ("all-cnn", "resnet44"):
        model = build_model("conv", network=network, alpha=1, size=(8, 16)).eval()
        assert model(torch.randn(2, 1, 8, 16)).shape == (2, 10)
