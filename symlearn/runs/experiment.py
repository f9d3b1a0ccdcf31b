"""A whole run, from a configuration to a folder that holds everything about it.

    prepare(config)                    data and network, checked; nothing is written
    run_experiment(config, out)        fits and writes the folder (`run_folder.py` says what lies in it)
    resume_experiment(out)             continues an interrupted fit; a finished one is only read
    read_result(out)                   reads a finished one

The command line and the experiments call these same functions. `report.json` is written last: a folder that
has it is a finished run.

Axes: n, c, h, w, classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from symlearn.analysis.filters import filters_of
from symlearn.config import Config, read_config
from symlearn.data import SOURCES, TASKS, DataSplits, load_data
from symlearn.data.samples import Samples
from symlearn.fitting.agreement import expect_agreement, held_folder
from symlearn.fitting.fit import run_fit
from symlearn.fitting.found import WhatWasFound, what_was_found
from symlearn.fitting.inputs import ready_inputs
from symlearn.fitting.result import DataInfo, FitResult, Progress
from symlearn.layers.registry import parse_paths
from symlearn.layers.transforms import parse_transforms
from symlearn.networks import NETWORKS, averaged, configured_model, default_network, expect_used
from symlearn.ranks import losses_told, present_ranks
from symlearn.report.notebook import ReportDict
from symlearn.run_folder import CONFIG, ENVIRONMENT, PREPROCESSING, REPORT, RunFolder, environment, to_json
from symlearn.runs.results import expect_builder, read_learned, read_report, write_results
from symlearn.training.inputs import usable_device

Announce = Callable[["Prepared"], None]
Build = Callable[[int, tuple[int, ...], int], nn.Module]  # from channels, size such as (h, w) and classes


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that is ready to start.

    Attributes:
        config: with network and schedules worked out, paths of files absolute.
        splits: the data, normalised.
        model: the network at its seeded start, on the device of the fit.
        train, test: the data as the fit takes them.
    """

    config: Config
    splits: DataSplits
    model: nn.Module
    train: Samples
    test: Samples | None

    @property
    def info(self) -> DataInfo:
        """What the report says about the data."""
        return DataInfo(
            data_label(self.config.data.data),
            self.config.data.task,
            self.splits.class_names,
            self.splits.preprocessing,
        )


def data_label(data: str) -> str:
    """A data set as reports and folders call it: its name, or the last part of its path."""
    return data if data in SOURCES else Path(data).name


def with_absolute_paths(config: Config) -> Config:
    """The same configuration, valid in every working directory."""
    data, root, own = config.data.data, config.data.data_root, config.model.model
    if data not in SOURCES:
        data = str(Path(data).expanduser().absolute())
    if root is not None:
        root = str(Path(root).expanduser().absolute())
    if own is not None:
        own = absolute_model(own)
    return config.with_options(data=data, data_root=root, model=own)


def absolute_model(named: str) -> str:
    """FILE.py:FUNCTION with the file's absolute path."""
    file, _, function = named.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{function}"


def prepare(config: Config, network: Build | None = None) -> Prepared:
    """Load the data and build the network; whatever is wrong with either is said here.

    The global random generator is left as it was.

    Args:
        config: what to fit.
        network: builds a network that is none of ours.

    Returns:
        What `run_experiment` fits: the configuration worked out, data and network on its device.

    Raises:
        ValueError: in one line, what was wrong, what was expected and what to do.
    """
    config, splits = load(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = network_of(config, splits, network)
        config, train, test = ready_inputs(model, splits.train, splits.test, config, checkpoints=True)
    if network is None:
        config = config.with_options(alpha=getattr(model, "alpha", None))
    return Prepared(config, splits, model, train, test)


def load(config: Config) -> tuple[Config, DataSplits]:
    """Load the data of a configuration, and work out network, schedules and paths.

    Returns:
        The configuration, whose width alone may be open yet, and the data.

    Raises:
        ValueError: in one line, what was wrong, what was expected and what to do.
    """
    check_names(config)
    usable_device(config)
    data = config.data
    splits = load_data(
        data.data,
        data.task,
        data_root=data.data_root,
        limit=data.limit,
        test_limit=data.test_limit,
        seed=config.training.seed,
        size=data.size,
        likelihood=data.likelihood,
        workers=data.workers,
        kind=data.kind,
    )
    ours = None if config.model.model else default_network(splits.size)
    network = config.model.network or ours
    return with_absolute_paths(config.with_options(network=network)).resolved(len(splits.train)), splits


def network_of(config: Config, splits: DataSplits, network: Build | None = None) -> nn.Module:
    """Build the network that a worked-out configuration describes, for these data.

    Returns:
        A network on torch's default device, its weights drawn from torch's global generator.

    Raises:
        ValueError: it is the user's own, and nothing builds it.
    """
    expect_builder(config, network)
    if network is not None:
        own = network(splits.in_channels, splits.size, splits.classes)
        return averaged(own, config.model, splits.in_channels, splits.size)
    return configured_model(config.model, splits.in_channels, splits.size, splits.classes)


def check_names(config: Config) -> None:
    """Check every name before any data is read.

    Raises:
        ValueError: an unknown path, network or task.
    """
    parse_paths(config.model.paths)
    if config.model.transforms is not None:
        parse_transforms(config.model.transforms)
    if config.model.network is not None and config.model.network not in NETWORKS:
        raise ValueError(f"unknown network {config.model.network!r}; expected one of {', '.join(NETWORKS)}")
    if config.model.model is not None and config.model.network is not None:
        raise ValueError(
            f"network {config.model.network} and a model of your own ({config.model.model}); give one of them"
        )
    if config.model.model is not None and config.model.alpha is not None:
        raise ValueError("alpha is the width of our networks; a model of your own has its own, leave it out")
    if config.data.task not in TASKS:
        raise ValueError(f"unknown task {config.data.task!r}; expected one of {', '.join(TASKS)}")


def check_new(config: Config) -> None:
    """Check what the configuration of a fit that is yet to start must not hold; folders of earlier fits may.

    Raises:
        ValueError: an unknown name, or a key that nothing would read.
    """
    check_names(config)
    expect_used(config.model)


@losses_told()
def run_experiment(
    config: Config,
    out: str | Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    announce: Announce | None = None,
    tensorboard: str | Path | None = None,
    network: Build | None = None,
) -> FitResult:
    """Fit what a configuration describes and write everything about it into a new folder.

    Args:
        config: what to fit.
        out: a folder that is new or empty; made only once data and network have been checked.
        progress: called after every epoch.
        announce: called once, before the fit starts.
        tensorboard: a folder for TensorBoard's event files, or None.
        network: builds a network of the user's own, which `config.model.model` names.

    Returns:
        The fit's result, as it also lies in the folder.

    Raises:
        MissingExtraError: event files are asked for, and tensorboard is not installed.
        ValueError: wrong input, an unusable folder, a full disk.
        TrainingStoppedError: the fit cannot go on; what it has so far is in the folder.
    """
    check_new(config)
    ranks = present_ranks()
    prepared = ranks.together(lambda: prepare(config, network))
    _agree(prepared, resume=False)
    with held_folder(ranks, out, resume=False) as folder:
        folder.write_text(CONFIG, prepared.config.to_toml())
        return _fit(prepared, folder, False, progress, announce, tensorboard, network)


@losses_told()
def resume_experiment(
    out: str | Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    announce: Announce | None = None,
    tensorboard: str | Path | None = None,
    network: Build | None = None,
) -> FitResult:
    """Continue the fit of a folder where its checkpoint left it; the steps are those it would have taken.

    A finished fit is read back, nothing is computed. Arguments as for `run_experiment`.

    Returns:
        The fit's result; of a fit that had finished, without training data.

    Raises:
        ValueError: no run folder, damaged files, data that have changed, a folder in use, a full disk.
        TrainingStoppedError: the fit cannot go on.
    """
    found, ranks = RunFolder.open(out), present_ranks()
    if found.file(REPORT).is_file():
        return read_result(found, network)
    with held_folder(ranks, out, resume=True) as folder:
        prepared = ranks.together(lambda: prepare(read_config(folder.file(CONFIG)), network))
        _agree(prepared, resume=True)
        return _fit(prepared, folder, True, progress, announce, tensorboard, network)


def _agree(prepared: Prepared, resume: bool) -> None:
    """Refuse ranks that are about to fit different things."""
    p = prepared
    expect_agreement(present_ranks(), p.model, p.train, p.test, p.config, resume)


def read_result(out: str | Path | RunFolder, network: Build | None = None) -> FitResult:
    """Read a finished fit from its folder; nothing is computed, and its training data are not read.

    Returns:
        The fit's result; `train` is None.

    Raises:
        ValueError: no run folder, a fit that has not finished, damaged files.
    """
    folder = out if isinstance(out, RunFolder) else RunFolder.open(out)
    learned = read_learned(folder, network)
    return FitResult(
        learned.model,
        ReportDict(read_report(folder)),
        folder.metrics(),
        learned.prior_precision,
        learned.sigma_noise,
        learned.config,
    )


def _fit(
    prepared: Prepared,
    folder: RunFolder,
    resume: bool,
    progress: Callable[[Progress], None] | None,
    announce: Announce | None,
    tensorboard: str | Path | None,
    network: Build | None,
) -> FitResult:
    """Fit in a folder that is ours, and write the results."""
    ranks, p = present_ranks(), prepared
    if folder.writes:
        _note_environment(folder)
    folder.write_text(PREPROCESSING, to_json(p.splits.preprocessing.to_dict()))
    if announce is not None and ranks.first:
        announce(p)
    result = run_fit(p.model, p.train, p.test, p.config, folder, resume, progress, p.info, tensorboard)

    def written() -> None:
        found = found_by(result, p, network)
        write_results(folder, result.metrics, filters_of(result.model), result.config, found)

    ranks.from_first(written)
    return result


def found_by(result: FitResult, prepared: Prepared, network: Build | None = None) -> WhatWasFound:
    """Measure what the page 'What was found' shows, beside the network as its fit began."""
    p, seed = prepared, prepared.config.training.seed
    untrained = untrained_network(p, network)
    return what_was_found(result, p.test, untrained, seed=seed, info=p.info)


def untrained_network(prepared: Prepared, network: Build | None = None) -> nn.Module:
    """The network as its fit began, all paths on; the global random generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(prepared.config.training.seed)
        return network_of(prepared.config, prepared.splits, network)


def _note_environment(folder: RunFolder) -> None:
    """Write environment.json once; a fit that is resumed in another environment is told so."""
    now = environment()
    if not folder.file(ENVIRONMENT).is_file():
        folder.write_text(ENVIRONMENT, to_json(now))
        return
    before = folder.read_json(ENVIRONMENT)
    for key, name in (("threads", "threads"), ("versions", "package versions")):
        if isinstance(before, dict) and before.get(key) != now[key]:
            warnings.warn(
                f"the fit was started with other {name} than now; its last digits may differ from those of "
                "an uninterrupted run",
                stacklevel=2,
            )
