"""Which path each layer needs: change of log evidence without it, layers × paths."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlearn.report.plots.grid import cell, frame, label_paths, label_verdict, outline
from symlearn.report.plots.style import (
    blend,
    ink_on,
    message_figure,
    new_figure,
    note,
    path_colour,
)
from symlearn.report.reading import Layer, Report, body_layers, finite, layer_label, path_names
from symlearn.report.sentence import decided, layer_verdict, verdict_sentence
from symlearn.report.wording import signed

TITLE = "Change of log evidence without each path [nats]"
_STRENGTH = {"needed": 0.85, "undecided": 0.3, "unneeded": 0.0}  # of a cell's colour
_ALONE = {"needed": "the only one left", "unneeded": "never kept", "undecided": "not asked"}


def removals_heat_map(report: Report) -> Figure:
    """Layers × paths; a cell is Δ log evidence when the path is taken out and the rest refit, in nats.

    With its 90 % interval; full colour and a frame where the path is needed, pale where it is undecided,
    white where it is not needed. At the right what the layer commutes with, by the paths that it needs.

    Returns:
        A figure whose label tells the verdict; where no path was tried without, one that says so.
    """
    layers, paths = body_layers(report), path_names(report)
    if not any(decided(layer) for layer in layers):
        return message_figure(TITLE, report, "no path was tried without")
    row = 0.56 if len(layers) <= 12 else 0.34  # inches
    figure = new_figure(
        1.6 + row * len(layers), TITLE, report, width=max(min(10.0, 3.4 + 1.75 * len(paths)), 6.4)
    )
    axes = figure.subplots()
    separator = "\n" if len(layers) <= 12 else "  "
    for at, layer in enumerate(layers):
        _draw(axes, at, layer, paths, separator, report)
    frame(axes, [layer_label(layer["name"]) for layer in layers], len(paths))
    label_paths(axes, paths)
    note(figure, "framed: needed     pale: undecided     white: not needed     in brackets: 90 % interval")
    figure.set_label(f"Heat map of the change of log evidence without each path. {verdict_sentence(report)}")
    return figure


def _draw(axes: Axes, at: int, layer: Layer, paths: list[str], separator: str, report: Report) -> None:
    entry = layer.get("verdict") or {}
    answers = {path: answer for answer in _STRENGTH for path in entry.get(answer) or []}
    for column, path in enumerate(paths):
        if path not in layer["paths"]:
            continue
        answer = answers.get(path, "undecided")
        colour = blend("#f7f7f7", path_colour(path), _STRENGTH[answer])
        cell(axes, column, at, colour)
        words = _words((entry.get("removals") or {}).get(path), separator) or _ALONE[answer]
        axes.text(column, at, words, ha="center", va="center", fontsize=9.5, color=ink_on(colour))
        if answer == "needed":
            outline(axes, column, at)
    label_verdict(axes, at, len(paths), layer_verdict(layer, report), "#000000")


def _words(removal: dict[str, object] | None, separator: str) -> str | None:
    if not removal or finite(removal.get("delta_log_evidence")) is None:
        return None
    interval = removal.get("interval")
    change = signed(removal["delta_log_evidence"])
    return (
        f"{change}{separator}[{signed(interval[0])}, {signed(interval[1])}]"
        if isinstance(interval, list)
        else change
    )
