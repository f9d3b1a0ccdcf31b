"""Figures as their readers get them, for the tests of figures.

Axes: none.
"""

from __future__ import annotations

import io
import warnings

from matplotlib.figure import Figure


def rendered(figure: Figure) -> bytes:
    """The figure as PNG; any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()
