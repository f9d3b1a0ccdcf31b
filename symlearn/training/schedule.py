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
from typing import Literal, cast

from symlearn.config import Config
from symlearn.training.phases import Phase

START, ANNEAL = 0.4, 0.6  # shares of the epochs
ASKED_FROM = 12  # epochs


@dataclass
class Stage:
    """One stage of the plan.

    Attributes:
        kind: a phase, or a round of the search or of removals.
        epochs: of the phase, or of a refit.
        phase: None for rounds.
        number: which round it is, from 0.
    """

    kind: Literal["map", "start", "round", "anneal", "removals"]
    epochs: int
    phase: Phase | None = None
    number: int = 0

    @property
    def name(self) -> str:
        """What progress and metrics call it."""
        return self.kind if self.phase is not None else f"{self.kind} {self.number}"


def plan(config: Config) -> list[Stage]:
    """The stages of a fit; `config` has its schedules worked out."""
    training, evidence = config.training, config.evidence
    epochs, lr, lr_end = cast(int, training.epochs), training.lr, training.lr_end
    refit = cast(int, evidence.refit_epochs)
    if evidence.selection == "none":
        return [Stage("map", epochs, Phase("map", epochs, lr, lr_end, None))]
    start, anneal = max(round(START * epochs), 1), max(round(ANNEAL * epochs), 1)
    first = Phase("start", start, lr, 0.3 * lr, evidence.burn_in)
    last = Phase("anneal", anneal, lr, lr_end, 0, keep_best=True)
    rounds = evidence.rounds if evidence.selection == "search" else 0
    removals = evidence.removal_rounds if epochs >= ASKED_FROM else 0
    return [
        Stage("start", start, first),
        *(Stage("round", refit, number=r) for r in range(rounds)),
        Stage("anneal", anneal, last),
        *(Stage("removals", refit, number=r) for r in range(removals)),
    ]
