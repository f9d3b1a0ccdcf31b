"""What the evidence says of every layer: which paths it needs, and so what the layer commutes with.

    needed      the evidence loses more than `min_gain` an image by the path's removal, for certain (the whole
                interval), or nothing else is left in the layer, through which everything must pass
    unneeded    it loses less than that, for certain; or the search never kept the path
    undecided   anything else: the difference lies within its noise, or nobody asked

A layer commutes with what its least symmetric needed path commutes with; where a path is undecided that
commutes with less, so is the layer. Needed paths of groups neither of which contains the other leave what
the groups share, written "rows ∩ shifts".

Where a layer needs deviations (registry: `deviates_from`) and other paths beside them, it is *nearly* what it
would be without the deviations, as long as these make up no more than `NEARLY` of its map. It commutes with
less all the same, and that is what its symmetry says.

Everything that speaks of a layer (table, sentence, page, figures, collapse) reads this one decision.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from symlearn.layers.registry import path_kind
from symlearn.selection.changes import Proposal
from symlearn.selection.removal import Removal

NEEDED, UNNEEDED, UNDECIDED = "needed", "unneeded", "undecided"
NEARLY = 0.1  # of the mean square of what a layer puts out: nine tenths are shared
NOTHING = "none"
SHARED = " ∩ "


@dataclass(frozen=True)
class Asked:
    """What a fit tried, and what of it decides.

    Attributes:
        removals: at the end of the fit, in order.
        proposals: of the search, in order.
        searched: whether absent paths are absent because a search did not keep them.
        threshold: nats that a needed path is worth at least.
        learned: whether the network beats the constant predictor.
    """

    removals: Sequence[Removal] = ()
    proposals: Sequence[Proposal] = ()
    searched: bool = False
    threshold: float = 1.0
    learned: bool = True


def decision(
    layer: str, declared: Sequence[str], active: Sequence[str], asked: Asked, deviation: float | None = None
) -> dict[str, Any]:
    """The `verdict` of a layer in report.json.

    Args:
        layer: its name.
        declared: all its paths.
        active: those that are switched on at the end.
        asked: what the fit tried.
        deviation: share of the layer's map that its deviations make up (`analysis/deviation.py`); None where
            it has no such paths.

    Returns:
        `symmetry`, `needed`, `unneeded`, `undecided`, and `removals` by path: `delta_log_evidence`,
        `interval` (90 %), `probability_needed`. With deviations also `deviation`, and `nearly`: what the
        layer nearly commutes with, or None.
    """
    gone = {path for r in asked.removals if r.removed for name, path in r.paths if name == layer}
    left = [path for path in active if path not in gone]
    answers = {path: _answer(layer, path, left, gone, asked) for path in declared}
    by_answer = {
        answer: [path for path in declared if answers[path] == answer]
        for answer in (NEEDED, UNNEEDED, UNDECIDED)
    }
    removals = {}
    for removal in asked.removals:
        if removal.interval is not None and len(removal.paths) == 1 and removal.paths[0][0] == layer:
            removals[removal.paths[0][1]] = {
                "delta_log_evidence": removal.delta_log_evidence,
                "interval": list(removal.interval),
                "probability_needed": removal.probability_needed,
            }
    needed = by_answer[NEEDED]
    commutes = symmetry(needed, by_answer[UNDECIDED])
    found: dict[str, Any] = {"symmetry": commutes, **by_answer, "removals": removals}
    if deviation is not None:
        near = nearly(needed) if deviation <= NEARLY and commutes != UNDECIDED else None
        found |= {"nearly": near, "deviation": deviation}
    return found


def nearly(needed: Sequence[str]) -> str | None:
    """What a layer would commute with but for its needed deviations; None where it has none, or nothing."""
    others = [path for path in needed if not path_kind(path).deviates_from]
    without = symmetry(others, ())
    return without if others and len(others) < len(needed) and without not in (NOTHING, UNDECIDED) else None


def symmetry(needed: Sequence[str], undecided: Sequence[str]) -> str:
    """What a layer commutes with: "none", "shifts", a group's name; "undecided" where that is open."""
    kinds = [path_kind(path) for path in needed]
    least = [kind for kind in kinds if all(other.includes(kind) for other in kinds if kind.includes(other))]
    unsure = [path for path in undecided if not any(path_kind(path).includes(kind) for kind in least)]
    if not needed or unsure:
        return UNDECIDED
    return SHARED.join(sorted({kind.commutes_with for kind in least}))


def _answer(layer: str, path: str, left: Sequence[str], gone: set[str], asked: Asked) -> str:
    if not asked.learned:
        return UNDECIDED
    if list(left) == [path]:
        return NEEDED
    tests = [r for r in asked.removals if (layer, path) in r.paths]
    if path in gone:
        last = next(r for r in tests if r.removed)
        # paths taken out together share what the evidence lost by all of them
        sure = last.interval is not None and last.interval[0] > -asked.threshold * len(last.paths)
        return UNNEEDED if sure else UNDECIDED
    if path in left:
        alone = [r for r in tests if len(r.paths) == 1 and r.interval is not None]
        return NEEDED if alone and not alone[-1].free else UNDECIDED
    tried = [p for p in asked.proposals if (p.layer, p.path) == (layer, path)]
    return UNNEEDED if asked.searched and not (tried and _pending(tried[-1], asked)) else UNDECIDED


def _pending(proposal: Proposal, asked: Asked) -> bool:
    """Whether a path was worth adding when it was last tried, but another one was added in its place."""
    gain = proposal.halfway if proposal.delta_log_evidence is None else proposal.delta_log_evidence
    rival = any(p.accepted and p.round == proposal.round for p in asked.proposals)
    if proposal.action != "add" or proposal.accepted or gain is None or not rival:
        return False
    return gain > max(proposal.noise or 0.0, asked.threshold)
