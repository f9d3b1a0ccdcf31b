"""The paths `dev-<group>` and `dev-shifts`: what the filters of the symmetric path beside them lack.

In a sum the deviation has prior precisions of its own. Where the evidence does not need it, the layer has the
symmetry of the path beside it exactly; where it does, the part of the layer's map that it makes up says how
nearly.

Axes: none.
"""

from __future__ import annotations

from torch import nn

from symlearn.groups import find_group
from symlearn.layers.group_deviation import GroupDeviation2d, PointwiseGroupDeviation2d
from symlearn.layers.registry import FAMILIES, KERNEL, SHIFTS, Family, PathKind, PathShape
from symlearn.layers.shift_deviation import ShiftDeviation2d

DEVIATION = "dev-"
DEVIATION_HELP = "dev-<group>[:pointwise] beside gconv-<group>, dev-shifts[:rank] beside conv"
OLIVES = {"dev-p4": "#999933", "dev-p4m": "#5F5F1E"}  # between group convolutions' green and what is free
FORMS = {"": GroupDeviation2d, "pointwise": PointwiseGroupDeviation2d}


def deviation_path(name: str) -> PathKind:
    """A deviation from its name.

    Returns:
        A kind made for the name; it is not registered, and every call makes another.

    Raises:
        ValueError: no such group or form, a rank that is not positive.
    """
    of, _, form = name.removeprefix(DEVIATION).partition(":")
    return deviation_by_place(name, form) if of == SHIFTS else deviation_by_turn(name, of, form)


def deviation_by_turn(name: str, of: str, form: str) -> PathKind:
    """Filters that differ by an element of a group; see `deviation_path`."""
    group = find_group(of)
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} in {name!r}; choose dev-{of} or dev-{of}:pointwise")
    if len(group) == 1:
        raise ValueError(
            f"{name!r} deviates from a group of one element, which is nothing; name a larger one"
        )

    def build(shape: PathShape) -> nn.Module:
        return FORMS[form](shape.c_in, shape.c_out, shape.options.kernel, group)

    return PathKind(
        build,
        "DEV",
        full_resolution=True,
        symmetry=1,
        group=group,
        words=f"free of {of}{', ' + form if form else ''}",
        colour=OLIVES.get(name, ""),
        family_colour="#999933",
        leaner=None if form else f"{name}:pointwise",
        deviates_from=group.name,
        options=KERNEL,
    )


def deviation_by_place(name: str, form: str) -> PathKind:
    """Filters that differ by place; see `deviation_path`."""
    if form and (not form.isdecimal() or int(form) < 1):
        raise ValueError(f"the rank in {name!r} is a positive integer, got {form!r}; write dev-shifts:2")
    rank = int(form or 1)

    def build(shape: PathShape) -> nn.Module:
        return ShiftDeviation2d(shape.c_in, shape.c_out, shape.in_size, shape.options.kernel, rank)

    return PathKind(
        build,
        "DEV",
        full_resolution=True,
        symmetry=0,
        words="varying by place",
        colour="" if form else "#8C564B",
        family_colour="#8C564B",
        leaner="dev-shifts" if rank > 1 else None,
        deviates_from=SHIFTS,
        options=KERNEL,
    )


FAMILIES[DEVIATION] = Family(deviation_path, DEVIATION_HELP)
