"""The example pages: Markdown whose Python is run, and whose outputs are what it printed.

A page is one program: its ```python blocks run in order in one namespace. What a block prints stands in a
```text block right after it.

    python experiments/examples/run_pages.py [PAGE ...]

runs the pages and writes their outputs anew.

Axes: none.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)


def pages() -> list[Path]:
    """Every page, the index left out."""
    return [path for path in sorted(HERE.glob("*.md")) if path.stem != "README"]


def rewritten(text: str, name: str) -> str:
    """The page with what its blocks print now.

    Raises:
        Exception: whatever its code raises.
    """
    namespace: dict[str, Any] = {"__name__": name}

    def run(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(found[1], name, "exec"), namespace)
        lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
        return f"```python\n{found[1]}```\n" + (f"\n```text\n{lines}\n```\n" if lines else "")

    return BLOCK.sub(run, text)


def main() -> None:
    """Run the pages that are named, or all, and write them."""
    for path in [Path(name) for name in sys.argv[1:]] or pages():
        path.write_text(rewritten(path.read_text(encoding="utf-8"), path.name), encoding="utf-8")


if __name__ == "__main__":
    main()
