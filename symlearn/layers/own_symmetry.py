"""A user's own finite group as a path that the evidence can choose: `register_symmetry`.

The path is `SymmetricLinear2d`: any map between feature maps that commutes with a group's exchanges of places
and of channels. Where a layer halves its map, and nothing else is said, the group is that of the output's
places, and the input moves in blocks: places (r, c) of block (r // s, c // s) keep their place within it.

Axes: batch, c_in, c_out, h, w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from symlearn.groups import on_cpu
from symlearn.layers.generators import (
    Action,
    Given,
    SignedPermutations,
    read_action,
)
from symlearn.layers.registry import PathKind, PathShape, register_path
from symlearn.layers.sizes import pair
from symlearn.layers.symmetric_linear import SymmetricLinear2d

OfSize = Callable[[int, int], Given]  # (h, w) -> generators on h w places, row by row
RESERVED = ("none", "shifts", "undecided")  # what verdicts say of layers by themselves


def register_symmetry(
    name: str,
    places: Given | OfSize | None = None,
    channels: Given | None = None,
    *,
    places_out: Given | OfSize | None = None,
    group: str | None = None,
    contains: Sequence[str] = (),
    symmetry: int = 2,
    words: str | None = None,
    colour: str = "",
) -> None:
    """Add a path that commutes with a group of one's own: from then on it is named wherever paths are.

    Args:
        name: of the path; see `register_path`.
        places: generators on the h w places of a map, row by row: permutations p with (g x)_i = x[p_i], or
            matrices; or a function of (h, w) that gives them, for networks with maps of several sizes. They
            act on all channels alike. None: places do not move.
        channels: generators on n channels, acting at all places alike and on every n neighbouring channels;
            layers need multiples of n. None: channels do not move.
        places_out: the action of the same generators on the places of a layer's output where it is smaller
            than the input; None: the group is that of the output's places, and the input moves in blocks.
        group: what verdicts and reports say such a layer commutes with; the path's name if not given.
        contains: what else this group contains, as verdicts name it, such as "shifts": a layer that needs a
            path of such a group beside this one commutes with that.
        symmetry: the path's place in the order of strictness: a search starts from the largest (f-fc 0,
            conv 1), and of paths that can stand in for each other the largest stays.
        words: what a layer of this path is, as an adjective.
        colour: of its figures, as hexadecimal digits.

    Raises:
        ValueError: neither places nor channels; generators that are none, where they are given as such; a
            name that is taken or cannot be used.
    """
    if places is None and channels is None:
        raise ValueError(f"path {name!r} moves nothing; give generators on places, on channels, or both")
    known = group or name
    if known in RESERVED:
        raise ValueError(f"verdicts say {known!r} of themselves; give the group another name")
    if symmetry < 1:
        raise ValueError(f"symmetry is a rank of at least 1 (0 commutes with nothing), got {symmetry!r}")
    for given, what in ((places, "places"), (places_out, "places_out"), (channels, "channels")):
        if given is not None and not callable(given):
            read_action(given, f"the action on {what} of path {name!r}")

    def build(shape: PathShape) -> nn.Module:
        on_in, on_out = actions_of_layer(places, places_out, pair(shape.in_size), pair(shape.out_size))
        return SymmetricLinear2d(
            shape.c_in, shape.c_out, shape.in_size, shape.out_size, on_in, on_out, channels
        )

    kind = PathKind(
        build,
        name.upper(),
        full_resolution=False,
        symmetry=symmetry,
        turns=known,
        contains=frozenset(contains),
        words=words or f"equivariant to {known}",
        colour=colour,
        family_colour="#6A3D9A",
    )
    register_path(name, kind)


def actions_of_layer(
    places: Given | OfSize | None,
    places_out: Given | OfSize | None,
    in_size: tuple[int, int],
    out_size: tuple[int, int],
) -> tuple[Given | None, Given | None]:
    """Settle how a group moves the places of a layer's input and output; see `register_symmetry`.

    Returns:
        Generators on the input's places and on the output's, row by row; None for both if no places move.

    Raises:
        ValueError: an output that does not divide the input and has no action of its own.
    """
    if places is None:
        return None, None
    if in_size == out_size:
        found = at_size(places, in_size)
        return found, found
    if places_out is not None:
        return at_size(places, in_size), at_size(places_out, out_size)
    if in_size[0] % out_size[0] or in_size[1] % out_size[1]:
        raise ValueError(
            f"a layer from {in_size[0]}x{in_size[1]} to {out_size[0]}x{out_size[1]} places has no blocks to "
            "move; give places_out, the action on the output"
        )
    small = read_action(at_size(places, out_size), "the action on places")
    return in_blocks(small, in_size, out_size), small


def at_size(places: Given | OfSize, size: tuple[int, int]) -> Given:
    """The generators at a size."""
    return places(*size) if callable(places) else places


@on_cpu
def in_blocks(action: Action, in_size: tuple[int, int], out_size: tuple[int, int]) -> Action:
    """Move blocks of the input's places as an action moves the output's places.

    Returns:
        The action on the input's h w places, of the same kind and generators; places keep their place within
        a block.

    Raises:
        ValueError: generators of another length.
    """
    v = out_size[0] * out_size[1]
    if action.d != v:
        raise ValueError(
            f"a layer puts out {out_size[0]}x{out_size[1]} places, and the group moves {action.d}; give "
            "places as a function of (h, w)"
        )
    members = blocks(in_size, out_size)  # [v, member]
    if isinstance(action, SignedPermutations):
        index, sign = (torch.empty(len(action), members.numel(), dtype=torch.int64) for _ in range(2))
        index[:, members] = members[action.index]
        sign[:, members] = action.sign.unsqueeze(2).expand(-1, -1, members.shape[1])
        return SignedPermutations(index, sign)
    same = torch.eye(members.shape[1], dtype=torch.float64)
    order = members.flatten().argsort()
    moved = torch.stack([torch.kron(m, same)[order][:, order] for m in action.matrices()])
    return type(action)(moved)


def blocks(in_size: tuple[int, int], out_size: tuple[int, int]) -> Tensor:
    """The input places of every output place's block, `[v, member]`."""
    (h, w), (rows, columns) = in_size, out_size
    grid = torch.arange(h * w).reshape(rows, h // rows, columns, w // columns)
    return grid.transpose(1, 2).reshape(rows * columns, -1)
