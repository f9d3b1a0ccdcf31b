"""The starts of a fit: how a network begins, and what is tried when it learns nothing.

A start is dead when its loss has not left the constant predictor's after `PROBE` steps, or when at its end
the evidence still prefers the constant predictor. Then the next one is tried: other initial values, a lower
rate, and under the search more than the strictest paths, since a task may break their symmetry (where is
it?). The best by evidence goes on; if none is better than the constant predictor, nothing was learned.

A start that ends before `PROBE` steps may have no evidence yet. If its loss has fallen clearly, or after less
than `BRIEF` steps, it goes on as it is; else the next one is tried, and of several that hardly moved the one
of lowest loss goes on.

Axes: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from symlearn.layers.orbit_average import network_within

PROBE = 1000  # steps
BRIEF = 250  # steps
CLEARLY = 0.1  # part of the constant predictor's loss
ALL = 10**6  # layers


@dataclass(frozen=True)
class Start:
    """One way to begin.

    Attributes:
        rate: factor of the learning rate.
        redraw: whether initial values are drawn anew, if the network can.
        open_layers: under the search, how many of the last layers have all their paths from the start.
    """

    rate: float = 1.0
    redraw: bool = False
    open_layers: int = 0

    @property
    def words(self) -> str:
        """In words: what is different about it."""
        opened = {0: "", ALL: "all paths in every layer"}.get(self.open_layers, "all paths in the last layer")
        drawn = "other initial values" if self.redraw else ""
        rate = "" if self.rate == 1 else f"learning rate times {self.rate:g}"
        return ", ".join(part for part in (drawn, rate, opened) if part) or "as configured"


def planned_starts(selection: str, choices: bool) -> list[Start]:
    """Plan what is tried if the fit does not learn.

    Args:
        selection: of the configuration.
        choices: whether any layer has more than one path.

    Returns:
        Starts in the order they are tried; the first is the network as it was built.
    """
    first = [Start(), Start(0.25, True)]
    if selection == "search" and choices:
        return [*first, Start(0.5, True, 1), Start(0.25, True, ALL)]
    return [*first, Start(0.0625, True)]


@runtime_checkable
class Redrawn(Protocol):
    """A network that draws its initial values anew and settles their scale."""

    def redraw(self, seed: int) -> None:
        """Draw all initial values anew."""

    def settle_scale(self) -> None:
        """Scale untouched initial values so that the signal keeps its size."""


def settle_scale(model: nn.Module) -> None:
    """Settle the scale of a network that can; leave others as they are."""
    network = network_within(model)
    if isinstance(network, Redrawn):
        network.settle_scale()


def redraw(model: nn.Module, seed: int) -> bool:
    """Draw a network's initial values anew if it can; others, such as relaxed ones, keep their weights."""
    network = network_within(model)
    if not isinstance(network, Redrawn):
        return False
    network.redraw(seed)
    return True
