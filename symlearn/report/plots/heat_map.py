"""Which path each layer uses: the heat map of relative effective dimension, layers × paths."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from symlearn.report.plots.grid import GAP, box, cell, frame, label_paths, label_verdict, outline
from symlearn.report.plots.style import (
    INK,
    blend,
    ink_on,
    message_figure,
    new_figure,
    note,
    path_colour,
    text_colour,
)
from symlearn.report.reading import (
    HEAD_PATH,
    SWITCHED_OFF_BELOW,
    Layer,
    Report,
    body_layers,
    effective_parameters,
    finite,
    head_layers,
    layer_label,
    path_entry,
    path_names,
    top_path,
)
from symlearn.report.sentence import layer_verdict, verdict_sentence
from symlearn.report.wording import count, percent

TITLE = "Relative effective dimension"


def effective_dimension_heat_map(report: Report) -> Figure:
    """Layers × paths; a cell is a path's relative effective dimension, from white (0) to its colour (1).

    Each cell says percent and gamma (effective number of parameters). The path that gives a layer its
    effective type is outlined, a path that the layer does not have is hatched, a path without measured
    numbers shows a dash. The head's Linear layers stand apart, with gamma of P.
    Source: relative effective dimension as in [L, Table 4].

    Returns:
        A figure whose label tells the verdict; without layers to choose in, one that says so.
    """
    layers, heads, paths = body_layers(report), head_layers(report), path_names(report)
    if not layers:
        return message_figure(TITLE, report, "the report lists no layer with paths to choose from")
    row = 0.56 if len(layers) <= 12 else 0.34  # inches; deep networks have both numbers on one line
    rows = len(layers) + 0.8 * len(heads)
    width = min(10.0, 3.4 + 1.75 * len(paths))
    figure = new_figure(1.75 + row * rows, TITLE, report, width=max(width, 6.4))
    ratios = [len(layers), 0.8 * len(heads)] if heads else [1]
    grid = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    separator = "\n" if len(layers) <= 12 else "   "
    for at, layer in enumerate(layers):
        _draw_layer(grid[0], at, layer, paths, separator, report)
    frame(grid[0], [layer_label(layer["name"]) for layer in layers], len(paths))
    label_paths(grid[0], paths)
    if heads:
        for at, head in enumerate(heads):
            _draw_head(grid[1], at, head, len(paths))
        frame(grid[1], [layer_label(head["name"]) for head in heads], len(paths))
    note(
        figure,
        "outlined: largest, the paper's effective type     hatched: absent     γ: effective parameters",
    )
    figure.set_label(f"Heat map of relative effective dimension, layers by paths. {verdict_sentence(report)}")
    return figure


def _draw_layer(axes: Axes, at: int, layer: Layer, paths: list[str], separator: str, report: Report) -> None:
    top = top_path(layer)
    for column, path in enumerate(paths):
        entry = path_entry(layer, path)
        if entry is None:
            cell(axes, column, at, "#ffffff", hatched=True)
            axes.text(
                column,
                at,
                "absent",
                ha="center",
                va="center",
                fontsize=9.5,
                color="#666666",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            )
            continue
        relative, gamma = finite(entry.get("relative")), finite(entry.get("effective_parameters"))
        if relative is None and gamma is None:
            words = "–"
        else:
            words = f"{percent(relative)}{separator}γ {count(gamma)}"
        strength = 0.0 if effective_parameters(layer) is None else min(max(relative or 0.0, 0.0), 1.0)
        if gamma is not None and gamma < SWITCHED_OFF_BELOW and path != top:
            strength = 0.0
        colour = blend("#f7f7f7", path_colour(path), strength)
        cell(axes, column, at, colour)
        weight = "bold" if path == top else "normal"
        axes.text(
            column, at, words, ha="center", va="center", fontsize=10, color=ink_on(colour), weight=weight
        )
    if top is not None:
        outline(axes, paths.index(top), at)
    label_verdict(axes, at, len(paths), layer_verdict(layer, report), text_colour(top) if top else "#666666")


def _draw_head(axes: Axes, at: int, head: Layer, columns: int) -> None:
    entry = head["paths"][HEAD_PATH]
    axes.add_patch(Rectangle(*box(0, at, GAP, columns), facecolor="#ededed"))
    gamma, parameters = finite(entry.get("effective_parameters")), entry.get("parameters")
    words = f"linear   γ {count(gamma)} of {count(parameters)} parameters"
    axes.text((columns - 1) / 2, at, words, ha="center", va="center", fontsize=10, color=INK)
