"""Every kind of rule on rows made by hand: where it holds, fails, is too close, and where rows are missing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from symlearn.runs.claims import Claim, judge, judged, read_claim, tally
from symlearn.runs.margins import metric_named

Rows = list[dict[str, Any]]


def row(label: str, accuracy: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A row of ten thousand test images."""
    known = {"train_examples": 100, "test_examples": 10_000, "parameters": 1000, "nll": 0.5}
    return {
        "label": label,
        "seed": seed,
        "accuracy": accuracy,
        "log_marginal_likelihood": -50.0,
        **known,
        **more,
    }


def rows(**accuracies: list[float]) -> Rows:
    """Seeds of rows by label."""
    return [
        row(label, value, seed) for label, values in accuracies.items() for seed, value in enumerate(values)
    ]


def claim(**rule: Any) -> Claim:
    """A claim of this rule."""
    return read_claim({"text": "t", "rule": rule}, "Nobody 2026")


def verdict(found: Rows, **rule: Any) -> str:
    """Of a claim of this rule about these rows."""
    return judge(claim(**rule), found).verdict


LOW, MIDDLE, HIGH = [0.60, 0.601, 0.602], [0.70, 0.702, 0.699], [0.80, 0.801, 0.803]


@pytest.mark.parametrize(
    ("found", "more", "expected"),
    [
        (rows(a=HIGH, b=MIDDLE, c=LOW), {}, "held"),
        (rows(a=HIGH, b=LOW, c=MIDDLE), {}, "failed"),
        (rows(a=HIGH, b=MIDDLE, c=[0.695, 0.702, 0.698]), {}, "too close"),
        (rows(a=HIGH, b=MIDDLE, c=LOW), {"gap": 5}, "held"),
        (rows(a=HIGH, b=MIDDLE, c=LOW), {"gap": 20}, "failed"),
        (rows(a=HIGH, b=MIDDLE, c=LOW), {"gap": 10}, "too close"),
        (rows(a=LOW, b=MIDDLE, c=HIGH), {"metric": "error"}, "failed"),
        (rows(a=HIGH, b=MIDDLE, c=LOW), {"metric": "error"}, "held"),
        (rows(a=[0.5, 0.9, 0.8], b=[0.4, 0.8, 0.7], c=[0.1, 0.2, 0.6]), {}, "too close"),
        (rows(a=[0.8], b=[0.7], c=[0.6]), {}, "held"),
        (rows(a=[0.710], b=[0.7], c=[0.6]), {}, "too close"),
        (rows(a=HIGH, b=MIDDLE), {}, "not run"),
    ],
)
def test_order(found: Rows, more: dict[str, Any], expected: str) -> None:
    assert verdict(found, kind="order", rows=["a", "b", "c"], **more) == expected


def test_the_noise_is_that_of_students_t_and_of_the_test_images() -> None:
    """By hand: pooled variance 1 and 4 of two seeds each, t(2) at 95 % = 2.920, 50 % and 60 % of 10,000."""
    found = rows(a=[0.60 - 0.01 / math.sqrt(2), 0.60 + 0.01 / math.sqrt(2)])
    found += rows(b=[0.50 - 0.02 / math.sqrt(2), 0.50 + 0.02 / math.sqrt(2)])
    half = 2.919986 * math.sqrt(2 * 2.5 / 2 + 60 * 40 / 10_000 + 50 * 50 / 10_000)
    for gap, expected in ((9.99 - half, "held"), (10.01 - half, "too close"), (10.01 + half, "failed")):
        assert verdict(found, kind="order", rows=["a", "b"], gap=gap) == expected, gap
    assert f"± {half:.1f} points" in judge(claim(kind="order", rows=["a", "b"]), found).because[0]
    alone = judge(claim(kind="order", rows=["a", "b"]), rows(a=[0.6], b=[0.5]))
    assert alone.because[-1] == "noise: assumed, one seed a row"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((LOW, MIDDLE, HIGH), "held"),
        ((LOW, [0.603, 0.602, 0.6], HIGH), "held"),
        ((LOW, HIGH, MIDDLE), "failed"),
        ((HIGH, MIDDLE, LOW), "failed"),
        ((LOW, LOW, LOW), "too close"),
        ((LOW, MIDDLE, []), "not run"),
    ],
)
def test_monotone(values: tuple[list[float], ...], expected: str) -> None:
    found = rows(**dict(zip("abc", values, strict=True)))
    assert verdict(found, kind="monotone", rows=["a", "b", "c"], metric="accuracy") == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [(HIGH, "held"), (MIDDLE, "held"), ([0.69, 0.688, 0.691], "too close"), (LOW, "failed")],
)
def test_within_asks_no_more_than_not_to_be_worse(own: list[float], expected: str) -> None:
    assert verdict(rows(a=own, b=MIDDLE), kind="within", row="a", of="b", points=1.5) == expected


def test_within_with_fewer_parameters() -> None:
    for size, expected in ((500, "held"), (501, "failed")):
        found = [row("a", 0.8, parameters=size), row("b", 0.7)]
        assert verdict(found, kind="within", row="a", of="b", points=1, parameters=0.5) == expected
    assert verdict(rows(a=HIGH), kind="within", row="a", of="b", points=1) == "not run"


def test_bounds() -> None:
    found = rows(a=LOW, b=MIDDLE)
    both = {"kind": "bound", "rows": ["a", "b"], "metric": "accuracy"}
    assert verdict(found, **both, above=50) == "held"
    assert verdict(found, **both, above=50, below=80) == "held"
    assert verdict(found, **both, below=65) == "failed"
    assert verdict(found, **both, above=60) == "too close"
    assert verdict(rows(a=LOW), **both, above=50) == "not run"


def test_shares_and_relative_effective_parameters() -> None:
    layers = [
        {"type": "CONV", "paths": {"fc": 1, "conv": 2}, "relative": {"fc": 0.25, "conv": 0.75}},
        {"type": "FC", "paths": {"fc": 1, "conv": 2}, "relative": {"fc": 0.75, "conv": 0.25}},
        {"type": "LINEAR", "paths": {"linear": 9}, "relative": {"linear": 1.0}},
    ]
    one = row("a", 0.5, effective_parameters={"fc": 10.0, "conv": 30.0}, layers=layers)
    assert metric_named("share conv").read(one) == 75
    assert metric_named("relative fc").read(one) == 50
    assert metric_named("share s-fc").read(one) is None and metric_named("relative s-fc").read(one) is None
    assert metric_named("evidence").read(one) == 0.5
    rule = {"kind": "bound", "rows": ["a"]}
    assert verdict([one], **rule, metric="share fc", below=40) == "held"
    assert verdict([one], **rule, metric="share fc", below=27) == "too close"
    assert verdict([one], **rule, metric="share fc", below=10) == "failed"
    assert verdict([one], **rule, metric="share s-fc", below=10) == "not run"
    dead = row("a", 0.5, effective_parameters={"fc": 0.0, "conv": 0.0})
    assert verdict([dead], **rule, metric="share fc", below=10) == "not run"


def judged_layers(*symmetries: str, seed: int = 0) -> dict[str, Any]:
    """A row whose layers have these verdicts."""
    return row("a", 0.5, seed, verdicts={f"l{k}": {"symmetry": one} for k, one in enumerate(symmetries)})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([judged_layers("shifts", "none")], "held"),
        ([judged_layers("shifts", "undecided")], "held"),
        ([judged_layers("undecided", "none")], "too close"),
        ([judged_layers("none", "none")], "failed"),
        ([judged_layers("shifts", "shifts")], "failed"),
        ([judged_layers("shifts", "none"), judged_layers("none", "none", seed=1)], "too close"),
        ([judged_layers("none", "none"), judged_layers("none", "none", seed=1)], "failed"),
        ([judged_layers("shifts", "none", "none")], "not run"),
        ([judged_layers()], "not run"),
        ([], "not run"),
    ],
)
def test_layers_by_verdict(found: Rows, expected: str) -> None:
    assert verdict(found, kind="layers", row="a", expect=["shifts", "none|undecided"]) == expected


def test_layers_by_type_are_undecided_where_the_second_path_is_nearly_as_large() -> None:
    for conv, expected in ((0.9, "held"), (0.55, "too close"), (0.1, "failed")):
        kind = "CONV" if conv > 0.5 else "FC"
        layer = {"type": kind, "paths": {"fc": 1, "conv": 1}, "relative": {"fc": 1 - conv, "conv": conv}}
        head = {"type": "LINEAR", "paths": {"linear": 1}, "relative": {"linear": 1.0}}
        found = [row("a", 0.5, layers=[layer, layer, head])]
        assert verdict(found, kind="layers", row="a", expect=["CONV", "*"], by="type") == expected


def test_a_stopped_run_is_no_run() -> None:
    found = [*rows(a=HIGH), {"label": "b", "seed": 0, "stopped": "nan"}]
    told = judge(claim(kind="order", rows=["a", "b"]), found)
    assert told.verdict == "not run" and told.because == ("no finished run of b",)


def test_a_number_nobody_measured() -> None:
    found = [row("a", 0.8), row("b", 0.7, log_marginal_likelihood=None)]
    told = judge(claim(kind="order", rows=["a", "b"], metric="evidence"), found)
    assert told.verdict == "not run" and told.because == ("b has no evidence",)


def test_claims_are_judged_at_their_scales_and_counted() -> None:
    rule = {"kind": "order", "rows": ["a", "b"]}
    claims = [
        read_claim({"text": "one", "rule": rule}, "S"),
        read_claim({"text": "two", "rule": rule, "scales": ["smoke"], "source": "T"}, "S"),
    ]
    (at_smoke,) = judged(claims, rows(a=HIGH, b=LOW), "smoke")
    assert at_smoke["text"] == "two" and at_smoke["source"] == "T" and at_smoke["verdict"] == "held"
    assert at_smoke["rule"] == {"kind": "order", "rows": ("a", "b"), "metric": "accuracy", "gap": 0.0}
    (at_cpu,) = judged(claims, rows(a=LOW, b=HIGH), "cpu")
    assert at_cpu["verdict"] == "failed" and at_cpu["source"] == "S"
    assert str(tally([at_smoke, at_cpu, at_cpu])) == "1 held, 2 failed"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"text": "t"}, "text and rule"),
        ({"text": "t", "rule": {"kind": "magic"}}, "unknown kind of rule 'magic'"),
        ({"text": "t", "rule": {"kind": "order", "rows": ["a"]}}, "too few rows"),
        ({"text": "t", "rule": {"kind": "order", "rows": ["a", "b"], "gab": 1}}, "gab"),
        ({"text": "t", "rule": {"kind": "order", "rows": ["a", "b"], "metric": "beauty"}}, "unknown metric"),
        ({"text": "t", "rule": {"kind": "bound", "rows": ["a"], "metric": "nll"}}, "neither above nor below"),
        ({"text": "t", "rule": {"kind": "layers", "row": "a", "expect": ["x"], "by": "eye"}}, "'eye'"),
    ],
)
def test_wrong_claims(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_claim(given, "S")
