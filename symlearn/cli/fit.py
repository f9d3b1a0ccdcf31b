"""`symlearn fit`: fit, show progress, write the run folder, print what was learned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from symlearn.cli.options import configured, flag, read_value, with_config_options
from symlearn.cli.own_network import typed_network
from symlearn.cli.words import INTERRUPTED, STOPPED, complain, one_line
from symlearn.config import Config, option_places, read_config
from symlearn.kinds import kind_of
from symlearn.run_folder import CHECKPOINT, CONFIG, FIGURES, FOUND_PAGE, PAGE, REPORT

if TYPE_CHECKING:
    from symlearn.runs.experiment import Build, Prepared


@with_config_options
def fit(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="a configuration file", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="the run folder, new or empty [dim]\\[default: runs/DATA-TASK-PATHS-seedSEED][/dim]",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue the interrupted fit of --out", show_default=False)
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="event files in OUT/tensorboard", show_default=False)
    ] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Fit a network and let the evidence choose the paths of its layers.

    Options stand above the file's keys. Interrupted, a fit goes on with: symlearn fit --resume --out DIR
    Several processes share one: torchrun --nproc-per-node 2 -m symlearn fit ...
    """  # noqa: DOC501, the help says what a command does
    if resume:
        if config is not None:
            raise ValueError(f"--resume reads the {CONFIG} of --out; leave {config} out")
        folder = out or default_folder(configured(None, options))
        refuse_changes(folder, options)
        chosen = None
        network = typed_network(options, read_config(folder / CONFIG))
    else:
        chosen = configured(config, options)
        network = typed_network(options, chosen)
        folder = out or default_folder(chosen)
        refuse_used(folder)
    _fit(chosen, folder, folder / "tensorboard" if tensorboard else None, network)


def _fit(config: Config | None, folder: Path, tensorboard: Path | None, network: Build | None) -> None:
    """Run or resume (no configuration), with progress; then print the results."""
    from symlearn.cli.display import display
    from symlearn.extras import need
    from symlearn.ranks import launched
    from symlearn.runs.experiment import resume_experiment, run_experiment
    from symlearn.training.state import TrainingStoppedError
    from symlearn.training.subnormals import subnormals_flushed

    images = 0
    where: dict[str, Any] = {"tensorboard": tensorboard, "network": network}
    if tensorboard is not None:
        need("tensorboard", "event files", "tensorboard")

    def announce(prepared: Prepared) -> None:
        nonlocal images
        images = len(prepared.splits.train)
        for line in headline(prepared, folder, resumed=config is None):
            typer.echo(line)

    finished = config is None and (folder / REPORT).is_file()
    device = (read_config(folder / CONFIG) if config is None else config).training.device
    try:
        # entered before torch starts its threads, which take the setting over
        with (
            subnormals_flushed(),
            launched(device) as ranks,
            display(lambda: images, ranks.first) as progress,
        ):
            if config is None:
                result = resume_experiment(folder, progress=progress, announce=announce, **where)
            else:
                result = run_experiment(config, folder, progress=progress, announce=announce, **where)
    except TrainingStoppedError as error:
        kept = folder / CHECKPOINT
        last = f"the last good state is {kept}" if kept.is_file() else "no state was saved yet"
        raise typer.Exit(complain(f"the fit stopped: {one_line(error)}; {last}", STOPPED)) from None
    except KeyboardInterrupt:
        begun = (folder / CONFIG).is_file()
        then = f"continue with: symlearn fit --resume --out {folder}" if begun else "nothing was written"
        raise typer.Exit(complain(f"interrupted; {then}", INTERRUPTED)) from None
    if not ranks.first:
        return
    if finished:
        typer.echo(f"The fit of {folder} is finished; its report:")
    show_results(result.report, folder)


def show_results(report: dict[str, Any], folder: Path) -> None:
    """The report, and where the rest lies."""
    from symlearn.cli.report import print_table

    typer.echo()
    print_table(report)
    places = {"found": FOUND_PAGE, "figures": FIGURES, "page": PAGE, "report": REPORT}
    typer.echo("\n" + "\n".join(f"{name:<7}  {folder / file}" for name, file in places.items()))


def headline(prepared: Prepared, folder: Path, resumed: bool) -> list[str]:
    """What is about to run, in three lines."""
    splits, config = prepared.splits, prepared.config
    sides = "×".join(map(str, (splits.in_channels, *splits.size)))
    what = kind_of(splits.size)
    parameters = sum(p.numel() for p in prepared.model.parameters())
    network = config.model.network or config.model.model
    kind = "targets" if config.data.likelihood == "regression" else "classes"
    return [
        f"{prepared.info.data}, task {splits.task}: {len(splits.train):,} training and {len(splits.test):,} "
        f"test {what} of {sides}, {splits.classes} {kind}"
        f"{'' if prepared.train.held else f'; {what} are read as they are needed'}",
        f"network {network}, paths {config.model.paths}: {parameters:,} parameters; "
        f"selection {config.evidence.selection}, {config.training.epochs} epochs, "
        f"seed {config.training.seed}",
        f"{'continuing' if resumed else 'writing to'} {folder}",
    ]


def default_folder(config: Config) -> Path:
    """`runs/<data>-<task>-<paths>-seed<seed>`."""
    data = re.sub(r"\.npz$", "", Path(config.data.data).name, flags=re.IGNORECASE)
    name = f"{data}-{config.data.task}-{config.model.paths}-seed{config.training.seed}"
    return Path("runs") / re.sub(r"[^\w.+-]+", "-", name)[:120]


def refuse_used(folder: Path) -> None:
    """Refuse a folder with something in it before any data is loaded.

    Raises:
        ValueError: it is a file or is not empty.
    """
    from symlearn.run_folder import RunFolder

    RunFolder.check_free(folder)


def refuse_changes(folder: Path, options: dict[str, Any]) -> None:
    """Refuse options that would change the fit that is to be continued.

    Raises:
        ValueError: no run folder, or such an option.
    """
    from symlearn.run_folder import RunFolder
    from symlearn.runs.experiment import absolute_model

    saved = read_config(RunFolder.open(folder).file(CONFIG)).model_dump()
    for name, value in options.items():
        table, key = option_places()[name]
        given, kept = read_value(name, value), saved[table][key]
        if name in ("data", "data_root") and given != kept:
            given = str(Path(given).expanduser().absolute())
        if name == "model":
            given = absolute_model(given)
        if given != kept:
            raise ValueError(
                f"{flag(name)} {value} cannot change a fit that has begun ({folder} has {kept}); leave it "
                "out with --resume, or start a new fit in another --out"
            )
