"""Banks of a dictionary by name: `free`, and `cyclic-<angle>` with its 360 / angle rotations.

A sum of them, such as "free+cyclic-60", is what the layers of an unfolded network may be made of.
"""

from __future__ import annotations

FREE, FAMILY = "free", "cyclic-"
BANKS_HELP = "free or cyclic-<angle> such as cyclic-90 or cyclic-60"


def is_bank(name: str) -> bool:
    """Whether a path's name is that of a bank."""
    return name == FREE or name.startswith(FAMILY)


def bank_turns(name: str) -> int:
    """How many rotations a bank has of every basis filter.

    Returns:
        1 without rotations, otherwise 360 by the angle in the bank's name.

    Raises:
        ValueError: no such bank.
    """
    if name == FREE:
        return 1
    angle = name.removeprefix(FAMILY)
    if not name.startswith(FAMILY) or not angle.isdecimal():
        raise ValueError(f"unknown bank {name!r}; choose {BANKS_HELP}, joined by '+'")
    if not 0 < int(angle) < 360 or 360 % int(angle):
        raise ValueError(
            f"the angle of {name!r} does not divide 360 degrees into turns; use one that does, such as 90, "
            "60 or 45 (without rotations: free)"
        )
    return 360 // int(angle)


def banks_within(name: str) -> tuple[str, ...]:
    """The cyclic banks whose rotations are some of a bank's own.

    Returns:
        Their names; of cyclic-45 cyclic-180 and cyclic-90, but not cyclic-60.
    """
    turns = bank_turns(name)
    return tuple(f"{FAMILY}{360 // n}" for n in range(2, turns) if turns % n == 0)


def parse_banks(banks: str | tuple[str, ...]) -> tuple[str, ...]:
    """Split a sum such as "free+cyclic-90" into its banks.

    Returns:
        Their names, in the order given.

    Raises:
        ValueError: no bank, an unknown one, or one named twice.
    """
    names = tuple(banks.split("+")) if isinstance(banks, str) else tuple(banks)
    names = tuple(name.strip() for name in names)
    for name in names:
        bank_turns(name)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected a sum of different banks, {BANKS_HELP}, got {banks!r}")
    return names
