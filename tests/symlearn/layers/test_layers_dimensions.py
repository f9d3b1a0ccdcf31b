"""Signals and volumes through the layers of images: the same contract, every shift, odd and even sizes.

Axes: batch, c_in, c_out, size (t; h, w; d, h, w).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts import LayerCase, LayerContract
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close, assert_refused
from torch import Tensor, nn

from symlearn.layers import (
    CircularConv1d,
    CircularConv2d,
    CircularConv3d,
    FactoredLinear2d,
    FullyConnected2d,
    PathKind,
    PathOptions,
    PolyphaseSubsample2d,
    RelaxedLayer2d,
    SparseConv2d,
    SparseLinear2d,
    register_path,
)
from symlearn.layers.anchor_basis import AnchorBasis
from symlearn.layers.conv import CIRCULAR_CONVS, circular_conv
from symlearn.layers.sizes import sides

SIZES = {"signal": ((7,), (4,)), "even signal": ((6,), (3,)), "volume": ((3, 2, 4), (2, 1, 3))}
MAPS = {"fc": FullyConnected2d, "f-fc": FactoredLinear2d, "s-fc": SparseLinear2d}
ANY = "fc+f-fc+s-fc+conv+s-conv"


def built(kind: Callable[..., nn.Module], *given: Any, **named: Any) -> Callable[[], nn.Module]:
    """A layer whose anchors are the same at every call."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return kind(*given, **named)

    return build


def other_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """One place more, and one axis more."""
    return ((*shape[:-1], shape[-1] + 1), (*shape, 1))


CASES = [
    LayerCase(
        f"{name}, {what} of {size}",
        built(kind, 2, 3, size, out),
        (2, *size),
        (3, *out),
        wrong_shapes=other_shapes((2, *size)),
        axes=len(size),
    )
    for name, kind in MAPS.items()
    for what, (size, out) in SIZES.items()
]
CASES += [
    LayerCase(
        f"{kind.__name__}, {size}, k {kernel}",
        built(kind, 2, 3, kernel),
        (2, *size),
        (3, *size),
        axes=len(size),
    )
    for kind, size, kernel in [
        (CircularConv1d, (7,), 3),
        (CircularConv1d, (2,), (5,)),
        (CircularConv3d, (3, 2, 4), 3),
        (CircularConv3d, (4, 1, 3), (2, 1, 3)),
        (SparseConv2d, (7,), (3,)),
        (SparseConv2d, (3, 2, 4), (3, 3, 2)),
    ]
]
CASES += [
    LayerCase(
        f"a sum of paths, {size}, stride {stride}",
        built(RelaxedLayer2d, 2, 3, size, ANY, stride),
        (2, *size),
        (3, *(side // stride for side in size)),
        linear=stride == 1,
        wrong_shapes=other_shapes((2, *size)),
        axes=len(size),
    )
    for size, stride in [((5,), 1), ((6,), 2), ((3, 1, 2), 1), ((4, 2, 2), 2)]
]
CASES += [
    LayerCase(
        f"subsampling of {size}",
        built(PolyphaseSubsample2d, axes=len(size)),
        (3, *size),
        (3, *(side // 2 for side in size)),
        linear=False,
        wrong_shapes=((3, size[0] + 1, *size[1:]),),
        axes=len(size),
    )
    for size in [(8,), (4, 2, 6)]
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestLayersOfSignalsAndVolumes(LayerContract):
    """All that works on any number of axes."""


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "replicate"])
@pytest.mark.parametrize("kernel", [(3,), (2,), (3, 2, 1), (2, 3, 4)], ids=str)
def test_s_conv_is_torchs_convolution_with_its_filters(kernel: tuple[int, ...], padding_mode: str) -> None:
    layer = SparseConv2d(2, 3, kernel, padding_mode=padding_mode).double()
    layer.basis.double()
    theirs = (nn.Conv1d if len(kernel) == 1 else nn.Conv3d)(
        2, 3, kernel, padding="same", padding_mode=padding_mode, bias=False
    ).double()
    theirs.weight = nn.Parameter(layer.filters().detach())
    x = torch.randn(2, 2, *(7, 5, 6)[: len(kernel)], dtype=torch.float64)
    assert_close(layer(x).detach(), theirs(x).detach(), 1e-12, str(kernel))


@settings(max_examples=40, deadline=None)
@given(sides_=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=3))
def test_every_shift_of_a_convolution(sides_: list[tuple[int, int]]) -> None:
    size, kernel = zip(*sides_, strict=True)
    weight = torch.randn(2, 2, *kernel, dtype=torch.float64)
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    y, dims = circular_conv(x, weight, None), tuple(range(2, x.dim()))
    for shift in itertools.product(*map(range, size)):
        moved = circular_conv(x.roll(shift, dims), weight, None)
        assert_close(moved, y.roll(shift, dims), 1e-12, f"map {size}, kernel {kernel}, shift {shift}")


def test_types_are_those_of_torch() -> None:
    """So that whatever looks at types (transforms, exporters) sees what they are."""
    for axes, torchs in {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}.items():
        layer = CIRCULAR_CONVS[axes](2, 3)
        assert isinstance(layer, torchs) and list(layer.state_dict()) == ["weight", "bias"]
        assert tuple(layer.weight.shape) == (3, 2, *[3] * axes)
        assert layer.padding_mode == "circular" and layer.kernel_size == (3,) * axes


KINDS = ["random", "binary", "sparse binary", "constant", "saturated", "blank", "periodic"]


def maps(kind: str, shape: tuple[int, ...], count: int = 12) -> Tensor:
    """`[count, *shape]` of one kind; all but the random ones tie in their norms."""
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if kind == "binary":
        return (x > 0.5).double()
    if kind == "sparse binary":
        return (x > 1.5).double()
    if kind == "constant":
        return x.flatten(2)[..., :1].reshape(*x.shape[:2], *[1] * (x.dim() - 2)).expand(x.shape).contiguous()
    if kind == "saturated":
        return x.clamp(0, 0.5)
    if kind == "periodic":
        half = x.narrow(2, 0, shape[1] // 2)
        return torch.cat([half, half], 2)
    return torch.zeros_like(x) if kind == "blank" else x


def worst_shift(layer: nn.Module, x: Tensor) -> float:
    """Largest deviation over every circular shift from the nearest shift of the result."""
    y, dims, worst = layer(x), tuple(range(2, x.dim())), 0.0
    steps = list(itertools.product(*map(range, y.shape[2:])))
    for shift in itertools.product(*map(range, x.shape[2:])):
        moved = layer(x.roll(shift, dims))
        gaps = torch.stack([(moved - y.roll(step, dims)).flatten(1).abs().amax(1) for step in steps]).amin(0)
        worst = max(worst, float(gaps.max()))
    return worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(2,), (6,), (8,), (2, 2, 2), (4, 2, 2), (4, 4, 2)], ids=str)
def test_every_shift_of_the_subsampling(size: tuple[int, ...], kind: str) -> None:
    for norm in ("inf", "2"):
        layer = PolyphaseSubsample2d(norm, axes=len(size))
        for channels in (1, 3):
            gap = worst_shift(layer, maps(kind, (channels, *size)))
            assert gap == 0.0, f"{kind}, {channels} channels of {size}, norm {norm}: off by {gap}"


@pytest.mark.parametrize("size", [(12,), (4, 2, 2)], ids=str)
def test_every_binary_map(size: tuple[int, ...]) -> None:
    """4,096 signals of 12 and 65,536 volumes of 4x2x2: no tie may be decided by a component's index."""
    places = torch.Size(size).numel()
    bits = torch.arange(2**places)[:, None] >> torch.arange(places)
    assert worst_shift(PolyphaseSubsample2d(axes=len(size)), (bits & 1).double().reshape(-1, 1, *size)) == 0


@pytest.mark.parametrize("size", [(6,), (4, 2, 4)], ids=str)
def test_one_whole_component_is_kept(size: tuple[int, ...]) -> None:
    """The one of largest norm, and every component is somebody's."""
    axes = len(size)
    x = maps("random", (2, *size), 200)
    y = PolyphaseSubsample2d(axes=axes)(x)
    starts = list(itertools.product((0, 1), repeat=axes))
    parts = torch.stack([x[(..., *(slice(at, None, 2) for at in start))] for start in starts], 1)
    same = (parts == y.unsqueeze(1)).flatten(2).all(2)
    assert bool((same.sum(1) == 1).all())
    loudest = parts.flatten(2).abs().amax(2).argmax(1)
    assert torch.equal(same.int().argmax(1), loudest) and len(set(loudest.tolist())) == 2**axes


@pytest.mark.parametrize("size", [(6,), (2, 2, 4)], ids=str)
def test_a_strided_layer_of_convolutions_shifts_with_its_input(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = RelaxedLayer2d(2, 3, size, "conv+s-conv", stride=2).double()
    x = torch.randn(4, 2, *size, dtype=torch.float64)
    assert worst_shift(lambda maps: layer(maps).detach(), x) < 1e-12


def test_a_signal_is_a_low_image() -> None:
    """Every path, with weights copied over: t places in a row of an image of height 1."""
    torch.manual_seed(0)
    signals, images = RelaxedLayer2d(2, 3, (6,), ANY), RelaxedLayer2d(2, 3, (1, 6), ANY)
    with torch.no_grad():
        for name in ("fc", "f-fc"):
            images.paths[name].load_state_dict(signals.paths[name].state_dict())
        images.paths["conv"].weight.zero_()
        images.paths["conv"].weight[:, :, 1] = signals.paths["conv"].weight
        images.paths["conv"].bias.copy_(signals.paths["conv"].bias)
    for layer in (signals, images):
        layer.set_active(("fc", "f-fc", "conv"))
    x = torch.randn(3, 2, 6)
    assert_close(images(x.unsqueeze(2)).squeeze(2).detach(), signals(x).detach(), 1e-5, "as an image")


@pytest.mark.parametrize("size", [(4,), (2, 3, 4)], ids=str)
def test_anchors_at_the_grid_points_give_the_grid_back(size: tuple[int, ...]) -> None:
    """With as little noise as anchors apart allow, interpolation is the identity there."""
    grid = AnchorBasis(size).grid
    assert grid.tolist() == [list(map(float, place)) for place in itertools.product(*map(range, size))]
    basis = AnchorBasis(size, grid, lengthscale=0.5, noise=1e-3).double()
    assert_close(basis(), torch.eye(len(grid), dtype=torch.float64), 1e-2, "Phi")
    assert tuple(AnchorBasis(size).anchors.shape) == ((len(grid) + 1) // 2, len(size))


def test_wrong_sizes_and_paths_are_refused() -> None:
    assert sides(3) == (3, 3) and sides((5,)) == (5,) and sides(3, 1) == (3,)
    for wrong in [(), (1, 2, 3, 4), (0,), (2.0,)]:
        assert_refused(lambda wrong=wrong: sides(wrong), "(t,), (h, w) or (d, h, w)")
    assert_refused(lambda: FullyConnected2d(1, 1, (4,), (2, 2)), "as many positive integers")
    assert_refused(lambda: FactoredLinear2d(1, 1, (4, 4, 4), 2), "as many positive integers")
    assert_refused(lambda: CircularConv1d(1, 1, (3, 3)), "got (3, 3)")
    assert_refused(lambda: PolyphaseSubsample2d(axes=4), "axes must be 1, 2 or 3, got 4")
    assert_refused(lambda: PolyphaseSubsample2d(axes=1)(torch.zeros(1, 1, 5)), "stride 2 on a 5 map")
    assert_refused(lambda: RelaxedLayer2d(1, 1, (4, 3, 4), "conv", 2), "even size, got 4x3x4")
    assert_refused(lambda: RelaxedLayer2d(1, 1, (4,), "conv+gconv-p4"), "'gconv-p4' is not for signals of 4")
    assert_refused(
        lambda: RelaxedLayer2d(1, 1, (4, 4, 4), "gconv-p4m"), "choose from fc, f-fc, s-fc, conv, s-conv"
    )
    assert_refused(lambda: AnchorBasis((4,), torch.tensor([[5.0]])), "times in (-0.5, 3.5)")


def test_a_path_of_others_says_what_it_is_for() -> None:
    """Of images alone unless it says more."""
    common = {"effective_type": "WIDE", "full_resolution": True, "symmetry": 1}
    register_path("wide", PathKind(lambda s: CircularConv2d(s.c_in, s.c_out, 5), **common))
    register_path(
        "wider",
        PathKind(
            lambda s: CIRCULAR_CONVS[len(s.in_size)](s.c_in, s.c_out, 5), axes=frozenset({1, 2}), **common
        ),
    )
    assert_refused(lambda: RelaxedLayer2d(1, 1, (8,), "wide+conv"), "'wide' is not for signals")
    layer = RelaxedLayer2d(1, 1, (8,), "wider+conv", options=PathOptions(kernel_size=3))
    assert tuple(layer.paths["wider"].weight.shape) == (1, 1, 5)
