"""What a curvature pass can fail on besides wrong input."""

from __future__ import annotations


class NonFiniteError(ValueError):
    """Outputs or factors overflowed: the network has diverged. One line."""
