"""Normalisation by the training set alone, the order behind `limit`, and the same path for later files."""

import json
import warnings

import numpy as np
import pytest
import torch
from data_files import npz_arrays, write_mnist, write_npz

from symlearn.data import Preprocessing, load_data, load_images
from symlearn.data.splits import mixed_order


def test_training_images_have_mean_0_and_std_1():
    images = load_data("digits", "rotated").train.tensors[0]
    assert images.mean().abs() < 1e-5
    assert (images.std(unbiased=False) - 1).abs() < 1e-5


def test_statistics_are_the_training_sets_alone(tmp_path):
    arrays = npz_arrays()
    plain = load_data(write_npz(tmp_path / "a.npz"))
    shifted = load_data(write_npz(tmp_path / "b.npz", x_test=arrays["x_test"] * 5 + 3))
    assert plain.preprocessing == shifted.preprocessing
    assert torch.equal(plain.train.tensors[0], shifted.train.tensors[0])
    assert shifted.preprocessing.mean[0] == pytest.approx(arrays["x_train"].mean(), abs=1e-6)
    assert shifted.preprocessing.std[0] == pytest.approx(arrays["x_train"].std(), abs=1e-6)


def test_channels_are_normalised_apart(tmp_path):
    images = (
        np.random.default_rng(0).random((24, 3, 6, 6), dtype=np.float32) * np.array([1, 2, 3])[:, None, None]
    )
    splits = load_data(write_npz(tmp_path / "a.npz", x_train=images, x_test=images[:12]))
    assert torch.allclose(splits.train.tensors[0].mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(splits.train.tensors[0].std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5)


def test_a_constant_channel_is_said_and_not_scaled(tmp_path):
    images = np.random.default_rng(0).random((24, 3, 6, 6), dtype=np.float32)
    images[:, 1] = 0.3
    file = write_npz(tmp_path / "a.npz", x_train=images, x_test=images[:12])
    with pytest.warns(UserWarning, match="channel 1 of the training images is constant"):
        splits = load_data(file)
    assert splits.preprocessing.std[1] == 1
    assert splits.train.tensors[0][:, 1].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("data", "task"), [("digits", "class"), ("digits", "quadrant-digit"), ("mnist", "class")]
)
def test_json_round_trip(tmp_path, data, task):
    write_mnist(tmp_path)
    preprocessing = load_data(data, task, data_root=tmp_path).preprocessing
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_new_files_go_the_way_of_training_images(tmp_path, data):
    write_mnist(tmp_path)
    splits = load_data(data, data_root=tmp_path)
    images, _ = load_images(data, data_root=tmp_path)
    normalised = splits.preprocessing(images)
    expected = splits.test.tensors[0]
    assert normalised.shape == expected.shape
    assert torch.allclose(
        normalised.sum((1, 2, 3)).sort().values, expected.sum((1, 2, 3)).sort().values, atol=1e-3
    )


@pytest.mark.filterwarnings("ignore:.*have no training image")  # forty classes and few images
def test_whole_canvases_are_resized_and_frames_taken_as_they_are(tmp_path):
    write_mnist(tmp_path)
    preprocessing = load_data("mnist", "quadrant", data_root=tmp_path).preprocessing
    assert preprocessing(torch.rand(2, 1, 56, 56)).shape == (2, 1, 32, 32)
    as_it_is = torch.rand(2, 1, 32, 32)
    assert torch.equal(preprocessing(as_it_is), preprocessing.normalise(as_it_is))
    with pytest.raises(ValueError, match="images are 28x28; expected 56x56 or 32x32"):
        preprocessing(torch.rand(2, 1, 28, 28))  # without a place the quadrant has no answer


def test_black_is_what_zero_becomes():
    preprocessing = load_data(limit=100).preprocessing
    assert preprocessing(torch.zeros(1, 1, 16, 16)).unique().item() == pytest.approx(
        preprocessing.black[0], abs=1e-6
    )


def test_every_prefix_of_the_order_holds_the_classes_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)  # stored class by class
    order = mixed_order(labels)
    assert sorted(order.tolist()) == list(range(100))
    for count in (3, 10, 50, 100):
        held = labels[order[:count]].bincount(minlength=3)
        assert held.min() >= 1, f"the first {count} lack a class: {held.tolist()}"
        share = torch.tensor([0.6, 0.3, 0.1]) * count
        assert (held - share).abs().max() <= 2, (
            f"the first {count} hold {held.tolist()}, expected about {share.tolist()}"
        )
    assert not torch.equal(order[:60].sort().values, order[:60])


def test_limit_takes_the_first_of_the_order(tmp_path):
    write_mnist(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = load_data("mnist", data_root=tmp_path, limit=10, test_limit=10)
    assert sorted(few.train.tensors[1].tolist()) == list(range(10))
    assert len(few.test) == 10
    with pytest.warns(UserWarning, match="5 of 10 classes have no training image"):
        load_data("mnist", data_root=tmp_path, limit=5)
