"""How much memory is free, and whether a set of images may take its share of it.

Axes: none.
"""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.25  # of the free memory that a set may take; larger ones are read as their images are needed


def free_bytes() -> int | None:
    """Free memory of this machine within the limits of its control group; None where it cannot be told."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limits, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limits and used and limits[0].isdecimal() and used[0].isdecimal():
        found.append(max(int(limits[0]) - int(used[0]), 0))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None


def may_be_held(count: int, hold: bool | None = None) -> bool:
    """Decide where images are while they are used.

    Args:
        count: bytes.
        hold: what a user asks for; None leaves it to the free memory, of which `SHARE` may be taken.

    Returns:
        True: in memory; False: where they lie, read as they are needed.
    """
    free = free_bytes() if hold is None else None
    return hold is not False and (free is None or count <= SHARE * free)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
