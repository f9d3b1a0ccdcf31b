"""Every task: its law on labels and pixels, and that a sample's transform belongs to the sample alone."""

import math

import pytest
import torch
from data_files import write_npz
from hypothesis import given, settings
from hypothesis import strategies as st

from symlearn.data import TASKS, load_data, warps
from symlearn.data.draws import per_sample_uniform

# forty classes and few images
pytestmark = pytest.mark.filterwarnings("ignore:.*have no training image")


def raw(splits, half="train"):
    images = getattr(splits, half).tensors[0]
    (mean,), (std,) = splits.preprocessing.mean, splits.preprocessing.std
    return images * std + mean


@pytest.fixture(scope="module")
def upright():
    return load_data("digits", "class", limit=200, test_limit=100)


@pytest.mark.parametrize("task", TASKS)
def test_deterministic_and_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    first, second = (load_data("digits", task, limit=80, test_limit=20, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for half in ("train", "test"):
        for a, b in zip(getattr(first, half).tensors, getattr(second, half).tensors, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("task", TASKS)
def test_sample_does_not_depend_on_the_limit(task):
    few, many = (load_data("digits", task, limit=limit, test_limit=limit // 2) for limit in (80, 160))
    for half, count in (("train", 80), ("test", 40)):
        assert torch.allclose(raw(few, half), raw(many, half)[:count], atol=1e-5), (
            f"{task}: {half} images differ"
        )
        assert torch.equal(getattr(few, half).tensors[1], getattr(many, half).tensors[1][:count])


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("class", "rotated-test")])
def test_seed_moves_the_training_set_only(task):
    one, two = (load_data("digits", task, limit=80, test_limit=40, seed=seed) for seed in (0, 1))
    assert not torch.allclose(raw(one), raw(two), atol=0.01)
    assert torch.allclose(raw(one, "test"), raw(two, "test"), atol=1e-5)
    assert torch.equal(one.test.tensors[1], two.test.tensors[1])


@pytest.mark.parametrize("task", [task for task in TASKS if not TASKS[task].makes_classes])
def test_label_stays_the_class(task, upright):
    splits = load_data("digits", task, limit=200, test_limit=100)
    assert torch.equal(splits.train.tensors[1], upright.train.tensors[1])
    assert splits.class_names == upright.class_names


def test_rotated_test_leaves_the_training_set_upright(upright):
    found, turned = (
        load_data("digits", task, limit=200, test_limit=100) for task in ("rotated-test", "rotated")
    )
    assert torch.equal(found.train.tensors[0], upright.train.tensors[0])
    assert torch.allclose(raw(found, "test"), raw(turned, "test"), atol=1e-5)


@pytest.mark.parametrize("task", ["quadrant-digit", "quadrant"])
def test_digit_lies_whole_in_one_quadrant(task, upright):
    splits = load_data("digits", task, limit=200)
    images, labels = raw(splits)[:, 0], splits.train.tensors[1]
    digits = raw(upright)[:, 0, 4:12, 4:12]
    quadrants = images.unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2)  # [n, quadrant, 8, 8]
    mass = quadrants.abs().sum((2, 3))
    where = mass.argmax(1)
    assert torch.allclose(quadrants[torch.arange(200), where], digits, atol=1e-5)
    assert torch.allclose(mass.sum(1), mass.max(1).values, atol=1e-3), "something lies outside the quadrant"
    assert where.bincount(minlength=4).min() > 25, where.bincount()
    if task == "quadrant":
        assert torch.equal(labels, upright.train.tensors[1] * 4 + where)
        assert splits.classes == 40
        assert splits.class_names[13] == "3@top-right"
        assert splits.class_names[14] == "3@bottom-left"


def test_quadrants_of_other_sources_double_the_side(tmp_path):
    file = write_npz(tmp_path / "set.npz")
    assert load_data(file, "quadrant-digit").size == (16, 16)
    assert load_data(file, "quadrant-digit", size=8).size == (8, 8)
    assert load_data(file, "quadrant-digit", frame=20, size=(10, 12)).size == (10, 12)


def test_quarter_turns_are_exact_and_all_occur(upright):
    splits = load_data("digits", "quarter-turns", limit=200)
    turned, straight = raw(splits), raw(upright)
    which = torch.stack(
        [torch.isclose(turned, straight.rot90(k, (-2, -1)), atol=1e-5).flatten(1).all(1) for k in range(4)], 1
    )
    assert which.any(1).all(), f"not a quarter turn: sample {int((~which.any(1)).nonzero()[0])}"
    assert which.sum(0).min() > 25, which.sum(0)


def test_class_and_turn_labels_the_turns_of_quarter_turns(upright):
    turned, labelled = (load_data("digits", task, limit=200) for task in ("quarter-turns", "class-and-turn"))
    assert torch.equal(labelled.train.tensors[0], turned.train.tensors[0])
    classes, turns = labelled.train.tensors[1] // 4, labelled.train.tensors[1] % 4
    assert torch.equal(classes, upright.train.tensors[1])
    for k in range(4):
        here = turns == k
        assert torch.allclose(raw(labelled)[here], raw(upright)[here].rot90(k, (-2, -1)), atol=1e-5)
    assert labelled.classes == 40 and labelled.class_names[13] == "3@90°"


def test_translated_is_a_shift_by_whole_pixels_up_to_a_quarter(upright):
    moved, straight = raw(load_data("digits", "translated", limit=200))[:, 0], raw(upright)[:, 0]
    found = set()
    for image, original in zip(moved, straight, strict=True):
        shifts = [
            (down, right)
            for down in range(-4, 5)
            for right in range(-4, 5)
            if torch.allclose(
                image, original.roll((down, right), (0, 1)), atol=1e-5
            )  # the margin of 4 is black
        ]
        assert shifts, "no shift of at most four pixels explains the image"
        found.add(shifts[0])
    assert {down for down, _ in found} == {right for _, right in found} == set(range(-4, 5))


def test_translated_goes_to_eight_pixels_on_large_frames():
    images = torch.zeros(4000, 1, 40, 40)
    images[:, 0, 20, 20] = 1
    moved = TASKS["translated"].transform(images, per_sample_uniform(0, 0, torch.arange(4000), 2))
    row, column = moved[:, 0].flatten(1).argmax(1) // 40 - 20, moved[:, 0].flatten(1).argmax(1) % 40 - 20
    assert (row.min(), row.max(), column.min(), column.max()) == (-8, 8, -8, 8)


@pytest.mark.parametrize("side", [7, 8])
def test_rotation_by_quarter_turns_is_rot90(side):
    images = torch.rand(4, 2, side, side, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(4) * math.pi / 2
    turned = warps.rotate(images, angles)
    for k in range(4):
        assert torch.allclose(turned[k], images[k].rot90(k, (-2, -1)), atol=1e-5), f"{90 * k} degrees"


def test_rotation_keeps_the_aspect_of_oblong_images():
    images = torch.zeros(1, 1, 9, 21)
    images[0, 0, 4, 14] = 1  # four pixels right of the centre
    turned = warps.rotate(images, torch.tensor([math.pi / 2]))
    assert divmod(int(turned.flatten().argmax()), 21) == (0, 10), "expected four pixels above the centre"


def test_rescale_halves_about_the_centre():
    images = torch.zeros(1, 1, 17, 17)
    images[0, 0, 8, 14] = 1
    shrunk = warps.rescale(images, torch.tensor([0.5]))
    assert divmod(int(shrunk.flatten().argmax()), 17) == (8, 11)
    assert torch.allclose(warps.rescale(images, torch.tensor([1.0])), images, atol=1e-5)


def test_rotated_and_scaled_differ_from_sample_to_sample(tmp_path):
    import numpy as np

    same = np.tile(np.random.default_rng(0).random((1, 16, 16), dtype=np.float32), (24, 1, 1))
    file = write_npz(tmp_path / "set.npz", x_train=same, x_test=same[:12])
    for task in ("rotated", "scaled"):
        images = load_data(file, task).train.tensors[0].flatten(1)
        distance = torch.cdist(images, images) + torch.eye(24) * 1e3
        assert distance.min() > 1e-3, f"{task}: two samples got the same transform"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(-(2**70), 2**70), start=st.integers(0, 10**6))
def test_draws_are_uniform_and_belong_to_the_sample(seed, start):
    index = torch.arange(start, start + 2000)
    uniform = per_sample_uniform(seed, 0, index, 2)
    assert uniform.shape == (2000, 2)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert (uniform.mean(0) - 0.5).abs().max() < 0.05
    assert abs(float(torch.corrcoef(uniform.T)[0, 1])) < 0.12
    assert torch.equal(per_sample_uniform(seed, 0, index[7:9], 1)[:, 0], uniform[7:9, 0])
    assert not torch.equal(per_sample_uniform(seed, 1, index, 2), uniform)
