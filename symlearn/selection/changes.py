"""One change of one layer: a path switched on or off, how that is done, and what became of it.

Axes: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from symlearn.layers.structure import layer_paths, relaxed_layers
from symlearn.selection.differences import within
from symlearn.training.start_scale import settle_scale
from symlearn.training.state import FitState

QUIET = 0.1  # output scale of a path on trial: the function hardly changes, yet both factors of F-FC live


@dataclass(frozen=True)
class Proposal:
    """One change of one layer, and what became of it.

    Attributes:
        round: counted from 0.
        layer: the layer's name.
        path: the path to add or remove.
        action: "add" or "remove".
        score: the screening's guess of the gain, in nats (None for removals).
        halfway: evidence in the middle of the refit minus the controls' mean, in nats.
        delta_log_evidence: the same at its end; None for those that were dropped halfway, or failed.
        noise: standard deviation of a difference about zero, in nats.
        interval: that holds 90 % of what further refits would give, in nats.
        accepted: whether it was kept.
        images: that the change of evidence is from, where that is not all of them.
        sampling_error: its standard error for that, in nats; part of the interval.
    """

    round: int
    layer: str
    path: str
    action: Literal["add", "remove"]
    score: float | None = None
    halfway: float | None = None
    delta_log_evidence: float | None = None
    noise: float | None = None
    interval: tuple[float, float] | None = None
    accepted: bool = False
    images: int | None = None
    sampling_error: float | None = None


def strictest_start(state: FitState, open_layers: int = 0) -> None:
    """Switch every layer to what a search starts from: the most symmetric path alone where it may grow.

    Args:
        state: changed in place.
        open_layers: so many of the last layers keep all their paths, for tasks that no strict start learns.
    """
    layers = list(relaxed_layers(state.model).values())
    for depth, layer in enumerate(layers, 1):
        layer.start_search()
        if depth > len(layers) - open_layers:
            layer.set_active(layer.path_names)
    settle_scale(state.model)


def possible_changes(state: FitState, number: int) -> list[Proposal]:
    """Every change that a layer allows; `number`: of the round that asks."""
    return [
        Proposal(number, name, path, action)
        for name, layer in relaxed_layers(state.model).items()
        for path, action in layer.changes()
    ]


def apply(state: FitState, proposal: Proposal, output_scale: float = QUIET) -> set[str]:
    """Make a proposal's change in place; returns the names of the tensors it touches."""
    layer = relaxed_layers(state.model)[proposal.layer]
    part = layer.path(proposal.path)
    names = {
        n for lp in layer_paths(state.model) if lp.name == proposal.layer for n in lp.paths[proposal.path]
    }
    if proposal.action == "add":
        layer.set_active([*layer.active, proposal.path])
        seed = int(torch.randint(2**31, (1,), generator=state.generator.clone_state()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            part.reset_parameters()
        part.scale_output_(output_scale)
    else:
        layer.set_active([name for name in layer.active if name != proposal.path])
        with torch.no_grad():
            for parameter in layer.paths[proposal.path].parameters():
                parameter.zero_()
    state.forget(names)
    return names


def describe(proposal: Proposal) -> str:
    """One line about a trial."""
    gain, half = proposal.delta_log_evidence, proposal.halfway
    dropped = "failed" if half is None else f"{half:+.0f} nats halfway, dropped"
    change = dropped if gain is None else f"{gain:+.0f} nats{within(proposal.interval)}"
    verdict = " (kept)" if proposal.accepted else ""
    return f"round {proposal.round}: {proposal.action} {proposal.path} in {proposal.layer}: {change}{verdict}"
