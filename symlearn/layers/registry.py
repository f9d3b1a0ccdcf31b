"""The paths a relaxed layer can be made of: one line a path.

A path is a module on `[batch, c_in, *size]`. It either keeps the full resolution (the layer subsamples the
sum of such paths once) or maps straight to the layer's output size.

Axes: batch, c_in, size (t of signals; h, w of images; d, h, w of volumes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

from torch import nn

from symlearn.groups import FiniteGroup, find_group
from symlearn.kinds import of_size
from symlearn.layers.anchor_basis import LearnedOfSparse
from symlearn.layers.banks import BANKS_HELP, bank_turns, banks_within, is_bank
from symlearn.layers.conv import CIRCULAR_CONVS
from symlearn.layers.factored_fc import FactoredLinear2d
from symlearn.layers.fc import FullyConnected2d
from symlearn.layers.group_conv import GroupConv2d, Variant
from symlearn.layers.sparse_conv import SparseConv2d
from symlearn.layers.sparse_fc import SparseLinear2d

LearnedOfBanks = Literal["generator", "shared-generator"]


@dataclass(frozen=True)
class PathOptions:
    """What users may choose for the paths of all layers.

    Attributes:
        kernel_size: of the convolutional paths and of banks; None takes the network's own.
        anchors: of the sparsified paths, a fraction of their places (rounded up) or a number.
        lengthscale: of the sparsified paths at the start, in grid spacings.
        learn: what the evidence learns: of the sparsified paths any of "lengthscale", "anchors", "noise"; of
            cyclic banks "generator" (one a layer) or "shared-generator".
        lengthscale_precision: of a hyperprior on the inverse lengthscale in place of the precision of the
            sparsified paths' weights; None keeps the precisions.
        generator_offset: degrees that the angle of cyclic banks starts away from their own.
    """

    kernel_size: int | None = None
    anchors: float | int = 0.5
    lengthscale: float = 1.0
    learn: tuple[LearnedOfSparse | LearnedOfBanks, ...] = ()
    lengthscale_precision: float | None = None
    generator_offset: float = 0.0

    def __post_init__(self) -> None:
        known = {*get_args(LearnedOfSparse), *get_args(LearnedOfBanks)}
        if set(self.learn) - known:
            raise ValueError(
                f"cannot learn {sorted(set(self.learn) - known)}; choose any of {', '.join(sorted(known))}"
            )

    @property
    def kernel(self) -> int:
        """Side of the filters of convolutional paths."""
        return 3 if self.kernel_size is None else self.kernel_size

    @property
    def basis(self) -> dict[str, Any]:
        """The arguments of a sparsified path."""
        return {
            "anchors": self.anchors,
            "lengthscale": self.lengthscale,
            "learn": tuple(what for what in self.learn if what in get_args(LearnedOfSparse)),
            "lengthscale_precision": self.lengthscale_precision,
        }


@dataclass(frozen=True)
class PathShape:
    """What a layer tells its paths: channels, sizes (t,), (h, w) or (d, h, w), and what users chose."""

    c_in: int
    c_out: int
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    options: PathOptions

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size of convolutional filters, the same along every axis."""
        return (self.options.kernel,) * len(self.in_size)


@dataclass(frozen=True)
class PathKind:
    """One kind of path.

    Attributes:
        build: makes the module from a `PathShape`.
        effective_type: the upper-case name a layer gets when this path holds most of it.
        full_resolution: whether its output has the input's size (True) or the layer's output size.
        symmetry: larger is stricter; a search starts from the strictest path.
        turns: the group that it commutes with: of turns and mirrors besides shifts, or one of a user's own;
            None: shifts alone, or nothing.
        contains: what of other paths' `commutes_with` its own contains, where strictness is no ladder; None:
            all of lower `symmetry`.
        group: the group on whose maps the path works, or None: on the plane.
        words: what a layer is where this path holds most of it, as an adjective; empty: named by the path.
        colour: of its figures, as hexadecimal digits; empty: a shade of `family_colour`.
        family_colour: of its relatives that have none of their own.
        leaner: the path of fewer weights that stands in for it, or None.
        deviates_from: what a path commutes with that this one stands beside, as that one's deviation, and
            whose layer is *nearly* symmetric while the deviation is small; empty: it is no deviation.
        options: those of `PathOptions` that it reads.
        learns: what it may declare for the evidence to learn.
        axes: the numbers of axes of places that it works on: 1 signals, 2 images, 3 volumes.
    """

    build: Callable[[PathShape], nn.Module]
    effective_type: str
    full_resolution: bool
    symmetry: int
    group: FiniteGroup | None = None
    turns: str | None = None
    contains: frozenset[str] | None = None
    words: str = ""
    colour: str = ""
    family_colour: str = "#4D4D4D"
    leaner: str | None = None
    deviates_from: str = ""
    options: frozenset[str] = frozenset()
    learns: frozenset[str] = frozenset()
    axes: frozenset[int] = frozenset({2})

    @property
    def commutes_with(self) -> str:
        """What its map commutes with: "none", "shifts", or what turns it as well, such as "p4"."""
        return self.turns or (SHIFTS if self.symmetry else "none")

    def includes(self, other: PathKind) -> bool:
        """Whether it commutes with all that the other commutes with."""
        if not other.symmetry or other.commutes_with == self.commutes_with:
            return True
        if self.contains is None and other.contains is None:
            return other.symmetry <= self.symmetry
        return other.commutes_with in (self.contains or ())


SHIFTS = "shifts"
KERNEL = frozenset({"kernel_size"})
SPARSE = frozenset({"anchors", "lengthscale", "learn", "lengthscale_precision"})
FULLY, CONVOLUTIONAL = "fully connected", "convolutional"
ANY_AXES = frozenset({1, 2, 3})

# Colours are those of Okabe and Ito (2008): fully connected warm, convolutions blue, group convolutions green
PATHS: dict[str, PathKind] = {
    "fc": PathKind(
        lambda s: FullyConnected2d(s.c_in, s.c_out, s.in_size, s.out_size),
        "FC",
        full_resolution=False,
        symmetry=0,
        words=FULLY,
        colour="#D55E00",
        leaner="f-fc",
        axes=ANY_AXES,
    ),
    "f-fc": PathKind(
        lambda s: FactoredLinear2d(s.c_in, s.c_out, s.in_size, s.out_size),
        "FC",
        full_resolution=False,
        symmetry=0,
        words=FULLY,
        colour="#E69F00",
        leaner="s-fc",
        axes=ANY_AXES,
    ),
    "s-fc": PathKind(
        lambda s: SparseLinear2d(s.c_in, s.c_out, s.in_size, s.out_size, **s.options.basis),
        "FC",
        full_resolution=False,
        symmetry=0,
        words=FULLY,
        colour="#CC79A7",
        options=SPARSE,
        learns=frozenset(get_args(LearnedOfSparse)),
        axes=ANY_AXES,
    ),
    "conv": PathKind(
        lambda s: CIRCULAR_CONVS[len(s.in_size)](s.c_in, s.c_out, s.kernel),
        "CONV",
        full_resolution=True,
        symmetry=1,
        words=CONVOLUTIONAL,
        colour="#0072B2",
        leaner="s-conv",
        options=KERNEL,
        axes=ANY_AXES,
    ),
    "s-conv": PathKind(
        lambda s: SparseConv2d(s.c_in, s.c_out, s.kernel, **s.options.basis),
        "CONV",
        full_resolution=True,
        symmetry=1,
        words=CONVOLUTIONAL,
        colour="#56B4E9",
        options=KERNEL | SPARSE,
        learns=frozenset(get_args(LearnedOfSparse)),
        axes=ANY_AXES,
    ),
}
GREENS = {"gconv-p4": "#009E73", "gconv-p4m": "#00573F"}


def register_path(name: str, kind: PathKind) -> None:
    """Add a kind of path: from then on it can be named wherever paths are.

    Its layer offers what `Path` asks for; its curvature needs a rule (`kfac.register_rule`) unless kfac knows
    the layer already.

    Args:
        name: without "+", "." or spaces around it; not one that is known.
        kind: how to build it, and what it is.

    Raises:
        ValueError: a name that is taken or cannot be written in a sum.
    """
    if name in PATHS or name in ("linear", "other") or name.startswith(tuple(FAMILIES)) or is_bank(name):
        raise ValueError(f"there is a path {name!r} already; give the new one another name")
    if not name or name != name.strip() or {"+", "."} & set(name):
        raise ValueError(f"cannot register a path {name!r}; choose a name without '+', '.' or spaces around")
    PATHS[name] = kind


FAMILY = "gconv-"
FAMILY_HELP = "gconv-<group>[:variant] such as gconv-p4, gconv-p4m:pointwise or gconv-c6"


def group_path(name: str) -> PathKind:
    """A group convolution from its name, `gconv-<group>[:variant]`.

    Returns:
        A kind made for the name; it is not registered, and every call makes another.

    Raises:
        ValueError: no such group or variant.
    """
    group_name, _, variant = name.removeprefix(FAMILY).partition(":")
    group, chosen = find_group(group_name), variant or "full"
    if chosen not in get_args(Variant):
        raise ValueError(
            f"unknown variant {chosen!r} in {name!r}; choose from {', '.join(get_args(Variant))}"
        )

    def build(shape: PathShape) -> nn.Module:
        kernel = shape.options.kernel
        return GroupConv2d(shape.c_in, shape.c_out, kernel, group, cast(Variant, chosen))

    return PathKind(
        build,
        "GCONV",
        full_resolution=True,
        symmetry=1 + len(group),
        group=group,
        turns=group.name,
        words=f"group-convolutional ({group_name}{', ' + variant if variant else ''})",
        colour=GREENS.get(name, ""),
        family_colour="#009E73",
        options=KERNEL,
    )


@dataclass(frozen=True)
class Family:
    """Paths whose names begin alike and say the rest.

    Attributes:
        kind: what a name stands for; it raises a ValueError where it stands for nothing.
        help: how names are written, with examples.
    """

    kind: Callable[[str], PathKind]
    help: str


FAMILIES: dict[str, Family] = {FAMILY: Family(group_path, FAMILY_HELP)}  # by what their names begin with


def families_help() -> str:
    """How the names of all families are written."""
    return ", ".join(family.help for family in FAMILIES.values())


def bank_path(name: str) -> PathKind:
    """A bank of a dictionary; the network `unfolded` builds it, relaxed layers refuse it.

    Returns:
        A kind made for the name, whose `build` raises.

    Raises:
        ValueError: no such bank.
    """

    def refuse(shape: PathShape) -> NoReturn:
        raise ValueError(f"{name} is a bank of filters of the network unfolded; give network='unfolded'")

    turns = bank_turns(name)
    return PathKind(
        refuse,
        name.upper(),
        full_resolution=True,
        symmetry=turns,
        turns=name if turns > 1 else None,
        contains=frozenset({"shifts", *banks_within(name)}) if turns > 1 else None,
        words=f"cyclic ({name.removeprefix('cyclic-')}°)" if turns > 1 else "free of rotations",
        colour="" if turns > 1 else "#D55E00",
        family_colour="#009E73",
        options=KERNEL | {"learn", "generator_offset"} if turns > 1 else KERNEL,
        learns=frozenset(get_args(LearnedOfBanks) if turns > 1 else ()),
    )


def path_kind(name: str) -> PathKind:
    """Find what is known about a path.

    Returns:
        The kind registered under the name, or that of the group convolution, deviation or bank of the name.

    Raises:
        ValueError: no such path.
    """
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            return family.kind(name)
    if is_bank(name):
        return bank_path(name)
    if name not in PATHS:
        raise ValueError(
            f"unknown path {name!r}; choose from {', '.join(PATHS)}, {families_help()}, joined by '+'; "
            f"or, of unfolded networks, {BANKS_HELP}; or register a path of your own before "
            "(register_symmetry, register_path)"
        )
    return PATHS[name]


def known_kind(name: str) -> PathKind | None:
    """The kind of a name, or None: reports may name paths that are not registered here."""
    try:
        return path_kind(name)
    except ValueError:
        return None


def group_of_paths(names: Iterable[str]) -> FiniteGroup | None:
    """The group that the paths of a layer work on.

    Returns:
        The one group among them, or None if all are on the plane.

    Raises:
        ValueError: paths of different groups, whose maps have different axes.
    """
    groups = {kind.group.name: kind.group for kind in map(path_kind, names) if kind.group is not None}
    if len(groups) > 1:
        raise ValueError(
            f"paths of {' and '.join(sorted(groups))} cannot share a layer, since their maps differ; use "
            "one group (p4m contains p4)"
        )
    return next(iter(groups.values()), None)


def expect_axes(names: Iterable[str], size: tuple[int, ...]) -> None:
    """Refuse paths that do not work on maps of this size.

    Raises:
        ValueError: such a path, and which do.
    """
    for name in names:
        if len(size) not in path_kind(name).axes:
            able = [known for known, kind in PATHS.items() if len(size) in kind.axes]
            raise ValueError(f"path {name!r} is not for {of_size(size)}; choose from {', '.join(able)}")


def parse_paths(paths: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Split a sum such as "f-fc+conv" into its paths.

    Returns:
        Their names, in the order given; each is known, and all fit into one layer.

    Raises:
        ValueError: no path, an unknown one, or one named twice.
    """
    names = tuple(paths.split("+")) if isinstance(paths, str) else tuple(paths)
    names = tuple(name.strip() for name in names)
    if not names or not all(names):
        raise ValueError(
            f"no path in {paths!r}; give one or more of {', '.join(PATHS)}, {families_help()}, joined by '+'"
        )
    for name in names:
        path_kind(name)
    if len(set(names)) < len(names):
        raise ValueError(f"a path is named twice in {'+'.join(names)!r}; name each once")
    group_of_paths(names)
    return names
