"""Scores of verdicts whose truth is known."""

import pytest

from symlearn.runs.truth import same_everywhere, scores

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
        ("somewhere", [N, S, S, S], (4, 0, 0)),
        ("turns matter", ["p4", S, "p4"], (3, 0, 0)),
        ("turns matter", [S, S, S], (3, 0, 0)),
        ("turns matter", ["p4", "p4", "p4"], (2, 1, 0)),
        ("turns matter", ["p4", "p4", U], (2, 0, 1)),
        ("cyclic-60", ["cyclic-60", "cyclic-45 ∩ cyclic-60", U, S], (1, 2, 1)),
    ],
)
def test_scores(truth: str, verdicts: list[str], expected: tuple[int, int, int]) -> None:
    assert tuple(scores(truth, verdicts).values()) == expected


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ("shifts", True),
        ("cyclic-60", True),
        ("any", False),
        ("late", False),
        ("turns matter", False),
        (None, False),
    ],
)
def test_truths_of_every_layer(truth: str | None, expected: bool) -> None:
    assert same_everywhere(truth) is expected
