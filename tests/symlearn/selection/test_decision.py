"""What the evidence says of a layer: each answer and mixture, on removals written by hand."""

from typing import Any

import pytest

from symlearn.selection.changes import Proposal
from symlearn.selection.removal import Removal
from symlearn.selection.verdict import NEARLY, Asked, decision, symmetry

PATHS = ("f-fc", "conv", "gconv-p4")


def out(path: str, delta: float, half: float = 5.0, round_: int = 0, removed: bool = False) -> Removal:
    """One path taken out of layer "a" alone."""
    return Removal(
        round_, (("a", path),), delta, (delta - half, delta + half), 0.5, delta + half >= -6, removed
    )


def asked(*removals: Removal, **changes: Any) -> Asked:
    """A fit by gradients with these removals, where 6 nats count."""
    return Asked(removals, **{"threshold": 6.0, **changes})


def answers(found: dict[str, Any]) -> dict[str, list[str]]:
    """The lists alone."""
    return {key: found[key] for key in ("needed", "unneeded", "undecided")}


CASES: dict[str, tuple[tuple[str, ...], Asked, str, dict[str, list[str]]]] = {
    "one needed, one not": (
        ("f-fc", "conv"),
        asked(out("f-fc", -900.0), out("conv", 1.0, removed=True)),
        "none",
        {"needed": ["f-fc"], "unneeded": ["conv"], "undecided": []},
    ),
    "the less symmetric one is not needed": (
        ("f-fc", "conv"),
        asked(out("f-fc", 1.0, removed=True), out("conv", -900.0)),
        "shifts",
        {"needed": ["conv"], "unneeded": ["f-fc"], "undecided": []},
    ),
    "both needed": (
        ("f-fc", "conv"),
        asked(out("f-fc", -900.0), out("conv", -40.0)),
        "none",
        {"needed": ["f-fc", "conv"], "unneeded": [], "undecided": []},
    ),
    "removed within a wide noise": (
        ("f-fc", "conv"),
        asked(out("f-fc", -20.0, 50.0, removed=True), out("conv", -900.0)),
        "undecided",
        {"needed": ["conv"], "unneeded": [], "undecided": ["f-fc"]},
    ),
    "the more symmetric one is undecided": (
        ("f-fc", "conv"),
        asked(out("f-fc", -900.0), out("conv", -20.0, 50.0, removed=True)),
        "none",
        {"needed": ["f-fc"], "unneeded": [], "undecided": ["conv"]},
    ),
    "a loss too small to count": (
        ("f-fc", "conv"),
        asked(out("f-fc", -900.0), out("conv", -4.0, 0.1, removed=True)),
        "none",
        {"needed": ["f-fc"], "unneeded": ["conv"], "undecided": []},
    ),
    "never asked": (
        ("f-fc", "conv"),
        asked(),
        "undecided",
        {"needed": [], "unneeded": [], "undecided": ["f-fc", "conv"]},
    ),
    "a layer of one path": (
        ("conv",),
        asked(),
        "shifts",
        {"needed": ["conv"], "unneeded": [], "undecided": []},
    ),
    "the search never kept it": (
        ("f-fc", "conv"),
        asked(searched=True),
        "shifts",
        {"needed": ["conv"], "unneeded": ["f-fc"], "undecided": []},
    ),
    "absent, and nobody searched": (
        ("f-fc", "conv"),
        asked(),
        "undecided",
        {"needed": ["conv"], "unneeded": [], "undecided": ["f-fc"]},
    ),
    "worth adding, but another proposal was kept": (
        ("f-fc", "conv"),
        asked(
            searched=True,
            proposals=(
                Proposal(0, "a", "f-fc", "add", delta_log_evidence=700.0, noise=300.0),
                Proposal(0, "b", "f-fc", "add", delta_log_evidence=900.0, noise=300.0, accepted=True),
            ),
        ),
        "undecided",
        {"needed": ["conv"], "unneeded": [], "undecided": ["f-fc"]},
    ),
    "worth something halfway, dropped, and another was kept": (
        ("f-fc", "conv"),
        asked(
            searched=True,
            proposals=(
                Proposal(0, "a", "f-fc", "add", halfway=1183.0, noise=351.0),
                Proposal(0, "b", "f-fc", "add", delta_log_evidence=720.0, noise=351.0, accepted=True),
            ),
        ),
        "undecided",
        {"needed": ["conv"], "unneeded": [], "undecided": ["f-fc"]},
    ),
    "worth less than what was asked for": (
        ("f-fc", "conv"),
        asked(searched=True, proposals=(Proposal(0, "a", "f-fc", "add", delta_log_evidence=5.0, noise=1.0),)),
        "shifts",
        {"needed": ["conv"], "unneeded": ["f-fc"], "undecided": []},
    ),
    "tried again, and worth nothing": (
        ("f-fc", "conv"),
        asked(
            searched=True,
            proposals=(
                Proposal(0, "a", "f-fc", "add", delta_log_evidence=700.0, noise=300.0),
                Proposal(1, "a", "f-fc", "add", delta_log_evidence=-3.0, noise=9.0),
            ),
        ),
        "shifts",
        {"needed": ["conv"], "unneeded": ["f-fc"], "undecided": []},
    ),
    "nothing was learned": (
        ("conv",),
        asked(learned=False),
        "undecided",
        {"needed": [], "unneeded": [], "undecided": ["conv"]},
    ),
    "the last answer counts": (
        ("f-fc", "conv"),
        asked(
            out("f-fc", 1.0), out("conv", 2.0), out("f-fc", -300.0, round_=1), out("conv", -80.0, round_=1)
        ),
        "none",
        {"needed": ["f-fc", "conv"], "unneeded": [], "undecided": []},
    ),
    "either would do, and neither stayed out": (
        ("f-fc", "conv"),
        asked(out("f-fc", 1.0), out("conv", 2.0)),
        "undecided",
        {"needed": [], "unneeded": [], "undecided": ["f-fc", "conv"]},
    ),
}


@pytest.mark.parametrize(("declared", "asked_", "commutes", "lists"), CASES.values(), ids=CASES.keys())
def test_answers(
    declared: tuple[str, ...], asked_: Asked, commutes: str, lists: dict[str, list[str]]
) -> None:
    by_fit = asked_.searched or declared == ("conv",) or (not asked_.removals and lists["needed"])
    active = ("conv",) if by_fit else declared
    found = decision("a", declared, active, asked_)
    assert answers(found) == lists and found["symmetry"] == commutes


def test_three_paths_and_a_joint_removal() -> None:
    """F-FC and CONV taken out together, with what the evidence lost by both."""
    both = (("a", "f-fc"), ("a", "conv"))
    alone = (out("f-fc", 0.0), out("conv", -1.0), out("gconv-p4", -50.0))
    for delta, half, commutes in ((3.0, 5.0, "p4"), (-10.0, 30.0, "undecided")):
        joint = Removal(0, both, delta, (delta - half, delta + half), 0.5, True, True)
        found = decision("a", PATHS, PATHS, asked(*alone, joint))
        assert found["symmetry"] == commutes and found["needed"] == ["gconv-p4"]
        assert set(found["removals"]) == set(PATHS), "each with its own number, not the joint one"
    other = decision("b", ("conv",), ("conv",), asked(*alone))
    assert other["removals"] == {} and other["symmetry"] == "shifts", "of another layer"


def test_removals_carry_their_numbers() -> None:
    found = decision("a", ("f-fc", "conv"), ("f-fc", "conv"), asked(out("f-fc", -19.0), out("conv", -18.0)))
    assert found["removals"]["conv"] == {
        "delta_log_evidence": -18.0,
        "interval": [-23.0, -13.0],
        "probability_needed": 0.5,
    }


@pytest.mark.parametrize(
    ("needed", "undecided", "commutes"),
    [
        (["conv"], [], "shifts"),
        (["s-fc", "s-conv"], [], "none"),
        (["gconv-p4m:pointwise"], ["gconv-p4m"], "p4m"),
        (["gconv-p4"], ["conv"], "undecided"),
        (["gconv-p4", "dev-p4"], [], "shifts"),
        (["gconv-p4"], ["dev-p4"], "undecided"),
        (["gconv-p4", "dev-p4", "dev-shifts"], [], "none"),
        (["dev-shifts", "conv"], [], "none"),
        (["conv"], ["gconv-p4"], "shifts"),
        (["cyclic-60"], [], "cyclic-60"),
        (["free", "cyclic-60"], [], "shifts"),
        (["cyclic-45", "cyclic-90"], [], "cyclic-90"),
        (["cyclic-45", "cyclic-60"], [], "cyclic-45 ∩ cyclic-60"),
        (["cyclic-90"], ["cyclic-45"], "cyclic-90"),
        (["cyclic-60"], ["cyclic-45"], "undecided"),
        ([], ["conv"], "undecided"),
        ([], [], "undecided"),
    ],
)
def test_symmetry(needed: list[str], undecided: list[str], commutes: str) -> None:
    assert symmetry(needed, undecided) == commutes


LITTLE, MUCH = NEARLY / 2, 2 * NEARLY
NEAR: dict[str, tuple[tuple[str, ...], tuple[str, ...], float | None, str, str | None]] = {
    # paths, needed, share of the deviations, commutes with, nearly
    "exactly": (("gconv-p4", "dev-p4"), ("gconv-p4",), LITTLE, "p4", None),
    "nearly": (("gconv-p4", "dev-p4"), ("gconv-p4", "dev-p4"), LITTLE, "shifts", "p4"),
    "hardly": (("gconv-p4", "dev-p4"), ("gconv-p4", "dev-p4"), MUCH, "shifts", None),
    "the deviation alone": (("gconv-p4", "dev-p4"), ("dev-p4",), LITTLE, "shifts", None),
    "nearly shifts": (("conv", "dev-shifts"), ("conv", "dev-shifts"), LITTLE, "none", "shifts"),
    "nearly p4 by place": (("gconv-p4", "dev-shifts"), ("gconv-p4", "dev-shifts"), LITTLE, "none", "p4"),
    "nearly nothing": (("f-fc", "dev-shifts"), ("f-fc", "dev-shifts"), LITTLE, "none", None),
    "two paths and no deviation": (("f-fc", "conv"), ("f-fc", "conv"), None, "none", None),
}


@pytest.mark.parametrize(("paths", "needed", "share", "commutes", "near"), NEAR.values(), ids=NEAR.keys())
def test_nearly(
    paths: tuple[str, ...], needed: tuple[str, ...], share: float | None, commutes: str, near: str | None
) -> None:
    """A small deviation that is needed, beside what it deviates from."""
    removals = [out(path, -900.0 if path in needed else 1.0, removed=path not in needed) for path in paths]
    found = decision("a", paths, paths, asked(*removals), share)
    assert found["symmetry"] == commutes and found["needed"] == list(needed)
    assert ("nearly" in found) == (share is not None)
    assert found.get("nearly") == near and found.get("deviation") == share


def test_what_is_undecided_is_not_nearly_anything() -> None:
    removals = (out("gconv-p4", -900.0), out("dev-p4", -20.0, 50.0, removed=True))
    found = decision("a", ("gconv-p4", "dev-p4"), ("gconv-p4", "dev-p4"), asked(*removals), LITTLE)
    assert found["symmetry"] == "undecided" and found["nearly"] is None
