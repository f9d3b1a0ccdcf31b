"""Published tables as declarative files, run at three scales, with the published figures beside ours.

A file `experiments/<paper>/<name>.toml` has

    title, source          what it is, and which table of which paper
    note                   how the reduced scales differ from the paper's (optional)
    [scales.<scale>]       options of every row at scale smoke, small or paper; `seeds` is one of them
    [[rows]]               label, `options` of its own, `published` figures, `truth` about its layers where it
                           is known (`truth.py`), and `<scale>` options that replace them there

Options are those of `symlearn fit`, by the names of the configuration's keys. Results are written as JSON, a
row a run, to `experiments/<paper>/results/<name>.<scale>.json`; an installed package, which carries the
files, writes them among its runs.

Axes: none.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from symlearn.run_folder import environment, to_json, write_atomically
from symlearn.runs.truth import RIGHT, UNDECIDED, WRONG, scores

SCALES = ("smoke", "small", "paper")
Job = tuple[str, int, Mapping[str, Any], str]  # label, seed, options, folder of the run
PACKAGED = Path(__file__).resolve().parent / "tables"  # of an installed wheel
KEYS = {"title", "source", "note", "scales", "rows"}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        label: what the table calls it.
        options: of the fit.
        published: figures of the paper, by name; accuracies in percent.
        scaled: options that replace the row's at a scale.
        truth: what is true of its layers, or None where nobody knows.
    """

    label: str
    options: dict[str, Any]
    published: dict[str, Any] = field(default_factory=dict)
    scaled: dict[str, dict[str, Any]] = field(default_factory=dict)
    truth: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A table to reproduce.

    Attributes:
        path: of its file.
        title: what it is.
        source: paper and table.
        note: how the reduced scales differ.
        scales: options of all rows, by scale.
        rows: the lines.
    """

    path: Path
    title: str
    source: str
    note: str
    scales: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Its file's name without ending."""
        return self.path.stem

    def options(self, row: Row, scale: str) -> dict[str, Any]:
        """What a row is run with at a scale."""
        common = {key: value for key, value in self.scales[scale].items() if key != "seeds"}
        return {**common, **row.options, **row.scaled.get(scale, {})}


def experiments_folder() -> Path:
    """Find the published tables.

    Returns:
        `experiments` in the working directory, beside the package in its repository, or carried by the wheel;
        the first that is there.

    Raises:
        ValueError: none is there.
    """
    for place in (Path("experiments"), Path(__file__).resolve().parents[2] / "experiments", PACKAGED):
        if place.is_dir():
            return place
    raise ValueError(
        "there is no folder 'experiments' here; run in a copy of the repository, or name its folder by "
        "--experiments"
    )


def known_experiments(folder: Path) -> dict[str, Path]:
    """The files by the names of their experiments."""
    return {path.stem: path for path in sorted(folder.glob("*/*.toml"))}


def read_experiment(name: str, folder: Path) -> Experiment:
    """Read an experiment by its name.

    Returns:
        Its title, source, scales and rows, checked for unknown keys; the options of the fits are checked
        where they are run.

    Raises:
        ValueError: no such experiment, or a damaged file.
    """
    known = known_experiments(folder)
    if name not in known:
        raise ValueError(f"unknown experiment {name!r}; expected one of {', '.join(known) or 'none'}")
    path = known[name]
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if set(content) - KEYS:
            raise ValueError(f"unknown key {sorted(set(content) - KEYS)[0]!r}")
        rows = tuple(
            Row(
                row["label"],
                dict(row["options"]),
                dict(row.get("published", {})),
                {scale: dict(row[scale]) for scale in SCALES if scale in row},
                row.get("truth"),
            )
            for row in content["rows"]
        )
        scales = {scale: dict(content["scales"][scale]) for scale in content["scales"]}
        if set(scales) - set(SCALES) or not rows:
            raise ValueError(f"scales are {', '.join(SCALES)}, and there must be rows")
        return Experiment(path, content["title"], content["source"], content.get("note", ""), scales, rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no experiment: {reason}; correct it there") from None


def run_one(job: Job) -> dict[str, Any]:
    """One fit in a process of its own, on one thread (a GPU if the options say so); its row of results."""
    label, seed, options, folder = job
    import torch

    torch.set_num_threads(1)
    from symlearn.analysis.effective_parameters import share_by_path
    from symlearn.config import Config
    from symlearn.runs.experiment import resume_experiment, run_experiment
    from symlearn.training.state import TrainingStoppedError

    said = {key: value for key, value in options.items() if key != "data_root"}  # a place on one machine
    row = {"label": label, "seed": seed, "options": said}
    try:
        if (Path(folder) / "config.toml").exists():
            result = resume_experiment(folder)
        else:
            result = run_experiment(Config().with_options(seed=seed, **options), folder)
    except TrainingStoppedError as stopped:
        return {**row, "stopped": str(stopped)}
    report = result.report
    return {
        **row,
        "log_marginal_likelihood": report["log_marginal_likelihood"],
        "train_examples": report["train_examples"],
        **{key: report["test"][key] for key in ("accuracy", "nll", "ece")},
        "parameters": report["parameters"],
        "active_parameters": report["active_parameters"],
        "effective_parameters": share_by_path(report),
        "layers": [
            {
                "name": layer["name"],
                "type": layer["effective_type"],
                "paths": {p: n["effective_parameters"] for p, n in layer["paths"].items()},
            }
            for layer in report["layers"]
        ],
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
        "seconds": report["seconds"],
    }


def run_all(jobs: Iterable[Job], workers: int, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Every job's row, in order; finished runs are read, not repeated."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(run_one, jobs):
            said = (
                row["stopped"]
                if "stopped" in row
                else f"accuracy {percent(row['accuracy'])} %, {row['seconds']:.0f} s"
            )
            tell(f"{row['label']}, seed {row['seed']}: {said}")
            yield row


def reproduce(
    experiment: Experiment,
    scale: str,
    runs: Path,
    seeds: list[int] | None = None,
    workers: int = 2,
    extra: Mapping[str, Any] | None = None,
    only: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run an experiment and write its JSON.

    Args:
        experiment: the table.
        scale: "smoke", "small" or "paper".
        runs: where the runs' folders go; finished ones in it are read.
        seeds: of every row; None takes those of the file.
        workers: fits at a time.
        extra: options that replace those of the file (such as data_root or device).
        only: labels of rows joined by commas, or parts of labels; run these alone.
        tell: told a line a run.

    Returns:
        That JSON's content: a row a fit, beside what was published, with seeds, commit and environment.

    Raises:
        ValueError: an unknown scale, or options that a fit refuses.
    """
    if scale not in experiment.scales:
        raise ValueError(
            f"{experiment.name} has no scale {scale!r}; expected one of {', '.join(experiment.scales)}"
        )
    chosen = seeds or list(experiment.scales[scale].get("seeds", [0]))
    place = runs / f"{experiment.name}-{scale}"
    jobs: list[Job] = []
    kept = chosen_rows(experiment, only)
    if not kept:
        raise ValueError(f"no row of {experiment.name} is called {only!r}; expected part of a row's label")
    for k, row in enumerate(experiment.rows):
        if row not in kept:
            continue
        options = {**experiment.options(row, scale), **(extra or {})}
        jobs += [(row.label, seed, options, str(place / f"{k}-seed{seed}")) for seed in chosen]
    jobs.sort(key=lambda job: chosen.index(job[1]))  # a run that is cut has whole seeds
    path = results_file(experiment, scale, runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "experiment": experiment.title,
        "source": experiment.source,
        "note": experiment.note,
        "scale": scale,
        "seeds": chosen,
        "commit": commit(experiment.path.parent),
        "environment": environment(),
        "published": {row.label: row.published for row in kept},
        "truth": {row.label: row.truth for row in kept if row.truth is not None},
        "rows": [],
    }
    for done in run_all(jobs, workers, tell):
        content["rows"].append(done)
        write_atomically(path, (to_json(content) + "\n").encode())
    return content


def results_file(experiment: Experiment, scale: str, runs: Path) -> Path:
    """Where its JSON goes: beside the experiment, or among the runs where that is an installed package."""
    name = f"{experiment.name}.{scale}.json"
    return runs / name if PACKAGED in experiment.path.parents else experiment.path.parent / "results" / name


def chosen_rows(experiment: Experiment, only: str) -> list[Row]:
    """The rows of these labels; a word that is no label stands for all labels that contain it."""
    words = [word.strip().casefold() for word in only.split(",")]
    labels = {row.label.casefold() for row in experiment.rows}
    return [
        row
        for row in experiment.rows
        if any(w == row.label.casefold() or (w not in labels and w in row.label.casefold()) for w in words)
    ]


def commit(folder: Path) -> str:
    """The commit the code stands at; "unknown" outside a checkout."""
    if PACKAGED in (folder, *folder.parents):
        return "unknown"
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=folder, check=False
        )
    except OSError:  # no git
        return "unknown"
    return told.stdout.strip() or "unknown"


def percent(value: float | None) -> str:
    """A fraction as percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def spread(values: list[float], digits: int) -> str:
    """Mean (lowest–highest), or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(content: Mapping[str, Any]) -> str:
    """The results as text, our figures with their spread over seeds, the paper's in the last columns."""
    truths = content.get("truth") or {}
    right = ["layers right / wrong / undecided"] if truths else []
    head = [
        "",
        "parameters",
        "accuracy %",
        "test NLL",
        "−log q / N",
        "share of γ by path",
        *right,
        "published",
    ]
    lines = [head]
    for label, published in content["published"].items():
        runs = [r for r in content["rows"] if r["label"] == label and "stopped" not in r]
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in published.items()) or "–"
        if not runs:
            lines.append([label, "–", "stopped", "–", "–", "–", *("–" for _ in right), told])
            continue
        total = {
            path: statistics.mean(share(r, path) for r in runs) for path in runs[0]["effective_parameters"]
        }
        lines.append(
            [
                label,
                f"{runs[0]['parameters']:,}",
                spread([100 * r["accuracy"] for r in runs], 1) if runs[0]["accuracy"] is not None else "–",
                spread([r["nll"] for r in runs], 3),
                spread([-r["log_marginal_likelihood"] / r["train_examples"] for r in runs], 3)
                if runs[0]["log_marginal_likelihood"] is not None
                else "–",
                ", ".join(f"{path} {value:.0%}" for path, value in total.items() if any(total.values()))
                or "–",
                *([scored(truths.get(label), runs)] if right else []),
                told,
            ]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([content["experiment"], f"{content['source']}; scale {content['scale']}", "", *rows])


def scored(truth: str | None, runs: list[dict[str, Any]]) -> str:
    """Layers right, wrong and undecided over all runs of a row; a dash where no truth is known."""
    if truth is None:
        return "–"
    found = [scores(truth, [v["symmetry"] for v in run["verdicts"].values()]) for run in runs]
    return " / ".join(str(sum(one[key] for one in found)) for key in (RIGHT, WRONG, UNDECIDED))


def share(row: Mapping[str, Any], path: str) -> float:
    """A path's share of all effective parameters in paths."""
    gamma = row["effective_parameters"]
    return gamma[path] / max(sum(gamma.values()), 1e-12)
