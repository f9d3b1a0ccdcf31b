"""Keys of a configuration that nothing would read, refused where a user set them.

A configuration has every key of `[model]`, so one that has its default says nothing. One that differs was set
by somebody, who expects it to matter. Which path reads which option, and what it can learn, is told by its
`PathKind`. Only new fits are checked: the folders of earlier ones can hold such keys, and are read as before.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from symlearn.config import ModelConfig
from symlearn.layers.registry import PATHS, PathKind, known_kind, path_kind
from symlearn.layers.structure import paths_of

BANK = "cyclic-90"  # stands for all cyclic banks, which are made from their names
OPTIONS = {  # what a key of the configuration is called among the options of paths
    "kernel_size": "kernel_size",
    "anchors": "anchors",
    "lengthscale": "lengthscale",
    "generator_offset": "generator_offset",
    "sparse_prior": "lengthscale_precision",
    "lengthscale_precision": "lengthscale_precision",
}


def expect_read(chosen: ModelConfig, paths: Sequence[str], who: str) -> None:
    """Refuse keys of a configuration that no path reads.

    Args:
        chosen: the `[model]` table.
        paths: whose options count, none for a network without a choice of options.
        who: what messages call them.

    Raises:
        ValueError: a key that differs from its default and is not read, or something to learn that no path
            has; it is named with what does read it.
    """
    kinds = [kind for kind in map(known_kind, paths) if kind is not None]
    for key, option in OPTIONS.items():
        value = getattr(chosen, key)
        if value == ModelConfig.model_fields[key].default:
            continue
        _expect_reader(key, value, option, kinds, who)
        if key == "lengthscale_precision" and chosen.sparse_prior != "lengthscale":
            raise ValueError(
                f"{key} is {value!r}, but the prior is put on the weights; leave it out, or set sparse_prior "
                "to 'lengthscale'"
            )
    if chosen.transforms is None and chosen.copies != ModelConfig.model_fields["copies"].default:
        raise ValueError(
            f"copies is {chosen.copies}, but outputs are averaged over no transforms; leave it out, or name "
            "some, such as transforms = 'rotation'"
        )
    if chosen.learn in (ModelConfig.model_fields["learn"].default, "invariances"):
        return
    _expect_learned(chosen.learn, chosen.path_options["learn"], kinds, who)


def expect_given_read(options: Mapping[str, Any], paths: Sequence[str], who: str) -> None:
    """Refuse options given to `build_model`, whatever their values, that no path reads.

    Args:
        options: those of paths (`PathOptions`), by name.
        paths: whose options count.
        who: what messages call them.

    Raises:
        ValueError: an option that is not read, or something to learn that no path has.
    """
    kinds = [path_kind(path) for path in paths]
    for name, value in options.items():
        _expect_reader(name, value, name, kinds, who)
    learn = options.get("learn", ())
    _expect_learned(learn, learn, kinds, who)


def _expect_reader(key: str, value: object, option: str, kinds: Sequence[PathKind], who: str) -> None:
    if not any(option in kind.options for kind in kinds):
        raise ValueError(
            f"{key} is {value!r}, but nothing in {who} reads it; leave it out, or use a path that does "
            f"({readers(option)})"
        )


def _expect_learned(learn: object, asked: Sequence[str], kinds: Sequence[PathKind], who: str) -> None:
    for what in asked:
        if not any(what in kind.learns for kind in kinds):
            raise ValueError(
                f"learn is {learn!r}, but nothing in {who} has {what} to learn; leave it out, or "
                f"use a path that has ({readers(what)})"
            )


def expect_own_options(model: nn.Module, chosen: ModelConfig) -> None:
    """Refuse keys of `[model]` that say nothing of a network which has been built already.

    Raises:
        ValueError: `alpha` of another width, a `kernel_size`, or an option that none of the network's paths
            reads.
    """
    expect_own_width(chosen, model)
    if chosen.kernel_size is not None:
        raise ValueError(
            f"kernel_size is {chosen.kernel_size}, but the network's filters have their sizes; leave it out"
        )
    paths = paths_of(model)
    expect_read(chosen, paths, f"the network's {' + '.join(paths)}" if paths else "the network")


def readers(what: str) -> str:
    """The known paths that read an option, or can learn something of this name, in words."""
    found = [name for name, kind in PATHS.items() if what in kind.options | kind.learns]
    bank = path_kind(BANK)
    if what in bank.options | bank.learns:
        found.append(f"{BANK} and the like, of the network unfolded")
    return ", ".join(found)


def expect_own_width(chosen: ModelConfig, model: nn.Module) -> None:
    """Refuse a width that is not that of a network which has been built already.

    Raises:
        ValueError: `alpha` is set, and the network has another one or none.
    """
    width = getattr(model, "alpha", None)
    if chosen.alpha is not None and chosen.alpha != width:
        has = "has no width to set" if width is None else f"was built with alpha {width}"
        raise ValueError(f"alpha is {chosen.alpha}, but the network {has}; leave it out")
