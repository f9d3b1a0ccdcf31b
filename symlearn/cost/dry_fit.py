"""A fit on shapes alone: the bytes it will hold, predicted before it starts.

Nothing is guessed from formulas where the code itself can be asked: a step on the weights, the curvature pass
with its eigenvalues, the gradient of declared hyperparameters and passes of predictions are run on shapes
alone (`shapes.py`), and the most that each holds at once is counted. What is known by name is added:

    weights     weights and buffers P, gradients and moments of the trained T, optimizer's temporaries
    copies      states that a phase keeps to come back to, P and moments each
    evidence    eigenvalues and their place in the spectrum, 24 bytes a parameter; 48 while gamma is computed
    screening   37 precisions tried at once for every eigenvalue of one tensor
    checkpoint  the copy that is saved, and its bytes twice, where a folder is written

Not counted: what the interpreter and torch take by themselves, what operations take while they run, and the
allocator's gaps. Every path of a layer counts as switched on, except in the trials of a search.

Axes: batch, c, h, w, params, classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kfac import KroneckerBlock, KroneckerFactors, compute_factors, rows_needed
from symlearn.analysis.predictive import MEMORY, bytes_a_datum, last_layer
from symlearn.config import Config
from symlearn.cost.memory import CurvatureBytes, Memory
from symlearn.cost.shapes import Shadow, shadow_of
from symlearn.curvature.coverage import has_evidence, seen
from symlearn.curvature.sampled import images_used
from symlearn.curvature.training_set import curvature_options, spectra
from symlearn.curvature.whole import applies, drawn_columns
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.evidence.gradient import HyperObjective, unchecked_gradients
from symlearn.evidence.jackknife import CHUNKS
from symlearn.evidence.laplace import Evidence
from symlearn.evidence.likelihood import likelihood_of
from symlearn.layers.declared import hyperparameters_of
from symlearn.layers.structure import relaxed_layers
from symlearn.networks.operations import operations_of
from symlearn.ranks import STEP
from symlearn.selection.differences import CONTROLS
from symlearn.training.schedule import plan
from symlearn.training.steps import loss_with_gradient

FLOAT64 = 8
ROWS_HELD = 2**28  # bytes of gradients that `kfac.compute_gram` holds at once
EVALUATED = 500  # images a pass of an evaluation
SCREENED = 2 * 37  # float64 values an eigenvalue while precisions are tried; see `screening.best_gain`
PASSES = 64  # batches of a curvature pass that are run at most, until rows of inputs are summed


@dataclass(frozen=True)
class FitSizes:
    """What a fit is given, as far as memory goes.

    Attributes:
        config: with its schedules worked out.
        train: number of training images.
        test: number of test images.
        image: `[c, h, w]`.
        data: bytes that images and targets take.
        checkpoints: whether a folder is written.
        streamed: whether training images are read as they are needed.
        processes: that share the fit; the numbers are those of one of them.
    """

    config: Config
    train: int
    test: int
    image: tuple[int, ...]
    data: int
    checkpoints: bool = False
    streamed: bool = False
    processes: int = 1


def sizes_of(
    config: Config, train: SamplesLike, test: SamplesLike | None, checkpoints: bool, processes: int = 1
) -> FitSizes:
    """The sizes of a fit to these data, with its schedules worked out; see `FitSizes`."""
    largest = max(cast(int, config.training.batch_size), config.curvature.batch_size, EVALUATED)
    sets = [samples_of(data) for data in (train, test) if data is not None]
    held = sum(one.bytes_held(min(largest, len(one))) for one in sets)
    n_test = 0 if test is None else len(sets[1])
    streamed = not sets[0].held
    return FitSizes(config, len(sets[0]), n_test, sets[0].shape, held, checkpoints, streamed, processes)


def memory_of(model: nn.Module, given: FitSizes) -> Memory:
    """Memory of a fit, from shapes alone; the network is left as it is.

    Returns:
        Bytes by what takes them, and by the stage of the fit.

    Raises:
        ValueError: the network does not run without values.
    """
    config = given.config
    shadow = shadow_of(model, given.image)
    curved = has_evidence(model, config.curvature)
    moments = 2 if config.training.optimizer == "adam" else 1
    whole = bytes_of([*shadow.model.parameters(), *shadow.model.buffers()])
    trained = trained_bytes(shadow.model)
    state = whole + moments * trained
    blocks = curvature_bytes(shadow, given) if curved else CurvatureBytes()
    curvature = blocks.or_more(whole_bytes(shadow, given)) if curved else blocks
    hyperparameters = hyper_bytes(shadow, given) if curved and config.evidence.selection != "none" else 0
    activations = step_bytes(shadow, given)
    predictions = prediction_bytes(shadow, given, curved)
    copies = kept_states(config) * state
    screening = trials = trial_curvature = removals = 0
    grown = 0  # sums of chunks and ends of the controls, where a decision takes more images
    if curved and images_used(config, given.train) < given.train:
        grown = CONTROLS * (curvature.factors + state)
    if asks(config) and has_choices(shadow.model):  # the copy, its guard's, two kept ones, the best of all
        removals = 5 * state + trained + grown
    if config.evidence.selection == "search" and has_choices(shadow.model):
        screening = state + blocks.factors + screening_bytes(shadow, given, blocks)
        added = start_search(shadow.model)
        trained_at_start = trained_bytes(shadow.model)
        tried = sorted(added, reverse=True)[: config.evidence.proposals]
        for extra in [*[0] * CONTROLS, *tried]:
            own = trained_at_start + extra
            trials += 2 * (whole + moments * own) + own
        trial_curvature = curvature_bytes(shadow, given).or_more(whole_bytes(shadow, given)).peak + grown
    return Memory(
        data=given.data,
        model=whole,
        gradients=(1 + moments) * trained,
        activations=activations,
        curvature=curvature,
        copies=copies,
        hyperparameters=hyperparameters,
        screening=screening,
        trials=trials,
        trial_curvature=trial_curvature,
        removals=removals,
        predictions=predictions,
        checkpoint=copies + 3 * max(state + copies, trials, removals) if given.checkpoints else 0,
        shapes=shadow.kind,
    )


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def trained_bytes(model: nn.Module) -> int:
    """Bytes of the parameters that are trained."""
    return bytes_of([p for p in model.parameters() if p.requires_grad])


def kept_states(config: Config) -> int:
    """How many states of the fit are held while a phase runs.

    The guard's, the best of all stages, the best of the phase. Without evidence there is no best one, but the
    initial state is kept until the start has been judged.

    Returns:
        2, or 3 with evidence where the last stage has more than one epoch, and so a best of its own.
    """
    if config.evidence.selection == "none":
        return 2
    return 2 + (plan(config)[-1].epochs > 1)


def asks(config: Config) -> bool:
    """Whether every remaining path is tried without at the end."""
    return any(stage.kind == "removals" for stage in plan(config))


def has_choices(model: nn.Module) -> bool:
    """Whether a search has anything to propose."""
    return any(len(layer.path_names) > 1 for layer in relaxed_layers(model).values())


def start_search(model: nn.Module) -> list[int]:
    """Switch to what a search starts from; the bytes that each addition then trains."""
    added = []
    for layer in relaxed_layers(model).values():
        layer.start_search()
        for name, action in layer.changes():
            added.append(bytes_of(list(layer.paths[name].parameters())) if action == "add" else 0)
    return added


def batch_of(shadow: Shadow, given: FitSizes, count: int) -> tuple[Tensor, Tensor]:
    """Images and targets of shapes alone."""
    with shadow.running(), torch.no_grad():
        x = shadow.images(count, given.image)
        f = shadow.model.eval()(x[:2])
        y = likelihood_of(given.config.data.likelihood).blank(count, f)
    return x, y


def images_a_step(shadow: Shadow, given: FitSizes) -> int:
    """Of a batch those that one process sees: all, unless the step is worth sharing (`ranks.py`)."""
    batch = min(cast(int, given.config.training.batch_size), given.train)
    if given.processes == 1 or batch < given.processes:
        return batch
    with shadow.running():
        operations = operations_of(shadow.model, shadow.images(1, given.image))
    small = operations is not None and batch * operations < STEP
    return batch if small and given.config.training.device == "cpu" else math.ceil(batch / given.processes)


def step_bytes(shadow: Shadow, given: FitSizes) -> int:
    """The most that a step on the weights holds besides weights, gradients and moments."""
    training = given.config.training
    x, y = batch_of(shadow, given, images_a_step(shadow, given))
    shadow.model.train()
    likelihood = likelihood_of(given.config.data.likelihood)
    with shadow.counted(x, y) as live, torch.enable_grad():
        for _ in range(2):  # the second has the gradients of the first
            before = live.mark()
            loss_with_gradient(shadow.model, shadow.model, likelihood, x, y)
            rise = live.peak - before
    shadow.model.zero_grad(set_to_none=True)
    temporaries = trained_bytes(shadow.model) if training.optimizer == "adam" else 0
    return bytes_of([x, y]) + max(rise, temporaries)


def curvature_bytes(shadow: Shadow, given: FitSizes) -> CurvatureBytes:
    """Run a curvature pass and the eigenvalues on shapes."""
    config = given.config
    size = min(config.curvature.batch_size, given.train)
    x, y = batch_of(shadow, given, size)
    options = curvature_options(shadow.model, config)
    with shadow.counted(x, y) as live, seen(shadow.model, config.curvature):
        factors = compute_factors(
            shadow.model, [(x, y)] * passes(shadow, given), config.data.likelihood, **options
        )
        held, most = live.now, live.peak
        live.mark()
        eigen = spectra(shadow.model, config, (x, y), factors)
        params = sum(len(values) for values in eigen.eigenvalues.values())
        decomposed = live.peak - held
    if images_used(config, given.train) < given.train:  # every chunk's, their sum, three halves of the rest
        held *= CHUNKS + 4
    return CurvatureBytes(
        held,
        largest_of(factors),
        most - held,
        max(decomposed, 3 * FLOAT64 * params, 6 * FLOAT64 * params - held),
    )


def whole_bytes(shadow: Shadow, given: FitSizes) -> CurvatureBytes:
    """What a whole GGN takes; nothing where the evidence is of blocks."""
    config, model = given.config, shadow.model
    rows = rows_needed(outputs_of(shadow, given), given.train, config.data.likelihood)
    if not applies(model, config, given.train, lambda: rows):
        return CurvatureBytes()
    columns = drawn_columns(config, given.train, rows)
    rows = rows if columns is None else given.train * columns
    with seen(model, config.curvature):
        trained = [p.numel() for p in model.parameters() if p.requires_grad]
    like = next(model.parameters()).element_size()
    square = like * rows**2
    held = len(trained) * square
    gradients = min(ROWS_HELD, like * rows * sum(trained))
    return CurvatureBytes(held, square, held + gradients, 4 * FLOAT64 * rows**2)


def passes(shadow: Shadow, given: FitSizes) -> int:
    """Batches after which the factors have their final size: rows that are kept have been summed."""
    config = given.config
    size = min(config.curvature.batch_size, given.train)
    count = math.ceil(given.train / size)
    if count == 1:
        return 1
    x, y = batch_of(shadow, given, 2)
    options = curvature_options(shadow.model, config)
    with shadow.running(), seen(shadow.model, config.curvature):
        factors = compute_factors(shadow.model, [(x, y)], config.data.likelihood, **options)
    kept = [
        block.inputs.size
        for block in factors.values()
        if isinstance(block, KroneckerBlock) and block.inputs is not None and block.inputs.rows
    ]
    return min(count, max(math.ceil(max(kept, default=0) / size) + 1, 2), PASSES)


def largest_of(factors: KroneckerFactors) -> int:
    """Bytes of the largest single factor in float64, in which it is decomposed."""
    sizes = [0]
    for block in factors.values():
        if isinstance(block, KroneckerBlock):
            sizes.append(block.output_factor.numel())
            if block.inputs is not None:
                moment = block.inputs
                kept = moment.rows if moment.summed is None else (moment.summed,)
                sizes.append(sum(t.numel() for t in kept))
    return FLOAT64 * max(sizes)


def hyper_bytes(shadow: Shadow, given: FitSizes) -> int:
    """The most that a gradient of declared hyperparameters holds."""
    config = given.config
    declared = hyperparameters_of(shadow.model)
    if not declared:
        return 0
    x, y = batch_of(shadow, given, min(config.evidence.gradient_images, given.train))
    objective = ObjectiveOfShapes(
        shadow.model,
        (x, y),
        {},
        config.data.likelihood,
        batch_size=config.curvature.batch_size,
        curvature=curvature_options(shadow.model, config),
    )
    with shadow.counted(x, y) as live, seen(shadow.model, config.curvature):
        unchecked_gradients(objective, declared, config.evidence.gradient)
        return live.peak


class ObjectiveOfShapes(HyperObjective):
    """The evidence where no eigenvalue has a value, and so no precision or norm matters."""

    def terms(self, factors: KroneckerFactors) -> Evidence:
        """Likelihood and log determinant at precisions of 1."""
        logdet = factors.eigendecompose().logdet(dict.fromkeys(factors.names, 1.0))
        return Evidence(torch.as_tensor(factors.log_likelihood), torch.zeros_like(logdet), -0.5 * logdet)


def screening_bytes(shadow: Shadow, given: FitSizes, curvature: CurvatureBytes) -> int:
    """The most that the screening of proposals holds besides a copy of the state and the factors."""
    trained = [p.numel() for p in shadow.model.parameters() if p.requires_grad]
    gradients = trained_bytes(shadow.model)
    vectors = 3 * curvature.largest_factor  # eigenvectors and the work space they take
    return max(curvature.activations, gradients + vectors + SCREENED * FLOAT64 * max(trained))


def prediction_bytes(shadow: Shadow, given: FitSizes, curved: bool) -> int:
    """The most that evaluation and, of classes, the last layer's Laplace predictive hold."""
    most = forward_bytes(shadow, given, min(EVALUATED, max(given.test, 1)))
    if not (curved and given.test and likelihood_of(given.config.data.likelihood).discrete):
        return most
    x, _ = batch_of(shadow, given, 2)
    with shadow.running():
        names = last_layer(shadow.model, x, given.config.curvature)
    sizes = [p.numel() for name, p in shadow.model.named_parameters() if name in names]
    classes = outputs_of(shadow, given)
    held = bytes_a_datum(classes, sizes)
    chunk = min(max(MEMORY // held, 1), given.test)
    return max(most, forward_bytes(shadow, given, chunk), chunk * held)


def outputs_of(shadow: Shadow, given: FitSizes) -> int:
    """Number of outputs."""
    x, _ = batch_of(shadow, given, 2)
    with shadow.running(), torch.no_grad():
        return int(shadow.model.eval()(x).shape[1])


def forward_bytes(shadow: Shadow, given: FitSizes, count: int) -> int:
    """The most that a pass without gradients holds."""
    x, y = batch_of(shadow, given, count)
    with shadow.counted(x, y) as live, torch.no_grad():
        shadow.model.eval()(x)
        return live.peak
