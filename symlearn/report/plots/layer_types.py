"""What every layer became: a line a run, a cell a layer (van der Ouderaa et al. 2023, Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from symlearn.report.plots.style import INK, ink_on, message_figure, new_figure, note, path_colour
from symlearn.report.reading import HEAD_PATH, finite

TITLE = "Layer types"


def layer_types(content: Mapping[str, Any]) -> Figure:
    """Each layer's path of largest relative effective parameters, with that value [%], a line a run.

    A cell's colour is its path's, paler the nearer its relative value is to an equal part.

    Args:
        content: of a table's JSON: `rows` with label, seed and `layers` (name, type, relative by path). Rows
            with a single path, and those that keep no relative values, are left out.

    Returns:
        A figure whose label counts runs and layers; without a choice of paths, one that says so.
    """
    runs = [(row, layers) for row in content["rows"] if (layers := chosen_layers(row))]
    title = f"{TITLE}\n{content['experiment']}"
    if not runs:
        return message_figure(title, None, "no run has layers with a choice of paths")
    depth = max(len(layers) for _, layers in runs)
    figure = new_figure(1.7 + 0.36 * len(runs), title, None)
    axes = figure.subplots()
    seen: dict[str, None] = {}
    for line, (_, layers) in enumerate(runs):
        for place, relative in enumerate(layers):
            path, value = max(relative.items(), key=lambda item: item[1])
            seen[path] = None
            strength = (value - 1 / len(relative)) / (1 - 1 / len(relative))
            axes.add_patch(Rectangle((place, line), 1, 1, facecolor="white", edgecolor="white"))
            axes.add_patch(
                Rectangle(
                    (place, line),
                    1,
                    1,
                    facecolor=path_colour(path),
                    alpha=0.3 + 0.7 * strength,
                    edgecolor="white",
                    linewidth=1.5,
                )
            )
            ink = ink_on(path_colour(path)) if strength > 0.5 else INK
            axes.text(place + 0.5, line + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=ink)
    axes.set_xlim(0, depth)
    axes.set_ylim(len(runs), 0)
    axes.set_xticks([k + 0.5 for k in range(depth)], [f"layer {k}" for k in range(depth)], fontsize=9.5)
    names = [f"{row['label']}, seed {row['seed']}" for row, _ in runs]
    axes.set_yticks([k + 0.5 for k in range(len(runs))], names, fontsize=9.5)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    figure.legend(
        handles=[Patch(color=path_colour(path), label=path) for path in seen],
        loc="outside right center",
        frameon=False,
        fontsize=9.5,
    )
    note(figure, "relative effective parameters of the layer's largest path [%]")
    figure.set_label(f"{TITLE}, {content['experiment']}: {len(runs)} runs of up to {depth} layers.")
    return figure


def chosen_layers(row: Mapping[str, Any]) -> list[dict[str, float]]:
    """Relative effective parameters by path, of the layers with a choice; empty where there is none."""
    layers = [layer.get("relative") or {} for layer in row.get("layers") or []]
    known = [
        {path: value for path, one in layer.items() if (value := finite(one)) is not None}
        for layer in layers
        if set(layer) != {HEAD_PATH}
    ]
    return known if known and all(len(layer) > 1 for layer in known) else []
