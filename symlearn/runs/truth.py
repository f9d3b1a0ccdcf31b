"""How right verdicts are where the truth is known: layers right, wrong and undecided.

A truth is one of

    shifts, p4, cyclic-60, none, ...    every layer commutes with this, and with no more
    late                    place matters, and only late: early layers commute with shifts, and somewhere in
                            the second half of the layers one commutes with nothing; which one is free
    somewhere               place matters, at whatever depth: one of the layers commutes with nothing
    turns matter            quarter turns matter, at whatever depth: one of the layers commutes with no more
                            than shifts
    any                     the data cannot tell, so whatever is said is neither right nor wrong

Axes: none.
"""

from __future__ import annotations

from collections.abc import Sequence

RIGHT, WRONG, UNDECIDED = "right", "wrong", "undecided"
ANY, LATE = "any", "late"
ONE_LAYER = {  # what one of the layers, whichever, commutes with
    LATE: {"none"},
    "somewhere": {"none"},
    "turns matter": {"none", "shifts"},
}


def same_everywhere(truth: str | None) -> bool:
    """Whether a truth names what every layer commutes with."""
    return truth is not None and truth != ANY and truth not in ONE_LAYER


def scores(truth: str, verdicts: Sequence[str]) -> dict[str, int]:
    """Compare a run's layers with what is true.

    Args:
        truth: see the module's notation.
        verdicts: what each layer commutes with, first to last, as in report.json.

    Returns:
        How many layers are right, wrong and undecided, by these words.
    """
    counts = dict.fromkeys((RIGHT, WRONG, UNDECIDED), 0)
    for answer in _answers(truth, verdicts):
        counts[answer] += 1
    return counts


def _answers(truth: str, verdicts: Sequence[str]) -> list[str]:
    if truth == ANY:
        return [UNDECIDED if verdict == UNDECIDED else RIGHT for verdict in verdicts]
    if same_everywhere(truth):
        return [
            UNDECIDED if verdict == UNDECIDED else RIGHT if verdict == truth else WRONG
            for verdict in verdicts
        ]
    half = len(verdicts) // 2 if truth == LATE else 0
    early = _answers("shifts", verdicts[:half])
    late = [UNDECIDED if verdict == UNDECIDED else RIGHT for verdict in verdicts[half:]]
    if not ONE_LAYER[truth] & set(verdicts[half:]) and RIGHT in late and UNDECIDED not in late:
        late[-1] = WRONG  # all call themselves equivariant, and one of them cannot be
    return early + late
