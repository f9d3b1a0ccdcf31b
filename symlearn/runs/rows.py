"""One run of a table: a fit in a folder of its own, and the row that the JSON keeps of it.

Beside the folder `<place>` lie `<place>.made.json`, which machines and versions worked on it, and
`<place>.lock`, so that a run whose table was killed and started again waits until the old process is gone.

Axes: none.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from symlearn.report.reading import body_layers, tensor_place
from symlearn.run_folder import CONFIG, RunFolder, to_json, write_atomically
from symlearn.runs.provenance import made_by

OF_ONE_MACHINE = ("data_root", "device")  # options that say where, not what
MOMENTS = 24  # of the history that a row keeps
PATIENCE = 60.0  # seconds for another process to leave the folder


class Job(NamedTuple):
    """A run to do.

    Attributes:
        label: of its row.
        seed: of the fit.
        options: of the fit, with what is of this machine.
        folder: where it lives.
        commit: of the code.
        copy: the file that is read in place of the published data set, or None.
    """

    label: str
    seed: int
    options: Mapping[str, Any]
    folder: str
    commit: str = "unknown"
    copy: str | None = None


def said_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that decide the result."""
    return {key: value for key, value in options.items() if key not in OF_ONE_MACHINE}


def folder_name(label: str, seed: int, options: Mapping[str, Any]) -> str:
    """A run's folder: other options have another one, so that nothing is ever resumed as something else."""
    told = json.dumps(said_options(options), sort_keys=True)
    slug = re.sub(r"[^\w.+-]+", "-", label).strip("-")[:60]
    return f"{slug}-{hashlib.sha256(told.encode()).hexdigest()[:8]}-seed{seed}"


def with_own_copy(options: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Prefer a copy `<data_root>/<data>.npz` to the published data set.

    Published files in torchvision's layout come from the same folder where no such copy lies.

    Returns:
        Options whose `data` is the copy's path, and its file's name; where there is no copy, the options as
        they were, and None.
    """
    root, data = options.get("data_root"), options.get("data", "digits")
    copy = Path(str(root)).expanduser() / f"{data}.npz"
    if root is None or not copy.is_file():
        return dict(options), None
    return {**options, "data": str(copy)}, copy.name


def run_one(job: Job) -> dict[str, Any]:
    """Do one fit on one thread (a GPU if the options say so), from its checkpoint if it has one.

    Returns:
        Its row for the JSON; of a fit that could not go on, with the reason as `stopped` in place of results.

    Raises:
        ValueError: options that a fit refuses, data that cannot be read, a folder in use.
    """
    import torch
    from filelock import FileLock, Timeout

    torch.set_num_threads(1)
    place = Path(job.folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{place}.lock", timeout=PATIENCE):
            return _fitted(job, place)
    except Timeout:
        raise ValueError(
            f"{place} is in use by another process; wait for it, or give another --runs"
        ) from None


def _fitted(job: Job, place: Path) -> dict[str, Any]:
    from symlearn.config import Config
    from symlearn.runs.experiment import resume_experiment, run_experiment
    from symlearn.training.state import TrainingStoppedError

    asked = {**said_options(job.options)}
    if job.copy is not None:
        asked["data"] = Path(str(asked["data"])).stem
    made = _makers(job, place)
    row = {"label": job.label, "seed": job.seed, "options": asked, "copy": job.copy, "made": made}
    try:
        if (place / CONFIG).exists():
            result = resume_experiment(place)
        else:
            result = run_experiment(Config().with_options(**{**job.options, "seed": job.seed}), place)
    except TrainingStoppedError as stopped:
        return {**row, "stopped": str(stopped)}
    return {**row, **row_of(result.report, RunFolder.open(place).metrics())}


def _makers(job: Job, place: Path) -> list[dict[str, Any]]:
    """Which machines and versions worked on a run, the present ones among them unless it is finished."""
    notes = place.with_name(f"{place.name}.made.json")
    known: list[dict[str, Any]] = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else []
    if known and (place / "report.json").exists():
        return known
    now = made_by(job.commit, str(job.options.get("device", "cpu")))
    if now not in known:
        known.append(now)
        write_atomically(notes, to_json(known).encode())
    return known


def row_of(report: Mapping[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What the JSON keeps of a finished run."""
    from symlearn.analysis.effective_parameters import share_by_path

    return {
        "log_marginal_likelihood": report["log_marginal_likelihood"],
        "train_examples": report["train_examples"],
        "test_examples": report.get("test_examples"),
        **{key: report["test"][key] for key in ("accuracy", "nll", "ece")},
        "parameters": report["parameters"],
        "active_parameters": report["active_parameters"],
        "effective_parameters": share_by_path(report),
        "layers": [_layer(layer) for layer in report["layers"]],
        "hyperparameters": {
            f"{layer['name']}.{path}.{name}": value
            for layer in report["layers"]
            for path, numbers in layer["paths"].items()
            for name, value in numbers.get("hyperparameters", {}).items()
            if isinstance(value, float)
        },
        "verdicts": {layer["name"]: layer["verdict"] for layer in report["layers"] if "verdict" in layer},
        "proposals": report["selection"]["proposals"],
        "removals": report["selection"]["removals"],
        "training": report["training"],
        "equivariance": report.get("equivariance"),
        "history": history(metrics, report),
        "seconds": report["seconds"],
    }


def _layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of van der Ouderaa et al. 2023, Table 4, by path; precisions as geometric means."""
    paths = layer["paths"]
    return {
        "name": layer["name"],
        "type": layer["effective_type"],
        "paths": {path: numbers["effective_parameters"] for path, numbers in paths.items()},
        "relative": {path: numbers["relative"] for path, numbers in paths.items()},
        "normalised": {path: numbers["normalised"] for path, numbers in paths.items()},
        "weight_norm": {path: numbers["weight_norm"] for path, numbers in paths.items()},
        "prior_precision": {
            path: geometric_mean(numbers["prior_precision"].values()) for path, numbers in paths.items()
        },
    }


def geometric_mean(values: Any) -> float | None:
    """Of positive numbers; None of none."""
    known = [value for value in values if value]
    return math.exp(statistics.mean(map(math.log, known))) if known else None


def history(metrics: list[dict[str, Any]], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thin out the precisions over training to what `prior_precisions` draws.

    Returns:
        At most `MOMENTS` updates, the first and the last among them, with epoch, step, log evidence in nats
        and a geometric mean of the precisions a path; none where no layer has a choice.
    """
    if len(report["paths"]) < 2:
        return []
    known = [line for line in metrics if line.get("prior_precision")]
    if len(known) > MOMENTS:
        known = [known[round(k * (len(known) - 1) / (MOMENTS - 1))] for k in range(MOMENTS)]
    return [
        {
            "epoch": line["epoch"],
            "step": line["step"],
            "log_marginal_likelihood": line["log_marginal_likelihood"],
            "prior_precision": _by_path(line["prior_precision"], report),
        }
        for line in known
    ]


def _by_path(precision: Mapping[str, float], report: Mapping[str, Any]) -> dict[str, float]:
    """`layers.0.paths.conv.all` -> the geometric mean over that path's tensors, of layers with a choice."""
    choices = {layer["name"] for layer in body_layers(report)}
    grouped: dict[str, list[float]] = {}
    for name, value in precision.items():
        layer, path = tensor_place(name, report)
        if layer in choices:
            grouped.setdefault(f"{layer}.paths.{path}.all", []).append(value)
    return {name: float(f"{geometric_mean(values) or 0.0:.4g}") for name, values in grouped.items()}
