"""Every source gives the images and labels that lie there, in the fixed order, ready for a network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import npz_arrays, write_folder, write_mnist, write_npz
from PIL import Image

from symlearn.data import SOURCES, Dataset, load_data, load_images
from symlearn.data.planted import KINDS
from symlearn.data.planted_banks import ANGLES
from symlearn.data.planted_signals import KINDS as SIGNALS
from symlearn.data.planted_volumes import KINDS as VOLUMES
from symlearn.data.splits import mixed_order

# forty classes and few images
pytestmark = pytest.mark.filterwarnings("ignore:.*have no training image")


def unnormalised(splits, half="train"):
    images = getattr(splits, half).tensors[0]
    mean, std = (
        torch.tensor(numbers)[:, None, None]
        for numbers in (splits.preprocessing.mean, splits.preprocessing.std)
    )
    return images * std + mean


def test_digits_are_the_default_and_split_1400_397():
    splits = load_data()
    assert (splits.data, splits.task) == ("digits", "class")
    assert splits.train.tensors[0].shape == (1400, 1, 16, 16)
    assert splits.test.tensors[0].shape == (397, 1, 16, 16)
    assert splits.train.tensors[0].dtype == torch.float32
    assert splits.train.tensors[1].dtype == torch.int64
    assert (splits.classes, splits.in_channels, splits.size) == (10, 1, (16, 16))
    assert splits.class_names == tuple("0123456789")
    assert isinstance(splits.train, Dataset)


def test_digits_are_scikit_learns_and_every_one_is_used_once():
    from sklearn.datasets import load_digits

    splits = load_data(frame=8)
    ours = torch.cat([unnormalised(splits, "train"), unnormalised(splits, "test")]).flatten(1) * 16
    theirs = torch.tensor(load_digits().data, dtype=torch.float32)
    assert sorted(map(tuple, ours.round().tolist())) == sorted(map(tuple, theirs.tolist()))


def test_digits_lie_in_the_middle_of_their_frame():
    images = unnormalised(load_data(limit=50))
    inner = images[:, :, 4:12, 4:12]
    assert torch.allclose(images.sum(), inner.sum(), atol=0.01)
    assert inner.flatten(1).sum(1).min() > 1


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_are_used_as_they_lie(tmp_path, name, kind):
    images, labels = write_mnist(tmp_path, kind)
    splits = load_data(name, data_root=tmp_path, size=28)
    assert splits.train.tensors[0].shape == (40, 1, 28, 28)
    order = mixed_order(torch.from_numpy(labels))
    assert torch.equal(splits.train.tensors[1], torch.from_numpy(labels)[order])
    assert torch.allclose(unnormalised(splits)[:, 0], torch.from_numpy(images)[order] / 255, atol=1e-5)


def test_28_becomes_32_and_the_quadrant_canvas_too(tmp_path):
    write_mnist(tmp_path)
    assert load_data("mnist", data_root=tmp_path).size == (32, 32)
    splits = load_data("mnist", "quadrant", data_root=str(tmp_path))
    assert (splits.size, splits.classes, splits.preprocessing.canvas) == ((32, 32), 40, (56, 56))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_files_are_used_as_they_lie(tmp_path, monkeypatch, name):
    import hashlib
    import pickle

    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    classes = {"cifar10": 10, "cifar100": 100}[name]
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2 * classes, 3072), dtype=np.uint8)
    labels = [i % classes for i in range(2 * classes)]

    def write(file, content):
        (folder / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    label_key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    md5 = {file: write(file, {"data": pixels, label_key: labels}) for file in ("one", "two")}
    monkeypatch.setattr(kind, "train_list", [["one", md5["one"]]])
    monkeypatch.setattr(kind, "test_list", [["two", md5["two"]]])
    names = [f"c{i}" for i in range(classes)]
    meta = {**kind.meta, "filename": "meta", "md5": write("meta", {kind.meta["key"]: names})}
    monkeypatch.setattr(kind, "meta", meta)

    splits = load_data(name, data_root=tmp_path)
    assert splits.train.tensors[0].shape == (2 * classes, 3, 32, 32)
    assert splits.class_names == tuple(names)
    order = mixed_order(torch.tensor(labels))
    expected = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))[order] / 255
    assert torch.allclose(unnormalised(splits), expected, atol=1e-5)

    (folder / "one").write_bytes(b"changed")
    with pytest.raises(ValueError, match="not the published ones"):
        load_data(name, data_root=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_failed_download_is_one_clear_line(tmp_path, monkeypatch, name):
    def no_network(*args, **kwargs):
        raise OSError("no route to host\nand a second line")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        load_data(name, data_root=tmp_path / "empty")
    message = str(caught.value)
    assert name in message
    assert str(tmp_path / "empty") in message
    assert "--data-root" in message
    assert "\n" not in message


def test_archives_that_lie_there_spare_the_network(tmp_path, monkeypatch):
    import gzip
    import hashlib

    from torchvision import datasets

    images, _ = write_mnist(tmp_path)
    resources = []
    for file in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        packed = file.with_name(file.name + ".gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    assert len(load_data("mnist", data_root=tmp_path).train) == len(images)
    left = {entry.name for entry in tmp_path.iterdir()} - {".mnist.lock"}
    assert left == {"MNIST"}, "the folder of the download should be gone"
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 8


def test_an_interrupted_download_leaves_no_half_file(tmp_path, monkeypatch):
    from torchvision import datasets

    def cut_off(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.MNIST, "download", cut_off)
    with pytest.raises(KeyboardInterrupt):
        load_data("mnist", data_root=tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} <= {".mnist.lock"}


LAYOUTS = {
    "[n, h, w]": (lambda x: x[:, 0], 1),
    "[n, c, h, w]": (lambda x: x, 3),
    "[n, h, w, c]": (lambda x: x.transpose(0, 2, 3, 1), 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_npz_layouts_and_types(tmp_path, layout, dtype):
    arrange, channels = LAYOUTS[layout]
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (24, 3, 8, 10)).astype(np.uint8)
    stored = images if dtype == "uint8" else (images / 255).astype(dtype)
    file = write_npz(tmp_path / "set.npz", x_train=arrange(stored), x_test=arrange(stored[:12]))
    splits = load_data(file)
    order = mixed_order(torch.arange(24) % 3)
    expected = torch.from_numpy(images[:, :channels] / 255).float()[order]
    assert splits.size == (8, 10)
    assert splits.in_channels == channels
    assert torch.allclose(unnormalised(splits), expected, atol=1e-5)
    assert torch.equal(splits.train.tensors[1], (torch.arange(24) % 3)[order])


def test_npz_labels_may_be_a_column_or_whole_floats(tmp_path):
    arrays = npz_arrays()
    plain = load_data(write_npz(tmp_path / "a.npz"))
    column = load_data(write_npz(tmp_path / "b.npz", y_train=arrays["y_train"][:, None].astype(np.float64)))
    assert torch.equal(plain.train.tensors[1], column.train.tensors[1])


def test_regression_targets_are_real(tmp_path):
    random = np.random.default_rng(3)
    y_train, y_test = random.normal(size=(24, 2)), random.normal(size=(12, 2))
    file = write_npz(tmp_path / "set.npz", y_train=y_train, y_test=y_test)
    splits = load_data(file, "rotated", likelihood="regression")
    assert splits.classes == 2
    assert splits.train.tensors[1].dtype == torch.float32
    assert splits.train.tensors[1].shape == (24, 2)
    order = mixed_order(torch.from_numpy(y_test))
    assert torch.allclose(splits.test.tensors[1], torch.from_numpy(y_test).float()[order])
    one = load_data(
        write_npz(tmp_path / "one.npz", y_train=y_train[:, 0], y_test=y_test[:, 0]), likelihood="regression"
    )
    assert one.train.tensors[1].shape == (24, 1)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3)])
def test_image_folder(tmp_path, mode, channels):
    root = write_folder(tmp_path / "set", mode="RGB" if mode == "RGBA" else mode)
    if mode == "RGBA":
        for file in root.rglob("*.png"):
            Image.open(file).convert("RGBA").save(file)
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    splits = load_data(str(root))
    assert splits.class_names == ("cat", "dog")
    assert splits.train.tensors[0].shape == (6, channels, 8, 8)
    level = unnormalised(splits)[:, 0, 0, 0] * 255
    assert torch.allclose(level, 10.0 * (splits.train.tensors[1] + 1), atol=1e-3)


def test_load_images_from_each_kind(tmp_path):
    root = write_folder(tmp_path / "set")
    images, names = load_images(root)
    assert images.shape == (6, 3, 8, 8)
    assert names[0] == "test/cat/0.png"
    assert images.max() <= 1
    flat, names = load_images(root / "train" / "dog", channels=1)
    assert flat.shape == (3, 1, 8, 8)
    assert names == ("0.png", "1.png", "2.png")
    one, names = load_images(root / "train" / "dog" / "2.png")
    assert torch.equal(one[0, :, 0, 0] * 255, torch.tensor([20.0, 20.0, 22.0]))
    assert names == ("2.png",)
    classes, names = load_images(root / "train")
    assert len(classes) == 6
    assert names[-1] == "dog/2.png"
    for key in ("x", "x_test", "images"):
        np.savez(tmp_path / f"{key}.npz", **{key: np.full((2, 4, 4), 51, dtype=np.uint8)})
        stored, names = load_images(tmp_path / f"{key}.npz")
        assert torch.allclose(stored, torch.full((2, 1, 4, 4), 0.2))
        assert names == ("0", "1")
    assert load_images("digits")[0].shape == (397, 1, 8, 8)


@pytest.mark.slow
def test_importing_the_data_package_is_light():
    import subprocess
    import sys

    code = (
        "import sys, symlearn.data; print([m for m in ('torchvision', 'sklearn', 'PIL') if m in sys.modules])"
    )
    # torch itself may import none of the three
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_registry_holds_the_contracts_names():
    named = ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
    banks = [f"planted-cyclic-{angle}" for angle in ANGLES]
    patches = ["planted-patches", "planted-patch-places"]
    other = [f"planted-{kind}" for kind in (*SIGNALS, *VOLUMES)]
    assert list(SOURCES) == [*named, *(f"planted-{kind}" for kind in KINDS), *banks, *patches, *other]


def test_path_objects_and_strings_are_the_same(tmp_path):
    file = write_npz(tmp_path / "set.npz")
    assert torch.equal(load_data(file).train.tensors[0], load_data(str(Path(file))).train.tensors[0])
