"""The import graph of both packages at two commits, drawn side by side: rooms on their floors, arrows down.

    python experiments/house/graph.py BEFORE [AFTER]

A room is a package below the top, or a module beside them. Its floor is one above the highest room that it
imports from; rooms that import from each other share one, and their arrows are red. Commits are whatever git
understands; without the second the working tree is drawn. Results: figures/house.png, results/graph.json.

Axes: none.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("kfac", "symlearn")
Graph = dict[str, set[str]]  # a room and those it imports from


def sources(commit: str | None) -> dict[str, str]:
    """Every module of both packages by its dotted name, with its text."""
    if commit is None:
        files = {
            p.relative_to(ROOT).as_posix(): p.read_text() for n in PACKAGES for p in (ROOT / n).rglob("*.py")
        }
    else:
        listed = git("ls-tree", "-r", "--name-only", commit, *PACKAGES).split()
        files = {name: git("show", f"{commit}:{name}") for name in listed if name.endswith(".py")}
    return {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): text
        for name, text in files.items()
    }


def git(*words: str) -> str:
    """What git says."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def room(module: str) -> str:
    """The room a module lies in; kfac is one."""
    return "kfac" if module.startswith("kfac") else ".".join(module.split(".")[:2])


def arrows(modules: dict[str, str]) -> Graph:
    """Which room imports from which, in functions and for types too; the lazy front door counts as none."""
    graph: Graph = {room(name): set() for name in modules if name != "symlearn"}
    for name, text in modules.items():
        for node in ast.walk(ast.parse(text)) if name != "symlearn" else ():
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [one if one in modules else node.module for one in full]
            for target in targets:
                if (
                    target.partition(".")[0] in PACKAGES
                    and target != "symlearn"
                    and room(target) != room(name)
                ):
                    graph[room(name)].add(room(target))
    return graph


def circles(graph: Graph) -> list[set[str]]:
    """Rooms that import from each other, directly or by way of others."""
    reach = {name: reachable(graph, name) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        if not any(name in one for one in found):
            found.append({name} | {other for other in reach[name] if name in reach[other]})
    return found


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that a room imports from, at any distance."""
    seen: set[str] = set()
    queue = [start]
    while queue:
        for target in graph.get(queue.pop(), ()):
            if target not in seen:
                seen.add(target)
                queue.append(target)
    return seen


def floors(graph: Graph) -> dict[str, int]:
    """The floor of every room, from 0."""
    found: dict[str, int] = {}
    left = circles(graph)
    while left:
        for one in left:
            below = {t for name in one for t in graph[name]} - one
            if below <= set(found):
                level = 1 + max((found[t] for t in below), default=-1)
                found.update(dict.fromkeys(one, level))
                left.remove(one)
                break
    return found


def counted(commit: str | None) -> dict[str, Any]:
    """A commit's graph in numbers."""
    modules = sources(commit)
    graph = arrows(modules)
    level = floors(graph)
    root = [
        n
        for n in modules
        if n.count(".") == 1 and n.startswith("symlearn.") and not any(m.startswith(f"{n}.") for m in modules)
    ]
    back = [f"{a} <-> {b}" for a in graph for b in graph[a] if a < b and a in reachable(graph, b)]
    return {
        "commit": git("rev-parse", "--short", commit or "HEAD").strip()
        + ("" if commit else " and the working tree"),
        "floors": max(level.values()) + 1,
        "rooms": len(graph),
        "modules": len(modules),
        "root_modules": len(root),
        "circles_of_rooms": sorted(back),
        "graph": {name: sorted(graph[name]) for name in sorted(graph)},
        "level": level,
    }


def draw(axes: Axes, found: dict[str, Any]) -> None:
    """One graph: floors upwards, arrows from whoever imports."""
    graph, level = found["graph"], found["level"]
    rows: dict[int, list[str]] = {}
    for name in sorted(graph):
        rows.setdefault(level[name], []).append(name)
    place: dict[str, tuple[float, float]] = {}
    for height, names in rows.items():
        for at, name in enumerate(names):
            place[name] = ((at + 1) / (len(names) + 1), float(height))
    for name, targets in graph.items():
        for target in targets:
            back = level[target] >= level[name]
            axes.annotate(
                "",
                place[target],
                place[name],
                arrowprops={
                    "arrowstyle": "->",
                    "color": "#c0392b" if back else "#9aa7b3",
                    "linewidth": 1.1 if back else 0.6,
                    "connectionstyle": "arc3,rad=0.08",
                    "shrinkA": 9,
                    "shrinkB": 9,
                },
            )
    for name, (x, y) in place.items():
        label = name.removeprefix("symlearn.")
        width = 0.0105 * len(label) + 0.02
        box = FancyBboxPatch(
            (x - width / 2, y - 0.2),
            width,
            0.4,
            "round,pad=0.005",
            facecolor="#f4f1ea",
            edgecolor="#333333",
            linewidth=0.7,
            zorder=3,
        )
        axes.add_patch(box)
        axes.text(x, y, label, ha="center", va="center", fontsize=6.5, zorder=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, max(level.values()) + 0.6)
    axes.set_axis_off()
    axes.set_title(
        f"{found['commit']}: {found['rooms']} rooms on {found['floors']} floors, "
        f"{found['root_modules']} modules at the root",
        fontsize=9,
    )


def main() -> int:
    """Count, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the numbers")
    parser.add_argument("--figures", type=Path, default=ROOT / "figures", help="folder of the picture")
    options = parser.parse_args()
    both = [counted(options.before), counted(options.after)]
    figure = Figure(figsize=(13, 8), layout="constrained")
    for axes, found in zip(figure.subplots(1, 2), both, strict=True):
        draw(axes, found)
        print({key: value for key, value in found.items() if key not in ("graph", "level")})
    figure.savefig(options.figures / "house.png", dpi=130)
    options.results.mkdir(exist_ok=True)
    (options.results / "graph.json").write_text(json.dumps(both, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
