"""Signals and volumes as data: how files are read, framed, resized and normalised, and what is refused.

Axes: n, c, t, d, h, w.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import npz_arrays, write_folder
from oracles import assert_refused

from symlearn.data import load_data, load_images, warps
from symlearn.data.planted_signals import BEATS, beat, planted_signals, waveform
from symlearn.data.planted_volumes import CORNERS, grating, planted_volumes
from symlearn.data.preprocessing import Preprocessing, channel_statistics

SHAPES = {"signals": (2, 16), "volumes": (2, 4, 6, 8)}


def saved(tmp_path: Path, shape: tuple[int, ...], folder: bool = False, **changes: Any) -> Path:
    """A `.npz`, or a folder of `.npy` files, of random x of this shape."""
    random = np.random.default_rng(0)
    arrays = {
        f"x_{half}": random.random((count, *shape), dtype=np.float32)
        for half, count in (("train", 24), ("test", 12))
    }
    arrays = npz_arrays(**{**arrays, **changes})
    if folder:
        (tmp_path / "set").mkdir()
        for key, array in arrays.items():
            np.save(tmp_path / "set" / f"{key}.npy", array)
        return tmp_path / "set"
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


@pytest.mark.parametrize("held", [True, False], ids=["in memory", "as needed"])
@pytest.mark.parametrize("kind", SHAPES)
def test_arrays_are_read_as_they_lie(tmp_path: Path, kind: str, held: bool) -> None:
    file = saved(tmp_path, SHAPES[kind], folder=True)
    raw = np.load(file / "x_train.npy")
    splits = load_data(file, kind=kind, hold=held)
    assert splits.size == SHAPES[kind][1:] and splits.in_channels == 2
    x = torch.stack([splits.train[i][0] for i in range(24)])
    mean, std = splits.preprocessing.mean, splits.preprocessing.std
    shape = (1, -1, *[1] * len(splits.size))
    back = x * torch.tensor(std).reshape(shape) + torch.tensor(mean).reshape(shape)
    order = [int((back[i] - torch.from_numpy(raw)).flatten(1).norm(dim=1).argmin()) for i in range(24)]
    assert sorted(order) == list(range(24))
    assert np.allclose(back.numpy(), raw[order], atol=1e-5)
    assert torch.allclose(x.transpose(0, 1).flatten(1).mean(1), torch.zeros(2), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "size", "said"),
    [
        (
            (1, 16),
            (16,),
            "read as signals [n, c, t] of 16 places; if these are grey images, give kind 'images'",
        ),
        ((3, 16), (16,), "read as signals [n, c, t]"),
        (
            (4, 16),
            (4, 16),
            "read as grey images of 4x16; if these are signals [n, c, t] of 4 channels, give kind",
        ),
        ((16, 1), (16, 1), "read as grey images of 16x1"),
        ((8, 8), (8, 8), ""),
        ((8, 8, 3), (8, 8), ""),
        ((3, 8, 12), (8, 12), ""),
        ((2, 4, 4, 4), (4, 4, 4), ""),
        (
            (5, 2, 2, 2),
            (2, 2, 2),
            "read as volumes of 5 channels and 2x2x2 places; if the channels come last",
        ),
    ],
    ids=str,
)
def test_what_axes_are_taken_for(
    tmp_path: Path, shape: tuple[int, ...], size: tuple[int, ...], said: str
) -> None:
    """And that it is said where there is a doubt, and only there."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = load_data(saved(tmp_path, shape))
    assert splits.size == size
    messages = [str(w.message) for w in caught]
    assert len(messages) == bool(said), messages
    assert all(said in message and "\n" not in message for message in messages), messages


def test_kind_overrules_the_axes(tmp_path: Path) -> None:
    file = saved(tmp_path, (12, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signals, images = load_data(file, kind="signals"), load_data(file, kind="images")
    assert (signals.in_channels, signals.size) == (12, (16,))
    assert (images.in_channels, images.size) == (1, (12, 16))


WRONG: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "signals without channels": ((16,), {}, "signals without channels need an axis of them, x[:, None]"),
    "and so said to be": ((16,), {"kind": "signals"}, "at least one signal as [n, c, t]"),
    "images, said to be signals": ((3, 8, 8), {"kind": "signals"}, "at least one signal as [n, c, t]"),
    "signals, said to be volumes": ((3, 8), {"kind": "volumes"}, "at least one volume as [n, c, d, h, w]"),
    "volumes without channels": ((5, 8, 8), {}, "volumes have five, [n, c, d, h, w]"),
    "task of images": ((1, 16), {"task": "rotated"}, "task 'rotated' is for images"),
    "quadrants of volumes": (
        (1, 4, 4, 4),
        {"task": "quadrant"},
        "holds volumes of 4x4x4; expected task 'class'",
    ),
    "size of images": ((1, 16), {"size": (8, 8)}, "size is (8, 8)"),
    "small frame": ((1, 16), {"frame": 8}, "frame 8 is too small for signals of 16"),
    "not finite": ((1, 16), {"x": np.inf}, "24 NaN or infinite values"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:x_train")
def test_wrong_input(tmp_path: Path, case: str) -> None:
    shape, options, words = WRONG[case]
    options = dict(options)
    changes = {}
    if "x" in options:
        changes["x_train"] = np.random.default_rng(0).random((24, *shape), dtype=np.float32)
        changes["x_train"][..., 3] = options.pop("x")
    file = saved(tmp_path, shape, **changes)
    assert_refused(lambda: load_data(file, **options), words)


def test_kinds_of_what_is_none(tmp_path: Path) -> None:
    assert_refused(lambda: load_data("digits", kind="signals"), "digits holds images; leave kind out")
    folder = write_folder(tmp_path / "folder")
    assert_refused(lambda: load_data(folder, kind="volumes"), "holds images; leave kind out")


@pytest.mark.filterwarnings("ignore:x_train")
def test_files_to_predict(tmp_path: Path) -> None:
    file = saved(tmp_path, (12, 16))
    assert load_images(file)[0].shape == (12, 1, 12, 16)
    images, names = load_images(file, kind="signals")
    assert images.shape == (12, 12, 16) and names[-1] == "11"
    splits = load_data(file, kind="signals", size=20)
    x = splits.preprocessing(images)
    assert x.shape == (12, 12, 20)
    assert_refused(lambda: splits.preprocessing(images[:, None]), "expected [n, 12, t], as in training")
    assert_refused(lambda: splits.preprocessing(images[..., :7]), "signals are 7; expected 16 or 20")
    again = Preprocessing.from_dict(splits.preprocessing.to_dict())
    assert again == splits.preprocessing and again.size == (20,)


def test_resizing_acts_on_every_axis_by_itself() -> None:
    """As on images: a signal is one row, and what does not vary along an axis does not feel its resizing."""
    signal = torch.randn(2, 3, 16)
    row = warps.resize(signal.unsqueeze(2).expand(-1, -1, 5, -1), (5, 24))
    assert torch.allclose(warps.resize(signal, (24,)), row[:, :, 0], atol=1e-6)
    for axis in (2, 3, 4):
        shape = [2, 3, 1, 1, 1]
        shape[axis] = 16
        volume = signal.reshape(shape).expand(-1, -1, *(16 if i == axis else 4 for i in (2, 3, 4)))
        to = tuple(24 if i == axis else 6 for i in (2, 3, 4))
        resized = warps.resize(volume, to)
        assert tuple(resized.shape[2:]) == to
        assert torch.allclose(resized, row[:, :, 0].reshape(*shape[:axis], 24, *shape[axis + 1 :]), atol=1e-5)


def test_frames_put_the_rest_behind() -> None:
    signal = torch.ones(1, 1, 3)
    assert warps.place_centred(signal, (6,)).flatten().tolist() == [0, 1, 1, 1, 0, 0]
    volume = warps.place_centred(torch.ones(1, 1, 1, 2, 1), (2, 3, 3))
    assert volume.nonzero()[:, 2:].tolist() == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_statistics_by_channel(axes: int) -> None:
    x = torch.randn(10, 2, *(3, 4, 5)[:axes], generator=torch.Generator().manual_seed(0)) * 3 + 1
    mean, std = channel_statistics(x)
    flat = x.transpose(0, 1).flatten(1).double()
    assert mean == pytest.approx(flat.mean(1).tolist())
    assert std == pytest.approx(flat.std(1, correction=0).tolist())


def test_waveforms_have_one_energy_and_are_no_shifts_of_each_other() -> None:
    shapes = [np.pad(waveform(k), 20) for k in range(4)]
    assert np.linalg.norm(shapes, axis=1) == pytest.approx(np.full(4, np.linalg.norm(shapes[0])))
    for one in range(4):
        for other in range(one):
            overlaps = [float(np.roll(shapes[one], s) @ shapes[other]) for s in range(-18, 19)]
            assert np.abs(overlaps).max() < 0.9 * float(shapes[0] @ shapes[0]), (one, other)


@pytest.mark.parametrize("kind", ["pulse", "pulse-place"])
def test_where_pulses_lie(kind: str) -> None:
    """Anywhere, or within the quarter that is the class; nothing but noise elsewhere."""
    x, y = planted_signals(kind, 400, 3)
    assert x.shape == (400, 1, 64) and x.dtype == np.float32 and set(y.tolist()) == {0, 1, 2, 3}
    centres = np.array([int(np.convolve(s[0] ** 2, np.ones(9), "same").argmax()) for s in x])
    right = (centres // 16 == y).mean()
    assert right > 0.97 if kind == "pulse-place" else right < 0.4
    again = planted_signals(kind, 400, 3)
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])


def test_beats_differ_where_they_should() -> None:
    t = np.arange(-20, 25).astype(float)
    p, none, raised, wide = (beat(k, t) for k in range(4))
    at_p, at_st, at_r = (int(np.flatnonzero(t == place)[0]) for place in (-9, 6, 0))
    assert p[at_p] == pytest.approx(0.35, abs=0.01) and abs(none[at_p]) < 1e-3
    assert raised[at_st] - p[at_st] == pytest.approx(0.6, abs=0.01)
    assert np.allclose(np.delete(none - p, slice(at_p - 8, at_p + 9)), 0, atol=1e-6), "the P wave alone"
    half = 0.5 * wide[at_r]
    assert (wide > half).sum() >= 2 * (p > half).sum() and len(BEATS) == 4
    x, y = planted_signals("heartbeat", 40, 1)
    assert x.shape == (40, 1, 128) and set(y.tolist()) == {0, 1, 2, 3}
    assert (x.max(2) > 1.2).all(), "a beat in every stretch"


@pytest.mark.parametrize("kind", ["volume", "volume-place"])
def test_where_gratings_lie(kind: str) -> None:
    x, y = planted_volumes(kind, 200, 3)
    assert x.shape == (200, 1, 12, 12, 12) and set(y.tolist()) == {0, 1, 2, 3}
    energy = torch.nn.functional.avg_pool3d(torch.from_numpy(x) ** 2, 5, 1).flatten(1).argmax(1).numpy()
    places = np.stack(np.unravel_index(energy, (8, 8, 8)), 1)
    near = np.abs(places[:, None] - np.array(CORNERS)).max(2).argmin(1)
    right = (near == y).mean()
    assert right > 0.95 if kind == "volume-place" else right < 0.5


def test_gratings_are_no_shifts_of_each_other() -> None:
    spectra = [np.abs(np.fft.fftn(grating(k))) for k in range(4)]
    for one in range(4):
        for other in range(one):
            assert np.linalg.norm(spectra[one] - spectra[other]) > 0.5 * np.linalg.norm(spectra[one])


def test_unknown_kinds() -> None:
    assert_refused(lambda: planted_signals("noise", 1, 0), "expected one of pulse, pulse-place, heartbeat")
    assert_refused(lambda: planted_volumes("noise", 1, 0), "expected one of volume, volume-place")
