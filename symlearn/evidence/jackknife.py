"""How far a function of sums over M of N data lies from the same function of all N: its error and its bias.

The M data are drawn without replacement and divided into k chunks of equal size m. With f the value from all
chunks (every sum N / M times) and f_c the value from all but chunk c (N / (M - m) times), the jackknife that
deletes a group (Quenouille 1956; Tukey 1958; Shao & Tu 1995, section 2.3), with the correction for a finite
population 1 - M / N (Cochran 1977, equation 2.20), says of f - f_N

    standard error^2 = (1 - M / N) (k - 1) / k sum_c (f_c - mean f_c)^2      with k - 1 degrees of freedom
    bias             = (1 - M / N) (k - 1) (mean f_c - f)

Both are zero at M = N, where f is the full value itself. For a sum over data the error is the usual one and
the bias zero. Bias is what falls as 1 / M; log determinants of factors whose rank grows with M, or whose
eigenvalues lie far below their standard error, have more of it than that.

Axes: chunk, and any that the quantity has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNKS = 8  # a power of two: chunks are merged by pairs


@dataclass(frozen=True)
class Jackknife:
    """A quantity from a part of the data.

    Attributes:
        whole: f `[...]`, float64, from all chunks.
        without: f_c `[chunk, ...]`, from all but one.
        part: M / N.
    """

    whole: Tensor
    without: Tensor
    part: float

    @property
    def chunks(self) -> int:
        """How many."""
        return len(self.without)

    @property
    def standard_error(self) -> Tensor:
        """Of `whole` about the value from all data `[...]`."""
        k = self.chunks
        deviations = self.without - self.without.mean(0)
        return ((1 - self.part) * (k - 1) / k * deviations.square().sum(0)).sqrt()

    @property
    def bias(self) -> Tensor:
        """Of `whole`, to first order in 1 / M `[...]`."""
        return (1 - self.part) * (self.chunks - 1) * (self.without.mean(0) - self.whole)

    @property
    def corrected(self) -> Tensor:
        """`whole` without its bias `[...]`."""
        return self.whole - self.bias


def standard_error_of(deviations: Sequence[float], part: float) -> float:
    """The standard error of a number from its f_c - mean f_c, a chunk each."""
    values = torch.tensor(deviations, dtype=torch.float64)
    return float(Jackknife(torch.zeros((), dtype=torch.float64), values, part).standard_error)
