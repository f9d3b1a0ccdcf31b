"""The house: who may import whom. An arrow that points back fails here.

`FLOORS` is the plan, lowest first; a module may import modules of its own entry and of lower floors only.
`curvature.rules` (the rules of our layers) is imported by nobody: kfac finds it by `symlearn.__kfac_rules__`.

Axes: none.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOORS: tuple[tuple[str, ...], ...] = (
    ("kfac",),
    ("symlearn.kinds",),
    (
        "symlearn",
        "symlearn.config",
        "symlearn.groups",
        "symlearn.units",
        "symlearn.run_folder",
        "symlearn.extras",
    ),
    ("symlearn.data",),
    ("symlearn.ranks",),
    ("symlearn.layers",),
    ("symlearn.networks", "symlearn.evidence"),
    ("symlearn.curvature",),
    ("symlearn.analysis", "symlearn.training"),
    ("symlearn.selection",),
    ("symlearn.report", "symlearn.cost"),
    ("symlearn.fitting",),
    ("symlearn.runs", "symlearn.estimator"),
    ("symlearn.transfer",),
    ("symlearn.cli",),
    ("symlearn.__main__",),
)


@dataclass(frozen=True)
class Arrow:
    """One import: which module, at which line, of which module."""

    source: str
    line: int
    target: str
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {**modules("kfac"), **modules("symlearn")}


def imports(source: str, path: Path) -> Iterator[Arrow]:
    """Every import of our own packages in a file, in functions and `if` blocks too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{source}:{node.lineno}: write imports absolutely"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in MODULES else node.module for name in names]
        for target in dict.fromkeys(targets):
            if target.partition(".")[0] in ("kfac", "symlearn"):
                yield Arrow(source, node.lineno, target, id(node) in typing_only)


ARROWS = [arrow for name, path in MODULES.items() for arrow in imports(name, path)]


def entry(module: str) -> tuple[int, str]:
    """(floor, entry) that a module belongs to: the longest entry that is it or contains it."""
    within = [
        (floor, name)
        for floor, names in enumerate(FLOORS)
        for name in names
        if module == name or (name != "symlearn" and module.startswith(f"{name}."))
    ]
    assert within, f"{module} is on no floor; give it a place in FLOORS"
    return max(within, key=lambda found: len(found[1]))


def test_every_module_has_a_floor() -> None:
    for module in MODULES:
        entry(module)


def test_arrows_point_down() -> None:
    """Lazy imports and imports for type hints count as well, but for the front door's: it shows every room."""
    wrong = []
    for arrow in (a for a in ARROWS if not (a.source == "symlearn" and a.typing_only)):
        (above, source), (below, target) = entry(arrow.source), entry(arrow.target)
        if not (below < above or source == target):
            wrong.append(f"{arrow} (floor {above} to floor {below})")
    assert not wrong, "\n".join(wrong)


def test_kfac_knows_nothing_of_symlearn() -> None:
    wrong = [str(a) for a in ARROWS if a.source.startswith("kfac") and not a.target.startswith("kfac")]
    assert not wrong, "\n".join(wrong)


def test_curvature_is_found_by_kfac_alone() -> None:
    """Its import would register rules as a side effect; `__kfac_rules__` is the only way in."""
    assert not [str(a) for a in ARROWS if a.target == "symlearn.curvature.rules"]
    assert "kfac" in {a.target for a in ARROWS if a.source == "symlearn.curvature.rules"}


def names_of_kfac(module: str) -> set[str]:
    """What a module imports of kfac by name."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "kfac"
        for alias in node.names
    }


def test_data_and_layers_know_nothing_of_the_evidence() -> None:
    """Neither images nor layers depend on how networks are chosen."""
    for package in ("symlearn.data", "symlearn.layers"):
        outward = {
            a.target for a in ARROWS if a.source.startswith(package) and not a.target.startswith(package)
        }
        assert outward <= {"kfac", "symlearn.groups", "symlearn.kinds"}, (
            f"{package} imports {sorted(outward)}"
        )
        for name in (n for n in MODULES if n.startswith(package)):
            assert names_of_kfac(name) <= {"tensor_of", "evaluated"}, f"{name} uses curvature"


def test_no_circles_of_modules() -> None:
    """Within one entry too (packages count through their `__init__`): imports at run time have an order."""
    below = {name: {a.target for a in ARROWS if a.source == name and not a.typing_only} for name in MODULES}
    done: set[str] = set()
    on_the_way: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        assert name not in on_the_way, " -> ".join([*on_the_way[on_the_way.index(name) :], name])
        on_the_way.append(name)
        for target in sorted(below.get(name, ())):
            if target != name:
                visit(target)
        on_the_way.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


def test_floors_name_what_exists() -> None:
    named = [name for names in FLOORS for name in names]
    assert len(named) == len(set(named))
    assert not [name for name in named if name not in MODULES], "an entry without a module"


def test_files_that_docstrings_name_exist() -> None:
    """Beside the module, or from the package's or the repository's root."""
    for path in MODULES.values():
        for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", path.read_text(encoding="utf-8")):
            package = ROOT / path.relative_to(ROOT).parts[0]
            found = any((place / name).exists() for place in (path.parent, package, ROOT))
            assert found, f"{path} names {name}"


def test_what_symlearn_uses_of_kfac_is_public_there() -> None:
    import kfac

    for name in (n for n in MODULES if n.startswith("symlearn")):
        inside = {a.target for a in ARROWS if a.source == name and a.target.startswith("kfac.")}
        assert not inside, f"{name} reaches into {sorted(inside)}"
        used = names_of_kfac(name)
        assert used <= set(kfac.__all__), f"{name} uses {sorted(used - set(kfac.__all__))}"


def test_every_public_name_of_kfac_is_in_the_reference() -> None:
    import kfac

    page = (ROOT / "docs/api/kfac.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: kfac\.(\w+)$", page, re.MULTILINE))
    assert listed == set(kfac.__all__)
