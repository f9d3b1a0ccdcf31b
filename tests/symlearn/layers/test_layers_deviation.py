"""Deviations: the contract, their formulas, orthogonality, and what the sum with the shared part commutes with.

Axes: batch, c_in, c_out, group (h), function (j, q), h, w, tap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from contracts import LayerCase, LayerContract
from oracles import assert_close, assert_refused, relative_error
from torch import Tensor, nn
from toys import drawn, noise

import symlearn.layers.relaxed as relaxed
from symlearn.analysis.deviation import deviation_share
from symlearn.analysis.equivariance import act
from symlearn.groups import find_group
from symlearn.layers import (
    GroupConv2d,
    GroupDeviation2d,
    PointwiseGroupDeviation2d,
    RelaxedLayer2d,
    ShiftDeviation2d,
    parse_paths,
    register_path,
)
from symlearn.layers.registry import PATHS, path_kind
from symlearn.layers.structure import fan_ins
from symlearn.layers.zero_mean import on_elements, on_places
from symlearn.networks import build_model
from symlearn.networks.start_scale import root_mean_square

FORMS = {"full": GroupDeviation2d, "pointwise": PointwiseGroupDeviation2d}


@pytest.mark.parametrize("order", [2, 3, 4, 8])
def test_functions_on_elements(order: int) -> None:
    """Mean 0, mean square 1, and together with the constant an orthogonal basis."""
    e = on_elements(order)
    assert e.shape == (order - 1, order)
    assert_close(e @ e.T / order, torch.eye(order - 1, dtype=torch.float64), 1e-14, "products")
    assert float(e.mean(1).abs().max()) < 1e-14


@pytest.mark.parametrize(
    ("size", "count"), [((8, 8), 8), ((5, 7), 8), ((2, 3), 5), ((1, 4), 2), ((2, 2), 3), ((1, 1), 0)]
)
def test_functions_on_places(size: tuple[int, int], count: int) -> None:
    phi = on_places(size, 3).flatten(1)
    assert phi.shape == (count, size[0] * size[1])
    assert_close(phi @ phi.T / phi.shape[1], torch.eye(count, dtype=torch.float64), 1e-14, "products")
    assert count == 0 or float(phi.mean(1).abs().max()) < 1e-14


def by_turn(form: str, group: str, padding: str, k: int) -> LayerCase:
    """A deviation of 2 -> 3 channels as a case of the contract."""
    order, out = len(find_group(group)), 5 - k + 1 if padding == "valid" else 5
    wrong = ((3, order, 5, 5), (2, order + 1, 5, 5), (2, order, 5))
    return LayerCase(
        f"{form} {group} {padding} {k}x{k}",
        lambda: FORMS[form](2, 3, k, group, padding),
        (2, order, 5, 5),
        (3, order, out, out),
        wrong_shapes=wrong,
    )


BY_TURN = [
    by_turn(form, group, padding, k)
    for form in FORMS
    for group, padding, k in (
        ("p4", "circular", 3),
        ("p4", "zeros", 3),
        ("p4m", "circular", 1),
        ("p4", "valid", 2),
        ("c3", "circular", 3),
    )
]
BY_PLACE = [
    LayerCase(
        f"{h}x{w} rank {rank} {k}x{k}",
        lambda h=h, w=w, rank=rank, k=k: ShiftDeviation2d(2, 3, (h, w), k, rank),
        (2, h, w),
        (3, h, w),
        wrong_shapes=((3, h, w), (2, h + 1, w), (2, h)),
    )
    for h, w, rank, k in ((6, 6, 1, 3), (5, 7, 2, 3), (4, 1, 1, 1), (2, 2, 3, 5), (9, 9, 1, 2))
]


@pytest.mark.parametrize("case", BY_TURN, ids=str)
class TestGroupDeviation2d(LayerContract):
    """Filters that differ by orientation."""


@pytest.mark.parametrize("case", BY_PLACE, ids=str)
class TestShiftDeviation2d(LayerContract):
    """Filters that differ by place."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", ["p4", "p4m", "c6"])
def test_by_turn_is_a_weighted_sum_of_group_convolutions(form: str, group: str) -> None:
    """y(h) = sum_j e_j(h) (psi_j's group convolution)(h), bias and all."""
    layer = drawn(FORMS[form](2, 3, 3, group))
    x, order = noise(2, 2, len(find_group(group)), 6, 6), len(find_group(group))
    expected = torch.zeros(2, 3, order, 6, 6, dtype=torch.float64)
    for j, e in enumerate(on_elements(order)):
        shared = GroupConv2d(2, 3, 3, group, form).double()
        with torch.no_grad():
            shared.stages[0].weight.copy_(layer.weight[:, j])
            shared.stages[0].bias.copy_(layer.bias.unflatten(0, (3, -1))[:, j])
            expected += e.reshape(1, 1, order, 1, 1) * shared(x)
    assert_close(layer(x).detach(), expected, 1e-12, "the sum")


def test_by_place_is_another_mixture_of_filters_everywhere() -> None:
    """y(v) = sum_r a_r(v) (psi_r * x)(v) + b(v), place by place."""
    layer = drawn(ShiftDeviation2d(2, 3, (5, 4), 3, rank=2))
    x, phi = noise(2, 2, 5, 4), on_places((5, 4), 3)
    alpha, psi = layer.amplitudes.weight, layer.filters.weight.unflatten(0, (3, 2))
    bias = layer.amplitudes.bias.unflatten(0, (3, -1))
    for i, j in itertools.product(range(5), range(4)):
        window = x[:, :, [(i + d) % 5 for d in (-1, 0, 1)]][:, :, :, [(j + d) % 4 for d in (-1, 0, 1)]]
        a = alpha @ phi[:, i, j]  # [c_out, rank]
        y = torch.einsum("or,oricd,nicd->no", a, psi, window) + bias @ phi[:, i, j]
        assert_close(layer(x)[:, :, i, j].detach(), y.detach(), 1e-12, f"place {i}, {j}")


def test_shared_and_deviating_filters_are_an_orthogonal_basis_of_all() -> None:
    """Together as many weights as a convolution between all orientation channels, and every such filter."""
    shared, deviation = GroupConv2d(1, 1, 3, "p4", bias=False), GroupDeviation2d(1, 1, 3, "p4", bias=False)
    (stage,) = shared.double().stages
    deviation.double()
    count = 4 * 4 * 9
    assert stage.weight.numel() + deviation.weight.numel() == count

    columns = []
    for layer in (stage, deviation):
        for entry in torch.eye(layer.weight.numel(), dtype=torch.float64):
            with torch.no_grad():
                layer.weight.copy_(entry.reshape(layer.weight.shape))
                columns.append(layer.plane_bank().flatten().clone())
    basis = torch.stack(columns)
    assert_close(basis @ basis.T / 4, torch.eye(count, dtype=torch.float64), 1e-12, "products of filters")


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_deviating_filters_have_mean_zero_over_orientations(group: str) -> None:
    layer = drawn(GroupDeviation2d(2, 2, 3, group))
    own = (
        layer.moved().detach().gather(-1, layer.bank.inverse.expand(layer.moved().shape))
    )  # in its own frame
    assert float(own.mean(2).abs().max()) < 1e-14 < float(own.abs().max())


# What the sum commutes with.


def sum_of(paths: str, size: int, stride: int) -> RelaxedLayer2d:
    """A relaxed layer of 2 -> 3 channels with every weight drawn."""
    layer = drawn(RelaxedLayer2d(2, 3, size, paths, stride))
    assert isinstance(layer, RelaxedLayer2d)
    return layer


def silenced(layer: RelaxedLayer2d, path: str) -> None:
    """Every weight of a path at zero; it stays switched on."""
    with torch.no_grad():
        for p in layer.paths[path].parameters():
            p.zero_()


def best(found: Tensor, expected: Tensor) -> float:
    """Relative distance, each datum of the second shifted by what fits best: subsampling chooses so."""
    h, w = found.shape[-2:]
    gaps = [
        (found - expected.roll(s, (-2, -1))).flatten(1).norm(dim=1)
        for s in itertools.product(range(h), range(w))
    ]
    return float(torch.stack(gaps).amin(0).norm() / expected.norm())


@pytest.mark.parametrize("paths", ["gconv-{}+dev-{}", "gconv-{}:pointwise+dev-{}:pointwise"])
@pytest.mark.parametrize("group", ["p4", "p4m", "d1"])
@pytest.mark.parametrize(("size", "stride"), [(5, 1), (6, 1), (7, 1), (6, 2), (8, 2)])
def test_by_turn_breaks_the_group_and_keeps_shifts(paths: str, group: str, size: int, stride: int) -> None:
    """At zero: every element of the group, exactly. Drawn: none but the identity. Shifts: always."""
    names, found = paths.format(group, group), find_group(group)
    layer, x = sum_of(names, size, stride), noise(2, 2, len(found), size, size)
    deviation = layer.path_names[1]
    with torch.no_grad():
        y = layer(x)
        for shift in ((1, 0), (0, size - 1), (2, 3)):
            gap = relative_error if stride == 1 else best
            expected = y.roll(shift, (-2, -1)) if stride == 1 else y
            assert gap(layer(x.roll(shift, (-2, -1))), expected) < 1e-12, f"shift {shift}"
        for g in range(1, len(found)):
            broken = best(layer(act(found, g, x)), act(found, g, y))
            assert broken > 0.2, f"element {g} is not broken: {broken}"
        silenced(layer, deviation)
        y = layer(x)
        for g in range(len(found)):
            kept = best(layer(act(found, g, x)), act(found, g, y))
            assert kept < 1e-12, f"element {g}: {kept}"


@pytest.mark.parametrize("paths", ["conv+dev-shifts", "s-conv+dev-shifts:2", "gconv-p4+dev-shifts"])
@pytest.mark.parametrize(("size", "stride"), [(5, 1), (6, 1), (6, 2), (8, 2)])
def test_by_place_breaks_shifts(paths: str, size: int, stride: int) -> None:
    """At zero every shift is exact; drawn, none but the whole circle is."""
    layer = sum_of(paths, size, stride)
    x = noise(2, 2, *([4] if layer.group is not None else []), size, size)
    shifts = [s for s in itertools.product(range(size), range(size)) if s != (0, 0)]
    with torch.no_grad():
        y = layer(x)
        for shift in shifts:
            broken = best(layer(x.roll(shift, (-2, -1))), y)
            assert broken > 0.05, f"shift {shift} is not broken: {broken}"
        silenced(layer, layer.path_names[1])
        y = layer(x)
        for shift in shifts:
            gap = best(layer(x.roll(shift, (-2, -1))), y)
            assert gap < 1e-12, f"shift {shift}: {gap}"


@pytest.mark.parametrize(
    "paths", ["gconv-p4+dev-p4", "conv+dev-shifts", "gconv-p4+dev-p4:pointwise+dev-shifts"]
)
def test_networks_at_zero_deviation(paths: str) -> None:
    """A whole network, subsampling included: invariant to quarter turns and shifts, or to shifts."""
    torch.manual_seed(0)
    model = build_model(paths, network="small", size=8, alpha=1).double().eval()
    x = noise(2, 1, 8, 8)
    moved = [x.roll(s, (-2, -1)) for s in ((1, 0), (3, 5))]
    moved += [x.rot90(k, (-2, -1)) for k in (1, 2, 3)] if "p4" in paths else []
    with torch.no_grad():
        broken = max(relative_error(model(m), model(x)) for m in moved)
        for layer in model.layers:
            for path in layer.path_names[1:]:
                silenced(layer, path)
        kept = max(relative_error(model(m), model(x)) for m in moved)
    assert kept < 1e-12 < 1e-3 < broken, (kept, broken)


# What the house asks of a path.


def test_shared_part_and_deviation_are_computed_as_one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = sum_of("gconv-p4+dev-p4", 6, 1), noise(2, 2, 4, 6, 6)
    apart = sum(layer.path(name)(x) for name in layer.path_names) / 2
    calls = []
    once = relaxed.circular_conv
    monkeypatch.setattr(relaxed, "circular_conv", lambda *given: calls.append(1) or once(*given))
    for path in layer.paths.values():
        monkeypatch.setattr(path, "forward", lambda *_: pytest.fail("a path computed by itself"))
    assert_close(layer(x).detach(), apart.detach(), 1e-12, "the sum")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "shared", "count"),
    [
        ("dev-p4", "gconv-p4", 3 * 6 * 36 + 3 * 3),
        ("dev-p4:pointwise", "gconv-p4:pointwise", 3 * 6 * 9 + 3 * 3),
        ("dev-p4m", "gconv-p4m", 7 * 6 * 72 + 7 * 3),
        ("dev-shifts", "conv", 6 * 9 + 3 * 8 + 3 * 8),
        ("dev-shifts:2", "conv", 2 * 6 * 9 + 2 * 3 * 8 + 3 * 8),
    ],
)
def test_what_the_registry_says(name: str, shared: str, count: int) -> None:
    kind, beside = path_kind(name), path_kind(shared)
    assert kind.deviates_from == beside.commutes_with and not kind.includes(beside) and beside.includes(kind)
    assert kind.words and kind.effective_type == "DEV" and kind.full_resolution
    layer = RelaxedLayer2d(2, 3, 8, f"{shared}+{name}")
    assert sum(p.numel() for p in layer.paths[name].parameters()) == count
    layer.start_search()
    assert layer.active == (shared,)


def test_parameters_beside_the_free_paths() -> None:
    """Fewer than what each replaces: a convolution between orientation channels, and F-FC."""
    wide = {
        n: sum(p.numel() for p in layer.parameters()) for n, layer in paths_of("conv+dev-p4+dev-p4:pointwise")
    }
    assert wide["dev-p4:pointwise"] < wide["dev-p4"] / 3 < wide["conv"] / 3.9
    plane = {n: sum(p.numel() for p in layer.parameters()) for n, layer in paths_of("f-fc+dev-shifts")}
    assert plane["dev-shifts"] < plane["f-fc"] / 9


def paths_of(names: str) -> list[tuple[str, nn.Module]]:
    """The paths of a layer of 4 -> 8 channels on 8 x 8 maps."""
    return list(RelaxedLayer2d(4, 8, 8, names).paths.items())


@pytest.mark.parametrize(
    ("path", "summands"),
    [
        ("gconv-p4", [8 * 36]),
        ("dev-p4", [3 * 8 * 36]),
        ("dev-p4:pointwise", [3 * 8 * 9]),
        ("dev-shifts", [8 * 9, 8]),
        ("dev-shifts:3", [8 * 9, 3 * 8]),
    ],
)
def test_initial_scales(path: str, summands: list[int]) -> None:
    """Within a factor of two of a convolution's, sqrt(2) for white noise; fan-ins are what is summed."""
    torch.manual_seed(0)
    layer = RelaxedLayer2d(8, 16, 12, path)
    x = torch.randn(8, 8, *([] if layer.group is None else [4]), 12, 12)
    assert 0.7 < root_mean_square(layer.through(path, x)) < 2.8
    found = fan_ins(layer.paths[path])
    assert [fan_in for name, fan_in in found.items() if name.endswith("weight")] == summands


@pytest.mark.parametrize("build", [lambda: GroupDeviation2d(2, 3), lambda: ShiftDeviation2d(2, 3, 6)])
def test_scale_output_silences_the_linear_part(build: Callable[[], nn.Module]) -> None:
    layer = drawn(build())
    before = layer.to_dense((6, 6)).detach().clone()
    layer.scale_output_(0.5)
    assert_close(layer.to_dense((6, 6)).detach(), before / 2, 1e-14, "half")
    layer.scale_output_(0.0)
    assert not layer.to_dense((6, 6)).any()


# How large a deviation is.


@pytest.mark.parametrize("paths", ["gconv-p4+dev-p4", "conv+dev-shifts"])
@pytest.mark.parametrize("stride", [1, 2])
def test_share_is_that_of_the_map(paths: str, stride: int) -> None:
    """||dev||^2 / ||sum||^2 of the dense matrices, biases and divisor apart."""
    layer = sum_of(paths, 6, stride)
    shared, deviating = (layer.path(name).to_dense((6, 6)) for name in layer.path_names)
    exact = float(deviating.square().sum() / (shared + deviating).square().sum())
    assert deviation_share(layer) == pytest.approx(exact, rel=0.05)
    assert_close((shared * deviating).sum(), torch.zeros(()).double(), 1e-9, "the parts are orthogonal")
    layer.set_active([layer.path_names[0]])
    assert deviation_share(layer) == 0
    assert deviation_share(sum_of("f-fc+conv", 6, stride)) is None


def test_free_filters_deviate_by_three_quarters() -> None:
    """Filters of a convolution between orientation channels, taken apart into both parts."""
    layer = sum_of("gconv-p4+dev-p4", 6, 1)
    assert deviation_share(layer) == pytest.approx(0.75, abs=0.08)


# Refusals.


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: parse_paths("gconv-p4+dev-p5"), "p5"),
        (lambda: parse_paths("gconv-p4+dev-p4:separable"), "unknown form 'separable' in 'dev-p4:separable'"),
        (lambda: parse_paths("dev-c1"), "a group of one element"),
        (lambda: parse_paths("gconv-p4m+dev-p4"), "cannot share a layer"),
        *(
            (lambda rank=rank: parse_paths(f"conv+dev-shifts:{rank}"), "the rank in 'dev-shifts")
            for rank in ("0", "x", "-1", "1.5")
        ),
        (lambda: register_path("dev-x", PATHS["conv"]), "already"),
        (lambda: GroupDeviation2d(1, 1, 3, "c1"), "one element"),
        (lambda: ShiftDeviation2d(1, 1, 1), "1x1"),
        (lambda: ShiftDeviation2d(1, 1, 4, rank=0), "rank must be a positive integer, got 0"),
        (lambda: ShiftDeviation2d(0, 1, 4), "positive"),
        (lambda: build_model("conv+dev-shifts", network="all-cnn", size=16), "one path"),
        (lambda: build_model("dev-p4", network="p4cnn", size=28), "conv or gconv-<group>"),
    ],
)
def test_wrong_input_is_refused(call: Callable[[], object], words: str) -> None:
    assert_refused(call, words)
