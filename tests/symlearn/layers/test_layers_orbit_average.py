"""Averages over transformed images: exact moves, blur alike, exact mirrors, points, states, wrong input."""

from __future__ import annotations

import io
import math

import pytest
import torch
from contracts import LayerCase, LayerContract
from oracles import assert_close
from torch import Tensor, nn
from toys import noise

from symlearn.layers import OrbitAverage, parse_transforms
from symlearn.layers.declared import hyperparameters_of
from symlearn.layers.orbit_average import drawn_points, fixed_points, recoloured, transformed
from symlearn.layers.resampling import resample
from symlearn.layers.transforms import TRANSFORMS

SIZES = [(5, 5), (8, 8), (6, 9)]


def network(c: int, h: int, w: int) -> nn.Module:
    """A small one with two outputs."""
    return nn.Sequential(nn.Conv2d(c, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(2 * h * w, 2))


def average(transforms: str, c: int = 1, h: int = 6, w: int = 6, **options: object) -> OrbitAverage:
    """Of a seeded network, in `eval` mode."""
    torch.manual_seed(0)
    return OrbitAverage(network(c, h, w), transforms, **options).eval()  # type: ignore[arg-type]


CASES = [
    LayerCase(
        "places",
        lambda: average("rotation,translation,scale,shear"),
        (1, 6, 6),
        (2,),
        linear=False,
        wrong_shapes=((1, 6, 7),),
    ),
    LayerCase(
        "oblong", lambda: average("translation,scale-x,scale-y", 2, 5, 8), (2, 5, 8), (2,), linear=False
    ),
    LayerCase(
        "colours",
        lambda: average("hue,brightness,contrast,rotation", 3),
        (3, 6, 6),
        (2,),
        linear=False,
        wrong_shapes=((1, 6, 6),),
    ),
    LayerCase("mirrors", lambda: average("flip-x,flip-y", 1, 5, 4), (1, 5, 4), (2,), linear=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestOrbitAverage(LayerContract):
    """The laws of every layer, at fixed points."""


def place_map(generator: str, amplitude: float) -> Tensor:
    """exp(a G) `[1, 3, 3]`."""
    return torch.linalg.matrix_exp(amplitude * TRANSFORMS[generator].matrix).unsqueeze(0)


@pytest.mark.parametrize("size", [5, 8])
@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_exact(size: int, turns: int) -> None:
    x = noise(2, 3, size, size)
    still = resample(x, place_map("rotation", 0.0))[:, 0]
    turned = resample(x, place_map("rotation", turns * math.pi / 2))[:, 0]
    assert_close(turned, torch.rot90(still, -turns, (-2, -1)), 1e-12, f"{turns} turns")


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_whole_shifts_are_exact_inside(h: int, w: int) -> None:
    x = noise(2, 1, h, w)
    still = resample(x, place_map("rotation", 0.0))[:, 0]
    moved = resample(x, place_map("translation-x", 1 / math.sqrt(h * w)))[:, 0]
    assert_close(moved[..., : w - 1], still[..., 1:], 1e-12, "one pixel sideways")
    moved = resample(x, place_map("translation-y", 1 / math.sqrt(h * w)))[:, 0]
    assert_close(moved[..., : h - 1, :], still[..., 1:, :], 1e-12, "one pixel down")


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9])
def test_the_blur_is_the_same_wherever_a_pixel_comes_from(fraction: float) -> None:
    """A third of a squared pixel along each axis, the identity included; the mean is where it should be."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4, 4] = 1
    response = resample(x, place_map("translation-x", fraction / 9))[0, 0, 0]
    places = torch.arange(9, dtype=torch.float64) - 4
    across, down = response.sum(0), response.sum(1)
    assert float(across.sum()) == pytest.approx(1.0)
    assert float((across * places).sum()) == pytest.approx(-fraction)
    assert float((across * (places + fraction).square()).sum()) == pytest.approx(1 / 3)
    assert float((down * places.square()).sum()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", [n for n, t in TRANSFORMS.items() if t.acts_on == "places"])
def test_a_border_is_invented_nowhere(name: str) -> None:
    """An image of one value stays one, and none gets values beyond its own, at the widest range."""
    widest = float(TRANSFORMS[name].scale.amplitude(torch.tensor(TRANSFORMS[name].bounds[1])))
    flat = torch.full((1, 1, 7, 7), 3.0, dtype=torch.float64)
    assert_close(resample(flat, place_map(name, widest))[0], flat, 1e-12, name)
    x = noise(1, 1, 7, 7)
    y = resample(x, place_map(name, widest))
    assert float(y.max()) <= float(x.max()) and float(y.min()) >= float(x.min())


def test_a_scale_enlarges_by_its_factor() -> None:
    """Sampling at exp(a) times the place shrinks: twice as far out is what was at half."""
    rows = torch.arange(9, dtype=torch.float64).expand(1, 1, 9, 9) - 4
    seen = resample(rows, place_map("scale", math.log(1.5)))[0, 0, 0]
    assert_close(seen[:, 3:6], 1.5 * rows[0, 0, :, 3:6], 1e-12, "a ramp")


@pytest.mark.parametrize("probability", [0.1, 0.37, 0.5])
def test_mirrors_are_averaged_exactly(probability: float) -> None:
    layer = average(f"flip-x:{probability}").double()
    x = noise(3, 1, 6, 6)
    truth = (1 - probability) * layer.network(x) + probability * layer.network(x.flip(-1))
    assert_close(layer(x).detach(), truth.detach(), 1e-6, "flip-x")
    both = average(f"flip-x:{probability},flip-y:0.2,rotation").double()
    assert both.copy_weights().shape == (32,) and float(both.copy_weights().sum()) == pytest.approx(1.0)


def test_mirrors_go_with_their_weights() -> None:
    layer = average("flip-y:0.2,flip-x:0.4").double()
    x = noise(2, 1, 6, 6)
    versions = {(): x, (-1,): x.flip(-1), (-2,): x.flip(-2), (-2, -1): x.flip(-1, -2)}
    odds = {(): 0.8 * 0.6, (-1,): 0.8 * 0.4, (-2,): 0.2 * 0.6, (-2, -1): 0.2 * 0.4}
    truth = torch.stack([odds[k] * layer.network(v) for k, v in versions.items()]).sum(0)
    assert_close(layer(x).detach(), truth.detach(), 1e-6, "both mirrors")


def test_colours_are_changed_as_said() -> None:
    x = noise(2, 1, 3, 4, 5)
    maps = {
        name: torch.linalg.matrix_exp(a * TRANSFORMS[name].matrix).unsqueeze(0)
        for name, a in (("hue", 2 * math.pi / 3), ("brightness", 0.7), ("contrast", math.log(1.5)))
    }
    mean = x.mean((3, 4), keepdim=True)
    turned = recoloured(x, maps["hue"]) - mean
    assert_close(turned, (x - mean)[:, :, [2, 0, 1]], 1e-12, "a third of a turn takes red to green")
    assert_close(recoloured(x, maps["brightness"]), x + 0.7, 1e-12, "brightness")
    assert_close(recoloured(x, maps["contrast"]), mean + 1.5 * (x - mean), 1e-12, "contrast")


def test_wide_ranges_make_invariant() -> None:
    """With copies all around, a turn by one interval permutes them, but for the corners that turn in."""
    layer = average("rotation:180", 1, 15, 15).double()
    image = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    image[..., 5:10, 6:8] = noise(5, 2)
    turned = resample(image, place_map("rotation", math.pi / 4))[:, 0]
    smooth = resample(image, place_map("rotation", 0.0))[:, 0]
    narrow = average("rotation:1", 1, 15, 15).double()  # of the same seed

    def change(model: nn.Module) -> float:
        return float((model(turned) - model(smooth)).norm().detach())

    assert change(layer) < 0.1 * change(narrow)  # turned images were interpolated twice


@pytest.mark.parametrize("transforms", [1, 2, 5])
@pytest.mark.parametrize("copies", [2, 7, 8])
def test_every_coordinate_has_a_point_in_every_interval(copies: int, transforms: int) -> None:
    for points in (
        fixed_points(copies, transforms, 0),
        *(drawn_points(copies, transforms, s) for s in range(3)),
    ):
        intervals = ((points + 1) / 2 * copies).floor().sort(0).values
        assert torch.equal(intervals, torch.arange(copies).double().unsqueeze(1).expand(-1, transforms))
    middles = fixed_points(copies, transforms, 0)
    assert float(middles.sum(0).abs().max()) < 1e-12


def test_fixed_points_are_hardly_correlated() -> None:
    points = fixed_points(8, 3, 0)
    assert float(torch.corrcoef(points.T).triu(1).abs().max()) < 0.2


def test_steps_draw_anew_and_go_on_from_a_state() -> None:
    layer, x = average("rotation,translation").train(), torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        first = layer(x)
        stored = io.BytesIO()
        torch.save(layer.state_dict(), stored)
        second, third = layer(x), layer(x)
        assert not torch.equal(first, second) and not torch.equal(second, third)
        stored.seek(0)
        other = average("rotation,translation").train()
        other.load_state_dict(torch.load(stored, weights_only=True))
        assert torch.equal(other(x), second) and torch.equal(other(x), third)
        assert torch.equal(layer.eval()(x), layer(x))


def test_ranges_are_declared_in_their_own_units() -> None:
    layer = average("rotation:45,translation-x:0.1,scale:1.3,flip-x:0.3")
    declared = hyperparameters_of(layer)
    read = {n: float(d.read(d.value.double())) for n, d in declared.items()}
    assert read == {
        "ranges.rotation": pytest.approx(45),
        "ranges.translation-x": pytest.approx(0.1),
        "ranges.scale": pytest.approx(1.3),
        "ranges.flip-x": pytest.approx(0.3),
    }
    for name, d in declared.items():
        transform = TRANSFORMS[name.removeprefix("ranges.")]
        low, high = (float(d.read(torch.tensor(b, dtype=torch.float64))) for b in d.bounds)
        assert (low, high) == (pytest.approx(transform.lowest), pytest.approx(transform.highest)), name
    assert not hyperparameters_of(average("rotation", learn=False))
    assert not [n for n, _ in layer.named_parameters() if n.startswith("ranges")]


def test_words_say_the_range() -> None:
    words = {name: t.told(t.start) for name, t in TRANSFORMS.items()}
    assert words["rotation"] == "turned by up to ±20.0°"
    assert words["scale"] == "scaled by ×0.87 to ×1.15"
    assert words["flip-x"] == "mirrored left to right with probability 0.10"
    assert TRANSFORMS["rotation"].told(0.5) == "not turned"


WRONG = {
    "unknown": ("rotatoin", "did you mean 'rotation'"),
    "twice": ("translation,translation-x", "translation-x is given twice"),
    "folds": ("rotation:200", "folds over itself"),
    "negative": ("scale:-0.3", "from 1.005 to 4"),
    "zero": ("shear:0", "from 0.005 to 2"),
    "no number": ("rotation:wide", "'wide'"),
    "certain mirror": ("flip-x:0.9", "from 0.002 to 0.5"),
    "nothing": ("", "unknown transform ''"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_transforms_are_said_in_one_line(case: str) -> None:
    given, told = WRONG[case]
    with pytest.raises(ValueError) as error:
        parse_transforms(given)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_wrong_images_and_copies_are_refused() -> None:
    with pytest.raises(ValueError, match="2 copies or more, got 1"):
        average("rotation", copies=1)
    with pytest.raises(ValueError, match="hue changes colours, and the images have 1 channel;"):
        average("hue")(torch.randn(2, 1, 6, 6))
    with pytest.raises(ValueError, match="square images, got 6x8"):
        average("rotation", 1, 6, 8)(torch.randn(2, 1, 6, 8))
    with pytest.raises(ValueError, match="expected images"):
        average("rotation")(torch.randn(2, 6))


def test_copies_lie_side_by_side() -> None:
    x = noise(3, 1, 6, 6)
    copies = transformed(x, (-1,), place_map("rotation", 0.0), None)
    still = resample(x, place_map("rotation", 0.0))[:, 0]
    assert_close(copies[:, 0], still, 1e-12, "as it is")
    assert_close(copies[:, 1], still.flip(-1), 1e-12, "mirrored")
