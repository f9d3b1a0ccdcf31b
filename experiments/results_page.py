"""The results page from the tables' JSON: published beside ours, claim by claim, budget and what it took.

    python experiments/results_page.py [--check]

writes experiments/RESULTS.md; nothing is run. `--check` says whether the page is the one of the present JSON.
Per table the largest scale that has rows is shown, and the others are named.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from symlearn.run_folder import write_atomically
from symlearn.runs.claims import tally
from symlearn.runs.table_file import content_of, read_rows
from symlearn.runs.table_text import copies, makers, table_rows
from symlearn.runs.tables import SCALES, Experiment, known_experiments, read_experiment, results_file
from symlearn.units import duration

HERE = Path(__file__).resolve().parent
PAGE = HERE / "RESULTS.md"
RUNS = Path("runs")  # of no use beside a checkout, whose results lie beside its tables
INTRODUCTION = """# The papers' tables

Made by `python experiments/results_page.py` from `experiments/*/results/*.json`; do not edit. Ours is the
mean (lowest–highest over seeds). Published figures stand in the last column; they are the papers' own and
never mixed with ours. At `cpu` runs are far shorter than the papers' (each table says how), so that absolute
figures differ, and the *claims* are what is tested: *held* and *failed* by more than the noise, *too close*
within it, *not run* where rows are missing. The noise is that of the seeds and of the test images;
`symlearn/runs/margins.py` says how it counts. Budgets and times are those of one thread.
"""


def page(folder: Path) -> str:
    """The whole page, from every table of a folder."""
    tables = [read_experiment(name, folder) for name in known_experiments(folder)]
    ready = [(experiment, contents_of(experiment)) for experiment in tables]
    shown = [(experiment, contents) for experiment, contents in ready if contents]
    empty = [experiment for experiment, contents in ready if not contents]
    parts = [INTRODUCTION, overview(shown)]
    parts += [section(experiment, contents) for experiment, contents in shown]
    if empty:
        lines = [f"- `{experiment.name}`: {experiment.title} ({experiment.source})" for experiment in empty]
        parts.append("## Tables without results\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def contents_of(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The JSON of every scale that has rows, judged by the claims of the present file, smallest first."""
    found = {}
    for scale in SCALES:
        if scale in experiment.scales:
            rows = read_rows(results_file(experiment, scale, RUNS))
            content = content_of(experiment, scale, experiment.wanted(scale), rows)
            if content["rows"]:
                found[scale] = content
    return found


def overview(shown: list[tuple[Experiment, dict[str, dict[str, Any]]]]) -> str:
    """A line a table."""
    head = ["table", "scale", "rows", "claims", "budget", "took"]
    lines = []
    for experiment, contents in shown:
        scale, content = list(contents.items())[-1]
        budget = experiment.budgets.get(scale)
        lines.append(
            [
                f"[{experiment.name}](#{experiment.name})",
                scale,
                f"{len(content['rows'])} of {len(experiment.wanted(scale))}",
                str(tally(content["claims"])) if content["claims"] else "–",
                "–" if budget is None else f"{budget.hours:g} h",
                took(content),
            ]
        )
    return markdown([head, *lines])


def section(experiment: Experiment, contents: dict[str, dict[str, Any]]) -> str:
    """One table: figures, claims, budget, who made it."""
    scale, content = list(contents.items())[-1]
    head = f'<a id="{experiment.name}"></a>\n\n## {experiment.title}'
    command = f"symlearn reproduce {experiment.name} --scale {scale}"
    if experiment.script is not None:
        command = f"python {experiment.path.parent.name}/{experiment.script} --scale {scale}"
    said_first = f"{experiment.source}; `{command}`."
    parts = [head, said_first, experiment.note, markdown(table_rows(content))]
    if content["claims"]:
        parts.append(markdown(claim_rows(content["claims"])))
    budget = experiment.budgets.get(scale)
    made = "; ".join(f"{count} rows by {words}" for words, count in makers(content["rows"]).items())
    said = [f"Took {took(content)} of one thread, {len(content['rows'])} runs."]
    if budget is not None:
        said.append(
            f"Budget: {budget.hours:g} h of one thread, {budget.passes / 1e6:.1f} million images forward and "
            f"backward ({budget.measured})."
        )
    said.append(f"Made: {made}.")
    if copies(content["rows"]):
        said.append(f"Read in place of the published files: {', '.join(copies(content['rows']))}.")
    if len(contents) > 1:
        said.append(f"There are rows at {', '.join(list(contents)[:-1])}, too.")
    parts.append(" ".join(said))
    return "\n\n".join(part for part in parts if part) + "\n"


def claim_rows(claims: list[dict[str, Any]]) -> list[list[str]]:
    """A line a claim."""
    lines = [
        [f"**{claim['verdict']}**", claim["text"], "; ".join(claim["because"]), claim["source"]]
        for claim in claims
    ]
    return [["", "claim", "because", "source"], *lines]


def took(content: dict[str, Any]) -> str:
    """Time of all rows."""
    return duration(sum(row.get("seconds", 0.0) for row in content["rows"]))


def markdown(rows: list[list[str]]) -> str:
    """A table, its head first."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]) + "\n"


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    made = page(HERE)
    if parser.parse_args().check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made
        print("the page is up to date" if same else "the page is old; run python experiments/results_page.py")
        return 0 if same else 1
    write_atomically(PAGE, made.encode())
    print(f"written to {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
