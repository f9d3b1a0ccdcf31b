"""Group convolutions: the contract, the textbook's sums by loops, exact equivariance, the kept bank, refusals.

Axes: batch, c_in, c_out, c, group (h), member (g), row, column, tap.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contracts import LayerCase, LayerContract
from oracles import assert_close, free_taps, harmonic_values
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from toys import STAGES, drawn, noise

from symlearn.analysis.equivariance import equivariance_error
from symlearn.groups import FiniteGroup, find_group
from symlearn.layers import (
    CosetPool2d,
    GroupBatchNorm2d,
    GroupConv2d,
    LiftingConv2d,
    PolyphaseSubsample2d,
    RelaxedLayer2d,
    parse_paths,
)
from symlearn.layers.filter_bank import FilterBank, PermutedBank, SteerableBank
from symlearn.layers.group_conv import (
    FullGroupConv2d,
    GroupStage,
)
from symlearn.layers.steerable_basis import moved_basis, sampled_basis
from symlearn.networks import build_model

VARIANTS = ("full", "separable", "depthwise-separable", "pointwise")
EXACT = ("p4", "p4m")
MANY = [("circular", 1), ("circular", 3), ("zeros", 1), ("zeros", 3)] + [("valid", k) for k in (1, 2, 3, 4)]
FEW = [("circular", 3), ("zeros", 3), ("valid", 2)]


def case_of(group: str, variant: str, padding: str, k: int, size: int = 5) -> LayerCase:
    """A lifting layer (variant "lifting") or a group convolution as a case of the contract."""
    order, out = len(find_group(group)), size - k + 1 if padding == "valid" else size

    def build() -> nn.Module:
        if variant == "lifting":
            return LiftingConv2d(2, 3, k, group, padding)
        return GroupConv2d(2, 3, k, group, variant, padding)

    axes = () if variant == "lifting" else (order,)
    wrong = [(3, *axes, size, size), (2, order + 1, size, size), (2, *axes, size)]
    if group in EXACT:
        wrong.append((2, *axes, size, size + 1))
    return LayerCase(
        f"{variant} {group} {padding} {k}x{k}",
        build,
        (2, *axes, size, size),
        (3, order, out, out),
        wrong_shapes=tuple(wrong),
    )


LIFTING = [case_of(group, "lifting", padding, k) for group in ("p4", "p4m", "c3") for padding, k in MANY]
FULL = [case_of("p4", "full", padding, k) for padding, k in MANY]
FULL += [case_of(group, "full", padding, k) for group in ("p4m", "c3") for padding, k in FEW]
OTHERS = [
    case_of(group, variant, padding, k)
    for variant in VARIANTS[1:]
    for group in ("p4", "p4m", "c3")
    for padding, k in (FEW if group == "p4" else FEW[::2])
]


@pytest.mark.parametrize("case", LIFTING, ids=str)
class TestLiftingConv2d(LayerContract):
    """From the plane to the group."""


@pytest.mark.parametrize("case", FULL + OTHERS, ids=str)
class TestGroupConv2d(LayerContract):
    """On the group, all four variants."""


POOLS = [
    LayerCase(
        f"{group} {reduce} over {'the group' if subgroup is None else subgroup}",
        lambda group=group, reduce=reduce, subgroup=subgroup: CosetPool2d(group, reduce, subgroup),
        (2, len(find_group(group)), 3, 4),
        (2, *(() if subgroup is None else (len(find_group(group)) // len(subgroup),)), 3, 4),
        linear=False,
        wrong_shapes=((2, 3, 4), (2, len(find_group(group)) + 1, 3, 4)),
    )
    for group, subgroup in (("p4", None), ("p4m", None), ("c3", None), ("p4", (0, 2)), ("p4m", (0, 1, 2, 3)))
    for reduce in ("max", "mean")
]


@pytest.mark.parametrize("case", POOLS, ids=str)
class TestCosetPool2d(LayerContract):
    """Pooling over the group or a subgroup."""


# The textbook: matrices that move centred points, and sums written out.


def matrices_of(name: str) -> list[np.ndarray]:
    """Turns by 360 / n degrees counterclockwise on (row, column); then each after mirroring columns."""
    n = 4 if name.startswith("p4") else int(name[1:])
    angles = [2 * math.pi * k / n for k in range(n)]
    turns = [np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in angles]
    mirrors = [turn @ np.diag([1.0, -1.0]) for turn in turns] if name == "p4m" or name[0] == "d" else []
    return turns + mirrors


def number_of(matrix: np.ndarray, among: list[np.ndarray]) -> int:
    """Which of the matrices this one is."""
    (found,) = (i for i, other in enumerate(among) if np.allclose(matrix, other))
    return found


def moved_filter(theta: np.ndarray, matrix: np.ndarray, k: int, free: bool) -> np.ndarray:
    """theta(M^-1 t), `[..., k, k]`: of free taps the one it came from, of harmonics their value there."""
    centre = (k - 1) / 2
    taps = np.array(list(itertools.product(np.arange(k) - centre, repeat=2)))
    sources = taps @ matrix  # M^T t
    if not free:
        return (theta @ harmonic_values(k, sources).T).reshape(*theta.shape[:-1], k, k)
    row, column = np.round(sources + centre).astype(int).T
    return theta[..., row, column].reshape(*theta.shape[:-2], k, k)


def read(x: np.ndarray, row: int, column: int, padding: str) -> np.ndarray:
    """x(..., row, column) beyond the border too."""
    h, w = x.shape[-2:]
    if padding == "circular":
        return x[..., row % h, column % w]
    inside = 0 <= row < h and 0 <= column < w
    return x[..., row, column] if inside else np.zeros(x.shape[:-2])


def textbook(kind: str, stage: GroupStage, x: Tensor, name: str) -> Tensor:
    """A stage's output by loops over elements, members, places and taps, in numpy.

    Cohen & Welling 2016, equations 10 and 11; the other kinds sum over less.
    """
    elements = matrices_of(name)
    theta, maps_in = stage.weight.detach().numpy(), x.numpy()
    k, size, padding = stage.kernel_size, x.shape[-1], stage.padding_mode
    first, out = (0, size - k + 1) if padding == "valid" else (-(k // 2), size)
    y = np.zeros((len(x), stage.c_out, len(elements), out, out))
    for h, matrix in enumerate(elements):
        moved = moved_filter(theta, matrix, k, free_taps(elements, k))
        members = [number_of(matrix.T @ g, elements) for g in elements]  # h^-1 g
        for row, column, i, j in itertools.product(range(out), range(out), range(k), range(k)):
            value = read(maps_in, row + first + i, column + first + j, padding)  # [batch, c_in(, group)]
            here = y[:, :, h, row, column]
            if kind == "lifting":
                here += value @ moved[:, :, i, j].T
            elif kind == "pointwise":
                here += value[:, :, h] @ moved[:, :, i, j].T
            elif kind == "channel":
                here += value[:, :, h] * moved[:, i, j]
            for g, member in enumerate(members):
                if kind == "full":
                    here += value[:, :, g] @ moved[:, :, member, i, j].T
                elif kind == "mixing":
                    here += value[:, :, g] * moved[:, member, i, j]
    if stage.bias is not None:
        y += stage.bias.detach().numpy()[:, None, None, None]
    return torch.from_numpy(y)


def stage_of(kind: str, group: str, k: int, padding: str, bias: bool = True) -> GroupStage:
    """A stage of 2 -> 3 channels (3 -> 3 where every channel stays by itself)."""
    c_in = 3 if kind in ("channel", "mixing") else 2
    stage = drawn(STAGES[kind](c_in, 3, 1 if kind == "mixing" else k, group, padding, bias))
    assert isinstance(stage, GroupStage)
    return stage


@pytest.mark.parametrize("group", ["p4", "p4m", "c3", "c6", "d3", "c1"])
@pytest.mark.parametrize("kind", STAGES)
def test_stages_are_the_sums_of_the_textbook(kind: str, group: str) -> None:
    for padding, k in MANY:
        stage = stage_of(kind, group, k, padding)
        x = noise(2, stage.c_in, *([] if kind == "lifting" else [len(stage.group)]), 5, 5)
        what = f"{kind} of {group}, {padding}, {k}x{k}"
        assert_close(stage(x).detach(), textbook(kind, stage, x, group), 1e-12, what)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("group", ["p4m", "c3"])
def test_variants_are_rows_of_stages(group: str, variant: str) -> None:
    kinds = {
        "full": ("full",),
        "pointwise": ("pointwise",),
        "separable": ("channel", "full"),
        "depthwise-separable": ("channel", "mixing", "pointwise"),
    }[variant]
    layer = drawn(GroupConv2d(2, 3, 3, group, variant))
    assert [type(stage) for stage in layer.in_order] == [STAGES[kind] for kind in kinds]
    assert [stage.kernel_size for stage in layer.in_order] == [3, 1, 1][: len(kinds)]
    x = y = noise(2, 2, len(layer.group), 4, 4)
    for kind, stage in zip(kinds, layer.in_order, strict=True):
        y = textbook(kind, stage, y, group)
    assert_close(layer(x).detach(), y, 1e-12, variant)


def test_without_bias() -> None:
    layer = drawn(GroupConv2d(2, 3, 3, "p4", "depthwise-separable", bias=False))
    assert [name for name, _ in layer.named_parameters()] == [f"stages.{i}.weight" for i in range(3)]
    assert float(layer(torch.zeros(1, 2, 4, 5, 5).double()).detach().abs().max()) == 0


def test_initial_values_keep_the_scale() -> None:
    """Kaiming's bound by the number of summands; biases zero."""
    for kind, summands in (("lifting", 2 * 9), ("full", 2 * 4 * 9), ("channel", 9), ("mixing", 4)):
        c_in = 2 if kind in ("lifting", "full") else 200
        stage = STAGES[kind](c_in, 200, 1 if kind == "mixing" else 3, "p4")
        bound = math.sqrt(6 / summands)
        largest = float(stage.weight.detach().abs().max())
        assert 0.95 * bound < largest <= bound, f"{kind}: largest weight {largest:.3f}, bound {bound:.3f}"
        assert float(stage.bias.detach().abs().sum()) == 0, f"{kind}: bias"


# Equivariance.


def act(group: FiniteGroup, element: int, x: Tensor) -> Tensor:
    """An element's action on an image or a group map, by turning and mirroring planes with torch alone."""
    turns = int((torch.linalg.det(group.matrices) > 0).sum())
    k, mirrored = element % turns, element >= turns
    if x.dim() == 5:
        x = x[:, :, [int(group.product[group.inverse[element], g]) for g in range(len(group))]]
    x = x.flip(-1) if mirrored else x
    return x.rot90(k * 4 // turns, (-2, -1))


def assert_equivariant(
    module: Callable[[Tensor], Tensor],
    group: FiniteGroup,
    x: Tensor,
    shifts: list[tuple[int, int]],
    tolerance: float = 1e-12,
    act_on_output: Callable[[FiniteGroup, int, Tensor], Tensor] = act,
) -> None:
    """f(t_s h x) = t_s h f(x) for every element and the shifts, which run as one batch an element."""
    with torch.no_grad():
        y = module(x)
        for g in range(len(group)):
            moved, expected = act(group, g, x), act_on_output(group, g, y)
            found = module(torch.cat([moved.roll(s, (-2, -1)) for s in shifts])).chunk(len(shifts))
            for s, part in zip(shifts, found, strict=True):
                assert_close(part, expected.roll(s, (-2, -1)), tolerance, f"element {g}, shift {s}")


def shifts_of(size: int) -> list[tuple[int, int]]:
    """All circular shifts of a small map, a few of a large one."""
    if size <= 9:
        return list(itertools.product(range(size), range(size)))
    return [(0, 0), (1, 0), (0, size - 1), (size // 2, size // 3)]


LAYERS: dict[str, Callable[[str], nn.Module]] = {
    "lifting": lambda group: LiftingConv2d(2, 2, 3, group),
    "lifting 5x5": lambda group: LiftingConv2d(2, 2, 5, group),
    "lifting 1x1": lambda group: LiftingConv2d(2, 2, 1, group),
    **{v: lambda group, v=v: GroupConv2d(2, 2, 3, group, v) for v in VARIANTS},
}


@pytest.mark.parametrize("size", [8, 9, 12, 33])
@pytest.mark.parametrize("group", EXACT)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_are_equivariant(kind: str, group: str, size: int) -> None:
    """Every element and every circular shift, one image and several."""
    layer, found = drawn(LAYERS[kind](group)), find_group(group)
    axes = [] if "lifting" in kind else [len(found)]
    assert_equivariant(layer, found, noise(1, 2, *axes, size, size), shifts_of(size))
    few = [(0, 0), (1, size - 2)]
    assert_equivariant(layer, found, noise(3, 2, *axes, size, size), few)
    assert_equivariant(layer.float(), found, noise(3, 2, *axes, size, size).float(), few, 1e-5)


@pytest.mark.parametrize("group", ["c1", "c2", "d1"])
@pytest.mark.parametrize("kind", LAYERS)
def test_small_groups_work_on_any_map(kind: str, group: str) -> None:
    """Half turns and mirrors keep the sides of a map apart, so it need not be square."""
    layer, found = drawn(LAYERS[kind](group)), find_group(group)
    axes = [] if "lifting" in kind else [len(found)]
    shifts = [(0, 0), (1, 0), (2, 3)]
    assert_equivariant(layer, found, noise(2, 2, *axes, 6, 9), shifts)
    assert_equivariant(layer, found, noise(2, 2, *axes, 8, 8), shifts)


@pytest.mark.parametrize(
    ("padding", "k"), [("zeros", 3), ("zeros", 5), ("valid", 2), ("valid", 3), ("valid", 4)]
)
@pytest.mark.parametrize("group", EXACT)
@pytest.mark.parametrize("variant", ("lifting", *VARIANTS))
def test_other_paddings_are_equivariant_to_the_group(variant: str, group: str, padding: str, k: int) -> None:
    """Not to shifts: the border is seen. Even filters sit between the points, and do so after every turn."""
    layer = drawn(case_of(group, variant, padding, k).build())
    axes = [] if variant == "lifting" else [len(find_group(group))]
    for size in (8, 9):
        assert_equivariant(layer, find_group(group), noise(2, 2, *axes, size, size), [(0, 0)])


def on_cosets(subgroup: tuple[int, ...]) -> Callable[[FiniteGroup, int, Tensor], Tensor]:
    """The action on maps `[batch, c, coset, h, w]`: the coset g K of the result comes from h^-1 g K."""

    def acted(group: FiniteGroup, element: int, x: Tensor) -> Tensor:
        cosets = [set(c) for c in group.cosets(subgroup).tolist()]
        sources = [
            cosets.index({int(group.product[group.inverse[element], g]) for g in coset}) for coset in cosets
        ]
        return torch.stack([act(group, element, x[:, :, s]) for s in sources], 2)

    return acted


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("reduce", ["max", "mean"])
class TestPoolingIsEquivariant:
    """Over the group: an image that turns with the input. Over a subgroup: a function on its cosets."""

    @pytest.mark.parametrize("group", EXACT)
    def test_over_the_group(self, group: str, reduce: str, size: int) -> None:
        found = find_group(group)
        x = noise(2, 3, len(found), size, size)
        assert_equivariant(CosetPool2d(group, reduce), found, x, shifts_of(size)[:10])
        values = x.numpy().max(2) if reduce == "max" else x.numpy().mean(2)
        assert_close(CosetPool2d(group, reduce)(x), torch.from_numpy(values), 1e-14, "the pooled values")

    @pytest.mark.parametrize(
        ("group", "subgroup"),
        [
            ("p4", (0,)),
            ("p4", (0, 2)),
            ("p4m", (0, 2)),
            ("p4m", (0, 4)),
            ("p4m", (0, 5)),
            ("p4m", (0, 1, 2, 3)),
        ],
        ids=str,
    )
    def test_over_a_subgroup(self, group: str, subgroup: tuple[int, ...], reduce: str, size: int) -> None:
        found = find_group(group)
        pool, x = CosetPool2d(group, reduce, subgroup), noise(2, 3, len(found), size, size)
        assert pool(x).shape == (2, 3, len(found) // len(subgroup), size, size)
        assert_equivariant(pool, found, x, shifts_of(size)[:10], act_on_output=on_cosets(subgroup))
        for n, coset in enumerate(found.cosets(subgroup).tolist()):
            values = torch.stack([x[:, :, g] for g in coset])
            expected = values.amax(0) if reduce == "max" else values.mean(0)
            assert_close(pool(x)[:, :, n], expected, 1e-14, f"coset {coset}")


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("group", EXACT)
class TestGroupBatchNorm2d:
    """One mean, variance, scale and shift a channel, so that it commutes with the group."""

    def norm(self) -> GroupBatchNorm2d:
        norm = drawn(GroupBatchNorm2d(3))
        assert isinstance(norm, GroupBatchNorm2d)
        norm.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.running_var.copy_(torch.tensor([0.3, 2.0, 1.0]))
        return norm

    def test_is_equivariant_in_eval_mode(self, group: str, size: int) -> None:
        x = noise(3, 3, len(find_group(group)), size, size)
        assert_equivariant(self.norm().eval(), find_group(group), x, shifts_of(size)[:10])

    def test_is_equivariant_in_training(self, group: str, size: int) -> None:
        """The batch's own statistics do not move with it; one image and several."""
        found = find_group(group)
        for batch in (1, 4):
            norm, x = self.norm().train(), noise(batch, 3, len(found), size, size)
            y = norm(x).detach()
            for g, shift in itertools.product(range(len(found)), shifts_of(size)[:3]):
                moved = norm(act(found, g, x).roll(shift, (-2, -1))).detach()
                expected = act(found, g, y).roll(shift, (-2, -1))
                assert_close(moved, expected, 1e-12, f"element {g}, shift {shift}, {batch} images")

    def test_values(self, group: str, size: int) -> None:
        norm, x = self.norm(), noise(4, 3, len(find_group(group)), size, size)
        affine = [p.detach().reshape(-1, 1, 1, 1) for p in (norm.weight, norm.bias)]
        for training in (False, True):
            norm.train(training)
            if training:
                mean, var = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), unbiased=False)
            else:
                mean, var = norm.running_mean, norm.running_var
            normal = (x - mean.reshape(-1, 1, 1, 1)) / (var.reshape(-1, 1, 1, 1) + norm.eps).sqrt()
            expected = affine[0] * normal + affine[1]
            assert_close(norm(x).detach(), expected, 1e-12, f"training {training}")
        unbiased = x.var((0, 2, 3, 4), unbiased=True)
        expected = 0.9 * torch.tensor([0.3, 2.0, 1.0]).double() + 0.1 * unbiased
        assert_close(norm.running_var, expected, 1e-6, "running variance, one step on")


def best_shift(found: Tensor, expected: Tensor) -> float:
    """Distance of two maps `[batch, ..., h, w]`, each datum of the second shifted by what fits best."""
    h, w = found.shape[-2:]
    gaps = [
        (found - expected.roll(s, (-2, -1))).flatten(1).norm(dim=1)
        for s in itertools.product(range(h), range(w))
    ]
    return float(torch.stack(gaps).amin(0).norm() / expected.norm())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("group", EXACT)
def test_subsampling_is_equivariant(group: str, size: int, batch: int) -> None:
    """Elements move the subsampled map about its own centre; a shift shifts it by some amount."""
    found, layer = find_group(group), PolyphaseSubsample2d()
    x = noise(batch, 2, len(found), size, size)
    y = layer(x)
    for g in range(len(found)):
        moved = act(found, g, x)
        assert torch.equal(layer(moved), act(found, g, y)), f"element {g}"
        for shift in shifts_of(size)[:: 5 if size == 8 else 1]:
            gap = best_shift(layer(moved.roll(shift, (-2, -1))), act(found, g, y))
            assert gap == 0, f"element {g}, shift {shift}: off by {gap:.1e}"


@pytest.mark.parametrize("paths", ["gconv-{}", "gconv-{}:pointwise+gconv-{}", "gconv-{}:separable+gconv-{}"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("group", EXACT)
def test_relaxed_layers_are_equivariant(group: str, stride: int, paths: str) -> None:
    found = find_group(group)
    layer = drawn(RelaxedLayer2d(2, 2, 8, paths.replace("{}", group), stride))
    x = noise(3, 2, len(found), 8, 8)
    y = layer(x).detach()
    assert y.shape == (3, 2, len(found), 8 // stride, 8 // stride)
    for g in range(len(found)):
        moved, expected = act(found, g, x), act(found, g, y)
        assert_close(layer(moved).detach(), expected, 1e-12, f"element {g}")
        for shift in ((1, 0), (0, 1), (3, 6)):
            there = layer(moved.roll(shift, (-2, -1))).detach()
            if stride == 1:
                assert_close(there, expected.roll(shift, (-2, -1)), 1e-12, f"element {g}, shift {shift}")
            else:
                gap = best_shift(there, expected)
                assert gap < 1e-12, f"element {g}, shift {shift}: off by {gap:.1e}"


MIXED = [
    LayerCase(
        f"{paths} stride {stride}",
        lambda paths=paths, stride=stride: RelaxedLayer2d(2, 3, 4, paths, stride),
        (2, 4, 4, 4),
        (3, 4, 4 // stride, 4 // stride),
        linear=stride == 1,
        wrong_shapes=((2, 4, 4), (2, 3, 4, 4), (1, 4, 4, 4), (2, 4, 6, 6)),
    )
    for paths in ("gconv-p4", "f-fc+conv+gconv-p4:pointwise", "fc+gconv-p4+gconv-p4:depthwise-separable")
    for stride in (1, 2)
]


@pytest.mark.parametrize("case", MIXED, ids=str)
class TestRelaxedLayerWithAGroup(LayerContract):
    """Group paths beside paths on the plane, which see the group's elements as channels."""


def test_paths_on_the_plane_see_channels_times_elements() -> None:
    layer, x = drawn(RelaxedLayer2d(2, 3, 4, "conv+gconv-p4", 2)), noise(2, 2, 4, 4, 4)
    plane = layer.paths["conv"](x.flatten(1, 2)).unflatten(1, (3, 4))
    expected = layer.subsample(plane + layer.paths["gconv-p4"](x)) / 2
    assert_close(layer(x).detach(), expected.detach(), 1e-12, "one subsampling of the sum, halved")


@pytest.mark.parametrize("network", ["small"])
@pytest.mark.parametrize("group", EXACT)
def test_networks_are_invariant(group: str, network: str) -> None:
    """Every element and shift leaves the logits alone, alone or in a batch, in float64 and in float32."""
    torch.manual_seed(0)
    model = build_model(f"gconv-{group}", network=network, size=16, alpha=2).double().eval()
    found, x = find_group(group), noise(4, 1, 16, 16)
    shifts = [(0, 0), (1, 0), (0, 1), (7, 12)]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, x = model.to(dtype), x.to(dtype)
        with torch.no_grad():
            logits = model(x)
            for g, shift in itertools.product(range(len(found)), shifts):
                moved = act(found, g, x).roll(shift, (-2, -1))
                assert_close(model(moved), logits, tolerance, f"{dtype}, element {g}, shift {shift}")
                assert_close(model(moved[:1]), logits[:1], tolerance, f"alone, element {g}, shift {shift}")


def test_the_default_small_network_is_invariant() -> None:
    torch.manual_seed(1)
    model, x = build_model("gconv-p4", network="small", size=16).double(), noise(2, 1, 16, 16)
    errors = equivariance_error(model, "p4", x, [(0, 0), (3, 5)])
    assert float(errors.max()) < 1e-12, f"logits move: {errors.tolist()}"
    plane = build_model("conv", network="small", size=16).double()
    assert float(equivariance_error(plane, "p4", x)[1:].min()) > 1e-3, "an ordinary one must move"


# Groups whose elements do not permute the grid.


STEERED = ("c3", "c5", "c6", "c8", "d3", "d6")


def field(points: Tensor, blur: float, waves: int = 400) -> Tensor:
    """Smooth random images at any places `[..., 2]`: white noise blurred by a Gaussian, by its waves.

    The spectrum of such noise is exp(-blur^2 |k|^2), so wave vectors are normal with variance 1 / (2 blur^2).
    """
    vectors, phases = noise(waves, 2, seed=3) / (2**0.5 * blur), 20 * noise(waves, seed=4)
    return torch.cos(points @ vectors.T + phases)


@pytest.mark.parametrize(("k", "limit"), [(3, 0.06), (5, 0.05), (7, 0.04), (9, 0.04)])
@pytest.mark.parametrize("group", STEERED)
def test_other_groups_are_nearly_equivariant(group: str, k: int, limit: float) -> None:
    """On images blurred by 1 pixel, at the centre of the map, which no turn moves: nothing is resampled.

    Every wave is an image, built at the turned places. Exact for the elements that permute the grid.
    """
    found = find_group(group)
    layer = drawn(LiftingConv2d(1, 20, k, group, "valid", bias=False))
    axis = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        y = layer(field(places, 1.0).movedim(-1, 0).unsqueeze(1))
        for g in range(len(found)):
            turned = layer(field(places @ found.matrices[g], 1.0).movedim(-1, 0).unsqueeze(1))
            expected = y[:, :, found.product[found.inverse[g]]]
            error = float((turned - expected).norm() / y.norm())
            highest = 1e-12 if found.permutes(g) else limit
            assert error < highest, f"element {g} of {group}, {k}x{k}: {error:.3g}"
            assert found.permutes(g) or error > 1e-4, f"element {g} is said to be inexact: {error:.3g}"


@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("k", [2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("group", STEERED)
def test_coefficients_move_as_the_group_multiplies(group: str, k: int, regular: bool) -> None:
    """D(g) D(h) = D(gh): moving a moved filter is moving it once, also with members."""
    found = find_group(group)
    basis = sampled_basis(k)
    assert int(torch.linalg.matrix_rank(basis)) == basis.shape[1], "functions that the taps cannot tell apart"
    moves = torch.linalg.pinv(basis) @ moved_basis(found, k)  # [group, coefficient, coefficient]
    for g, h in itertools.product(range(len(found)), repeat=2):
        assert_close(moves[g] @ moves[h], moves[int(found.product[g, h])], 1e-10, f"{g} times {h}")
    bank, eye = SteerableBank(found, k, regular), torch.eye(len(found) * basis.shape[1]).double()
    if regular:
        for g in range(len(found)):
            rows = noise(3, bank.entries)
            expected = torch.einsum("be,de->bd", rows, bank.build(eye)[:, g])
            assert_close(bank.turn(rows, g), expected, 1e-12, f"T^T of element {g}")


@pytest.mark.parametrize(("k", "size"), [(1, 1), (2, 3), (3, 6), (4, 8), (5, 13), (7, 24), (9, 39)])
def test_number_of_coefficients(k: int, size: int) -> None:
    layers = LiftingConv2d(2, 3, k, "c8", "valid"), GroupConv2d(2, 3, k, "d6", padding_mode="valid")
    for layer, members in zip(layers, (1, 12), strict=True):
        found = sum(p.numel() for p in layer.parameters())
        assert found == 6 * members * size + 3, f"{layer}: {found} parameters"


@pytest.mark.parametrize("group", ["c8", "p4"])
@pytest.mark.parametrize("k", [3, 5, 7])
def test_initial_filters_have_the_energy_of_free_taps(group: str, k: int) -> None:
    """Mean square sum over taps, members and input channels: 2, for every element."""
    torch.manual_seed(0)
    for layer in (LiftingConv2d(4, 200, k, group), GroupConv2d(4, 200, k, group).in_order[0]):
        energy = layer.moved().square().sum((1, 3)).mean(0)
        assert energy.tolist() == pytest.approx([2.0] * len(energy), rel=0.1), f"{layer}"


@pytest.mark.parametrize("build", [LiftingConv2d, GroupConv2d], ids=["lifting", "full"])
def test_interpolated_filters_of_earlier_versions_are_refused(build) -> None:
    layer = build(2, 3, 3, "c8")
    state = layer.state_dict()
    (name,) = (key for key in state if key.endswith("weight"))
    state[name] = torch.zeros(*state[name].shape[:-1], 3, 3)
    with pytest.raises(ValueError, match=f"{name} is .* as earlier versions interpolated them.*: fit again"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("kind", LAYERS)
def test_other_groups_keep_shifts_exact(kind: str) -> None:
    layer = drawn(LAYERS[kind]("c6"))
    x = noise(2, 2, *([] if "lifting" in kind else [6]), 9, 9)
    errors = equivariance_error(layer, "c6", x, [(1, 0), (4, 7)])
    assert float(errors[0].max()) < 1e-12, f"shifts alone: {errors[0].tolist()}"
    assert float(errors[3].max()) < 1e-12, f"half turn and shifts: {errors[3].tolist()}"


# The kept bank.


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every bank that is built while the test runs."""
    calls: list[int] = []

    def count(kind: type[FilterBank]) -> None:
        build = kind.build

        def counted(self: FilterBank, weight: Tensor) -> Tensor:
            calls.append(1)
            return build(self, weight)

        monkeypatch.setattr(kind, "build", counted)

    count(PermutedBank)
    count(SteerableBank)
    return calls


KEPT = {
    "lifting": lambda group: LiftingConv2d(2, 3, 3, group),
    "lifting 1x1": lambda group: LiftingConv2d(2, 3, 1, group),
    **{v: lambda group, v=v: GroupConv2d(2, 3, 3, group, v) for v in VARIANTS},
}


@pytest.mark.parametrize("group", ["p4", "c3"])
@pytest.mark.parametrize("kind", KEPT)
class TestKeptBank:
    """In evaluation the bank is built once, and it is never stale."""

    def layer(self, kind: str, group: str, seed: int = 0) -> nn.Module:
        return drawn(KEPT[kind](group), seed).eval()

    def data(self, kind: str, group: str) -> Tensor:
        return noise(2, 2, *([] if "lifting" in kind else [len(find_group(group))]), 4, 4, seed=9)

    def banks(self, layer: nn.Module) -> int:
        return sum(isinstance(m, FilterBank) for m in layer.modules())

    def test_is_built_once(self, kind: str, group: str, built: list[int]) -> None:
        layer, x = self.layer(kind, group), self.data(kind, group)
        with torch.no_grad():
            first = layer(x)
            for _ in range(3):
                assert torch.equal(layer(x), first)
        assert len(built) == self.banks(layer), f"{len(built)} banks built in four calls"

    def test_is_built_anew_while_gradients_are_recorded(
        self, kind: str, group: str, built: list[int]
    ) -> None:
        layer, x = self.layer(kind, group), self.data(kind, group)
        layer(x), layer(x)
        assert len(built) == 2 * self.banks(layer), f"{len(built)} banks built in two calls"

    def test_follows_a_step_in_place(self, kind: str, group: str, built: list[int]) -> None:
        layer, x = self.layer(kind, group), self.data(kind, group)
        twin = self.layer(kind, group, seed=7)
        with torch.no_grad():
            layer(x)
            before = len(built)
            for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
                p.copy_(q)
            found = layer(x)
        assert len(built) == before + self.banks(layer), f"{len(built) - before} banks built after a step"
        assert_close(found, twin(x).detach(), 1e-14, "after a step in place")

    def test_follows_an_optimizer(self, kind: str, group: str) -> None:
        layer, x = self.layer(kind, group), self.data(kind, group)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        for _ in range(3):
            with torch.no_grad():
                kept = layer(x)
            fresh = layer(x)
            assert_close(kept, fresh.detach(), 1e-14, "kept and fresh between steps")
            fresh.square().sum().backward()
            optimizer.step()

    def test_follows_loaded_states_and_dtypes(self, kind: str, group: str) -> None:
        layer, other, x = self.layer(kind, group), self.layer(kind, group, seed=7), self.data(kind, group)
        with torch.no_grad():
            layer(x)
            layer.load_state_dict(other.state_dict())
            assert_close(layer(x), other(x), 1e-14, "a loaded state")
            single = layer.float()(x.float())
            assert single.dtype == torch.float32
            assert_close(single.double(), other(x), 1e-5, "another dtype")

    def test_other_weights_for_one_call(self, kind: str, group: str) -> None:
        layer, other, x = self.layer(kind, group), self.layer(kind, group, seed=7), self.data(kind, group)
        with torch.no_grad():
            own, expected = layer(x), other(x)
            weights = dict(other.named_parameters())
            assert_close(functional_call(layer, weights, (x,)), expected, 1e-14, "functional_call")
            stacked = {n: torch.stack([p, 2 * p]) for n, p in weights.items()}
            both = vmap(lambda w: functional_call(layer, w, (x,)))(stacked)
            assert_close(both[0], expected, 1e-14, "functional_call under vmap")
            assert_close(layer(x), own, 1e-14, "its own weights again")

    def test_jacobians_are_not_cut_off(self, kind: str, group: str) -> None:
        """With respect to the weights, by `torch.func` and by autograd, after a bank was kept."""
        layer, x = self.layer(kind, group), self.data(kind, group)
        with torch.no_grad():
            layer(x)
        weights = {n: p.detach() for n, p in layer.named_parameters()}
        found = jacrev(lambda w: functional_call(layer, w, (x,)).square().sum())(weights)
        layer(x).square().sum().backward()
        for name, p in layer.named_parameters():
            assert float(found[name].norm()) > 0, f"{name}: a Jacobian of zeros"
            assert_close(found[name], p.grad, 1e-12, f"jacrev and autograd at {name}")
        with torch.no_grad():
            kept = jacrev(lambda w: functional_call(layer, w, (x,)).square().sum())(weights)
        for name in weights:
            assert_close(kept[name], found[name], 1e-12, f"jacrev under no_grad at {name}")

    def test_gradients_pass_frozen_layers(self, kind: str, group: str) -> None:
        """Kept while the weights are frozen, whether gradients are recorded or the call is an inference."""
        layer, x = self.layer(kind, group), self.data(kind, group)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        layer(inputs[0]).square().sum().backward()
        layer.requires_grad_(False)
        with torch.inference_mode():
            layer(x)
        layer(inputs[1]).square().sum().backward()
        assert_close(inputs[1].grad, inputs[0].grad, 1e-13, "the input's gradient")

    def test_layers_may_be_made_in_inference_mode(self, kind: str, group: str) -> None:
        with torch.inference_mode():
            found = self.layer(kind, group)(self.data(kind, group))
        expected = self.layer(kind, group)(self.data(kind, group)).detach()
        assert_close(found.clone(), expected, 1e-14, "in inference mode")

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
    )
    def test_copies_are_independent(self, kind: str, group: str, copied) -> None:
        layer, x = self.layer(kind, group), self.data(kind, group)
        with torch.no_grad():
            own = layer(x)
            twin = copied(layer)
            assert torch.equal(twin(x), own), "a copy computes something else"
            for p in twin.parameters():
                p.mul_(2)
            assert_close(layer(x), own, 1e-14, "the original after a step of its copy")
            assert not torch.allclose(twin(x), own), "the copy did not follow its own step"


# Refusals.

WRONG = {
    "even kernel, circular": (
        lambda: LiftingConv2d(1, 1, 4, "p4"),
        "a 4x4 filter cannot be padded alike on both sides.*use an odd kernel_size, or padding_mode='valid'",
    ),
    "even kernel, zeros": (lambda: GroupConv2d(1, 1, 2, "p4", padding_mode="zeros"), "a 2x2 filter cannot"),
    "even kernel, separable": (lambda: GroupConv2d(1, 1, 2, "p4", "separable"), "a 2x2 filter cannot"),
    "kernel of no size": (lambda: LiftingConv2d(1, 1, 0), "kernel_size must be a positive integer, got 0"),
    "kernel of two sizes": (
        lambda: GroupConv2d(1, 1, (3, 3)),
        r"kernel_size must be a positive integer, got \(3, 3\)",
    ),
    "no input channels": (lambda: LiftingConv2d(0, 1), "channel counts must be positive, got c_in=0"),
    "no output channels": (lambda: GroupConv2d(1, 0), "channel counts must be positive, got c_in=1, c_out=0"),
    "unknown group": (lambda: LiftingConv2d(1, 1, 3, "p6"), "unknown group 'p6'; choose p4, p4m, c<n>, d<n>"),
    "unknown variant": (
        lambda: GroupConv2d(1, 1, variant="dense"),
        "unknown variant 'dense'; choose 'full', 'separable', 'depthwise-separable' or 'pointwise'",
    ),
    "unknown padding": (
        lambda: LiftingConv2d(1, 1, padding_mode="reflect"),
        "padding_mode must be 'circular', 'zeros' or 'valid', got 'reflect'",
    ),
    "unknown padding, separable": (
        lambda: GroupConv2d(1, 1, variant="separable", padding_mode="same"),
        "padding_mode must be .* got 'same'",
    ),
    "unknown reduction": (lambda: CosetPool2d("p4", "sum"), "reduce must be 'max' or 'mean', got 'sum'"),
    "no subgroup": (lambda: CosetPool2d("p4", subgroup=(0, 1)), "not closed"),
    "pool of an unknown group": (lambda: CosetPool2d("p6"), "unknown group 'p6'"),
    "two groups in a layer": (
        lambda: parse_paths("gconv-p4+gconv-p4m"),
        r"paths of p4 and p4m cannot share a layer.*use one group \(p4m contains p4\)",
    ),
    "two groups in a relaxed layer": (
        lambda: RelaxedLayer2d(1, 1, 4, "conv+gconv-c3+gconv-p4"),
        "paths of c3 and p4 cannot share a layer",
    ),
    "path of an unknown group": (lambda: parse_paths("conv+gconv-p6"), "unknown group 'p6'"),
    "path of an unknown variant": (
        lambda: parse_paths("gconv-p4:dense"),
        "unknown variant 'dense' in 'gconv-p4:dense'; choose from full, separable",
    ),
    "path named twice": (lambda: parse_paths("gconv-p4+gconv-p4"), "a path is named twice"),
    "even kernel of a path": (
        lambda: build_model("gconv-p4", network="small", size=16, kernel_size=4),
        "a 4x4 filter cannot be padded",
    ),
    "dense form without a size": (lambda: LiftingConv2d(1, 1).to_dense(), r"give in_size=\(h, w\)"),
    "dense form of a row without a size": (lambda: GroupConv2d(1, 1).to_dense(), r"give in_size=\(h, w\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str) -> None:
    build, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("group", ["p4", "p4m", "c4", "d4"])
def test_quarter_turns_need_square_maps(group: str) -> None:
    order = len(find_group(group))
    for layer, shape in ((LiftingConv2d(2, 1, 3, group), ()), (GroupConv2d(2, 1, 3, group), (order,))):
        with pytest.raises(ValueError, match=f"{group} turns maps, so they must be square, got 5x6"):
            layer(torch.zeros(1, 2, *shape, 5, 6))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_wrong_group_axis_is_said(variant: str) -> None:
    layer = GroupConv2d(2, 3, 3, "p4", variant)
    for shape in ((1, 2, 5, 5), (1, 2, 8, 5, 5), (1, 4, 2, 5, 5), (2, 4, 5, 5)):
        with pytest.raises(ValueError, match=rf"expected a map \[batch, 2, 4, h, w\], got \[{shape[0]}, "):
            layer(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"expected a map \[batch, 2, h, w\], got \[1, 2, 4, 5, 5\]"):
        LiftingConv2d(2, 3)(torch.zeros(1, 2, 4, 5, 5))
    with pytest.raises(ValueError, match=r"expected a map \[batch, c, 4, h, w\], got \[1, 2, 8, 5, 5\]"):
        CosetPool2d("p4")(torch.zeros(1, 2, 8, 5, 5))
    with pytest.raises(ValueError, match=r"expected a map \[batch, 2, 4, 6, 6\], got \[1, 2, 6, 6\]"):
        RelaxedLayer2d(2, 3, 6, "gconv-p4")(torch.zeros(1, 2, 6, 6))


# escnn, an independent library, where it is installed.


def groups_of_escnn(name: str):
    """Its space and its group as ours, elements in its order: its matrices act on (right, up)."""
    gspaces = pytest.importorskip("escnn.gspaces", exc_type=ImportError)
    space = gspaces.rot2dOnR2(4) if name == "p4" else gspaces.flipRot2dOnR2(4)
    to_rows = np.array([[0.0, -1.0], [1.0, 0.0]])  # (right, up) -> (row, column)
    matrices = [to_rows @ space.basespace_action(e) @ to_rows.T for e in space.fibergroup.elements]
    return space, FiniteGroup(f"escnn {name}", np.round(np.stack(matrices)))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", ["lifting", "full"])
@pytest.mark.parametrize("k", [3, 5])
def test_escnn_computes_the_same(kind: str, name: str, k: int) -> None:
    """Our weight is its expanded filter at the identity; then banks and outputs agree."""
    space, group = groups_of_escnn(name)
    from escnn import nn as escnn_nn

    torch.manual_seed(0)
    n, regular = len(group), space.regular_repr
    field_in = escnn_nn.FieldType(space, 2 * [space.trivial_repr if kind == "lifting" else regular])
    field_out = escnn_nn.FieldType(space, 3 * [regular])
    theirs = escnn_nn.R2Conv(field_in, field_out, k, padding=k // 2, padding_mode="circular").double()
    with torch.no_grad():
        theirs.bias.copy_(noise(*theirs.bias.shape, seed=4))
    filters, bias = (t.detach() for t in theirs.expand_parameters())
    members = 1 if kind == "lifting" else n
    filters = filters.unflatten(0, (3, n)).unflatten(2, (2, members))  # [c_out, h, c_in, g, k, k]
    ours = (LiftingConv2d if kind == "lifting" else FullGroupConv2d)(2, 3, k, group).double()
    with torch.no_grad():
        ours.weight.copy_(filters[:, 0].reshape(ours.weight.shape))
        ours.bias.copy_(bias.unflatten(0, (3, n))[:, 0])
    bank = ours.moved().detach().transpose(1, 2).reshape(filters.shape)
    assert_close(bank, filters, 1e-5, "the bank and the expanded filter")
    x = noise(2, 2, *([] if kind == "lifting" else [n]), 9, 9)
    wrapped = escnn_nn.GeometricTensor(x if kind == "lifting" else x.flatten(1, 2), field_in)
    expected = theirs(wrapped).tensor.unflatten(1, (3, n))
    assert_close(ours(x).detach(), expected.detach(), 1e-5, "outputs")
