"""The front doors of a fit: data, configuration and folder are made ready, then `stages.py` runs.

Axes: n, c, h, w.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from symlearn.config import Config
from symlearn.data.reading import deaths_told
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.data.streams import Data
from symlearn.fitting.agreement import expect_agreement, held_folder
from symlearn.fitting.board import Board
from symlearn.fitting.inputs import ready_inputs
from symlearn.fitting.result import DataInfo, FitResult, Progress
from symlearn.fitting.stages import Fit
from symlearn.networks.unread import expect_own_options
from symlearn.ranks import losses_told, present_ranks
from symlearn.run_folder import CONFIG, RunFolder
from symlearn.training.subnormals import subnormals_flushed


@losses_told()
@deaths_told()
def fit(
    model: nn.Module,
    train: Data,
    test: Data | None = None,
    config: Config | dict[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    info: DataInfo | None = None,
    tensorboard: str | Path | None = None,
) -> FitResult:
    """Fit a network and the precisions of its paths; see `training/schedule.py` for its stages.

    Where `torch.distributed` is initialised every process calls this, with the same network, data and
    configuration: they share the work, hold the same state and return the same result, and rank 0 writes.

    Args:
        model: a network of relaxed layers (`build_model`), or any network with rules in kfac. It becomes
            the learned network: the result's `model` is this very object, at the state of best evidence.
        train: (x, y) tensors or arrays `[n, c, h, w]` and `[n]`, which are held in memory; a data set, a
            loader or a `symlearn.Stream`, which are read as their images are needed.
        test: the same; recorded, never used to choose anything.
        config: a `Config`, or tables as in config.toml; None takes the defaults.
        out: a folder to keep config, metrics, checkpoints and the model in.
        resume: continue what lies in `out`.
        progress: called after every epoch, on rank 0.
        info: what the report says about the data.
        tensorboard: a folder for TensorBoard's event files, or None.

    Returns:
        The learned network with its report, metrics, precisions and noise, ready for figures, `collapse` and
        predictions.

    Raises:
        MissingExtraError: event files are asked for, and tensorboard is not installed.
        ValueError: data that do not fit the network, a key of `[model]` that the network does not read, a fit
            that does not fit into memory, an unusable folder; ranks that differ, or one that is gone.
        TrainingStoppedError: a value is not finite whatever start was tried; the last checkpoint is kept.
    """
    ranks = present_ranks()
    chosen, samples, test_samples = ranks.together(
        lambda: ready_inputs(model, train, test, config, out is not None)
    )
    if not resume:
        expect_own_options(model, chosen.model)
    expect_agreement(ranks, model, samples, test_samples, chosen, resume)
    if out is None:
        return run_fit(
            model, samples, test_samples, chosen, progress=progress, info=info, tensorboard=tensorboard
        )
    with held_folder(ranks, out, resume) as folder:
        if not resume:
            folder.write_text(CONFIG, chosen.to_toml())
        return run_fit(model, samples, test_samples, chosen, folder, resume, progress, info, tensorboard)


@losses_told()
@deaths_told()
def run_fit(
    model: nn.Module,
    train: SamplesLike,
    test: SamplesLike | None,
    config: Config,
    folder: RunFolder | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    info: DataInfo | None = None,
    tensorboard: str | Path | None = None,
) -> FitResult:
    """Fit what has been checked: network and data on one device, a folder that is held; see `fit`."""
    ranks = present_ranks()
    board = Board(tensorboard) if tensorboard is not None and ranks.first else None
    held_out = None if test is None else samples_of(test)
    told = progress if ranks.first else None
    running = Fit(model, samples_of(train), held_out, config, folder, told, info or DataInfo(), board, ranks)
    if resume:
        ranks.together(running.resume)
    try:
        with subnormals_flushed():
            return running.run()
    finally:
        for data in running.data.values():
            data.close()
        if board is not None:
            board.close()
