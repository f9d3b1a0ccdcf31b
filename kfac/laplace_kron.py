"""Grouped Kronecker factors that speak laplace-torch's `Kron` and `KronDecomposed`.

laplace-torch keeps a curvature as H and, once decomposed, the posterior precision as

    P_t = scale * H_t + delta_t I,      scale = 1 / (sigma_noise^2 temperature)

for every parameter t in `model.parameters()` order, and asks for P^e W, log det P and diagonals. Its own
classes hold one pair of matrices a parameter; these hold our blocks, groups kept apart and never expanded.
`kfacs`, what is serialised, is plain tensors: [B, A, rows] of a weight (one after the other of one in several
roles), [B] of a bias, [diagonal] of a diagonal block.

Axes: batch, classes, params, group, d_out, d_in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from laplace.utils.matrix import Kron, KronDecomposed
from torch import Tensor

from kfac.eigen import EigenFactors
from kfac.factors import Block, DiagonalBlock, KroneckerBlock, KroneckerFactors, NearestKroneckerBlock
from kfac.second_moment import SecondMoment


def tensors_of(block: Block) -> list[Tensor]:
    """A block's raw sums."""
    if isinstance(block, DiagonalBlock):
        return [block.diagonal]
    if isinstance(block, NearestKroneckerBlock):
        return [tensor for use in block.uses for tensor in tensors_of(use)]
    if block.inputs is None:
        return [block.output_factor]
    return [block.output_factor, block.inputs.to_dense(), torch.tensor(block.rows)]


def block_of(tensors: list[Tensor], like: Block) -> Block:
    """The block with these sums, in shape and order of another."""
    if isinstance(like, DiagonalBlock):
        return replace(like, diagonal=tensors[0])
    if isinstance(like, NearestKroneckerBlock):
        each = len(tensors) // len(like.uses)
        parts = [tensors[i * each : (i + 1) * each] for i in range(len(like.uses))]
        uses = (block_of(part, use) for part, use in zip(parts, like.uses, strict=True))
        return replace(like, uses=tuple(cast(KroneckerBlock, use) for use in uses))
    if len(tensors) == 1:
        return replace(like, output_factor=tensors[0], inputs=None, rows=0)
    return replace(like, output_factor=tensors[0], inputs=SecondMoment(tensors[1]), rows=int(tensors[2]))


class GroupedKron(Kron):
    """Raw sums of a whole network.

    Args:
        factors: the sums; for an empty one, blocks of the right shape and order.
        empty: whether no data have been added yet.
    """

    def __init__(self, factors: KroneckerFactors, empty: bool = False) -> None:
        self.factors, self.empty = factors, empty

    @property
    def kfacs(self) -> Any:  # type: ignore[override]
        """The sums as plain tensors."""
        return [tensors_of(block) for block in self.factors.values()]

    @kfacs.setter
    def kfacs(self, tensors: Any) -> None:
        names = self.factors.names
        if len(tensors) != len(names):
            raise ValueError(
                f"stored factors of {len(tensors)} parameters do not fit a model of {len(names)}"
            )
        blocks = {
            name: block_of(stored, self.factors[name]) for name, stored in zip(names, tensors, strict=True)
        }
        self.factors, self.empty = KroneckerFactors(blocks, self.factors.n_data), False

    def __add__(self, other: Kron) -> GroupedKron:
        if not isinstance(other, GroupedKron):
            raise ValueError(f"grouped factors add to grouped factors only, got {type(other).__name__}")
        if self.empty or other.empty:
            return other if self.empty else self
        return GroupedKron(self.factors + other.factors)

    def __mul__(self, scalar: float | Tensor) -> GroupedKron:
        return GroupedKron(self.factors.scaled(float(scalar)))

    __radd__ = __add__
    __rmul__ = __mul__

    def __len__(self) -> int:
        return len(self.factors)

    def decompose(self, damping: bool = False) -> GroupedKronDecomposed:
        """Eigenvalues and vectors of every block."""
        if damping:
            raise ValueError("damping mixes prior and curvature and is not offered here; use damping=False")
        return GroupedKronDecomposed(self.factors, self.factors.eigendecompose(vectors=True))

    def _bmm(self, W: Tensor) -> Tensor:
        return self.decompose()._bmm(W, exponent=1)

    def logdet(self) -> Tensor:
        """Log det H."""
        return self.decompose().logdet()

    def diag(self) -> Tensor:
        """Diagonal of H, `[params]`."""
        return self.decompose().diag()

    def to_matrix(self) -> Tensor:
        """H `[params, params]`. For tests."""
        return torch.block_diag(*[block.to_dense() for block in self.factors.values()])


class GroupedKronDecomposed(KronDecomposed):
    """scale * H + delta, in the Kronecker eigenbasis.

    Args:
        factors: the blocks, of which only shapes and orders are used.
        eigen: their spectra with vectors, corrected or not.
        deltas: one addend a parameter, `[parameters]`.
        scale: of the eigenvalues.
    """

    def __init__(
        self,
        factors: KroneckerFactors,
        eigen: EigenFactors,
        deltas: Tensor | None = None,
        scale: Tensor | float = 1.0,
    ) -> None:
        self.factors, self.eigen, self.scale, self.damping = factors, eigen, scale, False
        values = next(iter(eigen.eigenvalues.values()))
        self.deltas = values.new_zeros(len(factors)) if deltas is None else deltas

    def __len__(self) -> int:
        return len(self.factors)

    def __add__(self, deltas: Tensor) -> GroupedKronDecomposed:
        self._check_deltas(deltas)
        return GroupedKronDecomposed(self.factors, self.eigen, self.deltas + deltas, self.scale)

    def __mul__(self, scalar: float | Tensor) -> GroupedKronDecomposed:
        return GroupedKronDecomposed(self.factors, self.eigen, self.deltas, self.scale * scalar)

    __radd__ = __add__
    __rmul__ = __mul__

    def with_spectra(self, eigen: EigenFactors) -> GroupedKronDecomposed:
        """The same with other spectra, such as corrected ones."""
        return GroupedKronDecomposed(self.factors, eigen, self.deltas, self.scale)

    @property
    def eigenvalues(self) -> list[Tensor]:  # type: ignore[override]
        """Of P, parameter by parameter, `[params]`."""
        return [
            self.scale * values + delta
            for values, delta in zip(self.eigen.eigenvalues.values(), self.deltas, strict=True)
        ]

    def logdet(self) -> Tensor:
        """Log det P."""
        return torch.stack([values.log().sum() for values in self.eigenvalues]).sum()

    def _bmm(self, W: Tensor, exponent: float = -1) -> Tensor:
        sizes = [block.shape.numel() for block in self.factors.values()]
        parts = []
        for name, rows, values in zip(self.factors, W.split(sizes, 2), self.eigenvalues, strict=True):
            block, eigen = self.factors[name], self.eigen.blocks[name]
            entries = block.to_groups(rows.reshape(*rows.shape[:2], *block.shape))
            turned = eigen.entries(eigen.coordinates(entries) * values.pow(exponent), entries)
            parts.append(block.from_groups(turned).reshape(rows.shape))
        return torch.cat(parts, 2).to(W.dtype)

    def diag(self, exponent: float = 1) -> Tensor:
        """Diagonal of P^exponent, `[params]`."""
        parts = []
        for (name, block), values in zip(self.factors.items(), self.eigenvalues, strict=True):
            shape = block.to_groups(values.new_empty(block.shape)).shape
            diagonal = self.eigen.blocks[name].quadratic_diagonal(values.pow(exponent).reshape(shape))
            parts.append(block.from_groups(diagonal).flatten())
        return torch.cat(parts)

    def to_matrix(self, exponent: float = 1) -> Tensor:
        """P^exponent `[params, params]`. For tests."""
        size = sum(block.shape.numel() for block in self.factors.values())
        identity = torch.eye(size, dtype=self.deltas.dtype, device=self.deltas.device)
        return self._bmm(identity.unsqueeze(0), exponent)[0]
