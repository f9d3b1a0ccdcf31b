"""Finite groups of rotations and mirrors of the plane, and how they act on square grids and group maps.

Places are (row, column) about the grid's centre. An element h is a 2 x 2 orthogonal matrix M_h; it moves an
image by (h f)(x) = f(h^-1 x), and a function on the group by (h f)(g) = f(h^-1 g), its regular representation
(Cohen & Welling 2016). Elements are numbered from 0, the identity; of C_n the k-th turns by 360 k / n degrees
counterclockwise (as `torch.rot90` does), of D_n elements n .. 2n - 1 mirror left and right first.

An element whose matrix has entries 0 and +-1 only permutes the points of a square grid of any size, odd or
even: its action is exact. Other rotations of maps are interpolated (bilinear) inside the largest disc;
filters need no such thing (`layers/steerable_basis.py`).

Axes: group (element), point, tap, row-column, batch, c, h, w.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

TOLERANCE = 1e-9
P = ParamSpec("P")
R = TypeVar("R")


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Tables of groups are small and made on the CPU, also while a network is built on another device."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapped


class FiniteGroup:
    """A finite group of orthogonal 2 x 2 matrices.

    Args:
        name: what the group is called.
        matrices: of all elements, `[group, 2, 2]`, on (row, column); the identity first.

    Attributes:
        matrices: `[group, 2, 2]` float64.
        product: `[group, group]`, the number of g h.
        inverse: `[group]`, the number of g^-1.

    Raises:
        ValueError: matrices that are not orthogonal, not different, not closed, or do not begin with the
            identity.
    """

    @on_cpu
    def __init__(self, name: str, matrices: Tensor | Sequence[Sequence[Sequence[float]]]) -> None:
        self.name = name
        self.matrices = torch.as_tensor(matrices, dtype=torch.float64)
        if self.matrices.dim() != 3 or self.matrices.shape[1:] != (2, 2) or not len(self.matrices):
            raise ValueError(f"a group needs matrices [group, 2, 2], got {list(self.matrices.shape)}")
        eye = torch.eye(2, dtype=torch.float64)
        gram = self.matrices.mT @ self.matrices
        if not torch.allclose(gram, eye.expand_as(gram), atol=TOLERANCE):
            raise ValueError(f"the elements of {name!r} must be orthogonal matrices: rotations and mirrors")
        if not torch.allclose(self.matrices[0], eye, atol=TOLERANCE):
            raise ValueError(f"the first element of {name!r} must be the identity")
        self._actions: dict[tuple[int, int], Tensor] = {}  # what `element_action` has computed
        self.product = self._products()
        self.inverse = (self.product == 0).int().argmax(1)

    def _products(self) -> Tensor:
        """The multiplication table, from the matrices."""
        flat = self.matrices.flatten(1)
        if (torch.cdist(flat, flat) + torch.eye(len(flat)) < 1e-6).any():
            raise ValueError(f"two elements of {self.name!r} are the same")
        products = torch.einsum("aij,bjk->abik", self.matrices, self.matrices).flatten(2)
        distance = (products.unsqueeze(2) - flat).norm(dim=3)
        if float(distance.amin(2).max()) > 1e-6:
            g, h = divmod(int(distance.amin(2).argmax()), len(flat))
            raise ValueError(f"{self.name!r} is not closed: element {g} times element {h} is missing")
        return distance.argmin(2)

    def __len__(self) -> int:
        return len(self.matrices)

    def __repr__(self) -> str:
        return f"FiniteGroup({self.name!r}, {len(self)} elements)"

    @property
    @on_cpu
    def labels(self) -> list[str]:
        """What each element does, such as "0°", "90°", "mirror" and "mirror, 90°" (mirrored first)."""
        mirror = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
        found = []
        for matrix in self.matrices:
            mirrored = float(torch.linalg.det(matrix)) < 0
            turn = matrix @ mirror if mirrored else matrix
            angle = f"{round(math.degrees(math.atan2(float(turn[1, 0]), float(turn[0, 0]))), 1) % 360:g}°"
            found.append(angle if not mirrored else "mirror" if angle == "0°" else f"mirror, {angle}")
        return found

    @property
    def exact(self) -> bool:
        """Whether every element only permutes grid points: quarter turns and mirrors."""
        return all(self.permutes(g) for g in range(len(self)))

    def permutes(self, element: int) -> bool:
        """Whether an element only permutes grid points."""
        matrix = self.matrices[element]
        return bool(((matrix - matrix.round()).abs() < TOLERANCE).all())

    @on_cpu
    def element_action(self, element: int, size: int) -> Tensor:
        """Where (h f)(x) comes from on a size x size grid, for one element.

        Returns:
            For an element that permutes grid points, index `[point]` with (h f)(x) = f(index[x]); otherwise T
            `[point, point]` float64 with (h f)(x) = sum_y T[x, y] f(y), bilinear interpolation inside the
            disc that fits the grid and zero outside.
        """
        if (element, size) not in self._actions:
            centre = (size - 1) / 2
            axis = torch.arange(size, dtype=torch.float64) - centre
            points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)  # [point, 2]
            sources = points @ self.matrices[element]  # h^-1 x, since M^-1 = M^T
            if self.permutes(element):
                places = (sources + centre).round().long()
                self._actions[element, size] = places[:, 0] * size + places[:, 1]
            else:
                self._actions[element, size] = interpolation_matrix(points, sources, size)
        return self._actions[element, size]

    @on_cpu
    def grid_action(self, size: int) -> Tensor:
        """T `[group, point, point]` float64 with (h f)(x) = sum_y T[h, x, y] f(y) on a size x size grid."""
        eye = torch.eye(size**2, dtype=torch.float64)
        actions = [self.element_action(g, size) for g in range(len(self))]
        return torch.stack([eye[a] if self.permutes(g) else a for g, a in enumerate(actions)])

    def grid_permutation(self, size: int) -> Tensor:
        """How a group that permutes grid points moves functions on a size x size grid.

        Returns:
            Index `[group, point]` with (h f)(x) = f(index[h, x]).

        Raises:
            ValueError: the group has elements that interpolate.
        """
        if not self.exact:
            raise ValueError(f"{self.name} has elements that do not permute grid points; use grid_action")
        return torch.stack([self.element_action(g, size) for g in range(len(self))])

    def regular_permutation(self) -> Tensor:
        """Index `[group, group]` with (h f)(g) = f(index[h, g]) = f(h^-1 g)."""
        return self.product[self.inverse]

    def act_on_image(self, x: Tensor, element: int) -> Tensor:
        """Move maps `[..., h, w]` with h = w by one element.

        Returns:
            (h x)(p) = x(h^-1 p), of the same shape and type; the interpolation of other than quarter turns
            and mirrors is done in float64.

        Raises:
            ValueError: the map is not square.
        """
        h, w = x.shape[-2:]
        if h != w:
            raise ValueError(f"{self.name} acts on square maps, got {h}x{w}; crop or pad them to squares")
        action = self.element_action(element, h).to(x.device)
        if self.permutes(element):
            return x.flatten(-2)[..., action].unflatten(-1, (h, w))
        return (x.flatten(-2).double() @ action.T).to(x.dtype).unflatten(-1, (h, w))

    def act_on_regular(self, x: Tensor, element: int) -> Tensor:
        """(h x)(g, p) = x(h^-1 g, h^-1 p) for group maps `[batch, c, group, h, w]`."""
        order = self.regular_permutation()[element].to(x.device)
        return self.act_on_image(x[..., order, :, :], element)

    @on_cpu
    def subgroup(self, elements: Sequence[int]) -> FiniteGroup:
        """The subgroup of some elements, by number; the identity first.

        Returns:
            A group of its own, whose element k is the k-th of those given.

        Raises:
            ValueError: they are no subgroup.
        """
        chosen = list(elements)
        if not all(0 <= g < len(self) for g in chosen):
            raise ValueError(f"{self.name} has elements 0 to {len(self) - 1}, got {chosen}")
        return FiniteGroup(f"subgroup of {self.name}", self.matrices[chosen])

    @on_cpu
    def cosets(self, elements: Sequence[int]) -> Tensor:
        """The left cosets g K of a subgroup K.

        Returns:
            Numbers of elements, int64 `[coset, |K|]`; K itself first.

        Raises:
            ValueError: the elements are no subgroup.
        """
        self.subgroup(elements)
        seen: set[int] = set()
        found = []
        for g in range(len(self)):
            if g not in seen:
                coset = self.product[g, list(elements)].tolist()
                seen.update(coset)
                found.append(coset)
        return torch.tensor(found)


def interpolation_matrix(points: Tensor, sources: Tensor, size: int) -> Tensor:
    """Rows that interpolate bilinearly at each source `[point, 2]` (centred), zero outside the disc."""
    centre = (size - 1) / 2
    inside = points.norm(dim=1) <= size / 2
    places = sources + centre
    low = places.floor()
    matrix = torch.zeros(len(points), size * size, dtype=torch.float64)
    rows = torch.arange(len(points))
    for down in (0, 1):
        for right in (0, 1):
            corner = low + torch.tensor([down, right], dtype=torch.float64)
            weight = (1 - (places - corner).abs()).prod(1) * inside
            within = ((corner >= 0) & (corner < size)).all(1)
            index = corner.clamp(0, size - 1).long()
            matrix[rows, index[:, 0] * size + index[:, 1]] += weight * within
    return matrix


def rotation(turns: float) -> list[list[float]]:
    """The matrix that turns counterclockwise by a number of full turns, on (row, column)."""
    angle = 2 * math.pi * turns
    cos, sin = math.cos(angle), math.sin(angle)
    cos, sin = (round(v) if abs(v - round(v)) < TOLERANCE else v for v in (cos, sin))
    return [[cos, -sin], [sin, cos]]


@on_cpu
def cyclic(n: int) -> FiniteGroup:
    """C_n: rotations by multiples of 360 / n degrees."""
    return FiniteGroup(f"c{n}", [rotation(k / n) for k in range(n)])


@on_cpu
def dihedral(n: int) -> FiniteGroup:
    """D_n: the rotations of C_n, and each of them after a mirror of left and right."""
    turns = torch.tensor([rotation(k / n) for k in range(n)], dtype=torch.float64)
    mirror = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    return FiniteGroup(f"d{n}", torch.cat([turns, turns @ mirror]))


_KNOWN: dict[str, FiniteGroup] = {}


def register_group(group: FiniteGroup) -> None:
    """Let a group be found by its name, as in the path `gconv-<name>`.

    Raises:
        ValueError: the name is one of ours, or not made of lower-case letters and digits.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*", group.name) or _built_in(group.name):
        raise ValueError(
            f"cannot register a group as {group.name!r}; use other lower-case letters and digits"
        )
    _KNOWN[group.name] = group
    find_group.cache_clear()


def _built_in(name: str) -> FiniteGroup | None:
    if name in ("p4", "p4m"):
        found = cyclic(4) if name == "p4" else dihedral(4)
        found.name = name
        return found
    match = re.fullmatch(r"([cd])([1-9][0-9]?)", name)
    if match is None:
        return None
    return (cyclic if match[1] == "c" else dihedral)(int(match[2]))


@cache
def find_group(name: str) -> FiniteGroup:
    """A group by name: p4, p4m, c2, c6, d3, ... or a registered one.

    Returns:
        A group of the plane; one object a name, so that its tables are made once.

    Raises:
        ValueError: no such group.
    """
    found = _KNOWN.get(name) or _built_in(name)
    if found is None:
        own = "".join(f", {known}" for known in _KNOWN)
        raise ValueError(f"unknown group {name!r}; choose p4, p4m, c<n>, d<n>{own}")
    return found


def group_of(group: str | FiniteGroup) -> FiniteGroup:
    """The group itself, or the one of that name."""
    return find_group(group) if isinstance(group, str) else group
