"""Wrong input: a ValueError of exactly one line that names what was wrong."""

import numpy as np
import pytest
import torch
from data_files import npz_arrays, write_folder, write_idx, write_mnist, write_npz
from PIL import Image

from symlearn.data import Preprocessing, load_data, load_images

X = npz_arrays()["x_train"]
Y = npz_arrays()["y_train"]


def with_value(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


ARGUMENTS = {
    "unknown data": (("mnst", "class"), {}, ["mnst", "digits", "fashion-mnist", "cifar100", ".npz"]),
    "unknown task": (("digits", "quadrants"), {}, ["quadrants", "quadrant-digit", "quarter-turns"]),
    "missing file": (("no/such.npz", "class"), {}, ["no/such.npz", "does not exist"]),
    "missing folder": (("no/such", "class"), {}, ["no/such", "does not exist"]),
    "limit 0": ((), {"limit": 0}, ["limit is 0"]),
    "limit -3": ((), {"limit": -3}, ["limit is -3"]),
    "limit not whole": ((), {"limit": 2.5}, ["limit is 2.5"]),
    "limit true": ((), {"limit": True}, ["limit is True"]),
    "limit too large": ((), {"limit": 1401}, ["limit is 1401", "1400 training images"]),
    "test limit too large": ((), {"test_limit": 398}, ["test_limit is 398", "397 test images"]),
    "size 0": ((), {"size": 0}, ["size is 0"]),
    "size of three": ((), {"size": (8, 8, 8)}, ["size is (8, 8, 8)"]),
    "frame text": ((), {"frame": "16"}, ["frame is '16'"]),
    "frame too small": ((), {"frame": 6}, ["frame 6x6", "8x8"]),
    "frame too small for quadrants": (("digits", "quadrant"), {"frame": 15}, ["frame 15x15", "16x16"]),
    "seed": ((), {"seed": 0.5}, ["seed is 0.5"]),
    "likelihood": ((), {"likelihood": "poisson"}, ["poisson", "regression"]),
    "regression on classes": ((), {"likelihood": "regression"}, ["digits", "real targets"]),
    "regression on quadrants": (("digits", "quadrant"), {"likelihood": "regression"}, ["quadrant"]),
    "regression on turns": (("digits", "class-and-turn"), {"likelihood": "regression"}, ["class-and-turn"]),
    "oblong turns with a label": (("digits", "class-and-turn"), {"size": (16, 20)}, ["16x20", "square"]),
    "oblong quarter turns": (("digits", "quarter-turns"), {"size": (16, 20)}, ["16x20", "square"]),
}


def one_line(call, fragments):
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"{message!r} lacks {missing}"


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case):
    positional, named, fragments = ARGUMENTS[case]
    one_line(lambda: load_data(*positional, **named), fragments)


ARRAYS = {
    "missing keys": ({"x_test": None, "y_test": None}, ["lacks x_test, y_test"]),
    "NaN pixel": ({"x_train": with_value(X, (3, 2, 1), np.nan)}, ["x_train", "1 NaN", "(3, 2, 1)"]),
    "infinite test pixels": (
        {"x_test": with_value(X[:12], 4, np.inf)},
        ["x_test", "64 NaN or infinite", "(4, 0, 0)"],
    ),
    "beyond float32": (
        {"x_train": with_value(X.astype(np.float64), (0, 0, 0), 1e300)},
        ["1 NaN or infinite"],
    ),
    "integer images": ({"x_train": X.astype(np.int64)}, ["x_train", "int64", "uint8"]),
    "mixed types": ({"x_test": (X[:12] * 255).astype(np.uint8)}, ["float32", "uint8"]),
    "flat images": ({"x_train": X.reshape(24, 64)}, ["x_train", "[24, 64]"]),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, ["x_train", "[0, 8, 8]"]),
    "both axes channels": ({"x_train": X.reshape(24, 4, 16, 1)}, ["[24, 4, 16, 1]", "both axes"]),
    "no axis channels": ({"x_train": np.zeros((24, 5, 8, 8))}, ["[24, 5, 8, 8]", "neither axis"]),
    "sizes differ": ({"x_test": X[:12, :6]}, ["x_test", "[6, 8]", "[8, 8]"]),
    "label too large": ({"y_test": with_value(Y[:12], 5, 7)}, ["y_test", "7 at index 5", "0 to 2"]),
    "negative label": ({"y_train": with_value(Y, 2, -1)}, ["y_train", "-1 at index 2"]),
    "fractional label": ({"y_train": with_value(Y.astype(float), 4, 0.5)}, ["y_train", "0.5 at index 4"]),
    "NaN label": ({"y_train": with_value(Y.astype(float), 4, np.nan)}, ["y_train", "nan at index 4"]),
    "text labels": ({"y_train": Y.astype(str)}, ["y_train", "whole numbers"]),
    "one-hot labels": ({"y_train": np.eye(3)[Y]}, ["y_train", "[24, 3]", "[24]"]),
    "too few labels": ({"y_test": Y[:11]}, ["y_test", "[11]", "[12]"]),
    "empty class": ({"y_train": np.where(Y == 1, 2, Y)}, ["y_train", "no image of class 1"]),
    "wild label": ({"y_train": with_value(Y, 0, 10**15)}, ["no image of class 3"]),
    "objects": ({"y_train": np.array([{}] * 24)}, ["y_train", "Python objects"]),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case, tmp_path):
    changes, fragments = ARRAYS[case]
    file = write_npz(tmp_path / "set.npz", **changes)
    one_line(lambda: load_data(file), [*fragments, "set.npz"])


REGRESSION = {
    "NaN target": ({"y_train": with_value(Y.astype(float), 4, np.nan)}, ["1 NaN", "index 4"]),
    "too many axes": ({"y_train": np.zeros((24, 1, 1))}, ["y_train", "[24, 1, 1]"]),
    "outputs differ": ({"y_train": np.zeros((24, 2))}, ["y_test has 1"]),
}


@pytest.mark.parametrize("case", REGRESSION)
def test_regression_targets(case, tmp_path):
    changes, fragments = REGRESSION[case]
    file = write_npz(tmp_path / "set", **changes).with_suffix(".npz")
    one_line(
        lambda: load_data(file, likelihood="regression"),
        [f.replace("y_test has", f"y_test in {file} has") for f in fragments],
    )


@pytest.mark.parametrize("keep", [0, 10, 600, -30], ids=lambda keep: f"first {keep} bytes")
def test_truncated_npz(tmp_path, keep):
    file = write_npz(tmp_path / "set.npz")
    file.write_bytes(file.read_bytes()[:keep])
    one_line(lambda: load_data(file), [str(file), "truncated"])


def test_damaged_npz(tmp_path):
    file = write_npz(tmp_path / "set.npz")
    content = bytearray(file.read_bytes())
    content[400:420] = bytes(20)
    file.write_bytes(bytes(content))
    one_line(lambda: load_data(file), ["x_train", str(file)])


def remove_class(root):
    for file in (root / "test" / "dog").iterdir():
        file.unlink()
    (root / "test" / "dog").rmdir()


def empty_class(root):
    for file in (root / "train" / "dog").iterdir():
        file.unlink()


def empty_both(root):
    import shutil

    shutil.rmtree(root / "train")
    (root / "train").mkdir()


FOLDERS = {
    "no test": (lambda root: (root / "test").rename(root / "other"), ["not an image folder", "'test'"]),
    "no classes": (empty_both, ["no class folders"]),
    "class missing in test": (remove_class, ["'dog'", "in train but not in test"]),
    "class missing in train": (
        lambda root: (root / "test" / "emu").mkdir(),
        ["'emu'", "in test but not in train"],
    ),
    "empty class": (empty_class, ["'dog'", "no images"]),
    "mixed sizes": (
        lambda root: Image.new("RGB", (9, 8)).save(root / "test" / "cat" / "9.png"),
        ["9.png is 8x9", "8x8"],
    ),
    "unreadable": (
        lambda root: (root / "train" / "cat" / "bad.png").write_bytes(b"GIF89a nonsense"),
        ["bad.png", "cannot be read"],
    ),
    "cut off": (
        lambda root: (root / "train" / "cat" / "0.png").write_bytes(
            (root / "train" / "cat" / "1.png").read_bytes()[:50]
        ),
        ["0.png", "cannot be read"],
    ),
    "16 bits": (
        lambda root: Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(
            root / "train" / "cat" / "deep.png"
        ),
        ["deep.png", "8 bits"],
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case, tmp_path):
    spoil, fragments = FOLDERS[case]
    root = write_folder(tmp_path / "set")
    spoil(root)
    one_line(lambda: load_data(root), fragments)


def cut_images(root):
    file = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])


IDX = {
    "truncated": (cut_images, ["mnist", "cannot be read"]),
    "not idx": (
        lambda root: (root / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"<html>"),
        ["mnist", "t10k"],
    ),
    "too few labels": (
        lambda root: write_idx(root / "MNIST/raw/train-labels-idx1-ubyte", np.arange(30) % 10),
        ["40 train images but 30 labels"],
    ),
    "label out of range": (
        lambda root: write_idx(root / "MNIST/raw/train-labels-idx1-ubyte", np.arange(40) % 11),
        ["10 at index 10", "0 to 9"],
    ),
    "empty class": (
        lambda root: write_idx(root / "MNIST/raw/train-labels-idx1-ubyte", np.arange(40) % 9),
        ["class 9"],
    ),
}


@pytest.mark.parametrize("case", IDX)
def test_idx_files(case, tmp_path):
    spoil, fragments = IDX[case]
    write_mnist(tmp_path)
    spoil(tmp_path)
    one_line(lambda: load_data("mnist", data_root=tmp_path), fragments)


def test_other_files_are_no_data_set(tmp_path):
    file = tmp_path / "set.csv"
    file.write_text("1,2")
    one_line(lambda: load_data(file), ["set.csv", ".npz"])


def test_prediction_input(tmp_path):
    one_line(lambda: load_images(tmp_path / "none.npz"), ["none.npz", "does not exist"])
    one_line(lambda: load_images(tmp_path), ["no images"])
    (tmp_path / "set.csv").write_text("1,2")
    one_line(lambda: load_images(tmp_path / "set.csv"), ["set.csv", "no images to predict"])
    np.savez(tmp_path / "other.npz", pixels=X)
    one_line(lambda: load_images(tmp_path / "other.npz"), ["x, x_test, images"])


GOOD = Preprocessing((0.5,), (0.2,), (8, 8), (16, 16), (16, 16))
PREPROCESSING = {
    "channels": (lambda: GOOD(torch.rand(2, 3, 8, 8)), ["[2, 3, 8, 8]", "[n, 1, h, w]"]),
    "size": (lambda: GOOD(torch.rand(2, 1, 9, 9)), ["9x9", "8x8 or 16x16"]),
    "axes": (lambda: GOOD(torch.rand(8, 8)), ["[8, 8]"]),
    "integers": (lambda: GOOD(torch.ones(2, 1, 8, 8, dtype=torch.uint8)), ["uint8"]),
    "keys": (lambda: Preprocessing.from_dict({"mean": [1]}), ["'mean'", "'canvas'"]),
    "types": (lambda: Preprocessing.from_dict({**GOOD.to_dict(), "mean": 3}), ["wrong type"]),
    "zero std": (lambda: Preprocessing.from_dict({**GOOD.to_dict(), "std": [0.0]}), ["std above 0"]),
}


@pytest.mark.parametrize("case", PREPROCESSING)
def test_preprocessing(case):
    call, fragments = PREPROCESSING[case]
    one_line(call, fragments)
