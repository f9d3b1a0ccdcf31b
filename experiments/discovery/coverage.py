"""Does a stated interval hold what it says? And which noise predicts the spread of refits best?

    python experiments/discovery/coverage.py RUN [RUN ...] --repeats 6

From the state that a finished run's removals started from, the round of removals is run again and again, each
time with batches of its own. A round's intervals (90 %, from its own three controls) are held against the
*truth*: the mean difference over all other rounds. Four predictions of the spread of such a difference stand
beside what it was over the rounds, as the root mean square of log(predicted / observed):

    two controls      the difference between two of them, as the search had it before
    three controls    their standard deviation, times sqrt(1 + 1 / 3)
    all controls      the same, pooled over all rounds
    last updates      the standard deviation of the last three evidences of one control
    same batches      no prediction: the spread of the difference to the control with the same batches, as a
                      part of the spread of the difference to the controls' mean

Runs should have all their paths, so that there is something to take out; those of the committed results:

    symlearn fit --data digits --task quadrant --selection gradient --removal-rounds 1 --out RUN
    symlearn fit --data planted-side --selection gradient --removal-rounds 1 --out RUN
    symlearn fit --data planted-texture --selection gradient --removal-rounds 1 --out RUN

Results: results/coverage.json, by run; rounds that are there already are not run again.

Axes: none.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from symlearn.config import read_config
from symlearn.data.samples import Pairs
from symlearn.run_folder import CHECKPOINT, CONFIG, RunFolder, environment
from symlearn.runs.experiment import load, network_of
from symlearn.runs.provenance import commit
from symlearn.runs.table_file import write_content
from symlearn.selection.differences import CONTROLS, EXCESS, RELATIVE, control_spread, difference
from symlearn.selection.removal import RemovalRound
from symlearn.training.phases import Phase
from symlearn.training.state import FitState

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "coverage.json"


def observe(state: FitState, phase: Phase, record: dict[str, Any]) -> dict[str, Any]:
    """Nothing besides what an epoch says itself."""
    return record


def one_round(folder: Path, repeat: int) -> dict[str, Any]:
    """A round of single removals on batches of its own: the evidences of its refits."""
    config, splits = load(read_config(folder / CONFIG))
    train: Pairs = (splits.train.tensors[0], splits.train.tensors[1])
    state = FitState(network_of(config, splits), config.resolved(len(train[0])), len(train[0]))
    saved = RunFolder(folder).load_tensors(CHECKPOINT)["best"]
    state.load(saved)
    state.generator.manual_seed(104729 * (repeat + 1))
    round_ = RemovalRound(state, repeat + 1, train, observe)
    round_.joined = True  # none together
    updates: list[list[float]] = []
    while not round_.over:
        candidate = round_.next_epoch()
        if len(round_.evidences) == len(updates) + 1:
            updates.append(candidate.run.evidences)
    paths = [None, None, None, *(list(paths[0]) for paths in round_.queue[CONTROLS:])]
    return {"repeat": repeat, "paths": paths, "evidences": round_.evidences, "updates": updates[:CONTROLS]}


def judged(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage of a run's rounds, and how well each prediction of noise did."""
    controls = [[e for e in one["evidences"][:CONTROLS] if e is not None] for one in rounds]
    held: list[bool] = []
    spreads: list[float] = []
    paired: list[float] = []
    for at in range(CONTROLS, len(rounds[0]["paths"])):
        refits = [one["evidences"][at] for one in rounds]
        if None in refits or min(map(len, controls)) < CONTROLS:
            continue
        deltas = [e - statistics.mean(c) for e, c in zip(refits, controls, strict=True)]
        for k, (e, c) in enumerate(zip(refits, controls, strict=True)):
            truth = statistics.mean(d for j, d in enumerate(deltas) if j != k)
            interval = difference(e, c).interval
            assert interval is not None
            held.append(interval[0] <= truth <= interval[1])
        spreads.append(statistics.stdev(deltas))
        paired.append(statistics.stdev(e - c[0] for e, c in zip(refits, controls, strict=True)))
    observed = math.sqrt(statistics.mean(s**2 for s in spreads))
    updates = [one["updates"][0] for one in rounds]
    predictions = {
        "two controls": [abs(c[0] - c[1]) for c in controls],
        "three controls": [control_spread(c)[0] or 0.0 for c in controls],
        "all controls": [control_spread(controls[0], controls[1:])[0] or 0.0],
        "last updates": [statistics.stdev(u[-3:]) for u in updates if len(u) > 1],
    }
    return {
        "intervals": len(held),
        "held": sum(held),
        "observed_spread": observed,
        "spread_by_path": spreads,
        "same_batches": math.sqrt(statistics.mean(s**2 for s in paired)) / observed,
        "log_error": {
            name: math.sqrt(statistics.mean(math.log(max(p, 1e-3) / observed) ** 2 for p in found))
            for name, found in predictions.items()
            if found
        },
    }


def main() -> int:
    """Run what is left, and say how often intervals hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads(options.results.read_text()) if options.results.exists() else {"runs": {}}
    for run in options.runs:
        config = read_config(run / CONFIG)
        name = f"{config.data.data} {config.data.task} {config.model.paths} seed {config.training.seed}"
        entry = content["runs"].setdefault(name, {"rounds": []})
        for repeat in range(len(entry["rounds"]), options.repeats):
            entry["rounds"].append(one_round(run, repeat))
            content |= {"commit": commit(HERE), "environment": environment()}
            write_content(options.results, content)
        if len(entry["rounds"]) > 2:
            entry.update(judged(entry["rounds"]))
            content["judged_with"] = {"excess": EXCESS, "relative": RELATIVE, "commit": commit(HERE)}
            write_content(options.results, content)
        print(name, {key: value for key, value in entry.items() if key != "rounds"}, flush=True)
    entries = [entry for entry in content["runs"].values() if "held" in entry]
    held, all_ = (sum(entry[key] for entry in entries) for key in ("held", "intervals"))
    print(f"{held} of {all_} intervals hold the mean over the other rounds ({held / max(all_, 1):.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
