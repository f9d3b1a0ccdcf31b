"""A network of the user's own for the command line, `--model FILE.py:FUNCTION`.

The function is called with whatever it takes of `in_channels`, `size` (h, w), of signals (t,), of volumes
(d, h, w), and `classes`, and returns an `nn.Module` that maps `[batch, in_channels, *size]` to `[batch,
classes]`. Its convolutions get the paths of `--paths` besides their own, `conv`. The file is run, so nothing
but the command line names it: the folder of a run says which it was, and a command that needs the network
asks for it again.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from symlearn.cli.words import one_line
from symlearn.config import Config, ModelConfig, read_config

if TYPE_CHECKING:
    from torch import nn

    from symlearn.runs.experiment import Build

RunModel = Annotated[
    str | None,
    typer.Option(metavar="FILE.py:FUNCTION", help="of a run with a network of your own", show_default=False),
]


def own_network(named: str, chosen: ModelConfig) -> Build:
    """Find a function that makes a network of the user's own; the file is run.

    Args:
        named: FILE.py:FUNCTION, as it was typed.
        chosen: the paths, and what they leave to the user.

    Returns:
        A function from channels, size (h, w) and classes to the network, its convolutions relaxed by the
        paths besides conv.

    Raises:
        ValueError: no such file or function, or one that fails; said when it is named, or when it is built.
    """
    file, _, function = named.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not file or not function.isidentifier() or path.suffix != ".py":
        raise ValueError(f"--model is {named!r}; expected FILE.py:FUNCTION, such as network.py:build")
    if not path.is_file():
        raise ValueError(
            f"--model names {path}, which is not there; give a file with the function {function}"
        )
    make = getattr(module_of(path), function, None)
    if not callable(make):
        raise ValueError(f"{path} has no function {function!r}; define it, or name another")
    from symlearn.layers.registry import PathOptions, parse_paths
    from symlearn.networks import expect_read, read_options

    added = [path for path in parse_paths(chosen.paths) if path != "conv"]
    expect_read(chosen, added, f"{' + '.join(added)} beside your convolutions" if added else "your network")

    def build(in_channels: int, size: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        from symlearn.transfer.relax import relax

        given = {"in_channels": in_channels, "size": size, "classes": classes}
        try:
            taken = inspect.signature(make).parameters
            every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
            network = make(**{name: value for name, value in given.items() if every or name in taken})
        except Exception as error:  # whatever a user's function raises
            raise ValueError(f"{function} of {path} failed: {one_line(error)}") from error
        if not isinstance(network, nn.Module):
            raise ValueError(f"{function} of {path} must return an nn.Module, got {type(network).__name__}")
        options = PathOptions(**read_options(chosen, added))
        return relax(network, (in_channels, *size), added, options=options) if added else network

    return build


def module_of(path: Path) -> ModuleType:
    """Run a user's file as a module; meanwhile its folder can be imported from.

    Returns:
        The module, also in `sys.modules` under a name of ours.

    Raises:
        ValueError: it fails.
    """
    name = f"symlearn_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        del sys.modules[name]
        raise ValueError(f"{path} cannot be run: {one_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def typed_network(options: Mapping[str, Any], config: Config) -> Build | None:
    """What builds the network that `--model` names, or None: a file's word is not enough to run another."""
    named = options.get("model")
    return None if named is None else own_network(str(named), config.model)


def network_of_run(directory: Path, named: str | None) -> Build | None:
    """Find what builds the network of a run, where it is the user's own.

    Returns:
        As `own_network`, of the run's own options; None if the command line names no file.

    Raises:
        ValueError: another file or function than the run's.
    """
    if named is None:
        return None
    from symlearn.run_folder import CONFIG, RunFolder
    from symlearn.runs.experiment import absolute_model

    config = read_config(RunFolder.open(directory).file(CONFIG))
    if config.model.model != absolute_model(named):
        raise ValueError(
            f"--model is {named}, but the run's network is {config.model.model or config.model.network}; "
            "name the one that it was fitted with"
        )
    return own_network(named, config.model)
