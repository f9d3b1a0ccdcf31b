"""The pages whose Python is run: outputs are what the code prints, pictures are what it draws.

A page is one program: its ```python blocks run in order in one namespace, in the repository's root. What a
block prints stands in a ```text block right after it. A block that makes a `figure` has its picture after it;
of the pictures in `GALLERY` the page is the only source.

A block below a line `<!-- not run: REASON -->` is not run; a line `<!-- run as: CODE -> CODE -->` says what
is replaced before it runs, the length of a fit.

    python docs/tools/run_pages.py [PAGE ...]

runs the pages and writes their outputs and pictures anew.

Axes: none.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs"
GALLERY = "gallery-"  # pictures that a page draws begin so
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[\w ]+): (?P<told>.*?) -->\n)?```python\n(?P<code>.*?)```\n"
    r"(?:\n```text\n.*?```\n)?(?:\n!\[[^\]]*\]\((?P<picture>[^)]*)\))?",
    re.DOTALL,
)


def pages() -> list[Path]:
    """Every page with Python, index pages too."""
    return [page for page in sorted(PAGES.rglob("*.md")) if "```python\n" in page.read_text(encoding="utf-8")]


def not_run(text: str) -> list[str]:
    """The reasons of the blocks that are not run, in order."""
    return [found["told"] for found in BLOCK.finditer(text) if found["mark"] == "not run"]


@contextlib.contextmanager
def quietly(printed: io.StringIO) -> Iterator[None]:
    """What is printed goes to `printed`, what is drawn as progress nowhere."""
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        yield


def rewritten(text: str, name: str, pictures: dict[str, Any] | None = None) -> str:
    """Run a page's blocks and put in what they print now.

    Args:
        text: of the page.
        name: what tracebacks call it.
        pictures: filled with the figures that blocks with a picture made, by the picture's file name.

    Returns:
        The whole page, its text as it was.

    Raises:
        ValueError: a mark that is not known, or a picture whose block makes no `figure`.
        Exception: whatever its code raises.
    """
    namespace: dict[str, Any] = {"__name__": name}

    def run(found: re.Match[str]) -> str:
        code, mark, told = found["code"], found["mark"], found["told"]
        if mark == "not run":
            return found[0]
        if mark == "run as":
            long, short = told.split(" -> ")
            if long not in code:
                raise ValueError(f"{name}: {long!r} is not in the block below its mark")
            code = code.replace(long, short)
        elif mark is not None:
            raise ValueError(f"{name}: unknown mark {mark!r}; use 'not run' or 'run as'")
        printed = io.StringIO()
        namespace.pop("figure", None)
        with quietly(printed):
            exec(compile(code, name, "exec"), namespace)
        lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
        head = f"<!-- {mark}: {told} -->\n" if mark else ""
        shown = f"{head}```python\n{found['code']}```\n" + (f"\n```text\n{lines}\n```\n" if lines else "")
        if found["picture"] is None:
            return shown
        if "figure" in namespace and pictures is not None:
            pictures[Path(found["picture"]).name] = namespace["figure"]
        return shown + found[0][found[0].rindex("\n![") :]

    return BLOCK.sub(run, text)


def main() -> None:
    """Run the pages that are named, or all, and write them."""
    for path in [Path(name) for name in sys.argv[1:]] or pages():
        pictures: dict[str, Any] = {}
        path.write_text(rewritten(path.read_text(encoding="utf-8"), path.name, pictures), encoding="utf-8")
        for name, figure in pictures.items():
            if name.startswith(GALLERY):
                figure.savefig(ROOT / "figures" / name)


if __name__ == "__main__":
    main()
