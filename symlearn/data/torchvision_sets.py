"""MNIST, FashionMNIST, CIFAR-10 and CIFAR-100 through torchvision.

Files that already lie under `data_root` in torchvision's layout (`MNIST/raw/*-ubyte`,
`FashionMNIST/raw/*-ubyte`, `cifar-10-batches-py/*`, `cifar-100-python/*`) are used as they lie, without
network; otherwise they are downloaded there once. The idx files are read whatever their checksum; CIFAR's are
Python pickles, which can run code, so only the published ones (by checksum) are opened. Images of 28x28 are
resized to 32x32 unless another size is asked for.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from symlearn.data.raw import Pixels, RawData, RawSplit, check_classes

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
_PATIENCE = 30.0  # seconds without a byte before a download counts as failed


def load_mnist(data_root: Path | None) -> RawData:
    """MNIST: [60000, 1, 28, 28] and [10000, 1, 28, 28], uint8."""
    from torchvision.datasets import MNIST  # type: ignore[import-untyped]

    return _load_idx("mnist", MNIST, data_root, DIGIT_NAMES)


def load_fashion_mnist(data_root: Path | None) -> RawData:
    """FashionMNIST: [60000, 1, 28, 28] and [10000, 1, 28, 28], uint8."""
    from torchvision.datasets import FashionMNIST

    return _load_idx("fashion-mnist", FashionMNIST, data_root, tuple(FashionMNIST.classes))


def load_cifar10(data_root: Path | None) -> RawData:
    """CIFAR-10: [50000, 3, 32, 32] and [10000, 3, 32, 32], uint8."""
    from torchvision.datasets import CIFAR10

    return _load_cifar("cifar10", CIFAR10, data_root)


def load_cifar100(data_root: Path | None) -> RawData:
    """CIFAR-100 with its 100 fine classes: [50000, 3, 32, 32] and [10000, 3, 32, 32], uint8."""
    from torchvision.datasets import CIFAR100

    return _load_cifar("cifar100", CIFAR100, data_root)


def _load_idx(name: str, kind: Any, data_root: Path | None, class_names: tuple[str, ...]) -> RawData:
    """Read one set of idx files; `kind` is a class of torchvision.datasets."""
    root = _root(data_root)
    folder = root / kind.__name__ / "raw"
    archives = [f"{kind.__name__}/raw/{archive}" for archive, _ in kind.resources]
    _download(name, kind, root, [archive.removesuffix(".gz") for archive in archives], archives)
    splits = []
    for train in (True, False):
        try:
            half = kind(str(root), train=train, download=False)
        except Exception as error:  # the idx reader fails with whatever its first wrong byte leads to
            raise ValueError(
                f"{name}: the {'train' if train else 't10k'} idx files in {folder} cannot be read "
                f"({_one_line(error)}); expected the published ones; remove them to download them again"
            ) from error
        if len(half.data) != len(half.targets):
            raise ValueError(
                f"{name}: {len(half.data)} {'train' if train else 't10k'} images but {len(half.targets)} "
                f"labels in {folder}; expected as many of each; remove the files to download them again"
            )
        splits.append(RawSplit(half.data[:, None], half.targets))
    return _checked(name, splits, class_names, root)


def _load_cifar(name: str, kind: Any, data_root: Path | None) -> RawData:
    """Read one of the CIFAR sets; `kind` is a class of torchvision.datasets."""
    root = _root(data_root)
    folder = root / kind.base_folder
    names = [kind.meta["filename"], *(file for file, _ in [*kind.train_list, *kind.test_list])]
    _download(name, kind, root, [f"{kind.base_folder}/{file}" for file in names], [kind.filename])
    try:
        halves = [kind(str(root), train=train, download=False) for train in (True, False)]
    except Exception as error:  # wrong checksum, or a pickle that fails in its own way
        raise ValueError(
            f"{name}: the files in {folder} are not the published ones, and as pickles they are not "
            "opened; expected torchvision's checksums; remove the folder to download it again, or save "
            "your copy as a .npz"
        ) from error
    splits = [
        RawSplit(torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(half.targets))
        for half in halves
    ]
    return _checked(name, splits, tuple(halves[0].classes), root)


def _checked(name: str, splits: list[RawSplit], class_names: tuple[str, ...], root: Path) -> RawData:
    """The two halves as one source, after a look at their labels."""
    train, test = splits
    check_classes(train.targets, len(class_names), f"{name} in {root}: train", every_class=True)
    check_classes(test.targets, len(class_names), f"{name} in {root}: test", every_class=False)
    size = (32, 32) if _image_size(train.images) == (28, 28) else None
    return RawData(train, test, class_names, size=size)


def _image_size(images: Pixels) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _root(data_root: Path | None) -> Path:
    """Where the files lie: the caller's folder, or the user's cache folder."""
    if data_root is not None:
        return data_root
    from platformdirs import user_cache_path

    return user_cache_path("symlearn")


def _download(name: str, kind: Any, root: Path, files: list[str], archives: list[str]) -> None:
    """Bring those of `files` that `root` lacks.

    torchvision works in a folder of its own, and only whole files leave it: an interrupted or parallel run
    neither leaves nor sees half a file. Archives that already lie in `root` spare the network.

    Raises:
        ValueError: it fails, for whatever reason; one line says it.
    """
    if all((root / file).is_file() for file in files):
        return
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"), TemporaryDirectory(dir=root, prefix=f".{name}-") as own:
            missing = [file for file in files if not (root / file).is_file()]
            if not missing:  # another run brought them while this one waited
                return
            for archive in archives:
                if (root / archive).is_file():
                    (Path(own) / archive).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(root / archive, Path(own) / archive)
            with _impatient_sockets():
                kind(own, train=True, download=True)
            for file in missing:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(own) / file, root / file)
    except Exception as error:  # no network, a proxy's page, a full disk, a folder that may not be written
        raise ValueError(
            f"{name} is not in data_root {root} and could not be downloaded ({_one_line(error)}); "
            "check the network, or name with --data-root a folder that holds it in torchvision's layout"
        ) from error


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Limit waiting: torchvision opens URLs without a time limit, so a silent firewall would hang it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    """The first line of what went wrong."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__
