"""Motions: exact ones move pixels, interpolated ones know what they err by, refusals are said.

Axes: batch, c, group, h, w.
"""

from __future__ import annotations

import pytest
import torch
from toys import noise

from symlearn.analysis.motions import DISC, MOTIONS, Mirrors, Motion, QuarterTurns, Scales, SmallTurns, inside
from symlearn.groups import find_group

P4, P4M, C1, C6 = (find_group(name) for name in ("p4", "p4m", "c1", "c6"))
BY_NAME = {motion.name: motion for motion in MOTIONS}


def test_names_differ() -> None:
    assert list(BY_NAME) == ["shifts", "quarter turns", "mirrors", "small turns", "scales"]
    assert [m.interpolated for m in MOTIONS] == [False, False, False, True, True]


@pytest.mark.parametrize("name", ["shifts", "quarter turns", "mirrors"])
@pytest.mark.parametrize("size", [5, 6])
def test_exact_ones_permute(name: str, size: int) -> None:
    motion, x = BY_NAME[name], noise(2, 3, size, size)
    for version in range(motion.versions):
        y = motion.move(x, version, P4)
        assert torch.equal(y.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
        assert not torch.equal(y, x)
    assert motion.floor(x) == 0


@pytest.mark.parametrize("version", range(3))
def test_quarter_turns_of_images_and_group_maps_are_one(version: int) -> None:
    """On a group map whose orientations are alike, the places move as an image's do."""
    x = noise(1, 2, 6, 6)
    lifted = x.unsqueeze(2).expand(-1, -1, 4, -1, -1)
    moved = QuarterTurns().move(lifted, version, P4)
    assert torch.equal(moved[:, :, 0], QuarterTurns().move(x, version, P4))


@pytest.mark.parametrize("version", range(2))
def test_mirrors_of_group_maps(version: int) -> None:
    lifted = noise(1, 2, 6, 6).unsqueeze(2).expand(-1, -1, 8, -1, -1)
    moved = Mirrors().move(lifted, version, P4M)
    assert torch.equal(moved[:, :, 3], Mirrors().move(lifted[:, :, 0], version, P4M))


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda m: m.name)
def test_outputs_without_places_stay(motion: Motion) -> None:
    f = noise(3, 4)
    assert torch.equal(motion.move(f, 0, P4), f) and motion.refusal(f, P4) is None


REFUSED = {
    "quarter turns of oblong maps": (QuarterTurns(), (1, 1, 4, 6), P4, "not square"),
    "mirrors of oblong group maps": (Mirrors(), (1, 1, 8, 4, 6), P4M, "not square"),
    "mirrors of p4's maps": (Mirrors(), (1, 1, 4, 6, 6), P4, "orientations of p4, which mirrors are no part"),
    "quarter turns of c6's maps": (QuarterTurns(), (1, 1, 6, 6, 6), C6, "which quarter turns are no part"),
    "small turns of p4's maps": (SmallTurns(), (1, 1, 4, 6, 6), P4, "which small turns lie between"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_said(case: str) -> None:
    motion, shape, group, words = REFUSED[case]
    assert words in (motion.refusal(noise(*shape), group) or "")


def test_what_is_not_refused() -> None:
    assert SmallTurns().refusal(noise(1, 1, 1, 6, 6), C1) is None
    assert Mirrors().refusal(noise(1, 1, 4, 6), P4) is None
    assert Scales().refusal(noise(1, 1, 4, 6, 6), P4) is None


@pytest.mark.parametrize("motion", [SmallTurns(), Scales()], ids=lambda m: m.name)
@pytest.mark.parametrize("size", [9, 16])
def test_floors_fall_with_smoothness(motion: Motion, size: int) -> None:
    rough = noise(2, 1, size, size)
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    smooth = torch.cos(2 * axis[:, None] + axis)[None, None]
    assert motion.floor(smooth) < 0.03 < motion.floor(rough) < 1, (motion.floor(smooth), motion.floor(rough))


def test_a_small_turn_turns_counterclockwise_first() -> None:
    """Towards where three quarter turns of the same sense would go on."""
    axis = torch.arange(15, dtype=torch.float64) - 7
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    blob = torch.exp(-((x - 4) ** 2 + y**2) / 4)[None, None]
    heights = [(SmallTurns().move(blob, v, P4) * y).sum() for v in (0, 1)]
    assert heights[0] * heights[1] < 0, "the two versions turn to the same side"


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (7, 7), (6, 10)], ids=str)
def test_the_disc(size: tuple[int, int]) -> None:
    kept = inside(torch.ones(1, 1, *size))[0, 0]
    assert 0 < int(kept.sum()) <= max(4, 3.2 * (DISC * min(size) / 2 + 1) ** 2)
    assert torch.equal(kept, kept.flip(0)) and torch.equal(kept, kept.flip(1))
    assert torch.equal(inside(torch.ones(3, 4)), torch.ones(3, 4))
