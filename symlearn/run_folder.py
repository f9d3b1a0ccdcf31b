"""The folder of one fit: what lies in it, and how it is written so that nothing is ever half there.

    config.toml        everything needed to run it again
    metrics.jsonl      a line an epoch
    checkpoint.pt      the state to resume from (loads with `weights_only`)
    model.pt           the learned network, once the fit is over
    report.json, report.html, figures/, environment.json, preprocessing.json
    found.json, found.html, examples.json      what was found, in plain words and pictures

Files are written to a temporary neighbour, flushed to disk and renamed over the old one. A lock keeps two
processes out of one folder.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

CONFIG, METRICS, CHECKPOINT, MODEL = "config.toml", "metrics.jsonl", "checkpoint.pt", "model.pt"
SCHEMAS = {CHECKPOINT: 3, MODEL: 1}  # of files of tensors
REPORT, PAGE, ENVIRONMENT, PREPROCESSING = (
    "report.json",
    "report.html",
    "environment.json",
    "preprocessing.json",
)
FILTERS = "filters.json"
FOUND, FOUND_PAGE, EXAMPLES = "found.json", "found.html", "examples.json"
FIGURES = "figures"
LOCK = ".lock"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content in one step.

    Raises:
        ValueError: it cannot be written (a full disk, no permission); what was there before is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        kept = "; the earlier file is intact" if os.path.exists(path) else ""
        raise ValueError(
            f"could not write {path}: {error.strerror or error}{kept}; {disk_advice(error, path)}"
        ) from None


def disk_advice(error: OSError, path: Path) -> str:
    """What to do about a file that could not be written."""
    if error.errno == errno.ENOENT:
        return f"create the folder {path.parent} or choose another place"
    if error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    ):
        return "choose another place"
    return "make room and resume"


def finite_json(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value


def to_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON."""
    return json.dumps(finite_json(value), indent=indent, allow_nan=False)


def own_debris(name: str) -> bool:
    """Whether a file is only our lock, or what a write that was killed left behind."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


class RunFolder:
    """One fit's folder.

    Args:
        path: the folder.

    Use `create` for a new fit, `open` for one that exists.
    """

    writes = True  # whether this process may

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / LOCK, timeout=0)

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make a new folder.

        Returns:
            The empty folder, not yet locked (see `acquire`).

        Raises:
            ValueError: it is a file, cannot be made, or is not empty.
        """
        path = Path(path)
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"could not make the folder {path}: {error.strerror or error}; choose another --out"
            ) from None
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """Check that a new fit may use a folder.

        Raises:
            ValueError: it is a file or is not empty.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; expected a new or an empty folder; choose another --out")
        if path.is_dir() and any(not own_debris(item.name) for item in path.iterdir()):
            resume = f", or continue its fit with --resume --out {path}" if (path / CONFIG).is_file() else ""
            raise ValueError(
                f"{path} is not empty; expected a new or an empty folder; choose another --out{resume}"
            )

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an earlier fit.

        Returns:
            The folder, not yet locked; its files are read when they are asked for.

        Raises:
            ValueError: there is none.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            lacks = (
                f"it has no {CONFIG}"
                if path.is_dir()
                else "it does not exist"
                if not path.exists()
                else "it is a file"
            )
            raise ValueError(f"{path} is no run folder: {lacks}; give the --out of a fit")
        return cls(path)

    def acquire(self) -> None:
        """Take the folder for this process, until it ends or `release`.

        Raises:
            ValueError: another process is writing to it.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"{self.path} is in use by another fit; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.path}: {error.strerror or error}; choose another --out"
            ) from None
        for item in self.path.iterdir():
            if own_debris(item.name) and item.name != LOCK:
                item.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def file(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def subfolder(self, name: str) -> Path:
        """Make a folder in the folder, if it is not there.

        Returns:
            Its path.

        Raises:
            ValueError: it cannot be made.
        """
        try:
            self.file(name).mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"could not make the folder {self.file(name)}: {error.strerror or error}"
            ) from None
        return self.file(name)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, atomically."""
        write_atomically(self.file(name), text.encode("utf-8"))

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Returns:
            What the file holds; nobody has looked whether it is what was expected.

        Raises:
            ValueError: it is missing or damaged.
        """
        path = self.file(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(self._missing(name)) from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it or fit again") from None

    def _missing(self, name: str) -> str:
        """Why a file of a finished fit is not there, and what to do."""
        if not self.file(CONFIG).is_file():
            return (
                f"{self.path} is no run folder: it has neither {name} nor {CONFIG}; give the --out of a fit"
            )
        return (
            f"{self.path} has no {name}: its fit has not finished; "
            f"continue it with symlearn fit --resume --out {self.path}"
        )

    def save_tensors(self, name: str, content: dict[str, Any]) -> None:
        """Write tensors and plain values so that they load with `weights_only`."""
        import torch

        buffer = io.BytesIO()
        torch.save({"schema": SCHEMAS[name], **content}, buffer)
        write_atomically(self.file(name), buffer.getvalue())

    def load_tensors(self, name: str) -> dict[str, Any]:
        """Read what `save_tensors` wrote.

        Returns:
            Its content by name, tensors on the CPU.

        Raises:
            ValueError: the file is missing, truncated or of another kind.
        """
        import torch

        path = self.file(name)
        if not path.is_file():
            raise ValueError(self._missing(name))
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{path} is damaged and cannot be read ({reason}); restore it or fit again"
            ) from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMAS[name]:
            raise ValueError(f"{path} was not written by this version of symlearn; fit again")
        return content

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl.

        Returns:
            Its whole lines, an epoch each, without a last one that was cut off; empty if there is no such
            file.

        Raises:
            ValueError: a line before the last is damaged.
        """
        path = self.file(METRICS)
        if not path.is_file():
            return []
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
        found = []
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if isinstance(values, dict):
                found.append(values)
            elif number < len(lines):
                raise ValueError(
                    f"{path} is damaged in line {number}; expected a JSON object; remove that line"
                )
        return found

    def keep_metrics(self, count: int) -> None:
        """Drop every line of metrics.jsonl after the first `count`."""
        kept = self.metrics()[:count]
        self.write_text(METRICS, "".join(to_json(line, indent=None) + "\n" for line in kept))

    def append_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Append lines to metrics.jsonl.

        Raises:
            ValueError: they cannot be written.
        """
        if not lines:
            return
        try:
            with open(self.file(METRICS), "a", encoding="utf-8") as file:
                file.write("".join(to_json(line, indent=None) + "\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())  # a checkpoint must never count lines that a power cut can take
        except OSError as error:
            raise ValueError(
                f"could not write {self.file(METRICS)}: {error.strerror or error}; "
                f"{disk_advice(error, self.file(METRICS))}"
            ) from None


class ReadOnlyFolder(RunFolder):
    """A folder that another process writes: what is written here is left to it."""

    writes = False

    def acquire(self) -> None:
        """The other process holds it."""

    def release(self) -> None:
        """The other process holds it."""

    def subfolder(self, name: str) -> Path:
        """Its path, whether it is there yet or not."""
        return self.file(name)

    def write_text(self, name: str, text: str) -> None:
        """The other process does."""

    def save_tensors(self, name: str, content: dict[str, Any]) -> None:
        """The other process does."""

    def keep_metrics(self, count: int) -> None:
        """The other process does."""

    def append_metrics(self, lines: list[dict[str, Any]]) -> None:
        """The other process does."""


def environment() -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    versions: dict[str, str | None] = {}
    for name in ("symlearn", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "laplace-torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    import torch

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "versions": versions,
    }
