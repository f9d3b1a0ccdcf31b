"""The options of `fit` and `estimate`, one a key of the configuration, made from `config.py` itself.

So the command line and the file can never say different things: names, types and help are the file's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from symlearn.config import Config, checked, option_places, read_config

PANELS = {
    "data": "Data",
    "model": "Network",
    "training": "Training",
    "evidence": "Evidence and selection",
    "curvature": "Curvature",
}


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def field_of(table: str, key: str) -> FieldInfo:
    """The configuration's own description of a key."""
    annotation: Any = Config.model_fields[table].annotation
    field: FieldInfo = annotation.model_fields[key]
    return field


def choices_of(annotation: Any) -> tuple[list[str], list[type]]:
    """The words and the types that a key takes."""
    if get_origin(annotation) is Annotated:
        return choices_of(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)], []
    if get_origin(annotation) in (Union, UnionType):
        parts = [choices_of(part) for part in get_args(annotation)]
        return [w for words, _ in parts for w in words], [t for _, types in parts for t in types]
    if get_origin(annotation) is tuple:
        return [], [tuple]
    return [], [] if annotation is type(None) else [annotation]


def typer_option(name: str, table: str, key: str) -> tuple[type, Any]:
    """Type and declaration of one option; its default is None: the file's value stands."""
    field = field_of(table, key)
    words, types = choices_of(field.annotation)
    default = "" if field.default in (None, ()) else f" [dim]\\[default: {str(field.default).lower()}][/dim]"
    names = {int: "INTEGER", float: "NUMBER", str: "TEXT", tuple: "NAME,NAME,..."}
    metavar = "|".join([*(names[t] for t in types if t in names), *words]) or None
    declared = [flag(name), f"--no-{key}"] if types == [bool] else [flag(name)]
    declaration = ("/".join(declared),) if types == [bool] else tuple(declared)
    option = typer.Option(
        *declaration,
        help=f"{field.description or key}{default}",
        rich_help_panel=PANELS[table],
        metavar=None if types == [bool] else metavar,
        show_default=False,
    )
    return (bool if types == [bool] else str), option


def with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every key of the configuration as an option.

    The command is called with those that the user gave as its keyword `options`, `{name: value}`.

    Returns:
        The command as typer is to see it, of the same name and help.
    """
    own = inspect.signature(command, eval_str=True).parameters
    kept = [p for name, p in own.items() if name != "options"]
    added = []
    for name, (table, key) in option_places().items():
        kind, option = typer_option(name, table, key)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        added.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )

    def wrapper(**given: Any) -> None:
        options = {p.name: given.pop(p.name) for p in added}
        command(**given, options={name: value for name, value in options.items() if value is not None})

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept] + added
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def read_value(name: str, value: Any) -> Any:
    """What was typed, as the configuration takes it; what cannot be read is left for it to refuse."""
    table, key = option_places()[name]
    _, types = choices_of(field_of(table, key).annotation)
    if isinstance(value, str) and types == [tuple]:
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, str):
        for kind in (int, float):
            if {int, float} & set(types):
                try:
                    return kind(value)
                except ValueError:
                    continue
    return value


def configured(file: Path | None, options: Mapping[str, Any]) -> Config:
    """The file's configuration, or the defaults, with the options on top.

    Returns:
        A checked configuration; schedules that were left open are not worked out yet.

    Raises:
        ValueError: a bad file, or an option of a wrong value.
    """
    config = Config() if file is None else read_config(file)
    tables, places = config.model_dump(), option_places()
    for name, value in options.items():
        table, key = places[name]
        tables[table][key] = read_value(name, value)
    return checked(tables, called={places[name]: flag(name) for name in options})
