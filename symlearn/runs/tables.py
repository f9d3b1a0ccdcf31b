"""Published tables as declarative files, run at four scales, with the published figures beside ours.

A file `experiments/<paper>/<name>.toml` has

    title, source          what it is, and which table of which paper
    note                   how the reduced scales differ from the paper's (optional)
    script                 the program beside it that makes its rows, where `symlearn fit` cannot (optional)
    [scales.<scale>]       options of every row at scale smoke, small, cpu or paper; `seeds` is one of them
    [budgets.<scale>]      what all rows take: `passes` and `hours` (`forecast.py` says of what), `measured`
    [[rows]]               label, `options` of its own, `published` figures, `truth` about its layers where it
                           is known (`truth.py`), `<scale>` options that replace them there, and `only`, the
                           scales that have the row (all if not given)
    [[claims]]             text, `rule` (`claims.py`), `source` (the table's if not given), and the `scales`
                           at which it is judged (cpu and paper if not given)

Options are those of `symlearn fit`, by the names of the configuration's keys; `seeds` may stand among a row's
too. Results are written as JSON, a row a run, to `experiments/<paper>/results/<name>.<scale>.json`; an
installed package, which carries the files, writes them among its runs.

Axes: none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from symlearn.runs.claims import Claim, read_claim

SCALES = ("smoke", "small", "cpu", "paper")
PACKAGED = Path(__file__).resolve().parent / "tables"  # of an installed wheel
KEYS = {"title", "source", "note", "script", "scales", "budgets", "rows", "claims"}
ROW_KEYS = {"label", "options", "published", "truth", "only", *SCALES}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        label: what the table calls it.
        options: of the fit.
        published: figures of the paper, by name; accuracies in percent.
        scaled: options that replace the row's at a scale.
        truth: what is true of its layers, or None where nobody knows.
        only: the scales that have it.
    """

    label: str
    options: dict[str, Any]
    published: dict[str, Any] = field(default_factory=dict)
    scaled: dict[str, dict[str, Any]] = field(default_factory=dict)
    truth: str | None = None
    only: tuple[str, ...] = SCALES


class Wanted(NamedTuple):
    """A run that a table asks for."""

    label: str
    seed: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """What all rows of a table take at a scale, as its file states it.

    Attributes:
        passes: images taken forward and backward through a network.
        hours: of one thread.
        measured: how, and on what.
    """

    passes: float
    hours: float
    measured: str


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
        claims: what the paper says of them, as rules.
        budgets: by scale, where stated.
        script: the program that makes its rows, beside its file; None where `symlearn fit` does.
    """

    path: Path
    title: str
    source: str
    note: str
    scales: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    budgets: dict[str, Budget] = field(default_factory=dict)
    script: str | None = None

    @property
    def name(self) -> str:
        """Its file's name without ending."""
        return self.path.stem

    def rows_at(self, scale: str) -> list[Row]:
        """The lines that a scale has."""
        return [row for row in self.rows if scale in row.only]

    def options(self, row: Row, scale: str) -> dict[str, Any]:
        """What a row is run with at a scale."""
        chosen = {**self.scales[scale], **row.options, **row.scaled.get(scale, {})}
        chosen.pop("seeds", None)
        return chosen

    def seeds(self, row: Row, scale: str) -> list[int]:
        """The seeds of a row at a scale."""
        chosen = {**self.scales[scale], **row.options, **row.scaled.get(scale, {})}
        return list(chosen.get("seeds", [0]))

    def wanted(self, scale: str, seeds: list[int] | None = None) -> list[Wanted]:
        """List the runs of a scale, in an order such that a table that is cut has whole seeds.

        Args:
            scale: one of the file's.
            seeds: of every row; None takes those of the file.

        Returns:
            Every row's first seed, then every row's second, and so on; rows in the order of the file.

        Raises:
            ValueError: the file has no such scale.
        """
        if scale not in self.scales:
            raise ValueError(f"{self.name} has no scale {scale!r}; expected one of {', '.join(self.scales)}")
        runs = [
            (place, Wanted(row.label, seed, self.options(row, scale)))
            for row in self.rows_at(scale)
            for place, seed in enumerate(seeds or self.seeds(row, scale))
        ]
        return [run for _, run in sorted(runs, key=lambda run: run[0])]


def experiments_folder() -> Path:
    """Find the folder of the experiments' files.

    Returns:
        `experiments` in the working directory, else beside the package in its repository, else what the wheel
        carries.

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
    """Read an experiment's file by its name.

    Returns:
        The table, its labels all different, its claims about rows that it has.

    Raises:
        ValueError: no such experiment, or a damaged file.
    """
    known = known_experiments(folder)
    if name not in known:
        raise ValueError(f"unknown experiment {name!r}; expected one of {', '.join(known) or 'none'}")
    path = known[name]
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return _experiment(path, content)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no experiment: {reason}; correct it there") from None


def _experiment(path: Path, content: Mapping[str, Any]) -> Experiment:
    _expect_known(content, KEYS, "key")
    rows = tuple(_row(row) for row in content["rows"])
    scales = {scale: dict(content["scales"][scale]) for scale in content["scales"]}
    budgets = {scale: Budget(**values) for scale, values in content.get("budgets", {}).items()}
    _expect_known({**scales, **budgets}, set(SCALES), "scale")
    labels = [row.label for row in rows]
    if not rows or len(set(labels)) < len(labels):
        raise ValueError("there must be rows, each with a label of its own")
    claims = tuple(read_claim(claim, content["source"]) for claim in content.get("claims", []))
    for claim in claims:
        missing = [label for label in claim.labels if label not in labels]
        if missing:
            raise ValueError(f"a claim is about {missing[0]!r}, and no row is called that")
        _expect_known(dict.fromkeys(claim.scales), set(SCALES), "scale")
    return Experiment(
        path,
        content["title"],
        content["source"],
        content.get("note", ""),
        scales,
        rows,
        claims,
        budgets,
        content.get("script"),
    )


def _row(row: Mapping[str, Any]) -> Row:
    _expect_known(row, ROW_KEYS, "key")
    return Row(
        row["label"],
        dict(row["options"]),
        dict(row.get("published", {})),
        {scale: dict(row[scale]) for scale in SCALES if scale in row},
        row.get("truth"),
        tuple(row.get("only", SCALES)),
    )


def _expect_known(given: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}; expected {', '.join(sorted(known))}")


def results_file(experiment: Experiment, scale: str, runs: Path) -> Path:
    """Where its JSON goes: beside the experiment, or among the runs where that is an installed package."""
    name = f"{experiment.name}.{scale}.json"
    return runs / name if PACKAGED in experiment.path.parents else experiment.path.parent / "results" / name
