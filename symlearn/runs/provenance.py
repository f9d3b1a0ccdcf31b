"""What made a row: versions and kind of machine, without the name of the machine or of anybody.

Axes: none.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

CPU_INFO = Path("/proc/cpuinfo")


def commit(folder: Path) -> str:
    """Find the commit that the code stands at; results do not count as code.

    Returns:
        Its short hash, with "-changed" where files under version control differ from it; "unknown" outside a
        checkout, and in one that this file is no part of, such as a project that the package is installed in.
    """
    code = ["--", ":/symlearn", ":/kfac", ":(top,glob)experiments/**/*.toml"]
    try:
        if not _git(folder, "ls-files", "--", str(Path(__file__).resolve())):
            return "unknown"
        head = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", *code)
    except OSError:  # no git
        return "unknown"
    return (head + ("-changed" if changed else "")) if head else "unknown"


def _git(folder: Path, *arguments: str) -> str:
    told = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=folder, check=False)
    return told.stdout.strip()


def processor() -> str:
    """The processor's model, as it calls itself."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def made_by(commit: str, device: str) -> dict[str, Any]:
    """Describe this process, for a row that it makes.

    Args:
        commit: of the code.
        device: "cpu" or "cuda".

    Returns:
        Commit, versions, kind of machine and number of threads, by name; `gpu` is None where none is used.
    """
    import torch

    import symlearn

    return {
        "commit": commit,
        "symlearn": symlearn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if device == "cuda" and torch.cuda.is_available() else None,
    }


def words(made: dict[str, Any]) -> str:
    """A line of it."""
    where = made.get("gpu") or f"{made.get('processor') or 'unknown processor'}, threads {made['threads']}"
    return f"symlearn {made['symlearn']} at {made['commit']}, torch {made['torch']}, {where}"
