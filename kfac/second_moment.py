"""Sums of outer products, kept as rows while those are fewer than their length.

A layer that uses its weight once a datum has one row a `[d]` a datum, so with n < d data its factor
A = sum a a^T `[d, d]` has rank n at most, and the n x n Gram matrix of the rows has all its nonzero
eigenvalues. Rows are the smaller store as well. From d rows on, they are summed and let go.

Rows are kept in the network's type, their products formed in float32 at least, and sums of sums kept as
`kfac.precision` says.

Axes: group, row, d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kfac.precision import accumulated, sum_of, working


@dataclass(frozen=True)
class SecondMoment:
    """sum a a^T of every group, as the sum itself or as the rows behind it.

    Attributes:
        summed: `[group, d, d]`, or None while rows are kept.
        rows: batches of rows `[group, row, d]`; empty once they are summed.
    """

    summed: Tensor | None
    rows: tuple[Tensor, ...] = ()

    @classmethod
    def of_rows(cls, rows: Tensor, kept: torch.dtype | None = None) -> Self:
        """Take rows `[group, row, d]`.

        Args:
            rows: of any type.
            kept: the type in which rows are kept, their own if not given.

        Returns:
            Their sum, or a copy of them while they are few: a loader may use its buffer again.
        """
        if rows.shape[1] >= rows.shape[2]:
            return cls(gram(rows))
        return cls(None, (rows.to(kept or rows.dtype, copy=True),))

    def _settled(self) -> Self:
        """Rows as they are while they are fewer than their length, their sum otherwise."""
        if self.summed is None and self.n_rows >= self.rows[0].shape[2]:
            return type(self)(accumulated(None, self.to_dense()))
        return self

    @property
    def n_rows(self) -> int:
        """Number of rows kept, per group."""
        return sum(batch.shape[1] for batch in self.rows)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return (self.rows[0] if self.summed is None else self.summed).shape[0]

    @property
    def size(self) -> int:
        """Length d of a row."""
        return (self.rows[0] if self.summed is None else self.summed).shape[2]

    def to_dense(self) -> Tensor:
        """The sum, `[group, d, d]`."""
        if self.summed is not None:
            return self.summed
        return gram(torch.cat(self.rows, 1))

    def __add__(self, other: Self) -> Self:
        if self.summed is None and other.summed is None:
            return type(self)(None, self.rows + other.rows)._settled()
        return type(self)(sum_of(self.to_dense(), other.to_dense()))

    def absorbed(self, other: Self) -> Self:
        """The sum of both, in this one's memory: of use to whoever holds the only reference to it."""
        if self.summed is None and other.summed is None:
            return self + other
        own = accumulated(None, self.to_dense()) if self.summed is None else self.summed
        return type(self)(accumulated(own, other.to_dense()))

    def owned(self) -> Self:
        """The same in memory of its own, in the type of sums."""
        return self if self.summed is None else type(self)(accumulated(None, self.summed))

    def projected(self, basis: Tensor) -> Self:
        """Sum (Phi a)(Phi a)^T for Phi `[d', d]`."""
        if self.summed is None:
            phi = working(basis)
            return type(self)(None, tuple(working(batch) @ phi.mT for batch in self.rows))._settled()
        phi = basis.to(self.summed.dtype)
        return type(self)(phi @ self.summed @ phi.mT)

    def smallest(self) -> Tensor:
        """A matrix `[group, k, k]`, float64, k <= d, with all nonzero eigenvalues of the sum."""
        if self.summed is not None:
            return self.summed.double()
        rows = torch.cat(self.rows, 1).double()
        return rows @ rows.mT


def gram(rows: Tensor) -> Tensor:
    """Sum of outer products of rows `[group, row, d]`, in float32 at least, `[group, d, d]`."""
    rows = working(rows)
    return rows.mT @ rows
