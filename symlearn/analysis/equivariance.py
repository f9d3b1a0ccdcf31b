"""How far a map is from commuting with a group: measured, for every element and with translations.

    error(h, s) = ||f(t_s h x) - t_s' h f(x)|| / ||f(x)||

over a batch, with t_s the circular shift by s and h the element's action: on images `[batch, c, h, w]` and
group maps `[batch, c, group, h, w]` as in `symlearn.groups`, and the identity on outputs without places (an
invariant). Elements that do not permute the grid resample the maps, which has an error of its own: on white
noise blurred by a Gaussian of 1, 1.5, 2 and 3 pixels a turn alone errs by 0.12, 0.06, 0.04 and 0.03 of the
image (experiments/gcnn/fine_rotations.py, which measures layers without resampling).

Signals `[batch, c, t]` and volumes `[batch, c, d, h, w]` have shifts alone (the trivial group).

An equivarified module says itself how its outputs move. A map that keeps the size must shift by
s' = s; a smaller output may shift by whatever fits best, for every datum by itself, since subsampling chooses
so.

Axes: batch, c, group, h, w; of signals t, of volumes d, h, w.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kfac import evaluated
from symlearn.groups import FiniteGroup, group_of
from symlearn.kinds import layout
from symlearn.layers.equivarify import EquivariantMap
from symlearn.layers.orbit_average import network_within
from symlearn.layers.structure import relaxed_layers

Shift = tuple[int, ...]  # a number of places an axis
Action = Callable[[Tensor, int], Tensor]  # (y, element) -> element y
SHIFTS: tuple[Shift, ...] = ((1, 0), (0, 1), (2, 3))
SHIFTS_BY_AXES = {1: ((1,), (2,), (5,)), 2: SHIFTS, 3: ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 2, 3))}
IMAGES = 16  # data the report's errors are measured on


def act(group: FiniteGroup, element: int, x: Tensor) -> Tensor:
    """An element's action on an image, a group map, or an invariant."""
    if x.dim() == 5:
        return group.act_on_regular(x, element)
    return group.act_on_image(x, element) if x.dim() == 4 else x


def shifted(x: Tensor, shift: Shift) -> Tensor:
    """A circular shift of the last axes, as many as it has numbers; an invariant stays."""
    axes = len(shift)
    return x.roll(shift, tuple(range(-axes, 0))) if x.dim() >= 2 + axes else x


def distance(found: Tensor, expected: Tensor, shift: Shift, in_size: tuple[int, ...]) -> float:
    """||found - expected|| with the shift that the output should have; see the module's notation."""
    axes, has_places = len(in_size), found.dim() >= 2 + len(in_size)
    size = tuple(found.shape[-axes:])
    if not has_places or size == in_size or not any(shift):
        same = shift if has_places and size == in_size else (0,) * axes
        return float((found - shifted(expected, same)).norm())
    steps = itertools.product(*map(range, size))
    gaps = [(found - shifted(expected, step)).flatten(1).square().sum(1) for step in steps]
    return float(torch.stack(gaps).amin(0).sum().sqrt())


def output_action(module: nn.Module, group: FiniteGroup, shifts: Sequence[Shift] | None) -> Action:
    """How elements move a module's outputs: as it says itself, or by their axes.

    Returns:
        A function from outputs and the number of an element to the outputs moved by it.

    Raises:
        ValueError: a module of another group; shifts of an output whose elements have frames of their own.
    """
    if not isinstance(module, EquivariantMap):
        return lambda y, element: act(group, element, y)
    if not torch.equal(module.action.product, group.product):
        raise ValueError(
            f"the module is equivariant under {module.action.name}, but the error was asked for "
            f"{group.name}; ask for its own group"
        )
    if shifts is not None:
        raise ValueError(
            "every element of an equivarified output has a frame of its own, so it has no shift in common; "
            "leave shifts out"
        )
    return module.act_on_output


@torch.no_grad()
def equivariance_error(
    module: nn.Module,
    group: str | FiniteGroup,
    x: Tensor,
    shifts: Sequence[Shift] | None = None,
    elements: Sequence[int] | None = None,
) -> Tensor:
    """Relative equivariance error of a module on a batch, for every element of a group.

    Args:
        module: maps `x` to an image, a group map, an invariant `[batch, d]`, or, equivarified, a function on
            the group; evaluated in `eval` mode.
        group: a group or its name.
        x: images `[batch, c, h, w]` or group maps `[batch, c, group, h, w]`, square; under the trivial group
            "c1" signals `[batch, c, t]`, and with shifts of three numbers volumes `[batch, c, d, h, w]`.
        shifts: circular shifts (rows, columns) to combine every element with, a number an axis of places;
            None: no shift.
        elements: numbers of the elements to measure; None: all.

    Returns:
        `[element]`, or `[element, shift]` with shifts, float64; 0 is exact.

    Raises:
        ValueError: maps that are not square, or whose group axis is not the group's; signals or volumes and a
            group that turns images; a module that moves its outputs by another group.
    """
    group = group_of(group)
    act_on_output = output_action(module, group, shifts)
    axes = len(shifts[0]) if shifts else 1 if x.dim() == 3 else 2
    if axes != 2 and len(group) > 1:
        raise ValueError(f"{group.name} turns images, and these are {layout(axes, 'batch, c')}; ask for 'c1'")
    if axes == 2 and x.dim() == 5 and x.shape[2] != len(group):
        raise ValueError(f"{group.name} has {len(group)} elements, but the maps have {x.shape[2]}")

    def moved(element: int, maps: Tensor) -> Tensor:
        return act(group, element, maps) if axes == 2 else maps

    def moved_output(element: int) -> Tensor:
        return act_on_output(y, element) if axes == 2 else y

    with evaluated(module):
        y = module(x)
        scale = max(float(y.norm()), 1e-300)
        errors = [
            [
                distance(module(shifted(moved(g, x), s)), moved_output(g), s, tuple(x.shape[-axes:])) / scale
                for s in (shifts or [(0,) * axes])
            ]
            for g in (range(len(group)) if elements is None else elements)
        ]
    found = torch.tensor(errors, dtype=torch.float64)
    return found if shifts is not None else found[:, 0]


@runtime_checkable
class HasMeasuredMaps(Protocol):
    """A network that says itself what its layers' maps are."""

    def measured_maps(self) -> Mapping[str, nn.Module]:
        """Maps from images to maps on the group, by the names to report them under."""


def group_to_measure(model: nn.Module) -> FiniteGroup:
    """The group that relaxed layers' maps carry, or the network's own; p4 where there is none."""
    for layer in relaxed_layers(model).values():
        if layer.group is not None:
            return layer.group
    own = getattr(network_within(model), "group", None)
    return own if isinstance(own, FiniteGroup) and len(own) > 1 else group_of("p4")


@torch.no_grad()
def equivariance_report(model: nn.Module, x: Tensor) -> dict[str, Any] | None:
    """Errors of every relaxed layer at its own inputs, and of the whole network.

    Of signals and volumes under shifts alone. A network may name the maps to measure instead
    (`HasMeasuredMaps`), from the image on. The group is that of the network or of its layers' paths, p4 if
    they have none.

    Returns:
        The `equivariance` of report.json: `group`, `exact`, `element_names`, the number of `images`, and for
        `layers` and `network` the relative errors `shift` (the worst over a few circular shifts) and
        `elements` (of each element without a shift). None for images that are not square, and for what is
        neither signal nor volume to the network's layers.
    """
    axes = x.dim() - 2
    if axes == 2 and x.shape[-1] != x.shape[-2]:
        return None
    if axes != 2 and axes not in {len(getattr(m, "in_size", ())) for m in relaxed_layers(model).values()}:
        return None
    chosen = group_to_measure(model) if axes == 2 else group_of("c1")
    inputs: dict[str, Tensor] = {}
    network = network_within(model)
    named = network.measured_maps() if isinstance(network, HasMeasuredMaps) else None
    layers: Mapping[str, nn.Module] = relaxed_layers(model) if named is None else named
    hooks = (
        []
        if named is not None
        else [
            layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
            for name, layer in layers.items()
        ]
    )
    try:
        with evaluated(model):
            model(x[:IMAGES])
    finally:
        for hook in hooks:
            hook.remove()

    def entry(name: str, module: nn.Module, maps: Tensor) -> dict[str, Any]:
        return {
            "name": name,
            "elements": equivariance_error(module, chosen, maps).tolist() if axes == 2 else [0.0],
            "shift": float(
                equivariance_error(module, chosen, maps, SHIFTS_BY_AXES[axes], elements=[0]).max()
            ),
        }

    found = [entry(name, layer, inputs.get(name, x[:IMAGES])) for name, layer in layers.items()]
    return {
        "group": chosen.name,
        "exact": chosen.exact,
        "element_names": chosen.labels,
        "images": min(IMAGES, len(x)),
        "layers": found,
        "network": entry("network", model, x[:IMAGES]),
    }
