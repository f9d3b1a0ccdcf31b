"""How the command line speaks: errors and notes, one line each, on stderr."""

from __future__ import annotations

import sys
from typing import TextIO

STOPPED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


def complain(message: str, code: int = WRONG_INPUT) -> int:
    """Write one line about what went wrong; returns the exit code."""
    print(f"symlearn: error: {message}", file=sys.stderr, flush=True)  # noqa: T201 - the command line's voice
    return code


def one_line(text: object) -> str:
    """A message on one line."""
    return " ".join(str(text).split())


def show_note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as a line of ours; the signature is that of `warnings.showwarning`."""
    print(f"symlearn: note: {one_line(message)}", file=sys.stderr, flush=True)  # noqa: T201
