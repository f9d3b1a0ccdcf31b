"""Curvature blocks of single parameters, as raw sums that add over data.

The GGN block of a weight that is used at `rows` places (all data, all places), with inputs a and output
gradients g there, is approximated per group by

    H = A (x) B / rows,      A = sum a a^T  [group, d_in, d_in],   B = sum g g^T  [group, d_out, d_out]

(Martens & Grosse 2015; Grosse & Martens 2016; Eschenhagen et al. 2023). A and B are kept apart and
unnormalised: they add over batches and loaders, Kronecker products do not. A parameter's entries are
`[group, d_out, d_in]` up to a permutation of these three axes, `order`; blocks between groups are zero.
A bias has no input factor and its block is exact: B = sum (sum_r g)(sum_r g)^T, and H = B.

Axes: group, d_in, d_out, params.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from kfac.eigen import EigenBlock, EigenFactors, decompose_diagonal, decompose_kronecker
from kfac.eigen_shares import Task, decomposed, eigen_cost
from kfac.precision import sum_of
from kfac.process_groups import ranks_of
from kfac.second_moment import SecondMoment

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Order = tuple[int, int, int]


@dataclass(frozen=True)
class KroneckerBlock:
    """Raw Kronecker sums of one parameter.

    Attributes:
        inputs: A `[group, d_in, d_in]` as the sum or as the rows behind it, or None for a bias.
        output_factor: B `[group or 1, d_out, d_out]`; 1 when all groups share it.
        rows: number of (datum, place) pairs behind the sums.
        shape: the parameter's shape.
        order: the parameter, flattened, is `[group, d_out, d_in]` permuted by this.
    """

    inputs: SecondMoment | None
    output_factor: Tensor
    rows: int
    shape: torch.Size
    order: Order = (0, 1, 2)

    def __add__(self, other: Self) -> KroneckerBlock:
        if (self.shape, self.order) != (other.shape, other.order):
            raise ValueError(f"blocks of different parameters: {self.shape} and {other.shape}")
        a = None
        if self.inputs is not None and other.inputs is not None:
            a = self.inputs + other.inputs
        b = sum_of(self.output_factor, other.output_factor)
        return replace(self, inputs=a, output_factor=b, rows=self.rows + other.rows)

    def scaled(self, factor: float) -> KroneckerBlock:
        """The block of `factor` times as much data of the same kind."""
        return replace(self, output_factor=factor * self.output_factor)

    def projected(self, input_basis: Tensor | None, output_basis: Tensor | None) -> KroneckerBlock:
        """The block of a weight in a basis, from the block at the basis' points: Phi A Phi^T, Phi B Phi^T.

        Returns:
            A block of the basis' coefficients, differentiable in the bases `[d, point]`; a basis that is None
            leaves its side as it is.
        """
        inputs, b = self.inputs, self.output_factor
        if input_basis is not None and inputs is not None:
            inputs = inputs.projected(input_basis)
        if output_basis is not None:
            phi = output_basis.to(b.dtype)
            b = phi @ b @ phi.mT
        return replace(self, inputs=inputs, output_factor=b)

    @property
    def input_factor(self) -> Tensor | None:
        """A `[group, d_in, d_in]`, or None for a bias."""
        return None if self.inputs is None else self.inputs.to_dense()

    @property
    def groups(self) -> int:
        """Number of groups."""
        return 1 if self.inputs is None else self.inputs.groups

    @property
    def normaliser(self) -> int:
        """What A (x) B is divided by."""
        return 1 if self.inputs is None else max(self.rows, 1)

    def sides(self) -> tuple[Tensor, Tensor]:
        """Both factors of a block of one group, normalised.

        Returns:
            (A `[d, d]`, B `[d', d']`) with H = B (x) A in `parameter.flatten()` order.

        Raises:
            ValueError: several groups, or a bias.
        """
        a, b = self.input_factor, self.output_factor / self.normaliser
        if a is None or len(a) != 1:
            raise ValueError("only a weight with one group of factors can be used in several roles")
        kind = torch.promote_types(a.dtype, b.dtype)  # one may be rows of the network's type
        a, b = a.to(kind), b.to(kind)
        swapped = self.order.index(1) > self.order.index(2)
        return (b[0], a[0]) if swapped else (a[0], b[0])

    def to_dense(self) -> Tensor:
        """The block `[params, params]` in `parameter.flatten()` order. For tests."""
        a, b = self.input_factor, self.output_factor / self.normaliser
        if a is None:
            return b[0]
        blocks = [
            torch.kron(b[g % b.shape[0]], a[g]) for g in range(self.groups)
        ]  # row-major [d_out, d_in]: the output index is the slow one
        d_in, d_out = a.shape[-1], b.shape[-1]
        places = torch.arange(self.groups * d_out * d_in).reshape(self.groups, d_out, d_in)
        places = places.permute(self.order).flatten().to(b.device)
        return torch.block_diag(*blocks)[places][:, places]

    def to_groups(self, tensor: Tensor) -> Tensor:
        """Tensors `[*lead, *shape]` as `[*lead, group, d_out, d_in]`."""
        lead = tensor.shape[: tensor.dim() - len(self.shape)]
        if self.inputs is None:
            return tensor.reshape(*lead, 1, -1, 1)
        sizes = (self.groups, self.output_factor.shape[-1], self.inputs.size)
        inverse = [len(lead) + axis for axis in sorted(range(3), key=self.order.__getitem__)]
        stored = tensor.reshape(*lead, *(sizes[axis] for axis in self.order))
        return stored.permute(*range(len(lead)), *inverse)

    def from_groups(self, entries: Tensor) -> Tensor:
        """The way back: `[*lead, group, d_out, d_in]` as `[*lead, *shape]`."""
        lead = entries.shape[:-3]
        stored = entries.permute(*range(len(lead)), *(len(lead) + axis for axis in self.order))
        return stored.reshape(*lead, *self.shape)

    @property
    def cost(self) -> float:
        """Of a decomposition, relative to other blocks'."""
        by_output = eigen_cost(*self.output_factor.shape[:2])
        return by_output if self.inputs is None else by_output + eigen_cost(self.groups, self.inputs.size)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.output_factor.device

    def eigendecompose(self, vectors: bool = False) -> EigenBlock:
        """Float64 eigenvalues (and vectors) of the block."""
        return decompose_kronecker(self.inputs, self.output_factor, self.normaliser, self.groups, vectors)


@dataclass(frozen=True)
class NearestKroneckerBlock:
    """A weight that is used in several roles: a sum of Kronecker products, brought to the nearest single one.

    Roles differ in which side of the weight the inputs meet (`order`), so their rows cannot be summed. The
    products of all roles are kept as raw sums, which add over data; cross terms between roles are dropped.
    With H = sum_i B_i (x) A_i over the weight's two sides, the single product is

        B (x) A = (sum_i tr(A_i) B_i) (x) (sum_i tr(B_i) A_i) / sum_i tr(A_i) tr(B_i)

    the nearest in relative entropy: H's partial traces, scaled to its trace. It is exact where the products
    have one side in common.

    Attributes:
        uses: the blocks of the roles, each of one group.
    """

    uses: tuple[KroneckerBlock, ...]

    def __add__(self, other: Self) -> NearestKroneckerBlock:
        return replace(self, uses=tuple(a + b for a, b in zip(self.uses, other.uses, strict=True)))

    def scaled(self, factor: float) -> NearestKroneckerBlock:
        """The block of `factor` times as much data of the same kind."""
        return replace(self, uses=tuple(use.scaled(factor) for use in self.uses))

    @property
    def nearest(self) -> KroneckerBlock:
        """The single product."""
        sides = [use.sides() for use in self.uses]
        kind = max((a.dtype for a, _ in sides), key=lambda t: t.itemsize)
        sides = [(a.to(kind), b.to(kind)) for a, b in sides]
        trace_a = torch.stack([torch.trace(a) for a, _ in sides])
        trace_b = torch.stack([torch.trace(b) for _, b in sides])
        total = (trace_a * trace_b).sum()
        a = torch.einsum("u,uij->ij", trace_b, torch.stack([a for a, _ in sides]))
        b = torch.einsum("u,uij->ij", trace_a, torch.stack([b for _, b in sides]))
        b = b / total.clamp_min(torch.finfo(total.dtype).tiny)
        return KroneckerBlock(SecondMoment(a.unsqueeze(0)), b.unsqueeze(0), 1, self.shape)

    def to_dense(self) -> Tensor:
        """The single product `[params, params]` in `parameter.flatten()` order. For tests."""
        return self.nearest.to_dense()

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        return self.uses[0].shape

    @property
    def cost(self) -> float:
        """Of a decomposition, relative to other blocks'."""
        return self.uses[0].cost

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.uses[0].device

    def to_groups(self, tensor: Tensor) -> Tensor:
        """Tensors `[*lead, *shape]` as `[*lead, 1, d_out, d_in]`."""
        return self.nearest.to_groups(tensor)

    def from_groups(self, entries: Tensor) -> Tensor:
        """The way back: `[*lead, 1, d_out, d_in]` as `[*lead, *shape]`."""
        return self.nearest.from_groups(entries)

    def eigendecompose(self, vectors: bool = False) -> EigenBlock:
        """Float64 eigenvalues (and vectors) of the single product."""
        return self.nearest.eigendecompose(vectors)


@dataclass(frozen=True)
class DiagonalBlock:
    """The exact diagonal of a parameter's GGN block: the declared fallback.

    Attributes:
        diagonal: `[params]`, raw sum over data.
        shape: the parameter's shape.
    """

    diagonal: Tensor
    shape: torch.Size

    def __add__(self, other: Self) -> DiagonalBlock:
        return replace(self, diagonal=sum_of(self.diagonal, other.diagonal))

    def scaled(self, factor: float) -> DiagonalBlock:
        """The block of `factor` times as much data of the same kind."""
        return replace(self, diagonal=factor * self.diagonal)

    def to_dense(self) -> Tensor:
        """The block `[params, params]`. For tests."""
        return torch.diag(self.diagonal)

    def to_groups(self, tensor: Tensor) -> Tensor:
        """Tensors `[*lead, *shape]` as `[*lead, 1, params, 1]`."""
        return tensor.reshape(*tensor.shape[: tensor.dim() - len(self.shape)], 1, -1, 1)

    def from_groups(self, entries: Tensor) -> Tensor:
        """The way back: `[*lead, 1, params, 1]` as `[*lead, *shape]`."""
        return entries.reshape(*entries.shape[:-3], *self.shape)

    @property
    def cost(self) -> float:
        """Of a decomposition: there is nothing to do."""
        return 0.0

    @property
    def device(self) -> torch.device:
        """Where the sum is."""
        return self.diagonal.device

    def eigendecompose(self, vectors: bool = False) -> EigenBlock:
        """The diagonal itself; its eigenvectors are the axes."""
        return decompose_diagonal(self.diagonal)


Block = KroneckerBlock | NearestKroneckerBlock | DiagonalBlock


class KroneckerFactors(Mapping[str, Block]):
    """Curvature of a whole network: a block for every parameter, weights and biases alike.

    Args:
        blocks: one block a parameter name (as `model.named_parameters()` gives it).
        n_data: number of data behind the sums.
        log_likelihood: sum over the data of log p(y | f(x)) up to the likelihood's noise: for classification
            the log-likelihood itself, for regression -1/2 of the summed squared residuals. A tensor with a
            graph if the factors are differentiable.
        n_targets: number of scalar targets (data times outputs); regression's noise needs it.
    """

    def __init__(
        self,
        blocks: Mapping[str, Block],
        n_data: int,
        log_likelihood: float | Tensor = 0.0,
        n_targets: int = 0,
    ) -> None:
        self._blocks = dict(blocks)
        self.n_data = n_data
        self.log_likelihood = log_likelihood
        self.n_targets = n_targets

    def __getitem__(self, name: str) -> Block:
        try:
            return self._blocks[name]
        except KeyError:
            raise KeyError(f"no factors for {name!r}; there are: {', '.join(self._blocks)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in the model's order."""
        return tuple(self._blocks)

    def __add__(self, other: Self) -> KroneckerFactors:
        if self.names != other.names:
            missing = sorted(set(self.names) ^ set(other.names))
            raise ValueError(f"factors of different networks cannot be added; they differ in {missing}")
        return KroneckerFactors(
            {name: self[name] + other[name] for name in self},  # type: ignore[operator]
            self.n_data + other.n_data,
            self.log_likelihood + other.log_likelihood,
            self.n_targets + other.n_targets,
        )

    def scaled(self, factor: float) -> KroneckerFactors:
        """What `factor` times as much data of the same kind would give: a subset stands for its whole."""
        return KroneckerFactors(
            {name: block.scaled(factor) for name, block in self.items()},
            round(factor * self.n_data),
            factor * self.log_likelihood,
            round(factor * self.n_targets),
        )

    def to_dense(self, name: str) -> Tensor:
        """GGN block `[params, params]` of the summed negative log-likelihood, `parameter.flatten()` order."""
        return self[name].to_dense()

    def eigendecompose(
        self, vectors: bool = False, process_group: ProcessGroup | None = None
    ) -> EigenFactors:
        """Decompose every block.

        Args:
            vectors: whether to keep the basis.
            process_group: of `torch.distributed`, whose processes hold the same factors: the blocks are
                shared out by size, and all processes return the same numbers, without a graph.

        Returns:
            Float64 eigenvalues of every block; with `vectors`, the Kronecker eigenbasis as well.

        Raises:
            ValueError: with a process group, factors that differ in names or sizes, on every process.
        """
        ranks = ranks_of(process_group)
        tasks = {
            name: Task(block.cost, functools.partial(block.eigendecompose, vectors))
            for name, block in self.items()
        }
        device = next((block.device for block in self.values()), torch.device("cpu"))
        return decomposed(ranks, tasks, device)
