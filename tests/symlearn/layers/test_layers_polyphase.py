"""Polyphase subsampling: exact equivariance for every shift, ties included; one choice for group maps."""

from __future__ import annotations

import itertools

import pytest
import torch
from contracts import LayerCase, LayerContract
from torch import Tensor

from symlearn.layers import PolyphaseSubsample2d

SIZES = [(2, 2), (4, 4), (6, 6), (8, 8), (4, 6), (2, 8), (8, 2)]
CASES = [
    LayerCase(
        f"{'x'.join(map(str, shape))} {norm}",
        lambda norm=norm: PolyphaseSubsample2d(norm),
        shape,
        (*shape[:-2], shape[-2] // 2, shape[-1] // 2),
        linear=False,
        wrong_shapes=((*shape[:-1], shape[-1] + 1), (*shape[:-2], shape[-2] - 1, shape[-1])),
    )
    for shape in [(3, 4, 6), (1, 8, 2), (2, 4, 6, 8)]
    for norm in ("inf", "2")
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestPolyphaseSubsample2d(LayerContract):
    """Stride 2, on maps and on group maps."""


def images(kind: str, shape: tuple[int, ...], count: int = 40) -> Tensor:
    """`[count, *shape]` of one kind; all but the random ones tie in their norms."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    if kind == "binary":
        return (x > 0.5).double()
    if kind == "sparse binary":
        return (x > 1.8).double()
    if kind == "constant":
        return x[..., :1, :1].expand(x.shape).contiguous()
    if kind == "saturated":
        return x.clamp(0, 0.5)
    if kind == "blank":
        return torch.zeros_like(x)
    return x


def worst_shift(layer: PolyphaseSubsample2d, x: Tensor) -> tuple[float, tuple[int, int], int]:
    """Largest deviation over all circular shifts from the nearest shift of the result; the shift; the datum.

    Shifting the input must shift the result, by whatever amount: an image whose components are shifted copies
    of one another leaves no rule a way to keep to half of the input's shift.
    """
    y, worst = layer(x), (0.0, (0, 0), 0)
    steps = list(itertools.product(range(y.shape[-2]), range(y.shape[-1])))
    for shift in itertools.product(range(x.shape[-2]), range(x.shape[-1])):
        moved = layer(x.roll(shift, (-2, -1)))
        gaps = torch.stack(
            [(moved - y.roll(step, (-2, -1))).flatten(1).abs().amax(1) for step in steps]
        ).amin(0)
        if float(gaps.max()) > worst[0]:
            worst = (float(gaps.max()), shift, int(gaps.argmax()))
    return worst


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("kind", ["random", "binary", "sparse binary", "constant", "saturated", "blank"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_circular_shift(size: tuple[int, int], kind: str, norm: str) -> None:
    layer = PolyphaseSubsample2d(norm)
    for channels in ((1,), (3,), (2, 4)):  # the last: group maps
        gap, shift, datum = worst_shift(layer, images(kind, (*channels, *size)))
        assert gap == 0.0, f"{kind} {channels}x{size}: datum {datum}, shift {shift}: off by {gap}"


def test_every_binary_image_of_four_by_four() -> None:
    """All 65,536 of them under all 16 shifts: no tie may be decided by a component's index."""
    bits = torch.arange(2**16)[:, None] >> torch.arange(16)
    x = (bits & 1).double().reshape(-1, 1, 4, 4)
    gap, shift, datum = worst_shift(PolyphaseSubsample2d(), x)
    assert gap == 0.0, f"image {datum}:\n{x[datum, 0].int()}\nunder shift {shift} is off by {gap}"


def test_group_elements_move_together() -> None:
    """One choice a sample: every element's map is the same component."""
    x = images("random", (2, 4, 6, 6))
    y = PolyphaseSubsample2d()(x)
    components = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
    chosen = (components == y.unsqueeze(1)).flatten(2).all(2)
    assert bool((chosen.sum(1) == 1).all()), "each sample must be one whole component"
    assert len(set(chosen.int().argmax(1).tolist())) == 4, "and the samples choose for themselves"


def test_the_component_of_largest_norm_is_kept() -> None:
    x = torch.zeros(4, 2, 4, 4)
    for n, (i, j) in enumerate(itertools.product((0, 1), (0, 1))):
        x[n, 1, i + 2, j] = -3.0
        x[n, 0, 1 - i, 1 - j] = 2.0
    assert bool((PolyphaseSubsample2d()(x).abs().amax((1, 2, 3)) == 3).all())


def test_norms_disagree_where_they_should() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 3.0  # largest entry
    x[0, 0, 1::2, 1::2] = 2.0  # largest energy
    assert float(PolyphaseSubsample2d("inf")(x).max()) == 3.0
    assert float(PolyphaseSubsample2d("2")(x).max()) == 2.0


def test_unknown_norm_and_odd_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'inf' or '2'"):
        PolyphaseSubsample2d("1")
    with pytest.raises(ValueError, match=r"5x4 map.*even sizes"):
        PolyphaseSubsample2d()(torch.zeros(1, 1, 5, 4))


def test_exports() -> None:
    """A gather with no branch on data."""
    layer, x = PolyphaseSubsample2d(), torch.randn(2, 3, 4, 4)
    exported = torch.export.export(layer, (x,))
    assert torch.equal(exported.module()(-x), layer(-x))
