"""Image folders: `train/<class>/*` and `test/<class>/*`, or for prediction any folder of images or one image.

Classes are the names of the class folders in alphabetical order. Hidden files and files without an image's
suffix are passed over. Where every image shows grey alone, however it is stored, the set has one channel,
otherwise three; see `pixels.py`. Images are uint8 [n, c, h, w]. Sets that may not be held in memory are
decoded as their images are needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from symlearn.data.pixels import read_pixels, with_channels
from symlearn.data.raw import RawData, RawSplit, to_float

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
LAYOUT = "train/<class>/* and test/<class>/*"


@dataclass(frozen=True)
class FolderImages:
    """Files that are decoded when they are asked for.

    Attributes:
        files: in order.
        size: (h, w) that all of them must have.
        colour: whether images have three channels.
    """

    files: Sequence[Path]
    size: tuple[int, int]
    colour: bool

    def __len__(self) -> int:
        """How many files."""
        return len(self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, c, h, w)."""
        return len(self.files), 3 if self.colour else 1, *self.size

    def __getitem__(self, index: Tensor) -> Tensor:
        """Uint8 [batch, c, h, w] of the files `index`, int64 [batch]."""
        arrays = []
        for file in (self.files[number] for number in index.tolist()):
            array = read_pixels(file)
            _check_size(file, array, self.size, "the first image")
            arrays.append(with_channels(array, self.colour))
        return torch.from_numpy(np.stack(arrays))


def load_folder(path: Path, held: Callable[[int], bool] = lambda _: True) -> RawData:
    """Take an image folder as a source.

    Args:
        path: of the folder.
        held: whether so many bytes of images are to be held in memory.

    Returns:
        Images and labels of both halves; images that are not held are read as they are needed.

    Raises:
        ValueError: a half is missing, or its classes or a file are wrong; they are named.
    """
    for half in ("train", "test"):
        if not (path / half).is_dir():
            raise ValueError(f"{path} is not an image folder: it has no folder {half!r}; expected {LAYOUT}")
    class_names = _class_names(path / "train")
    test_names = _class_names(path / "test")
    if class_names != test_names:
        odd = min(set(class_names) ^ set(test_names))
        have, lack = ("train", "test") if odd in class_names else ("test", "train")
        raise ValueError(
            f"class {odd!r} of {path} is in {have} but not in {lack}; expected the same class folders in both"
        )
    files: dict[str, list[Path]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for half in files:
        for label, name in enumerate(class_names):
            found = _image_files(path / half / name)
            if not found:
                raise ValueError(
                    f"class {name!r} in {path / half} has no images; expected at least one; "
                    "add some or remove it"
                )
            files[half] += found
            labels[half] += [label] * len(found)
    targets = [torch.tensor(labels[half]) for half in files]
    both = files["train"] + files["test"]
    first = read_pixels(both[0])
    if not held(3 * len(both) * first.shape[0] * first.shape[1]):
        size, colour = (first.shape[0], first.shape[1]), any(read_pixels(file).ndim == 3 for file in both)
        halves = [FolderImages(files[half], size, colour) for half in files]
        train, test = (RawSplit(*half) for half in zip(halves, targets, strict=True))
        return RawData(train, test, class_names)
    images = _read_images(both, channels=None)
    middle = len(files["train"])
    return RawData(
        RawSplit(images[:middle], targets[0]),
        RawSplit(images[middle:], targets[1]),
        class_names,
    )


def load_folder_images(path: Path, channels: int | None) -> tuple[Tensor, tuple[str, ...]]:
    """Read images to predict from a folder.

    Taken are the images of `path/test/<class>/*` if there is such a folder, otherwise those of `path/*`,
    otherwise those of `path/<class>/*`. `channels` (1 or 3) asks for grey or colour; None keeps either.

    Returns:
        Images, float32 `[n, c, h, w]` in [0, 1], and their n names relative to `path`.

    Raises:
        ValueError: a folder without images, images that cannot be read, or of different sizes.
    """
    start = path / "test" if (path / "test").is_dir() else path
    files = _image_files(start) or [file for folder in _folders(start) for file in _image_files(folder)]
    if not files:
        raise ValueError(
            f"{path} holds no images; expected a folder of images, of class folders, or test/<class>/*"
        )
    names = tuple(file.relative_to(path).as_posix() for file in files)
    return to_float(_read_images(files, channels)), names


def load_image(path: Path, channels: int | None) -> tuple[Tensor, tuple[str, ...]]:
    """One image file, float32 [1, c, h, w] in [0, 1], and its name."""
    return to_float(_read_images([path], channels)), (path.name,)


def _class_names(half: Path) -> tuple[str, ...]:
    names = tuple(folder.name for folder in _folders(half))
    if not names:
        raise ValueError(f"{half} has no class folders; expected {LAYOUT}")
    return names


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and entry.is_file() and not entry.name.startswith(".")
    )


def _read_images(files: Sequence[Path], channels: int | None) -> Tensor:
    """All files as uint8 [n, c, h, w], grey if `channels` is 1 or (None) all of them are."""
    arrays = [read_pixels(file) for file in files]
    for file, array in zip(files, arrays, strict=True):
        _check_size(file, array, arrays[0].shape[:2], str(files[0]))
    colour = channels == 3 if channels is not None else any(array.ndim == 3 for array in arrays)
    return torch.from_numpy(np.stack([with_channels(array, colour) for array in arrays]))


def _check_size(file: Path, array: np.ndarray, size: tuple[int, ...], first: str) -> None:
    """Refuse an image of another size than the first."""
    (h, w), (h0, w0) = array.shape[:2], size
    if (h, w) != (h0, w0):
        raise ValueError(
            f"{file} is {h}x{w} but {first} is {h0}x{w0}; expected images of one size; resize them first"
        )
