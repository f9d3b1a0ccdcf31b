"""Tables as text: ours beside the paper's, claims with their verdicts, and the list of all tables.

Axes: none.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from symlearn.runs.claims import judged, tally
from symlearn.runs.provenance import words
from symlearn.runs.table_file import belongs, read_rows
from symlearn.runs.tables import Experiment, results_file
from symlearn.runs.truth import RIGHT, UNDECIDED, WRONG, scores
from symlearn.units import duration

HEAD = ("", "parameters", "accuracy %", "test NLL", "−log q / N", "share of γ by path")


def percent(value: float | None) -> str:
    """A fraction as percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def spread(values: list[float], digits: int) -> str:
    """Mean (lowest–highest), or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def share(row: Mapping[str, Any], path: str) -> float:
    """A path's share of all effective parameters in paths."""
    gamma = row["effective_parameters"]
    return gamma[path] / max(sum(gamma.values()), 1e-12)


def table_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """The table as cells, its head first: our figures with their spread, the paper's in the last column."""
    truths = content.get("truth") or {}
    right = ["layers right / wrong / undecided"] if truths else []
    lines = [[*HEAD, *right, "published"]]
    for label, published in content["published"].items():
        tried = [r for r in content["rows"] if r["label"] == label]
        runs = [r for r in tried if "stopped" not in r]
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in published.items()) or "–"
        if not runs:
            state = "stopped" if tried else "not run"
            lines.append([label, "–", state, "–", "–", "–", *("–" for _ in right), told])
            continue
        lines.append([label, *_cells(runs), *([scored(truths.get(label), runs)] if right else []), told])
    return lines


def _cells(runs: list[dict[str, Any]]) -> list[str]:
    """Our figures of a row."""
    first = runs[0]
    total = {path: statistics.mean(share(r, path) for r in runs) for path in first["effective_parameters"]}
    known = first["log_marginal_likelihood"] is not None
    evidence = [-r["log_marginal_likelihood"] / r["train_examples"] for r in runs] if known else []
    return [
        f"{first['parameters']:,}",
        spread([100 * r["accuracy"] for r in runs], 1) if first["accuracy"] is not None else "–",
        spread([r["nll"] for r in runs], 3),
        spread(evidence, 3) if known else "–",
        ", ".join(f"{path} {value:.0%}" for path, value in total.items() if any(total.values())) or "–",
    ]


def table(content: Mapping[str, Any]) -> str:
    """The results as text."""
    lines = table_rows(content)
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([content["experiment"], f"{content['source']}; scale {content['scale']}", "", *rows])


def claims_text(claims: Sequence[Mapping[str, Any]]) -> str:
    """Every claim with its verdict and what decided it; empty where none is judged."""
    lines = []
    for claim in claims:
        lines.append(f"{claim['verdict']:>9s}  {claim['text']} ({claim['source']})")
        lines += [f"{'':9s}    {reason}" for reason in claim["because"]]
    return "\n".join(lines)


def scored(truth: str | None, runs: list[dict[str, Any]]) -> str:
    """Layers right, wrong and undecided over all runs of a row; a dash where no truth is known."""
    if truth is None:
        return "–"
    found = [scores(truth, [v["symmetry"] for v in run["verdicts"].values()]) for run in runs]
    return " / ".join(str(sum(one[key] for one in found)) for key in (RIGHT, WRONG, UNDECIDED))


def makers(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows each machine and version made, in words; a row of several counts under each."""
    counts: dict[str, int] = {}
    for row in rows:
        for made in row.get("made") or []:
            counts[words(made)] = counts.get(words(made), 0) + 1
    return counts


def copies(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Files that were read in place of published data sets."""
    return sorted({row["copy"] for row in rows if row.get("copy")})


def list_text(experiments: Sequence[Experiment], runs: Path) -> str:
    """Every table: its source, and for each scale its rows, their versions, its claims and its budget."""
    return "\n".join(line for experiment in experiments for line in _listed(experiment, runs))


def _listed(experiment: Experiment, runs: Path) -> list[str]:
    lines = [f"{experiment.name:24s} {experiment.source}  ({experiment.path})"]
    for scale in experiment.scales:
        lines.append(f"  {scale:6s} {'; '.join(_state(experiment, scale, runs))}")
    return lines


def _state(experiment: Experiment, scale: str, runs: Path) -> list[str]:
    """What a scale has, in parts."""
    options = {row.label: experiment.options(row, scale) for row in experiment.rows_at(scale)}
    known = read_rows(results_file(experiment, scale, runs))
    rows = [row for row in known if belongs(row, options)]
    wanted = len(experiment.wanted(scale))
    parts = [f"{len(rows)} of {wanted} rows" if rows else f"none of {wanted} rows"]
    other = len(known) - len(rows)
    if other:
        parts.append(f"{other} with other options")
    commits = sorted({made["commit"] for row in rows for made in row["made"]})
    if commits:
        parts.append(f"made at {', '.join(commits)}")
    if rows:
        parts.append(f"took {duration(sum(row.get('seconds', 0.0) for row in rows))} of one thread")
    budget = experiment.budgets.get(scale)
    if budget is not None:
        parts.append(f"budget {budget.hours:g} h of one thread, {budget.passes / 1e6:.1f} million passes")
    claims = judged(experiment.claims, rows, scale)
    if claims:
        parts.append(f"claims: {tally(claims)}")
    return parts
