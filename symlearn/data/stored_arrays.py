"""Arrays on disk of which a few rows are read at a time: `.npy` files, and the members of `.npz` files.

A member that was saved without compression (`numpy.savez`) lies in the file as a `.npy` does, at some offset;
a compressed one must be read whole. The file is mapped anew for every read, so that what was read before does
not stay in memory.

Axes: n.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

_LOCAL = 30  # bytes of a zip member's own header before its name; lengths of name and extra are its last two


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        path: the file.
        offset: of its first number, in bytes.
        dtype: of its numbers.
        shape: with the images along the first axis.
        order: "C", or "F" for columns first.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    def __len__(self) -> int:
        """Along the first axis."""
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Copies of these rows."""
        mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
        return np.asarray(mapped[index])


def stored_array(path: Path, key: str) -> StoredArray | None:
    """Find an array in `key.npy` of a folder, or in a `.npz` file.

    Returns:
        Where it lies; None where it cannot be mapped: compressed, of Python objects, or nothing that numpy
        wrote.
    """
    try:
        file = path / f"{key}.npy" if path.is_dir() else path
        offset = 0 if path.is_dir() else _member(path, f"{key}.npy")
        if offset is None:
            return None
        with open(file, "rb") as opened:
            opened.seek(offset)
            shape, fortran, dtype = _header(opened)
            found = StoredArray(file, opened.tell(), dtype, shape, "F" if fortran else "C")
        whole = file.stat().st_size >= found.offset + found.nbytes
        return found if whole and not dtype.hasobject and shape else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, struct.error):
        return None


def _member(path: Path, name: str) -> int | None:
    """Where a member's content begins; None where it is compressed."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with open(path, "rb") as opened:
        opened.seek(member.header_offset)
        name_length, extra_length = struct.unpack("<HH", opened.read(_LOCAL)[-4:])
    return int(member.header_offset + _LOCAL + name_length + extra_length)


def _header(opened: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(opened)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    return read(opened)
