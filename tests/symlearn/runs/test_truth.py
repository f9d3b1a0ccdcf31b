"""Scores of verdicts whose truth is known."""

import pytest

from symlearn.runs.truth import scores

S, N, U = "shifts", "none", "undecided"


@pytest.mark.parametrize(
    ("truth", "verdicts", "expected"),
    [
        ("shifts", [S, S, N, U], (2, 1, 1)),
        ("p4", ["p4", "p4", S, U], (2, 1, 1)),
        ("none", [N, S], (1, 1, 0)),
        ("any", [S, N, U], (2, 0, 1)),
        ("late", [S, S, S, S, S, N], (6, 0, 0)),
        ("late", [S, S, S, N, S, S], (6, 0, 0)),
        ("late", [N, S, S, S, S, N], (5, 1, 0)),
        ("late", [S, S, S, S, S, S], (5, 1, 0)),
        ("late", [S, S, S, S, S, U], (5, 0, 1)),
        ("late", [N, S, S, S, S, S], (4, 2, 0)),
        ("late", [], (0, 0, 0)),
    ],
)
def test_scores(truth: str, verdicts: list[str], expected: tuple[int, int, int]) -> None:
    assert tuple(scores(truth, verdicts).values()) == expected
