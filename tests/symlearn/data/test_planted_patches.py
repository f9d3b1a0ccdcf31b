"""`planted-patches` and `planted-patch-places`, on made-up photographs: what is true of them by construction.

Axes: photograph, h, w.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from symlearn.data import load_data, planted_patches
from symlearn.data.planted_patches import CLASSES, PATCH, SIDE, patch_images, patches_of


@pytest.fixture
def photographs() -> torch.Tensor:
    """Twelve of white noise, uint8."""
    return torch.randint(256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def data_root(photographs: torch.Tensor, tmp_path: Path) -> Path:
    """A folder with a copy of "CIFAR-10"."""
    x, y = photographs.numpy(), np.arange(12) % 10
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y)
    return tmp_path


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise, so that an image is its patch."""
    monkeypatch.setattr(planted_patches, "NOISE", 0.0)


def test_a_patch_has_mean_zero_and_deviation_one(photographs: torch.Tensor) -> None:
    patches = patches_of(photographs)
    assert patches.shape == (12, PATCH, PATCH)
    assert np.abs(patches.mean((1, 2))).max() < 1e-5 and np.allclose(patches.std((1, 2)), 1, atol=1e-4)


def test_a_patch_is_the_middle_in_grey_at_half_the_size(photographs: torch.Tensor) -> None:
    grey = photographs[3].double().mean(0).reshape(16, 2, 16, 2).mean((1, 3))[4:11, 4:11]
    expected = (grey - grey.mean()) / grey.std(unbiased=False)
    assert np.allclose(patches_of(photographs)[3], expected, atol=1e-4)


def test_a_flat_photograph_is_no_patch_and_no_nan() -> None:
    flat = patches_of(torch.full((1, 3, 32, 32), 7, dtype=torch.uint8))
    assert np.abs(flat).max() < 0.01, "rounding, far below the noise"


@pytest.mark.usefixtures("quiet")
def test_classes_of_patches_do_not_depend_on_the_place(photographs: torch.Tensor) -> None:
    """Up to a shift an image is its class's patch: their spectra agree; and all places occur."""
    patches = patches_of(photographs[:4])
    x, y = patch_images("patches", patches, 600, 0)
    framed = np.zeros((CLASSES, SIDE, SIDE))
    framed[:, :PATCH, :PATCH] = patches
    spectra = np.abs(np.fft.fft2(framed))
    assert np.allclose(np.abs(np.fft.fft2(x)), spectra[y], atol=1e-3)
    rows = np.abs(x).sum(2).astype(bool).argmax(1)
    for label in range(CLASSES):
        assert set(rows[y == label].tolist()) == set(range(SIDE - PATCH + 1)), label


@pytest.mark.usefixtures("quiet")
def test_classes_of_places_do_not_depend_on_the_patch(photographs: torch.Tensor) -> None:
    """The patch lies whole in the class's quadrant, and every photograph's occurs in each."""
    patches = patches_of(photographs)
    x, y = patch_images("patch-places", patches, 600, 0)
    quadrants = x.reshape(-1, 2, SIDE // 2, 2, SIDE // 2).transpose(0, 1, 3, 2, 4).reshape(600, 4, -1)
    energy = np.square(quadrants).sum(-1)
    assert np.array_equal(energy.argmax(1), y) and np.allclose(energy.max(1), PATCH**2, rtol=1e-3)
    seen = {(int(label), round(float(np.abs(image).max()), 4)) for image, label in zip(x, y, strict=True)}
    assert len(seen) == CLASSES * len(patches), "a patch is missing at a place"


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", planted_patches.KINDS)
def test_brightness_says_nothing(kind: str, photographs: torch.Tensor) -> None:
    x, _ = patch_images(kind, patches_of(photographs[:4]), 50, 0)
    assert np.abs(x.mean((1, 2))).max() < 1e-5


@pytest.mark.parametrize("kind", planted_patches.KINDS)
def test_they_are_sources(kind: str, data_root: Path) -> None:
    one, again = (
        load_data(f"planted-{kind}", data_root=data_root, limit=40, test_limit=20) for _ in range(2)
    )
    assert one.classes == CLASSES and one.train.tensors[0].shape == (40, 1, SIDE, SIDE)
    assert torch.equal(one.train.tensors[0], again.train.tensors[0])


def test_a_copy_of_other_images_is_refused(tmp_path: Path) -> None:
    x, y = np.zeros((12, 28, 28), dtype=np.uint8), np.arange(12) % 10
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match=r"cifar10\.npz holds 12 images of \[1, 28, 28\]; expected CIFAR-10"):
        load_data("planted-patches", data_root=tmp_path)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'places'; expected one of patches, patch-places"):
        patch_images("places", np.zeros((4, 7, 7)), 5, 0)
