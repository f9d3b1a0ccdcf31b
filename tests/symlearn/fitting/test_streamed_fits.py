"""Fits to data that are read as they are needed: those of tensors bit for bit, also when killed and resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from streamed_sets import Counting, Flowing, Listed
from tiny_fits import bars, differences, linear_model, noisy_map, one_layer, options
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

import symlearn
from symlearn import Stream
from symlearn.fitting.result import FitResult, Progress

X, Y = bars(70, "direction")
TEST = bars(30, "direction", 1)


def said(result: FitResult) -> dict[str, Any]:
    """Everything of a fit but its seconds."""
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in result.metrics]
    report = {key: value for key, value in result.report.items() if key != "seconds"}
    return {"model": result.model.state_dict(), "report": report, "metrics": lines}


def normed() -> nn.Module:
    """A convolution with batch normalisation, relaxed."""
    torch.manual_seed(0)
    pool = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return symlearn.relax(
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), *pool, nn.Linear(3, 3)), (1, 8, 8)
    )


REGRESSION = noisy_map(61, 0.3)
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, dict[str, Any]]] = {
    "search": (lambda: one_layer(classes=3), (X, Y), TEST, {"epochs": 13, "removal_rounds": 1}),
    "lengthscales, augment": (
        lambda: one_layer("s-conv+conv", 3),
        (X, Y),
        TEST,
        {"epochs": 3, "selection": "gradient", "augment": True, "gradient_images": 20},
    ),
    "batch norm, partial traces": (
        normed,
        (X, Y),
        TEST,
        {"epochs": 3, "selection": "gradient", "eigenvalues": "partial-traces", "curvature_batch_size": 33},
    ),
    "regression": (
        lambda: linear_model(1),
        REGRESSION,
        None,
        {"epochs": 4, "selection": "gradient", "likelihood": "regression"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_fit_as_of_tensors(case: str) -> None:
    make, train, test, changes = CASES[case]
    config = options(**changes)
    held = said(symlearn.fit(make(), train, test, config))
    read = symlearn.fit(make(), Listed(*train), None if test is None else Listed(*test), config)
    assert read.train is not None and not read.train.held
    assert not differences(said(read), held)


@pytest.mark.parametrize("batch", [7, 25])
def test_workers_and_loaders_change_nothing(batch: int) -> None:
    config = options(epochs=2, selection="gradient", batch_size=batch)
    held = said(symlearn.fit(one_layer(classes=3), (X, Y), TEST, config))
    loader = DataLoader(Listed(X, Y), 11, shuffle=True, num_workers=1)
    found = symlearn.fit(one_layer(classes=3), loader, Stream(Listed(*TEST), workers=1), config)
    assert not differences(said(found), held)


def test_no_process_stays_and_the_result_can_be_pickled() -> None:
    others = set(multiprocessing.active_children())  # of tests that were here before
    data = Stream(Listed(X, Y), workers=1)
    result = symlearn.fit(one_layer(classes=3), data, None, options(epochs=1, selection="none"))
    assert set(multiprocessing.active_children()) <= others
    assert result.train is not None
    again = pickle.loads(pickle.dumps(result.train))
    assert not differences(again.whole(), (X, Y))
    again.close()
    assert set(multiprocessing.active_children()) <= others


def test_augmentation_is_seen_by_the_weights_alone() -> None:
    """Evidence at the same weights is that of the plain images."""
    config = options(epochs=2, selection="none")
    noisy = Stream(Listed(X, Y), Listed(X, Y, noise=0.3))
    result = symlearn.fit(one_layer(classes=3), noisy, None, config)
    plain = symlearn.fit(one_layer(classes=3), (X, Y), None, config)
    assert differences(said(result)["model"], said(plain)["model"])
    updates = symlearn.EvidenceUpdates(result.model, config, train=(X, Y))
    again = updates.result().report["log_marginal_likelihood"]
    assert result.report["log_marginal_likelihood"] == again


def test_own_loop_collapse_and_estimate_take_them() -> None:
    config = options(epochs=2, selection="gradient")
    result = symlearn.fit(one_layer(classes=3), Listed(X, Y), None, config)
    held = symlearn.fit(one_layer(classes=3), (X, Y), None, config)
    plain, same = (symlearn.collapse(r.model, r) for r in (result, held))
    assert not differences(plain.state_dict(), same.state_dict())
    evidence = [symlearn.EvidenceUpdates(held.model, config, d).step() for d in ((X, Y), Listed(X, Y))]
    assert evidence[0] == evidence[1]
    read, there = (symlearn.estimate(held.model, d, None, config) for d in (Listed(X, Y), (X, Y)))
    assert "images are read as they are needed" in str(read) and "held in memory" in str(there)
    assert read.seconds is not None and read.memory.data == 70 * 8 + 70 * 64 * 4


RESUMED: dict[str, Callable[[], Any]] = {
    "map-style, augmented": lambda: Stream(Listed(X, Y), Listed(X, Y, noise=0.3)),
    "a worker": lambda: Stream(Listed(X, Y), Listed(X, Y, noise=0.3), workers=1),
    "iterable, global generators": lambda: Flowing(X, Y),
    "sampler with a generator": lambda: DataLoader(
        Listed(X, Y), 9, sampler=RandomSampler(Listed(X, Y), True, 70, generator=torch.Generator())
    ),
    "iterable with a state": lambda: Counting(X, Y),
}


@pytest.mark.parametrize("case", RESUMED)
def test_interrupted_and_resumed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symlearn.fitting.stages.SAVE_EVERY", 0.0)
    config = options(epochs=8, selection="gradient", frequency=2)
    make, told = RESUMED[case], 0
    alone = symlearn.fit(one_layer(classes=3), make(), TEST, config)

    def interrupt(progress: Progress) -> None:
        nonlocal told
        told += 1
        if told == 5:
            raise KeyboardInterrupt

    where: dict[str, Any] = {"out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        symlearn.fit(one_layer(classes=3), make(), TEST, config, progress=interrupt, **where)
    torch.manual_seed(12345)  # another process begins with other generators
    resumed = symlearn.fit(one_layer(classes=3), make(), TEST, config, resume=True, **where)
    assert not differences(said(resumed), said(alone))


# Kills its own process after an epoch whose metrics are written and whose checkpoint is not.
CHILD = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
from streamed_sets import Listed
from tiny_fits import bars, one_layer, options
import symlearn
import symlearn.fitting.stages as fitting

fitting.SAVE_EVERY, told = 0.0, 0

def tell(progress):
    global told
    told += 1
    if told == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

x, y = bars(70, "direction")
data = symlearn.Stream(Listed(x, y), Listed(x, y, noise=0.3), workers=1)
config = options(epochs=6, proposals=1, refit_epochs=2)
result = symlearn.fit(one_layer(classes=3), data, bars(30, "direction", 1), config, out=sys.argv[2],
                      progress=tell, resume=sys.argv[4] == "resume")
lines = [{**line, "seconds": 0} for line in result.metrics]
torch.save(result.model.state_dict(), sys.argv[2] + ".pt")
print(json.dumps([lines, {**result.report, "seconds": 0}]))
"""


def child(folder: Path, die: int, resume: bool = False) -> subprocess.CompletedProcess[str]:
    """The fit in a process of its own, which dies after so many epochs; 0: it does not."""
    tests = str(Path(__file__).parents[2])
    arguments = [tests, str(folder), str(die), "resume" if resume else "new"]
    return subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_left_alone(tmp_path: Path) -> None:
    alone, cut = tmp_path / "alone", tmp_path / "cut"
    whole = child(alone, 0)
    assert whole.returncode == 0, whole.stderr
    assert child(cut, 2).returncode == -signal.SIGKILL, "within the start"
    assert child(cut, 7, resume=True).returncode == -signal.SIGKILL, "within the round"
    resumed = child(cut, 0, resume=True)
    assert resumed.returncode == 0, resumed.stderr
    assert not differences(json.loads(resumed.stdout), json.loads(whole.stdout))
    models = [torch.load(f"{folder}.pt", weights_only=True) for folder in (cut, alone)]
    assert not differences(*models)
