"""Libraries that only some uses need: `pip install 'symlearn[export]'` and the like.

Axes: none.
"""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtraError(ValueError, ImportError):
    """A library of an extra is not installed; one line says how to install it."""


def need(extra: str, what: str, *libraries: str) -> None:
    """Refuse early what cannot work without the libraries of an extra.

    Args:
        extra: its name in pyproject.toml.
        what: that needs them, as the subject of a sentence in the plural.
        libraries: top-level modules.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{what} need {' and '.join(missing)}; install with: pip install 'symlearn[{extra}]'"
        )
