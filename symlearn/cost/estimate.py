"""What a fit will cost, before it runs: bytes from shapes alone (`dry_fit.py`), seconds from a few steps.

Axes: n, c, h, w, group, d.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from kfac import evaluated
from symlearn.config import Config
from symlearn.cost.dry_fit import EVALUATED, FitSizes, memory_of, outputs_of, sizes_of
from symlearn.cost.memory import Memory, available_bytes, fewer_weights, needed_and_free
from symlearn.cost.room import factor_shapes
from symlearn.cost.shapes import shadow_of
from symlearn.curvature.coverage import has_evidence
from symlearn.curvature.sampled import images_used
from symlearn.curvature.training_set import curvature_of, training_factors
from symlearn.curvature.whole import uses_whole
from symlearn.data.samples import Held, Samples
from symlearn.data.streams import Data
from symlearn.evidence.jackknife import CHUNKS
from symlearn.layers.structure import paths_of
from symlearn.networks.unread import expect_own_options
from symlearn.selection.changes import possible_changes, strictest_start
from symlearn.selection.differences import CONTROLS
from symlearn.selection.removal import removable
from symlearn.training.inputs import check_fits, inputs_of, usable_device
from symlearn.training.phases import Phase
from symlearn.training.schedule import plan
from symlearn.training.state import FitState
from symlearn.training.steps import evaluate, train_epoch
from symlearn.units import duration, size

MEASURED_STEPS = 2


@dataclass(frozen=True)
class Seconds:
    """Time of a fit, roughly.

    Attributes:
        step: one step on the weights.
        update: one evidence update over the training set.
        least: the whole fit where the search stops after its first round and layers keep one path.
        most: the whole fit with every round, and every path in every layer.
        passes: images taken forward and backward, at most: of steps and of the curvature's columns.
    """

    step: float
    update: float
    least: float
    most: float
    passes: float


@dataclass(frozen=True)
class Estimate:
    """The cost of a fit; as text a table, with what to change where memory does not suffice.

    Attributes:
        config: with its schedules worked out.
        given: what is fitted: numbers of images, their shape.
        outputs: of the network.
        paths: that its layers have.
        fewer: how the network would have fewer weights, in words.
        parameters: of the network, all paths.
        memory: bytes.
        available: bytes the machine has left, or None where it does not say.
        held: whether data and network are in memory already, and so are none of what must be free.
        seconds: None where the memory does not suffice to measure, or nobody asked.
    """

    config: Config
    given: FitSizes
    outputs: int
    paths: tuple[str, ...]
    fewer: str
    parameters: int
    memory: Memory
    available: int | None
    held: bool
    seconds: Seconds | None

    @property
    def here(self) -> int:
        """Processes that take their memory from one place: all of them on a CPU, one a GPU."""
        return self.given.processes if self.config.training.device == "cpu" else 1

    @property
    def needed(self) -> int:
        """Bytes that must be free."""
        return (self.memory.rise if self.held else self.memory.peak) * self.here

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, as far as is known."""
        return self.available is None or self.needed <= self.available

    def __str__(self) -> str:
        rows = estimate_rows(self)
        names, values = max(len(name) for name, _, _ in rows), max(len(value) for _, value, _ in rows)
        lines = [f"{name:<{names}}  {value:>{values}}  {note}".rstrip() for name, value, note in rows]
        if not self.fits:
            free = self.available or 0
            told = needed_and_free(self.memory, self.needed, free, self.config, self.fewer)
            lines += ["", f"not enough memory: {told}"]
        return "\n".join(lines)


def estimate(
    model: nn.Module,
    train: Data,
    test: Data | None = None,
    config: Config | dict[str, Any] | None = None,
    *,
    seconds: bool = True,
    processes: int = 1,
) -> Estimate:
    """The cost of `fit` with the same arguments; the network is left as it is.

    Args:
        model: any network that `fit` takes.
        train: (x, y) tensors or arrays `[n, c, h, w]` and `[n]`, a data set, a loader or a `symlearn.Stream`.
        test: the same, or None.
        config: a `Config`, or tables as in config.toml; None takes the defaults.
        seconds: whether to run a few steps of a copy, and tell the time of the fit from them.
        processes: that share the fit (torchrun); memory is of each of them, time of one by itself.

    Returns:
        Memory in bytes by stage, and the time of a step, an update and the whole fit in seconds, None without
        `seconds`.

    Raises:
        ValueError: whatever `fit` would refuse except for memory; a network that does not run without
            values.
    """
    chosen, samples, test_samples = inputs_of(model, train, test, config)
    expect_own_options(model, chosen.model)
    with evaluated(model):
        check_fits(model, samples, test_samples, chosen)
    return estimated(
        model,
        lambda: copy.deepcopy(model),
        samples,
        test_samples,
        chosen,
        seconds,
        held=True,
        processes=processes,
    )


def estimate_rows(found: Estimate) -> list[tuple[str, str, str]]:
    """Name, value and explanation, a line each; parts that come to nothing are left out."""
    memory, config, given = found.memory, found.config, found.given
    shape = "×".join(map(str, given.image))
    largest = size(memory.curvature.largest_factor)
    made = "" if memory.shapes == "meta" else "; run with fake tensors, as it makes some of its own"
    rows = [
        ("training images", f"{given.train:,}", f"{shape}, {found.outputs} outputs"),
        ("parameters", f"{found.parameters:,}", " + ".join(found.paths) + made),
    ]
    parts = [
        ("data", memory.data, "images are read as they are needed" if given.streamed else "held in memory"),
        ("weights", memory.weights, f"with gradients and {config.training.optimizer}'s moments"),
        ("activations", memory.activations, f"a batch of {config.training.batch_size}"),
        ("curvature factors", memory.curvature.factors, f"the largest {largest}"),
        ("eigendecomposition", memory.curvature.eigen, "float64 copies, and the spectrum of all parameters"),
        ("curvature activations", memory.curvature.activations, f"a batch of {config.curvature.batch_size}"),
        ("hyperparameters", memory.hyperparameters, "gradients of what layers declare"),
        ("kept states", memory.copies, "weights and moments to come back to"),
        ("screening", memory.screening, "a search's first look at every path"),
        ("trials", memory.trials, f"{CONTROLS + config.evidence.proposals} candidates of a search round"),
        ("removals", memory.removals, "the refit under way, and the states that are kept"),
        ("predictions", memory.predictions, "evaluation and Laplace predictive"),
        ("checkpoint", memory.checkpoint, "while it is written"),
    ]
    rows += [(name, size(count), note) for name, count, note in parts if count]
    at = f"during {memory.largest}"
    free = "" if found.available is None else f"; {size(found.available)} are free"
    every = "" if given.processes == 1 else " a process"
    alone = free if found.here == 1 else ""
    rows.append((f"memory at once{every}", size(memory.peak), at + alone))
    if found.here > 1:
        rows.append((f"in {found.here} processes", size(memory.peak * found.here), "together" + free))
    if found.seconds is not None:
        seconds = found.seconds
        rows.append(("a step", duration(seconds.step), "measured, with every path"))
        rows.append(("an evidence update", duration(seconds.update), "from one batch, with every path"))
        spread = seconds.least < 0.9 * seconds.most
        by_one = "" if given.processes == 1 else " by one process"
        whole = f"{duration(seconds.least)} to {duration(seconds.most)}" if spread else duration(seconds.most)
        why = "as early as the search ends, as few paths as it keeps" if spread else ""
        rows.append((f"the whole fit{by_one}, about", whole, why))
    return rows


def estimated(
    model: nn.Module,
    build: Callable[[], nn.Module],
    train: Samples,
    test: Samples | None,
    config: Config,
    seconds: bool,
    held: bool,
    processes: int = 1,
) -> Estimate:
    """See `estimate`; `model` may be of shapes alone, `build` makes one to run.

    Raises:
        ValueError: fewer processes than one.
    """  # noqa: DOC201, the first line says it
    if processes < 1:
        raise ValueError(f"processes is {processes}; expected a whole number above 0")
    device = usable_device(config)
    given = sizes_of(config, train, test, checkpoints=not held, processes=processes)
    memory = memory_of(model, given)
    found = Estimate(
        config,
        given,
        outputs_of(shadow_of(model, given.image), given),
        paths_of(model),
        fewer_weights(model),
        sum(p.numel() for p in model.parameters()),
        memory,
        available_bytes(device),
        held,
        None,
    )
    if not seconds or not found.fits:
        return found
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return replace(found, seconds=seconds_of(build(), config, train, test))


def seconds_of(model: nn.Module, config: Config, train: Samples, test: Samples | None) -> Seconds:
    """Measure a few steps as the fit starts and with every path, and multiply by the plan."""
    state = FitState(model.to(usable_device(config)), config, len(train))
    slow = quick = measured(state, train, test)
    if config.evidence.selection == "search":
        strictest_start(state)
        if possible_changes(state, 0):
            quick = measured(state, train, test)
    choices = quick is not slow
    rounds = config.evidence.rounds if choices else 1
    asked = len(removable(state)) if config.evidence.selection == "gradient" else 0
    removed = asked or 2 * rounds * choices
    curved = has_evidence(state.model, config.curvature)
    outputs = train.targets.unique().numel() if state.likelihood.discrete else 1
    images = Measured(
        len(train),
        step=min(cast(int, config.training.batch_size), len(train)),
        evaluation=0.0,
        update=len(train) * columns_of(config, outputs) * curved,
    )
    return Seconds(
        step=slow.step,
        update=slow.update,
        least=quick.of(config, choices, at_most=1, removed=asked),
        most=slow.of(config, choices, at_most=rounds, removed=removed),
        passes=images.of(config, choices, at_most=rounds, removed=removed),
    )


def columns_of(config: Config, outputs: int) -> int:
    """Backward passes an image of a curvature pass, corrections of eigenvalues left out."""
    several = {"type-2": outputs, "empirical": 1}
    return several.get(config.curvature.fisher_type, config.curvature.mc_samples)


@dataclass(frozen=True)
class Measured:
    """Seconds, or whatever adds up like them, of the parts of a fit for `images` training images."""

    images: int
    step: float
    evaluation: float
    update: float

    def of(self, config: Config, choices: bool, at_most: int, removed: int = 0) -> float:
        """Time of the whole plan.

        Args:
            config: of the fit.
            choices: whether its search has any.
            at_most: rounds of the search.
            removed: paths that are tried without at the end.

        Returns:
            Seconds, from those of a step, an update and an evaluation; the search's dropped proposals are
            counted at their average.
        """
        evidence, training = config.evidence, config.training
        steps = max(self.images // min(cast(int, training.batch_size), self.images), 1)
        epoch = steps * self.step + self.evaluation
        frequency = evidence.frequency or 1
        trials = CONTROLS + 0.75 * evidence.proposals * choices  # half of the proposals are dropped halfway
        total = self.update if evidence.selection == "none" else 0.0
        done = 0
        for stage in plan(config):
            if isinstance(stage.phase, Phase):
                burnt = steps * stage.phase.epochs if stage.phase.burn_in is None else 0
                burnt = stage.phase.burn_in if isinstance(stage.phase.burn_in, int) else burnt
                moving = max(stage.epochs - burnt / steps, 0.0)
                total += stage.epochs * epoch + moving / frequency * self.update
            elif stage.kind == "removals":
                refits = CONTROLS + removed if removed and not stage.number else 0
                total += refits * stage.epochs * (epoch + self.update / frequency)
            elif done < at_most:
                done += 1
                total += trials * stage.epochs * (epoch + self.update / frequency) + 2 * self.update
        return total


def measured(state: FitState, train: Samples, test: Samples | None) -> Measured:
    """Time two steps, one curvature batch, an evaluation (each after a first try) and eigenvalues."""
    curvature, images = state.config.curvature, len(train)
    size = min(cast(int, state.config.training.batch_size), images)
    few = Held(*train.first(MEASURED_STEPS * size))
    rate = state.config.training.lr_end
    steps = len(few) // size
    step = timed(lambda: train_epoch(state, few, lambda _: rate)) / steps
    evaluation = 0.0
    if test is not None:
        some = Held(*test.first(EVALUATED))
        evaluation = timed(lambda: evaluate(state, some)) * len(test) / len(some)
    batch = min(curvature.batch_size, images)
    if not has_evidence(state.model, curvature):
        return Measured(images, step, evaluation, 0.0)
    if uses_whole(state.model, state.config, train):
        return Measured(images, step, evaluation, whole_seconds(state, train))
    sharp = curvature.eigenvalues != "kronecker"  # then eigenvectors of every batch count, which is too much
    first = train.first(batch)
    factors = timed(lambda: (curvature_of if sharp else training_factors)(state.model, state.config, first))
    shapes = factor_shapes(state.model, first[0][:1], curvature.group_factors == "shared")
    used = images_used(state.config, images)
    spectra = 1 if used == images else 1 + CHUNKS
    update = factors * used / batch + spectra * eigenvalue_seconds(shapes)
    return Measured(images, step, evaluation, update)


def whole_seconds(state: FitState, train: Samples) -> float:
    """Seconds of an update by the whole GGN: its Gram matrix, and half of the steps that may be taken."""
    evidence = curvature_of(state.model, state.config, train)
    delta = state.prior.by_tensor()
    once = timed(lambda: evidence.effective_parameters(delta, state.sigma_noise))
    steps = state.config.evidence.hyper_steps / 2
    return timed(lambda: curvature_of(state.model, state.config, train)) + steps * once


def eigenvalue_seconds(shapes: list[tuple[int, int]]) -> float:
    """Seconds of all factors' eigenvalues, by the cube of their side from a matrix of at most 1000."""
    side = min(max((d for _, d in shapes), default=1), 1000)
    matrix = torch.randn(side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = timed(lambda: torch.linalg.eigvalsh(matrix @ matrix.T))
    return one * sum(groups * (d / side) ** 3 for groups, d in shapes)


def timed(call: Callable[[], object]) -> float:
    """Seconds of the second of two calls."""
    call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
