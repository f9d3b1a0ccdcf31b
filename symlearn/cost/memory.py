"""The memory of a fit, part by part: what it comes to at once, what is free, and what to change.

`dry_fit.py` says how the parts are found.

Axes: none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from symlearn.config import Config
from symlearn.data.free_memory import free_bytes
from symlearn.layers.registry import PATHS, path_kind
from symlearn.layers.relaxed_conv import CONV, RelaxedConv2d
from symlearn.layers.structure import paths_of, relaxed_layers
from symlearn.units import size


@dataclass(frozen=True)
class CurvatureBytes:
    """Bytes of a curvature pass and of the evidence from it.

    Attributes:
        factors: all of them, when the pass is over.
        largest_factor: the largest single one.
        activations: what the pass holds besides, at most.
        eigen: what eigenvalues and evidence take besides, at most.
    """

    factors: int = 0
    largest_factor: int = 0
    activations: int = 0
    eigen: int = 0

    @property
    def peak(self) -> int:
        """The most at once."""
        return self.factors + max(self.activations, self.eigen)

    def or_more(self, other: CurvatureBytes) -> CurvatureBytes:
        """Whichever of two takes more at once."""
        return other if other.peak > self.peak else self


@dataclass(frozen=True)
class Memory:
    """Bytes of a fit.

    Attributes:
        data: images and targets.
        model: weights and buffers.
        gradients: gradients and the optimizer's moments.
        activations: of a step on the weights, with the optimizer's temporaries.
        curvature: of the training set, every path switched on.
        copies: states that are kept to come back to.
        hyperparameters: gradient of what layers declare.
        screening: of a search, with the factors.
        trials: candidates of a search's round.
        trial_curvature: of a trial.
        removals: the refits at the end: the one under way, and the states that are kept.
        predictions: evaluation, and the Laplace predictive at the end.
        checkpoint: a checkpoint while it is written.
        shapes: how the network was run: "meta", or "fake" where it makes tensors of its own.
    """

    data: int
    model: int
    gradients: int
    activations: int
    curvature: CurvatureBytes
    copies: int
    hyperparameters: int
    screening: int
    trials: int
    trial_curvature: int
    removals: int
    predictions: int
    checkpoint: int
    shapes: str

    @property
    def weights(self) -> int:
        """Weights, gradients and moments."""
        return self.model + self.gradients

    @property
    def stages(self) -> dict[str, int]:
        """The most that each part of a fit holds at once, besides data, weights, gradients and moments."""
        return {
            "steps": self.activations + self.copies,
            "evidence": self.curvature.peak + self.copies,
            "hyperparameters": self.hyperparameters + self.copies,
            "screening": self.screening,
            "trials": self.trials + max(self.trial_curvature, self.activations),
            "removals": self.removals and self.removals + max(self.curvature.peak, self.activations),
            "predictions": self.predictions,
            "checkpoint": self.checkpoint,
        }

    @property
    def largest(self) -> str:
        """The part that holds the most."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def peak(self) -> int:
        """The most at once."""
        return self.data + self.weights + max(self.stages.values())

    @property
    def rise(self) -> int:
        """The most at once besides data and network: what must be free where these are already there."""
        return self.peak - self.data - self.model


def memory_advice(memory: Memory, config: Config, fewer: str) -> str:
    """What to change for less memory, by what takes most of it.

    Args:
        memory: of the fit.
        config: of the fit.
        fewer: how the network would have fewer weights; see `fewer_weights`.

    Returns:
        A clause for the message that refuses the fit, such as "use a smaller batch_size".
    """
    working = max(memory.stages.values())
    if memory.data > max(working, memory.weights):
        return "use a subset of the data (limit, test_limit)"
    if memory.weights > working or memory.largest == "checkpoint":
        return fewer
    if memory.largest == "removals" and memory.removals > memory.curvature.peak:
        return f"{fewer}, or ask nothing at the end (removal_rounds 0)"
    if memory.largest == "steps":
        return "use a smaller batch_size" if memory.activations > memory.copies else fewer
    if memory.largest == "hyperparameters":
        return "use fewer gradient_images, or gradient 'local'"
    if memory.largest == "predictions":
        return "use a smaller test set (test_limit)"
    trials = memory.largest == "trials"
    if trials and memory.trials > memory.trial_curvature:
        return "use fewer proposals, or selection 'gradient'"
    curvature = memory.curvature
    if trials or curvature.activations > max(curvature.factors, curvature.eigen):
        exact = config.curvature.fisher_type == "type-2"
        return "use a smaller curvature_batch_size" + (", or fisher_type 'mc'" if exact else "")
    return fewer


def fewer_weights(model: nn.Module) -> str:
    """The leaner form of the first path that has one, or a narrower network; of what `relax` made, fewer.

    There the convolutions are the user's own, so they keep their form and there is no alpha to set.

    Returns:
        A clause that begins with "use" or "relax", for `memory_advice`.
    """
    layers = relaxed_layers(model).values()
    users = any(isinstance(layer, RelaxedConv2d) for layer in layers)
    alpha = layers or isinstance(getattr(model, "alpha", None), int)
    narrower = "use a narrower network" + (" (a smaller alpha)" if alpha else "")
    otherwise = "relax fewer layers (only=[...])" if users else narrower
    there = paths_of(model)
    for path in (*PATHS, *there):
        leaner = path_kind(path).leaner
        if leaner is not None and path in there and not (users and path == CONV):
            return f"use {leaner} in place of {path}, or {otherwise.removeprefix('use ')}"
    return otherwise


def needed_and_free(memory: Memory, needed: int, free: int, config: Config, fewer: str) -> str:
    """One line: bytes needed, bytes free, what to change."""
    return (
        f"about {size(needed)} are needed and {size(free)} are free; {memory_advice(memory, config, fewer)}"
    )


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device, or of this machine within its limits; None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_bytes()
