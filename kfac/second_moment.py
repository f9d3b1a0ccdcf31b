"""Sums of outer products, kept as rows while those are fewer than their length.

A layer that uses its weight once a datum has one row a `[d]` a datum, so with n < d data its factor
A = sum a a^T `[d, d]` has rank n at most, and the n x n Gram matrix of the rows has all its nonzero
eigenvalues. Rows are the smaller store as well. From d rows on, they are summed and let go.

Axes: group, row, d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


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
    def of_rows(cls, rows: Tensor) -> Self:
        """Of rows `[group, row, d]`, copied if they are kept: a loader may use its buffer again."""
        if rows.shape[1] >= rows.shape[2]:
            return cls(rows.mT @ rows)
        return cls(None, (rows.clone(),))

    def _settled(self) -> Self:
        """Rows as they are while they are fewer than their length, their sum otherwise."""
        if self.summed is None and self.n_rows >= self.rows[0].shape[2]:
            return type(self)(self.to_dense())
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
        rows = torch.cat(self.rows, 1)
        return rows.mT @ rows

    def __add__(self, other: Self) -> Self:
        if self.summed is None and other.summed is None:
            return type(self)(None, self.rows + other.rows)._settled()
        return type(self)(self.to_dense() + other.to_dense())

    def projected(self, basis: Tensor) -> Self:
        """Sum (Phi a)(Phi a)^T for Phi `[d', d]`."""
        if self.summed is None:
            return type(self)(None, tuple(batch @ basis.mT for batch in self.rows))._settled()
        return type(self)(basis @ self.summed @ basis.mT)

    def smallest(self) -> Tensor:
        """A matrix `[group, k, k]`, float64, k <= d, with all nonzero eigenvalues of the sum."""
        if self.summed is not None:
            return self.summed.double()
        rows = torch.cat(self.rows, 1).double()
        return rows @ rows.mT
