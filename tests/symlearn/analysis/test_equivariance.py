"""The measured equivariance error: nothing where it must be nothing, known values, and what the report leaves.

Axes: batch, c, group, h, w.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toys import drawn, noise

import symlearn
from symlearn.analysis.equivariance import SHIFTS, equivariance_error, equivariance_report
from symlearn.groups import FiniteGroup, cyclic, find_group
from symlearn.layers import (
    CircularConv2d,
    CosetPool2d,
    FactoredLinear2d,
    GroupBatchNorm2d,
    GroupConv2d,
    LiftingConv2d,
    PolyphaseSubsample2d,
    RelaxedLayer2d,
)
from symlearn.networks import build_model


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.function(x)


def shifts_of(size: int) -> list[tuple[int, int]]:
    """All circular shifts of a map."""
    return list(itertools.product(range(size), range(size)))


EXACT: dict[str, tuple[Callable[[FiniteGroup], nn.Module], bool]] = {  # module, whether it takes group maps
    "identity": (lambda g: nn.Identity(), False),
    "identity on the group": (lambda g: nn.Identity(), True),
    "rectifier": (lambda g: nn.ReLU(), False),
    "1x1 convolution": (lambda g: nn.Conv2d(2, 3, 1), False),
    "lifting": (lambda g: LiftingConv2d(2, 3, 3, g), False),
    "full": (lambda g: GroupConv2d(2, 3, 3, g), True),
    "separable": (lambda g: GroupConv2d(2, 3, 3, g, "separable"), True),
    "depthwise-separable": (lambda g: GroupConv2d(2, 3, 3, g, "depthwise-separable"), True),
    "pointwise": (lambda g: GroupConv2d(2, 3, 3, g, "pointwise"), True),
    "group batch norm": (lambda g: GroupBatchNorm2d(2), True),
    "coset pool": (lambda g: CosetPool2d(g), True),
    "lifting and pool": (lambda g: nn.Sequential(LiftingConv2d(2, 3, 3, g), CosetPool2d(g)), False),
    "subsampling": (lambda g: PolyphaseSubsample2d(), True),
    "subsampling an image": (lambda g: PolyphaseSubsample2d(), False),
    "strided": (lambda g: RelaxedLayer2d(2, 3, 6, f"gconv-{g.name}+gconv-{g.name}:pointwise", 2), True),
    "average over places": (lambda g: Function(lambda x: x.mean((2, 3))), False),
    "largest of all": (lambda g: Function(lambda x: x.amax((2, 3, 4))), True),
}


@pytest.mark.parametrize("group", ["p4", "p4m"])
@pytest.mark.parametrize("kind", EXACT)
def test_exact_modules_have_no_error(kind: str, group: str) -> None:
    """All elements, all circular shifts."""
    build, on_group = EXACT[kind]
    found = find_group(group)
    module = drawn(build(found))
    x = noise(3, 2, *([len(found)] if on_group else []), 6, 6)
    alone = equivariance_error(module, group, x)
    assert alone.shape == (len(found),) and alone.dtype == torch.float64
    assert float(alone.max()) < 1e-12, f"elements alone: {alone.tolist()}"
    errors = equivariance_error(module, found, x, shifts_of(6))
    assert errors.shape == (len(found), 36)
    g, s = divmod(int(errors.argmax()), 36)
    assert float(errors.max()) < 1e-12, f"element {g}, shift {shifts_of(6)[s]}: {float(errors[g, s]):.1e}"


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_exact_networks_have_no_error(group: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"gconv-{group}", network="small", size=16, alpha=2).double()
    errors = equivariance_error(model, group, noise(2, 1, 16, 16), [(0, 0), (1, 0), (5, 14)])
    assert errors.shape == (len(find_group(group)), 3)
    assert float(errors.max()) < 1e-12, f"logits move: {errors.tolist()}"


def test_an_ordinary_convolution_commutes_with_shifts_alone() -> None:
    layer, x = drawn(CircularConv2d(2, 3)), noise(4, 2, 6, 6)
    errors = equivariance_error(layer, "p4m", x, shifts_of(6))
    assert float(errors[0].max()) < 1e-12, f"shifts: {errors[0].tolist()}"
    assert float(errors[1:].min()) > 0.3, f"elements: {errors[1:].amin(1).tolist()}"


def test_a_fully_connected_layer_commutes_with_nothing() -> None:
    layer, x = drawn(FactoredLinear2d(2, 3, 6, 6)), noise(4, 2, 6, 6)
    errors = equivariance_error(layer, "p4", x, shifts_of(6))
    assert float(errors[0, 0]) == 0, "the identity itself"
    assert float(errors.flatten()[1:].min()) > 0.3, f"smallest {float(errors.flatten()[1:].min()):.3f}"


def test_zero_padding_commutes_with_elements_alone() -> None:
    layer, x = drawn(LiftingConv2d(2, 3, 3, "p4", "zeros")), noise(4, 2, 6, 6)
    errors = equivariance_error(layer, "p4", x, shifts_of(6))
    assert float(errors[:, 0].max()) < 1e-12, f"elements: {errors[:, 0].tolist()}"
    assert float(errors[:, 1:].min()) > 0.01, f"shifts: {errors[:, 1:].amin(0).tolist()}"


class TestKnownValues:
    """Modules whose error follows by hand."""

    def mask(self, size: int = 5) -> Tensor:
        return torch.arange(size**2, dtype=torch.float64).reshape(size, size) + 1

    def test_a_mask_on_a_constant_image(self) -> None:
        """||m - h m|| / ||m||, whatever the image's height."""
        mask, x = self.mask(), 3 * torch.ones(2, 1, 5, 5, dtype=torch.float64)
        errors = equivariance_error(Function(lambda x: mask * x), "p4m", x, [(0, 0), (1, 2)])
        moved = [mask.rot90(k) for k in range(4)] + [mask.flip(1).rot90(k) for k in range(4)]
        for g, m in enumerate(moved):
            for s, shift in enumerate(((0, 0), (1, 2))):
                expected = float((mask - m.roll(shift, (0, 1))).norm() / mask.norm())
                assert float(errors[g, s]) == pytest.approx(expected, abs=1e-14), (
                    f"element {g}, shift {shift}"
                )

    def test_a_mask_on_any_image(self) -> None:
        """||(m - h m) h x|| / ||m x||."""
        mask, x = self.mask(), noise(3, 2, 5, 5)
        errors = equivariance_error(Function(lambda x: mask * x), "p4", x)
        for k in range(4):
            gap = (mask - mask.rot90(k)) * x.rot90(k, (2, 3))
            expected = float(gap.norm() / (mask * x).norm())
            assert float(errors[k]) == pytest.approx(expected, abs=1e-14), f"{k} quarter turns"

    def test_one_place_alone(self) -> None:
        """A point that moves leaves a hole and makes a new one: sqrt 2, and 0 where it stays."""
        mask = torch.zeros(5, 5, dtype=torch.float64)
        mask[0, 2] = 1.0
        x = torch.ones(1, 1, 5, 5, dtype=torch.float64)
        errors = equivariance_error(Function(lambda x: mask * x), "p4m", x)
        root = math.sqrt(2)
        assert errors.tolist() == pytest.approx([0, root, root, root, 0, root, root, root])

    def test_an_invariant(self) -> None:
        """A weighted sum `[batch, d]` that should stay: |m . h x - m . x| / |m . x|."""
        mask, x = self.mask(), noise(3, 1, 5, 5)
        found = equivariance_error(Function(lambda x: (mask * x).sum((2, 3))), "p4", x, [(0, 0), (2, 1)])
        value = (mask * x).sum((2, 3))
        for k, (s, shift) in itertools.product(range(4), enumerate(((0, 0), (2, 1)))):
            moved = (mask * x.rot90(k, (2, 3)).roll(shift, (2, 3))).sum((2, 3))
            expected = float((moved - value).norm() / value.norm())
            assert float(found[k, s]) == pytest.approx(expected, abs=1e-13), f"element {k}, shift {shift}"

    def test_a_swap_of_elements(self) -> None:
        """Reading another element's map turns nothing back: an error for every element that does not commute."""
        x = noise(2, 1, 8, 4, 4)
        turn = find_group("p4m").product[:, 1]  # g -> g r, commutes with the action from the left
        right = equivariance_error(Function(lambda x: x[:, :, turn]), "p4m", x)
        assert float(right.max()) == 0, f"multiplying from the right: {right.tolist()}"
        other = find_group("p4m").product[1]  # g -> r g, commutes for rotations alone
        left = equivariance_error(Function(lambda x: x[:, :, other]), "p4m", x)
        assert float(left[:4].max()) == 0, f"rotations: {left[:4].tolist()}"
        assert float(left[4:].min()) > 1, f"mirrors: {left[4:].tolist()}"

    def test_a_smaller_output_shifts_by_what_fits_best(self) -> None:
        """Averages of 2 x 2 places: even shifts fit exactly, odd ones do not, elements always."""
        x = noise(3, 2, 8, 8)
        errors = equivariance_error(nn.AvgPool2d(2), "p4", x, [(0, 0), (2, 0), (4, 6), (1, 0)])
        assert float(errors[:, :3].max()) < 1e-12, f"even shifts: {errors[:, :3].tolist()}"
        y, moved = nn.AvgPool2d(2)(x), nn.AvgPool2d(2)(x.roll(1, 2))
        gaps = [(moved - y.roll(s, (2, 3))).flatten(1).square().sum(1) for s in shifts_of(4)]
        expected = float((torch.stack(gaps).amin(0).sum() / y.square().sum()).sqrt())
        assert float(errors[0, 3]) == pytest.approx(expected, abs=1e-13)
        assert expected > 0.3

    def test_every_datum_of_a_subsampled_batch_shifts_for_itself(self) -> None:
        """Polyphase components are chosen datum by datum, so that the shifts of the outputs differ."""
        layer, x = PolyphaseSubsample2d(), noise(20, 1, 4, 4)
        y, moved = layer(x), layer(x.roll(1, 3))
        together = min(float((moved - y.roll(s, (2, 3))).norm()) for s in shifts_of(2))
        assert together > 0.1 * float(y.norm()), "one shift fits all data; nothing is tested"
        assert float(equivariance_error(layer, "p4", x, [(0, 1)]).max()) == 0

    def test_an_output_of_zeros(self) -> None:
        """Equivariant, and no division by nothing."""
        errors = equivariance_error(Function(lambda x: 0 * x), "p4", noise(2, 1, 4, 4), [(0, 0), (1, 1)])
        assert errors.tolist() == [[0.0, 0.0]] * 4

    def test_scale_does_not_matter(self) -> None:
        layer, x = drawn(CircularConv2d(1, 1, bias=False)), noise(2, 1, 5, 5)
        one, other = equivariance_error(layer, "p4", x), equivariance_error(layer, "p4", 1e6 * x)
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-12)

    def test_interpolated_groups_see_their_interpolation(self) -> None:
        """Even the square of a value does not commute with blurring; a multiple does."""
        x = noise(2, 2, 9, 9)
        assert float(equivariance_error(Function(lambda x: 3 * x), "c6", x).max()) < 1e-14
        squared = equivariance_error(Function(torch.square), cyclic(6), x)
        assert [bool(v > 0.1) for v in squared] == [False, True, True, False, True, True], squared.tolist()


def test_float32_and_batches_of_one() -> None:
    layer, x = drawn(LiftingConv2d(2, 3, 3, "p4")).float(), noise(1, 2, 9, 9).float()
    errors = equivariance_error(layer, "p4", x, [(0, 0), (4, 5)])
    assert errors.dtype == torch.float64 and float(errors.max()) < 1e-5


def test_it_is_public() -> None:
    assert symlearn.equivariance_error is equivariance_error


class TestEquivarianceErrorLeaves:
    """The module as it was, whatever happens."""

    def model(self) -> nn.Sequential:
        return nn.Sequential(
            drawn(LiftingConv2d(1, 2, 3, "p4")), GroupBatchNorm2d(2), CosetPool2d("p4")
        ).double()

    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_modes_and_statistics(self, training: bool) -> None:
        """Measured in `eval` mode, so that dropout and batch statistics stay out of it."""
        model, x = self.model().train(training), noise(3, 1, 6, 6)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        errors = equivariance_error(model, "p4", x)
        assert float(errors.max()) < 1e-12, f"errors {errors.tolist()}"
        wrong = [name for name, module in model.named_modules() if module.training is not training]
        assert not wrong, f"changed the mode of {wrong}"
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} was changed"

    def test_frozen_parts(self) -> None:
        """A normalisation that is kept in `eval` mode in a network that trains."""
        model = self.model().train()
        model[1].eval()
        equivariance_error(model, "p4", noise(3, 1, 6, 6))
        resting = [name for name, module in model.named_modules() if not module.training]
        assert resting == ["1"], f"the modules in eval mode were ['1'] and are now {resting}"

    def test_gradients_and_inputs(self) -> None:
        model, x = self.model(), noise(3, 1, 6, 6).requires_grad_()
        before = x.detach().clone()
        assert not equivariance_error(model, "p4", x).requires_grad
        assert torch.equal(x.detach(), before) and torch.is_grad_enabled()
        assert all(p.grad is None for p in model.parameters())

    def test_modes_after_a_failure(self) -> None:
        model = self.model().train()
        with pytest.raises(ValueError, match=r"expected a map \[batch, 1, h, w\]"):
            equivariance_error(model, "p4", noise(3, 2, 6, 6))
        assert model.training, "left in eval mode"


WRONG = {
    "an image that is not square": ((2, 1, 5, 6), "p4", "p4 acts on square maps, got 5x6"),
    "a group map that is not square": ((2, 1, 4, 6, 5), "p4", "p4 acts on square maps, got 6x5"),
    "another group's axis": ((2, 1, 8, 5, 5), "p4", "p4 has 4 elements, but the maps have 8"),
    "a plane where group maps belong": ((2, 1, 1, 5, 5), "p4m", "p4m has 8 elements, but the maps have 1"),
    "an unknown group": ((2, 1, 5, 5), "p6", "unknown group 'p6'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case: str) -> None:
    shape, group, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        equivariance_error(nn.Identity(), group, noise(*shape))


def small(paths: str, size: int = 8) -> nn.Module:
    """The small network, one channel wide, float64."""
    torch.manual_seed(0)
    return build_model(paths, network="small", size=size, alpha=1, classes=3).double()


class TestEquivarianceReport:
    """What a fit writes down."""

    @pytest.mark.parametrize("group", ["p4", "p4m"])
    def test_of_an_exact_network(self, group: str) -> None:
        report = equivariance_report(small(f"gconv-{group}"), noise(20, 1, 8, 8))
        assert report is not None
        assert set(report) == {"group", "exact", "element_names", "images", "layers", "network"}
        assert report["element_names"] == find_group(group).labels
        assert (report["group"], report["exact"], report["images"]) == (group, True, 16)
        assert [layer["name"] for layer in report["layers"]] == [f"layers.{i}" for i in range(6)]
        assert report["network"]["name"] == "network"
        for entry in (*report["layers"], report["network"]):
            assert set(entry) == {"name", "elements", "shift"}
            assert len(entry["elements"]) == len(find_group(group)), f"{entry['name']}: elements"
            assert max(*entry["elements"], entry["shift"]) < 1e-12, f"{entry['name']} is exact: {entry}"
        assert json.loads(json.dumps(report)) == report, "what it holds is not JSON"

    def test_of_an_ordinary_network(self) -> None:
        """Without a group path it is measured against p4: shifts exact, quarter turns not."""
        report = equivariance_report(small("conv"), noise(5, 1, 8, 8))
        assert report is not None and (report["group"], report["images"]) == ("p4", 5)
        for entry in (*report["layers"], report["network"]):
            assert entry["shift"] < 1e-12, f"{entry['name']} and shifts: {entry['shift']:.1e}"
            assert entry["elements"][0] == 0, f"{entry['name']} and the identity"
            assert max(entry["elements"][1:]) > 1e-3, f"{entry['name']} and turns: {entry['elements']}"

    def test_of_a_relaxed_network(self) -> None:
        report = equivariance_report(small("f-fc+conv"), noise(5, 1, 8, 8))
        assert report is not None
        for entry in report["layers"][:4]:
            assert entry["shift"] > 0.05, f"{entry['name']} is no convolution: {entry}"

    def test_of_an_interpolated_network(self) -> None:
        report = equivariance_report(small("gconv-c3"), noise(5, 1, 8, 8))
        assert report is not None and (report["group"], report["exact"]) == ("c3", False)
        for entry in report["layers"]:
            assert len(entry["elements"]) == 3 and entry["shift"] < 1e-12, f"{entry['name']}: {entry}"
            assert 0 < max(entry["elements"][1:]) < 2, f"{entry['name']}: {entry['elements']}"

    def test_of_the_trivial_group(self) -> None:
        """Maps with a group axis of one element; shifts are exact."""
        report = equivariance_report(small("gconv-c1"), noise(5, 1, 8, 8))
        assert report is not None
        assert max(layer["shift"] for layer in report["layers"]) < 1e-12

    def test_its_numbers_are_those_of_the_error(self) -> None:
        model, x = small("conv+gconv-p4:pointwise"), noise(20, 1, 8, 8)
        report = equivariance_report(model, x)
        assert report is not None
        errors = equivariance_error(model, "p4", x[:16], [(0, 0), *SHIFTS])
        assert report["network"]["elements"] == pytest.approx(errors[:, 0].tolist(), abs=1e-14)
        assert report["network"]["shift"] == pytest.approx(float(errors[0, 1:].max()), abs=1e-14)
        lifted = x[:16].unsqueeze(2).expand(-1, -1, 4, -1, -1)
        first = equivariance_error(model.layers[0], "p4", lifted, [(0, 0), *SHIFTS])
        assert report["layers"][0]["elements"] == pytest.approx(first[:, 0].tolist(), abs=1e-14)
        assert report["layers"][0]["shift"] == pytest.approx(float(first[0, 1:].max()), abs=1e-14)

    def test_of_a_network_without_relaxed_layers(self) -> None:
        """Measured as a whole, against p4."""
        model = nn.Sequential(drawn(LiftingConv2d(1, 2, 3, "p4")), CosetPool2d("p4")).double()
        report = equivariance_report(model, noise(4, 1, 8, 8))
        assert report is not None and report["layers"] == []
        assert max(*report["network"]["elements"], report["network"]["shift"]) < 1e-12

    @pytest.mark.parametrize(
        "shape",
        [(4, 1, 8, 12), (4, 1, 12, 8), (4, 64), (4, 8, 8)],
        ids=["wide", "tall", "vectors", "no channels"],
    )
    def test_is_none_where_nothing_turns(self, shape: tuple[int, ...]) -> None:
        model = build_model("conv", network="small", size=(8, 12), alpha=1)
        assert equivariance_report(model, noise(*shape)) is None

    @pytest.mark.parametrize("paths", ["conv", "gconv-p4"])
    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_leaves_the_network_as_it_was(self, training: bool, paths: str) -> None:
        model = small(paths).train(training)
        before = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
        equivariance_report(model, noise(5, 1, 8, 8))
        wrong = [name for name, module in model.named_modules() if module.training is not training]
        assert not wrong, f"changed the mode of {len(wrong)} modules: {wrong[:3]}"
        hooked = [name for name, module in model.named_modules() if module._forward_pre_hooks]
        assert not hooked, f"left hooks at {hooked}"
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())

    def test_leaves_no_hooks_after_a_failure(self) -> None:
        model = small("conv").train()
        with pytest.raises(ValueError, match="expected a map"):
            equivariance_report(model, noise(5, 2, 8, 8))
        assert not any(module._forward_pre_hooks for module in model.modules()), "left hooks"
        assert model.training, "left in eval mode"
