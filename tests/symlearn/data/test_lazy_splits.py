"""Sets that `load_data` leaves where they are: the same images, labels and statistics as in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import npz_arrays, write_folder, write_mnist, write_npz
from oracles import assert_refused
from PIL import Image
from tiny_fits import differences
from torch.utils.data import DataLoader, TensorDataset

import symlearn
from symlearn.data import TASKS, DataSplits, load_data
from symlearn.data.free_memory import SHARE, may_be_held
from symlearn.data.lazy_split import LazySplit
from symlearn.data.stored_arrays import stored_array
from symlearn.training.inputs import samples_from

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(3)


def whole(splits: DataSplits) -> list[Any]:
    """All images and targets as a fit reads them, and what is said of them."""
    halves = [samples_from(half, CPU).whole() for half in (splits.train, splits.test)]
    return [*halves, splits.preprocessing.to_dict(), splits.classes, splits.class_names, splits.in_channels]


def assert_the_same(data: Any, **options: Any) -> None:
    """Read as needed, and held."""
    lazy, held = (load_data(data, hold=hold, **options) for hold in (False, True))
    assert isinstance(lazy.train, LazySplit) and isinstance(held.train, TensorDataset)
    assert not differences(whole(lazy), whole(held))


@pytest.mark.parametrize("size", [None, 24, 15])
@pytest.mark.parametrize("task", [name for name in TASKS])
def test_every_task_and_size(task: str, size: int | None) -> None:
    assert_the_same("digits", task=task, size=size, limit=301, test_limit=40, seed=4)


def test_batches_of_any_size_hold_the_same_images() -> None:
    """What a transform gives for an image does not depend on the images beside it."""
    lazy = load_data("digits", "rotated", hold=False, limit=50, test_limit=20, size=20)
    together = samples_from(lazy.train, CPU).whole()[0]
    for size in (1, 7, 50):
        loader = DataLoader(lazy.train, batch_size=size)
        assert torch.equal(torch.cat([x for x, _ in loader]), together), size
    assert torch.equal(lazy.train[-1][0], together[-1])
    with pytest.raises(IndexError):
        lazy.train[50]


def colourful(root: Path) -> Path:
    """A folder of random colour images, grey ones among them."""
    write_folder(root, count=5)
    for k, file in enumerate(sorted(root.rglob("*.png"))):
        if k % 3:
            Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(file)
    return root


def npy_folder(root: Path, **changes: Any) -> Path:
    """The arrays of a .npz as files of their own."""
    root.mkdir()
    for key, array in npz_arrays(**changes).items():
        np.save(root / f"{key}.npy", array)
    return root


def noise(n: int, *shape: int, dtype: Any = np.float64) -> np.ndarray:
    """Random numbers, whole ones for uint8."""
    found = RANDOM.random((n, *shape))
    return (255 * found).astype(dtype) if dtype == np.uint8 else found.astype(dtype)


FILES: dict[str, Callable[[Path], Path]] = {
    "grey folder": lambda p: write_folder(p / "set", mode="L"),
    "colour folder": lambda p: colourful(p / "set"),
    "npz": lambda p: write_npz(p / "set.npz"),
    "npz of bytes, channels last": lambda p: write_npz(
        p / "set.npz", x_train=noise(24, 8, 8, 3, dtype=np.uint8), x_test=noise(12, 8, 8, 3, dtype=np.uint8)
    ),
    "npz of doubles in columns": lambda p: write_npz(
        p / "set.npz", x_train=np.asfortranarray(noise(24, 3, 8, 8)), x_test=noise(12, 3, 8, 8)
    ),
    "npy folder": lambda p: npy_folder(p / "set", x_train=noise(24, 8, 8), x_test=noise(12, 8, 8)),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, tmp_path: Path) -> None:
    path = FILES[case](tmp_path)
    assert_the_same(path)
    assert_the_same(path, task="rotated", limit=5, size=12)


def test_named_sets_and_real_targets(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert_the_same("mnist", data_root=tmp_path)
    targets = {"y_train": noise(24, 2), "y_test": noise(12, 2)}
    assert_the_same(write_npz(tmp_path / "set.npz", **targets), likelihood="regression")


def test_workers_read_statistics_and_images(tmp_path: Path) -> None:
    path = colourful(tmp_path / "set")
    alone, helped = (load_data(path, hold=False, workers=count) for count in (0, 1))
    assert alone.preprocessing == helped.preprocessing
    assert not differences(samples_from(helped.train, CPU, workers=1).whole(), whole(alone)[0])


def test_nothing_is_read_whole(tmp_path: Path) -> None:
    """A row of a stored array is read without the others, at the place numpy put it."""
    file = write_npz(tmp_path / "set.npz")
    stored = stored_array(file, "x_train")
    assert stored is not None and stored.nbytes == 24 * 64 * 4
    assert np.array_equal(stored.rows(np.array([3, 1])), np.load(file)["x_train"][[3, 1]])
    with open(file, "r+b") as opened:
        opened.truncate(stored.offset + 100)
    assert stored_array(file, "x_train") is None


def test_by_the_share_of_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symlearn.data.free_memory.free_bytes", lambda: 1000)
    assert may_be_held(int(1000 * SHARE)) and not may_be_held(int(1000 * SHARE) + 1)
    lazy = samples_from(load_data("digits", limit=10).train, CPU)
    assert lazy.bytes_held(5) == 1400 * 64 * 4 + 10 * 8 + 5 * 256 * 4, "the source, its labels, a batch"
    assert may_be_held(10**9, hold=True) and not may_be_held(0, hold=False)
    assert isinstance(load_data("digits", limit=10).train, LazySplit)
    config = symlearn.Config().with_options(limit=60, test_limit=20, epochs=2, selection="none", alpha=1)
    said = str(symlearn.estimate_experiment(config))
    assert "images are read as they are needed" in said
    monkeypatch.setattr("symlearn.data.free_memory.free_bytes", lambda: None)
    assert may_be_held(10**15), "where it cannot be told, they are held"
    assert "held in memory" in str(symlearn.estimate_experiment(config))


def test_compressed_arrays_are_read_whole_and_said(tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    np.savez_compressed(file, **npz_arrays())
    with pytest.warns(UserWarning, match="compressed, so its images are read into memory whole"):
        splits = load_data(file, hold=False)
    held = load_data(file)
    assert not differences(whole(splits), whole(held))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(write_npz(tmp_path / "plain.npz"), hold=False)


class TestWrong:
    def test_not_finite(self, tmp_path: Path) -> None:
        x = noise(24, 8, 8)
        x[7, 2, 2] = np.nan
        file = write_npz(tmp_path / "set.npz", x_train=x, x_test=noise(12, 8, 8))
        assert_refused(lambda: load_data(file, hold=False), "has 1 NaN or infinite pixels")

    def test_another_size(self, tmp_path: Path) -> None:
        root = colourful(tmp_path / "set")
        Image.new("RGB", (9, 8)).save(root / "train" / "dog" / "1.png")
        assert_refused(lambda: load_data(root, hold=False), "1.png is 8x9 but the first image is 8x8")

    def test_damaged_later(self, tmp_path: Path) -> None:
        """A file that is broken once the set was loaded: a fit says which, before it starts."""
        root = colourful(tmp_path / "set")
        splits = load_data(root, hold=False)
        (root / "train" / "dog" / "2.png").write_bytes(b"nothing")
        assert_refused(lambda: samples_from(splits.train, CPU), "2.png cannot be read as an image")

    def test_other_types(self, tmp_path: Path) -> None:
        root = npy_folder(tmp_path / "set", x_train=noise(24, 8, 8).astype(complex))
        assert_refused(lambda: load_data(root, hold=False), "is complex128; expected uint8 (0..255) or float")
        (root / "x_train.npy").write_bytes(b"nothing")
        assert_refused(lambda: load_data(root), "x_train.npy cannot be read")
