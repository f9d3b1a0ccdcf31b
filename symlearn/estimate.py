"""What a fit will cost, before it runs: bytes from the shapes alone, seconds from a few measured steps.

Shapes come from a pass on torch's `meta` device, which computes nothing and holds no values. Per tensor t
with factors A_t [group, d_in, d_in] and B_t [group, d_out, d_out]:

    weights     P (weight, gradient and the optimizer's moments), float32
    factors     |A_t| + |B_t| summed over t, float32
    eigen       4 of the largest single factor (copy, symmetrised, work space) and 4 P eigenvalues, float64
    activations what the modules put out for one batch, kept for the backward pass
    trials      the weights and moments of all candidates of a search round

Axes: batch, c, h, w, group, d_in, d_out, params.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kfac.calls import recorded_calls
from kfac.owners import find_owners
from symlearn.config import Config
from symlearn.coverage import undeclared
from symlearn.data import DataSplits
from symlearn.fitting import usable_device
from symlearn.phases import Phase
from symlearn.runs import load, network_of
from symlearn.schedule import plan
from symlearn.search import possible_changes, strictest_start
from symlearn.training import FitState, Pairs, evaluate, train_epoch, training_factors

FLOAT, DOUBLE = 4, 8
KEPT = 2  # tensors of an output's size kept for the backward pass, roughly
MEASURED_STEPS = 2


@dataclass(frozen=True)
class Memory:
    """Bytes of a fit, roughly.

    Attributes:
        data: images and targets.
        weights: weights, gradients, moments.
        activations: of one batch of the weights' steps.
        factors: all curvature factors.
        largest_factor: the largest single one, float32.
        eigen: float64 work on the factors.
        curvature_activations: of one batch of a curvature pass.
        trials: candidates of a search round.
    """

    data: int
    weights: int
    activations: int
    factors: int
    largest_factor: int
    eigen: int
    curvature_activations: int
    trials: int

    @property
    def peak(self) -> int:
        """The most at once."""
        curvature = self.factors + max(self.eigen, self.curvature_activations)
        return self.data + self.weights + self.trials + max(self.activations, curvature)


@dataclass(frozen=True)
class Seconds:
    """Time of a fit, roughly.

    Attributes:
        step: one step on the weights.
        update: one evidence update over the training set.
        least: the whole fit where the search stops after its first round and layers keep one path.
        most: the whole fit with every round, and every path in every layer.
    """

    step: float
    update: float
    least: float
    most: float


@dataclass(frozen=True)
class Estimate:
    """The cost of a fit.

    Attributes:
        config: with its schedules worked out.
        splits: the data.
        parameters: of the network, all paths.
        memory: bytes.
        available: bytes the machine has left, or None where it does not say.
        seconds: None where the memory does not suffice to measure.
    """

    config: Config
    splits: DataSplits
    parameters: int
    memory: Memory
    available: int | None
    seconds: Seconds | None

    @property
    def fits(self) -> bool:
        """Whether the memory suffices, as far as is known."""
        return self.available is None or self.memory.peak <= self.available


def estimate(config: Config) -> Estimate:
    """The cost of what a configuration describes; loads the data, writes nothing.

    Raises:
        ValueError: whatever `run_experiment` would refuse.
    """
    config, splits = load(config)
    with torch.device("meta"):
        shadow = network_of(config, splits).to("meta")  # tables of groups are made on the CPU
    memory = memory_of(shadow, config, splits)
    available = available_bytes(usable_device(config))
    parameters = sum(p.numel() for p in shadow.parameters())
    seconds = None
    if available is None or memory.peak <= available:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            seconds = seconds_of(network_of(config, splits), config, splits)
    return Estimate(config, splits, parameters, memory, available, seconds)


def memory_of(shadow: nn.Module, config: Config, splits: DataSplits) -> Memory:
    """Bytes, from a network on the meta device."""
    parameters = sum(p.numel() for p in shadow.parameters())
    factors = [groups * d * d for groups, d in factor_shapes(shadow, config, splits)]
    outputs = outputs_of_one(shadow, splits)
    state = parameters * FLOAT * (4 if config.training.optimizer == "adam" else 3)
    n = len(splits.train)
    trials = (2 + config.evidence.proposals) * state if config.evidence.selection == "search" else 0
    held = [t for split in (splits.train, splits.test) for t in split.tensors]
    return Memory(
        data=sum(t.numel() * t.element_size() for t in held),
        weights=state,
        activations=KEPT * FLOAT * outputs * min(config.training.batch_size, n),
        factors=FLOAT * sum(factors),
        largest_factor=FLOAT * max(factors, default=0),
        eigen=4 * DOUBLE * (max(factors, default=0) + parameters),
        curvature_activations=KEPT * FLOAT * outputs * min(config.curvature.batch_size, n),
        trials=trials,
    )


def image(splits: DataSplits) -> Tensor:
    """One image on the meta device, `[1, c, h, w]`."""
    return torch.empty(1, splits.in_channels, *splits.size, device="meta")


def factor_shapes(shadow: nn.Module, config: Config, splits: DataSplits) -> list[tuple[int, int]]:
    """(group, d) of every factor `[group, d, d]`: A of every weight, B of every tensor."""
    owners, _, _ = find_owners(shadow, "diagonal")
    with torch.enable_grad(), recorded_calls(owners, 1) as calls:
        shadow.eval()(image(splits))
    found: dict[tuple[str, object], list[tuple[int, int]]] = {}
    for call in calls:
        owner, rule = call.owner, call.owner.rule
        g = torch.empty(call.y_shape, device="meta")
        if owner.weight and rule.exact:
            found[owner.weight, None] = [(1, rule.weight_rows(owner.module, call.x, g).shape[-1])]
        elif owner.weight:
            a_groups, _, _, d_in = rule.input_rows(owner.module, call.x).shape
            b_groups, _, _, d_out = rule.output_rows(owner.module, g).shape
            shared = config.curvature.group_factors == "shared" and rule.groups_are_places
            found[owner.weight, rule.order] = [(a_groups, d_in), (1 if shared else b_groups, d_out)]
        if owner.bias:
            found[owner.bias, None] = [(1, rule.bias_rows(owner.module, g).shape[-1])]
    return [shape for shapes in found.values() for shape in shapes]


def outputs_of_one(shadow: nn.Module, splits: DataSplits) -> int:
    """Numbers that the modules without children put out for one image."""
    total = 0

    def count(_: nn.Module, __: object, y: Tensor) -> None:
        nonlocal total
        total += y.numel()

    leaves = [module for module in shadow.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    shadow.eval()(image(splits))
    for handle in handles:
        handle.remove()
    return total


def seconds_of(model: nn.Module, config: Config, splits: DataSplits) -> Seconds:
    """Measure a few steps as the fit starts and with every path, and multiply by the plan."""
    device = usable_device(config)
    train: Pairs = (splits.train.tensors[0].to(device), splits.train.tensors[1].to(device))
    test: Pairs = (splits.test.tensors[0].to(device), splits.test.tensors[1].to(device))
    state = FitState(model.to(device), config, len(train[0]))
    slow = quick = measured(state, train, test, splits)
    if config.evidence.selection == "search":
        strictest_start(state)
        if possible_changes(state, 0):
            quick = measured(state, train, test, splits)
    choices = quick is not slow
    return Seconds(
        step=slow.step,
        update=slow.update,
        least=quick.of(config, choices, at_most=1),
        most=slow.of(config, choices, at_most=config.evidence.rounds if choices else 1),
    )


@dataclass(frozen=True)
class Measured:
    """Seconds of the parts of a fit, for `images` training images."""

    images: int
    step: float
    evaluation: float
    update: float

    def of(self, config: Config, choices: bool, at_most: int) -> float:
        """Seconds of the whole plan with at most so many rounds of the search, which may have no choices."""
        evidence, training = config.evidence, config.training
        steps = max(self.images // min(training.batch_size, self.images), 1)
        epoch = steps * self.step + self.evaluation
        frequency = evidence.frequency or 1
        trials = 2 + 0.75 * evidence.proposals * choices  # half of the proposals are dropped halfway
        total = self.update if evidence.selection == "none" else 0.0
        done = 0
        for stage in plan(config):
            if isinstance(stage.phase, Phase):
                burnt = steps * stage.phase.epochs if stage.phase.burn_in is None else 0
                burnt = stage.phase.burn_in if isinstance(stage.phase.burn_in, int) else burnt
                moving = max(stage.epochs - burnt / steps, 0.0)
                total += stage.epochs * epoch + moving / frequency * self.update
            elif done < at_most:
                done += 1
                total += trials * stage.epochs * (epoch + self.update / frequency) + 2 * self.update
        return total


def measured(state: FitState, train: Pairs, test: Pairs, splits: DataSplits) -> Measured:
    """Time two steps, one curvature batch, an evaluation (each after a first try) and eigenvalues."""
    x, y = train
    size = min(state.config.training.batch_size, len(x))
    few: Pairs = (x[: MEASURED_STEPS * size], y[: MEASURED_STEPS * size])
    rate = state.config.training.lr_end
    steps = len(few[0]) // size
    step = timed(lambda: train_epoch(state, few, lambda _: rate)) / steps
    some = min(500, len(test[0]))
    evaluation = timed(lambda: evaluate(state, (test[0][:some], test[1][:some]))) * len(test[0]) / some
    batch = min(state.config.curvature.batch_size, len(x))
    if undeclared(state.model, state.config.curvature):  # a fit without evidence
        return Measured(len(x), step, evaluation, 0.0)
    factors = timed(lambda: training_factors(state, (x[:batch], y[:batch])))
    shadow = copy.deepcopy(state.model).to("meta")
    update = factors * len(x) / batch + eigenvalue_seconds(factor_shapes(shadow, state.config, splits))
    return Measured(len(x), step, evaluation, update)


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


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device, or of this machine within its limits; None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limits, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limits and used and limits[0].isdecimal() and used[0].isdecimal():
        found.append(max(int(limits[0]) - int(used[0]), 0))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
