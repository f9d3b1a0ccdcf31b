"""The guard of a phase: a state to come back to, and when a later one is not to be believed.

Weights and precisions are stepped in turn, and neither turn sees what it does to the other. Adam at a rate
that suited the start may throw away a network whose gradients have become small (on separable data all of
them do); precisions that follow such a state, or outrun it, switch off what was needed. What all of this has
in common is that the training loss rises by more than anybody promised. So a state is kept where precisions
are about to move (and, while they wait, where it is the best so far), and a later epoch is at fault when

- its loss is not finite, or
- it is back at the constant predictor's although the kept state was well below (a collapse), or
- it lies above the kept state's by more than the evidence gained when the precisions moved, and `SLACK`.

While precisions wait, a later state is kept in place of an earlier one only if its loss, or its MAP
objective, is lower: else an explosion, which takes some epochs, would be kept on its way.

Axes: none.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from symlearn.layers.structure import layer_paths
from symlearn.training.state import FitState

MOST = 8  # setbacks after which a phase ends
SLACK = 0.15, 1.0  # rise of the loss that is noise: of the constant predictor's loss, and of the state's own
LEARNED, BACK = 0.9, 0.98  # parts of the constant predictor's loss: clearly below it, and as good as there
QUIET = 1e-2  # effective parameters below which a layer says nothing


@dataclass
class Guard:
    """The kept state and what it was worth.

    Attributes:
        safe: the state, saved, or None: nothing is kept yet.
        loss: its mean training loss.
        objective: the same with the prior's term, in nats an image.
        promise: rise of the loss, in nats an image, that the last step of the precisions announced.
        setbacks: how often it was needed.
    """

    safe: dict[str, Any] | None = None
    loss: float = 0.0
    objective: float = 0.0
    promise: float = 0.0
    setbacks: int = 0

    def renew(self, state: FitState, loss: float) -> None:
        """Keep a state."""
        self.safe, self.loss, self.promise = state.saved(), loss, 0.0
        self.objective = loss + state.prior_loss()

    def improved(self, state: FitState, loss: float) -> bool:
        """Whether a state is no worse than the kept one, by its loss or with the prior's term."""
        return self.safe is None or loss <= self.loss or loss + state.prior_loss() <= self.objective

    def fault(self, loss: float, chance: float) -> str | None:
        """What is wrong with an epoch of this loss, in words, or None; `chance`: the constant predictor's."""
        if self.safe is None:
            return None
        if self.loss < LEARNED * chance and loss > BACK * chance:
            return f"the loss went from {self.loss:.3g} back to the constant predictor's, {chance:.3g}"
        allowed = self.loss * (1 + SLACK[1]) + SLACK[0] * chance + self.promise
        if loss > allowed:
            return f"the loss rose from {self.loss:.3g} to {loss:.3g}, {allowed:.3g} at most was expected"
        return None

    def saved(self) -> dict[str, Any]:
        """As plain values, for checkpoints."""
        return copy.deepcopy(vars(self))


def quiet_layers(state: FitState) -> list[str]:
    """Find layers whose switched-on paths all have next to no effective parameters.

    A declared diagonal of no such layer is left alone: it may be added to maps, which then still pass.

    Returns:
        Their names, first to last; empty for a sound network.
    """
    quiet, free = [], state.config.curvature.diagonal
    for layer in layer_paths(state.model):
        names = [n for group in layer.paths.values() for n in group if n in state.effective_parameters]
        weights = [n for n in names if not n.endswith("bias") and (layer.relaxed or n not in free)]
        if weights and sum(state.effective_parameters[n] for n in weights) < QUIET:
            quiet.append(layer.name)
    return quiet
