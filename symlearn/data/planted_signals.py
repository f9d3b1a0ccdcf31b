"""`planted-pulse`, `-pulse-place` and `-heartbeat`: signals whose symmetries are known by construction.

One channel with noise, as `planted.py` has images; 1,200 training signals (seed 1) and 600 test signals
(seed 2), always the same ones. What decides the class, and so what a layer may commute with:

| kind        | what decides the class                                      | true of a network's layers     |
|-------------|-------------------------------------------------------------|--------------------------------|
| pulse       | which of four waveforms of 9 samples, anywhere among 64     | shifts in every layer          |
| pulse-place | in which quarter of the 64; the waveform does not matter    | place matters, but only late   |
| heartbeat   | which of four beats repeats among 128, from any phase       | shifts in every layer          |

A heartbeat is a sum of Gaussian waves P, Q, R, S, T (McSharry et al. 2003 drive a dynamical model by the same
five; here they are summed directly). The four: all five waves; without P; with S and T raised between them
(an ST elevation); without P and with QRS three times as wide (a ventricular beat). Beats come every 40 to 56
samples, each up to 2 samples early or late, from a phase drawn uniformly, so whole beats and cut ones occur
anywhere.

Axes: n, t.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from symlearn.data.planted import NOISE, PREFIX, expect_kind, planted_halves
from symlearn.data.raw import RawData

LENGTH, PULSE, HEARTBEAT = 64, 9, 128  # samples
CLASSES = 4
QUIET = 0.1  # of heartbeats, whose P wave is .35 high
KINDS = ("pulse", "pulse-place", "heartbeat")

WAVES = {  # of a beat: place after the R peak and width (standard deviation), in samples, and height
    "P": (-9.0, 1.6, 0.35),
    "Q": (-2.0, 0.8, -0.4),
    "R": (0.0, 0.9, 2.0),
    "S": (2.0, 0.8, -0.6),
    "ST": (6.0, 2.5, 0.6),
    "T": (13.0, 2.6, 0.6),
}
WIDE = 3.0  # times as wide and as far from R are the waves of a ventricular beat's QRS
BEATS = (
    ("P", "Q", "R", "S", "T"),
    ("Q", "R", "S", "T"),
    ("P", "Q", "R", "S", "ST", "T"),
    ("Q", "R", "S", "T"),
)


def waveform(index: int) -> np.ndarray:
    """One of four waveforms of one energy, `[9]`, none of which is another's shift or its negative."""
    t = np.linspace(-1, 1, PULSE)
    drawn = (
        np.sin(np.pi * t),
        np.cos(2 * np.pi * t),
        np.exp(-8 * (t + 0.45) ** 2) + np.exp(-8 * (t - 0.45) ** 2),
        np.exp(-2.5 * (t + 1)),
    )[index]
    return np.asarray(2.5 * np.sqrt(PULSE / 2) * drawn / np.linalg.norm(drawn))


def beat(index: int, t: np.ndarray) -> np.ndarray:
    """One of four beats at times `[...]` after its R peak, in samples."""
    total = np.zeros_like(t, dtype=float)
    for name in BEATS[index]:
        place, width, height = WAVES[name]
        wide = WIDE if index == 3 and name in "QRS" else 1.0
        total += height * np.exp(-0.5 * ((t - wide * place) / (wide * width)) ** 2)
    return total


def heartbeats(index: int, rng: np.random.Generator) -> np.ndarray:
    """A stretch `[128]` of one kind of beats."""
    interval = rng.uniform(40, 56)
    first = rng.uniform(-interval, 0)
    peaks = first + interval * np.arange(HEARTBEAT // 40 + 3) + rng.uniform(-2, 2, HEARTBEAT // 40 + 3)
    return beat(index, np.arange(HEARTBEAT) - peaks[:, None]).sum(0)


def planted_signals(kind: str, signals: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a set with a planted symmetry.

    Returns:
        Signals `[signals, 1, t]`, float32, and their classes `[signals]`; the same for the same seed.

    Raises:
        ValueError: no such kind.
    """
    expect_kind(kind, KINDS)
    rng = np.random.default_rng(seed)
    length = HEARTBEAT if kind == "heartbeat" else LENGTH
    noise = QUIET if kind == "heartbeat" else NOISE
    x = rng.normal(0, noise, (signals, 1, length)).astype(np.float32)
    y = rng.integers(0, CLASSES, signals)
    for signal, label in zip(x[:, 0], y, strict=True):
        if kind == "heartbeat":
            signal += heartbeats(int(label), rng)
            continue
        quarter = LENGTH // CLASSES
        shape, start = (
            (int(label), rng.integers(0, LENGTH - PULSE + 1))
            if kind == "pulse"
            else (int(rng.integers(0, 4)), label * quarter + rng.integers(0, quarter - PULSE + 1))
        )
        signal[start : start + PULSE] += waveform(shape)
    return x, y


def load_planted_signals(kind: str, data_root: Path | None) -> RawData:
    """One kind, `[1200, 1, t]` and `[600, 1, t]`, float32; `data_root` is not needed."""
    return planted_halves(partial(planted_signals, kind), CLASSES)


def planted_signal_sources() -> dict[str, Callable[[Path | None], RawData]]:
    """A source a kind, by its name."""
    return {f"{PREFIX}{kind}": partial(load_planted_signals, kind) for kind in KINDS}
