"""The command line: `symlearn fit`, `report`, `plot`, `predict`, `collapse`, `estimate`, `reproduce`.

One command a file. Everything heavy (torch, matplotlib) is imported inside the commands, so that help answers
at once. Whatever a user can get wrong ends in one line on stderr that says what was wrong, what was expected
and what to do; a traceback means a mistake of ours.

Exit codes: 0 success, 1 a fit that stopped, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

import symlearn
from symlearn.cli.collapse import collapse
from symlearn.cli.estimate import estimate
from symlearn.cli.fit import fit
from symlearn.cli.predict import predict
from symlearn.cli.report import plot, report
from symlearn.cli.reproduce import reproduce
from symlearn.cli.words import STOPPED, WRONG_INPUT, complain, one_line, show_note

UsageError = typer.BadParameter.__base__  # typer carries click along, and does not export this one
assert UsageError is not None

app = typer.Typer(
    name="symlearn",
    help="Networks that discover their own symmetries, layer by layer, by the Laplace marginal likelihood.",
    epilog="Start with: symlearn fit --data digits --task quadrant-digit",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(fit)
app.command()(report)
app.command()(plot)
app.command()(predict)
app.command()(collapse)
app.command()(estimate)
app.command()(reproduce)


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        typer.echo(f"symlearn {symlearn.__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


overview.__doc__ = app.info.help


def main() -> None:
    """The command `symlearn`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = show_note
        try:
            code = app(list(arguments), prog_name="symlearn", standalone_mode=False)
        except UsageError as error:  # type: ignore[misc]
            return complain(usage_message(error))
        except ValueError as error:
            return complain(one_line(error))
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (KeyboardInterrupt, typer.Abort):
            return complain("interrupted", 130)
        except MemoryError:
            return complain(OUT_OF_MEMORY, STOPPED)
        except RuntimeError as error:
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                return complain(OUT_OF_MEMORY, STOPPED)
            raise
        except OSError as error:  # what no other message covers: stdout on a full disk, for one
            return complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return code if isinstance(code, int) else 0


OUT_OF_MEMORY = (
    "the machine is out of memory; use a smaller --alpha, --batch-size or --curvature-batch-size "
    "(symlearn estimate says what each needs)"
)


def usage_message(error: Exception) -> str:
    """What typer says about a command line, as one line that ends in where to read more."""
    said = one_line(error.format_message()) if hasattr(error, "format_message") else one_line(error)
    said = said.partition(" (Possible options:")[0].partition(" Did you mean")[0].rstrip(".")
    context = getattr(error, "ctx", None)
    wrong = getattr(error, "option_name", "")
    known = list(getattr(error, "possibilities", None) or [])
    if said.startswith("No such command"):
        wrong = said.split("'")[1] if "'" in said else ""
        known = [command.callback.__name__ for command in app.registered_commands if command.callback]
        said += f"; expected one of {', '.join(known)}"
    near = difflib.get_close_matches(wrong, known, 1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    command = context.command_path if context is not None else "symlearn"
    return f"{said[:1].lower()}{said[1:]}{guess}; see {command} --help"


__all__ = ["WRONG_INPUT", "app", "main", "run"]
