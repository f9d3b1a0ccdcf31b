"""The stages of a fit.

    selection "none"      one phase of MAP steps, prior precisions fixed
    selection "gradient"  burn-in, then weights and precisions in alternation, all paths present (the paper's)
    selection "search"    strict start, rounds of proposals (`selection/search.py`), then an anneal

Fits with evidence end with rounds of removals (`selection/removal.py`), unless they are shorter than
`ASKED_FROM` epochs: nothing that short says what a path is worth.

Axes: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from symlearn.config import Config
from symlearn.training.phases import Phase

START, ANNEAL = 0.4, 0.6  # shares of the epochs
ASKED_FROM = 12  # epochs


@dataclass
class Stage:
    """One stage of the plan: a phase, or a round of the search or of removals (phase None)."""

    name: str
    phase: Phase | None
    epochs: int

    @property
    def kind(self) -> str:
        """The first word of its name: "map", "start", "round", "anneal" or "removals"."""
        return self.name.split()[0]

    @property
    def number(self) -> int:
        """Which round it is."""
        return int(self.name.split()[1])


def plan(config: Config) -> list[Stage]:
    """The stages of a fit; `config` has its schedules worked out."""
    training, evidence = config.training, config.evidence
    epochs, lr, lr_end = cast(int, training.epochs), training.lr, training.lr_end
    refit = cast(int, evidence.refit_epochs)
    if evidence.selection == "none":
        return [Stage("map", Phase("map", epochs, lr, lr_end, None), epochs)]
    start, anneal = max(round(START * epochs), 1), max(round(ANNEAL * epochs), 1)
    first = Phase("start", start, lr, 0.3 * lr, evidence.burn_in)
    last = Phase("anneal", anneal, lr, lr_end, 0, keep_best=True)
    rounds = evidence.rounds if evidence.selection == "search" else 0
    removals = evidence.removal_rounds if epochs >= ASKED_FROM else 0
    return [
        Stage("start", first, start),
        *(Stage(f"round {r}", None, refit) for r in range(rounds)),
        Stage("anneal", last, anneal),
        *(Stage(f"removals {r}", None, refit) for r in range(removals)),
    ]
