"""The run folder: nothing is ever half there, and what is damaged is said."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch

from symlearn.run_folder import CONFIG, METRICS, RunFolder, to_json, write_atomically


def full_disk(_: int) -> None:
    """Stand-in for `os.fsync` on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, b"before")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ValueError, match="No space left on device; the earlier file is intact"):
        write_atomically(file, b"after")
    with pytest.raises(ValueError, match="No space left on device; make room"):
        write_atomically(tmp_path / "new.json", b"after")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.json": b"before"}


def test_advice_follows_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ValueError, match=r"No such file or directory; create the folder .*no or choose another"
    ):
        write_atomically(tmp_path / "no" / "a.json", b"")
    with pytest.raises(ValueError, match=r"Not a directory; choose another place$"):
        write_atomically(tmp_path / "file" / "a.json", b"")
    with pytest.raises(
        ValueError, match=r"Is a directory; the earlier file is intact; choose another place$"
    ):
        write_atomically(tmp_path, b"")

    def refuse(_: int) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ValueError, match=r"Permission denied; choose another place$"):
        RunFolder(tmp_path).append_metrics([{"epoch": 1}])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_metrics_on_a_really_full_disk(tmp_path: Path) -> None:
    (tmp_path / METRICS).symlink_to("/dev/full")
    with pytest.raises(ValueError, match="No space left on device; make room and resume"):
        RunFolder(tmp_path).append_metrics([{"epoch": 1}])


def test_a_failed_rename_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, b"before")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ValueError, match="Input/output error; the earlier file is intact"):
        write_atomically(file, b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and file.read_bytes() == b"before"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    first, second = RunFolder.create(tmp_path / "run"), RunFolder.create(tmp_path / "run")
    first.acquire()
    with pytest.raises(ValueError, match="in use by another fit"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_what_a_killed_write_left_is_no_content(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    folder = RunFolder.create(tmp_path)
    folder.acquire()
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == []
    folder.release()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file; expected a new or an empty folder"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(ValueError, match="is not empty"):
        RunFolder.create(tmp_path)
    with pytest.raises(ValueError, match="could not make the folder"):
        RunFolder.create(tmp_path / "file" / "below")
    with pytest.raises(ValueError, match=r"no run folder: it has no config\.toml"):
        RunFolder.open(tmp_path)
    with pytest.raises(ValueError, match="no run folder: it does not exist"):
        RunFolder.open(tmp_path / "nowhere")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / CONFIG).touch()
    with pytest.raises(ValueError, match="continue its fit with --resume"):
        RunFolder.create(tmp_path / "old")


def test_metrics_are_appended_cut_and_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics([{"epoch": k, "loss": 1 / (k + 1)} for k in range(5)])
    with open(tmp_path / METRICS, "a", encoding="utf-8") as file:
        file.write('{"epoch": 5, "lo')  # a write that was cut off
    assert [row["epoch"] for row in folder.metrics()] == [0, 1, 2, 3, 4]
    folder.keep_metrics(3)
    assert [row["epoch"] for row in folder.metrics()] == [0, 1, 2]
    assert (tmp_path / METRICS).read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("line", [b"no json", b"[1, 2]", b"\xff\xfe"], ids=["text", "no object", "bytes"])
def test_damaged_metrics_are_named_by_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / METRICS).write_bytes(b'{"epoch": 0}\n' + line + b'\n{"epoch": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged in line 2"):
        RunFolder(tmp_path).metrics()


@pytest.mark.parametrize("kept", [0, 1, 100, -1], ids=["empty", "a byte", "a part", "all but a byte"])
def test_truncated_tensors_are_refused(tmp_path: Path, kept: int) -> None:
    folder = RunFolder(tmp_path)
    folder.save_tensors("checkpoint.pt", {"x": torch.arange(1000)})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    assert torch.equal(folder.load_tensors("checkpoint.pt")["x"], torch.arange(1000))
    (tmp_path / "checkpoint.pt").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged") as caught:
        folder.load_tensors("checkpoint.pt")
    assert "\n" not in str(caught.value)


def test_tensors_of_another_kind_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="not written by this version of symlearn"):
        RunFolder(tmp_path).load_tensors("model.pt")


def test_json_is_strict() -> None:
    text = to_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (1, 2)}}, indent=None)
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": [1, 2]}}
