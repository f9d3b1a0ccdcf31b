"""How far images go before the answer changes: found where it is known, and shown as it is.

Axes: batch, copy, c, h, w, classes.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from toys import noise

from symlearn.analysis.edges import (
    FAR,
    STEPS,
    Edge,
    changed,
    edge_transforms,
    edges,
    middle_edge,
    moved,
    one_by_one,
    spread_out,
    told,
)
from symlearn.analysis.examples import SIDE, Shown, edge_sheet
from symlearn.data import Preprocessing
from symlearn.layers import OrbitAverage
from symlearn.layers.transforms import TRANSFORMS


def blob(row: float, column: float, size: int = 17) -> Tensor:
    """A bright spot at a place from the centre, `[1, 1, size, size]`; rows grow downwards."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-((axis[:, None] - row) ** 2 + (axis - column) ** 2) / 3)[None, None]


class Centre(nn.Module):
    """Where the centre of brightness is: right of a column or not, or its two coordinates themselves."""

    def __init__(self, beyond: float | None, down: bool = False) -> None:
        super().__init__()
        self.beyond, self.axis = beyond, 2 if down else 3

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, h, w] -> [batch, 2]`."""
        axis = torch.arange(x.shape[-1], dtype=x.dtype) - (x.shape[-1] - 1) / 2
        places = (x.sum((1, 5 - self.axis)) * axis).sum(1) / x.sum((1, 2, 3))
        f = places - (self.beyond or 0.0)
        return torch.stack([-f, f], 1)


ROTATION, ACROSS, DOWN, SCALE = (
    TRANSFORMS[name] for name in ("rotation", "translation-x", "translation-y", "scale")
)


class TestMoved:
    """What is positive."""

    @pytest.mark.parametrize(
        ("transform", "amplitude", "to"),
        [
            (ROTATION, math.pi / 2, (-4, 0)),
            (ACROSS, 3 / 17, (0, 7)),
            (DOWN, 3 / 17, (3, 4)),
            (SCALE, math.log(1.25), (0, 5)),
        ],
        ids=["counterclockwise", "right", "down", "larger"],
    )
    def test_directions(self, transform: object, amplitude: float, to: tuple[int, int]) -> None:
        found = moved(blob(0, 4), transform, [amplitude])[0, 0, 0]  # type: ignore[arg-type]
        at = divmod(int(found.argmax()), 17)
        assert (at[0] - 8, at[1] - 8) == to

    def test_nothing_is_exact(self) -> None:
        x = noise(2, 3, 8, 8)
        for name in FAR:
            assert torch.allclose(moved(x, TRANSFORMS[name], [0.0])[:, 0], x, atol=1e-12), name

    def test_one_by_one(self) -> None:
        x = noise(3, 1, 9, 9)
        together = moved(x, ROTATION, [0.1, 0.2, 0.3])
        alone = one_by_one(x, ROTATION, [0.1, 0.2, 0.3])
        assert torch.allclose(alone, together[torch.arange(3), torch.arange(3)], atol=1e-12)

    def test_mirrors_and_colours(self) -> None:
        x = noise(2, 3, 6, 6)
        assert torch.equal(moved(x, TRANSFORMS["flip-x"], [0.0])[:, 0], x.flip(-1))
        brighter = moved(x, TRANSFORMS["brightness"], [0.5])[:, 0]
        assert torch.allclose(brighter, x + 0.5, atol=1e-12)


class TestEdges:
    """Where the answer changes."""

    @pytest.mark.parametrize("shift", [1.5, 3.0, -2.5])
    def test_of_a_known_shift(self, shift: float) -> None:
        """Towards the side that is nearer; within a step that was halved three times."""
        model = Centre(beyond=shift)
        (edge,) = edges(model, blob(0, 0), ACROSS, classes=True)
        assert edge.amplitude is not None
        step = FAR["translation-x"] * 17 / STEPS / 8
        assert abs(edge.amplitude * 17 - shift) < step + 0.05, edge.amplitude * 17
        assert 0 <= abs(edge.amplitude) - edge.certain <= FAR["translation-x"] / STEPS

    def test_of_what_never_changes(self) -> None:
        (edge,) = edges(Centre(beyond=1.0), blob(0, 0), DOWN, classes=True)
        assert edge.amplitude is None and edge.certain == pytest.approx(FAR["translation-y"])

    def test_images_do_not_disturb_each_other(self) -> None:
        x = torch.cat([blob(0, k) for k in (-3, -1, 0, 2)])
        model = Centre(beyond=1.0)
        together = edges(model, x, ROTATION, classes=True)
        alone = [edges(model, image, ROTATION, classes=True)[0] for image in x.split(1)]
        assert together == alone

    def test_of_a_regression(self) -> None:
        x = torch.cat([blob(0, k) for k in (-2, 0, 2)])
        found = edges(Centre(None), x, ACROSS, classes=False)
        assert [e.amplitude is None for e in found] == [False] * 3
        assert abs(found[1].amplitude or 0) * 17 == pytest.approx(1.0, abs=0.2), "half of a deviation of 2"
        assert all(e.amplitude is None for e in edges(Centre(None), x, DOWN, classes=False))

    def test_changed(self) -> None:
        f = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        assert changed(f, torch.tensor([[0.0, 2.0], [0.0, 1.0]]), None).tolist() == [False, True]
        assert changed(f, f + torch.tensor([[0.4, 0], [0.6, 0]]), torch.ones(2)).tolist() == [False, True]

    def test_it_leaves_the_mode(self) -> None:
        model = Centre(1.0).train()
        edges(model, blob(0, 0), ACROSS, classes=True)
        assert model.training


def test_which_transforms() -> None:
    names = [[t.name for t in edge_transforms(*given)] for given in ((1, (8, 8)), (3, (8, 8)), (1, (8, 9)))]
    assert names[0] == ["rotation", "translation-x", "translation-y", "scale"]
    assert names[1] == [*names[0], "hue", "brightness", "contrast"]
    assert names[2] == names[0][1:]


def test_middles() -> None:
    assert middle_edge([Edge(-0.3, 0.2), Edge(0.1, 0), Edge(None, 1)]) == 0.3
    assert middle_edge([Edge(None, 1), Edge(0.1, 0), Edge(None, 1)]) is None


def test_told() -> None:
    assert told(ROTATION, math.radians(-36), 16) == "−36°"
    assert told(ACROSS, 0.125, 16) == "+2.0 px"
    assert told(SCALE, math.log(1.31), 16) == "×1.31"


def test_spread_out() -> None:
    labels = torch.tensor([1, 1, 0, 2, 2, 0])
    right = [False, True, True, False, False, False]
    assert spread_out(labels, 3, right.__getitem__) == [2, 1, 3]
    assert spread_out(labels, 5, right.__getitem__) == [2, 1, 3, 0, 4]
    assert spread_out(None, 2, right.__getitem__) == [0, 1]


class TestSheet:
    """The rows of examples.json."""

    def test_rows_and_pixels(self) -> None:
        x = torch.cat([blob(0, -3), blob(0, 3)])
        model = Centre(beyond=1.0)
        found = {t: edges(model, x, t, True) for t in (ACROSS, DOWN)}
        rows = edge_sheet(Shown(model, x, None, ("left", "right")), found)
        assert [row["words"] for row in rows] == ["as it is", "shifted sideways until the answer changes"]
        assert [cell["answer"] for cell in rows[0]["cells"]] == ["left", "right"]
        assert [cell["answer"] for cell in rows[1]["cells"]] == ["right", "left"]
        assert [cell["amount"][0] for cell in rows[1]["cells"]] == ["+", "−"]
        assert [[cell["other"] for cell in row["cells"]] for row in rows] == [[False] * 2, [True] * 2]
        pixels = torch.tensor([cell["pixels"] for cell in rows[0]["cells"]])
        assert pixels.shape == (2, 17, 17) and (int(pixels.min()), int(pixels.max())) == (0, 255)
        assert json.loads(json.dumps(rows)) == rows

    def test_ranges(self) -> None:
        model = OrbitAverage(Centre(1.0), "rotation:30,flip-x:0.2,translation-y:0.002", copies=2).double()
        rows = edge_sheet(Shown(model, blob(0, 3), None, ("left", "right")), {})
        assert [row["words"] for row in rows[1:]] == [
            "the range's end: turned",
            "the range's end: turned",
            "counts as the same: mirrored left to right",
        ], "what has no effect has no row"
        assert [row["cells"][0]["amount"] for row in rows[1:]] == ["+30°", "−30°", ""]
        assert rows[3]["cells"][0]["answer"] == "left"

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_channels_and_large_images(self, channels: int) -> None:
        x = noise(2, channels, 100, 60)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        pre = Preprocessing((0.5,) * channels, (2.0,) * channels, None, (100, 60), (100, 60))
        (row,) = edge_sheet(Shown(model, x, torch.ones(channels), (), pre), {})
        shape = torch.tensor(row["cells"][0]["pixels"]).shape
        assert shape == ((SIDE, 28, 3) if channels == 3 else (SIDE, 28))
        answer = row["cells"][0]["answer"]
        assert answer.count(",") == min(channels, 2) - 1 and answer.endswith("…") == (channels == 3)
        assert [cell["other"] for cell in row["cells"]] == [False, False]

    def test_classes_without_names(self) -> None:
        (row,) = edge_sheet(Shown(Centre(beyond=1.0), blob(0, 3)), {})
        assert row["cells"][0]["answer"] == "1"

    def test_other_answers_of_a_regression(self) -> None:
        """Those that moved by half of a deviation, not all that moved."""
        x = torch.cat([blob(0, k) for k in (-2, 2)])
        found = {ACROSS: [Edge(0.5 / 17, 0.0), Edge(1.5 / 17, 0.0)]}
        rows = edge_sheet(Shown(Centre(None), x, torch.full((2,), 2.0)), found)
        assert [cell["other"] for cell in rows[1]["cells"]] == [False, True]
