"""What a module must offer to be a path of a relaxed layer.

Axes: batch, c_in, c_out, size.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from symlearn.layers.sizes import Size


@runtime_checkable
class Path(Protocol):
    """A linear map between feature maps whose weights can be drawn anew and whose output can be scaled."""

    def __call__(self, x: Tensor) -> Tensor:
        """`[batch, c_in, *size] -> [batch, c_out, *size']`."""

    def reset_parameters(self) -> None:
        """Draw the initial values."""

    def scale_output_(self, factor: float) -> None:
        """Scale the linear part of the output in place."""

    def to_dense(self, in_size: Size | None = None) -> Tensor:
        """The linear part as a matrix `[c_out * v, c_in * x]`."""
