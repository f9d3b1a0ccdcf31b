"""Which symmetries each layer really has: measured equivariance errors, layer by layer."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure

from symlearn.report.plots.style import INK, ink_on, message_figure, new_figure, note
from symlearn.report.reading import Report, layer_label

TITLE = "Equivariance error"
SMALLEST = 1e-8  # below rounding in single precision, and drawn as that


def equivariance_errors(report: Report) -> Figure:
    """A row a layer and one for the network: relative error under shifts and under every group element.

    Dark is exact (rounding), light is not equivariant at all.

    Returns:
        A figure whose label gives every layer's error under shifts; without errors, one that says so.
    """
    found = report.get("equivariance")
    if not found:
        return message_figure(TITLE, report, "not measured: the maps are not square")
    entries = [*found["layers"], found["network"]]
    errors = np.array([[entry["shift"], *entry["elements"][1:]] for entry in entries], dtype=float)
    labels = [layer_label(entry["name"]) for entry in entries]
    columns = ["shifts", *found["element_names"][1:]]
    figure = new_figure(1.9 + 0.42 * len(entries), TITLE, report)
    axes = figure.subplots()
    colours, scale = colormaps["cividis"], LogNorm(SMALLEST, 2.0)
    image = axes.imshow(np.clip(errors, SMALLEST, 2.0), cmap=colours, norm=scale, aspect="auto")
    for (row, column), value in np.ndenumerate(errors):
        shade = colours(scale(max(float(value), SMALLEST)))
        told = "exact" if value < 1e-5 else f"{value:.2g}"
        axes.text(
            column,
            row,
            told,
            ha="center",
            va="center",
            fontsize=9,
            color=ink_on(to_hex(shade)),
        )
    axes.set_xticks(range(len(columns)), columns, fontsize=9, color=INK)
    axes.set_yticks(range(len(labels)), labels, fontsize=9.5, color=INK)
    axes.tick_params(length=0)
    axes.axhline(len(entries) - 1.5, color="white", linewidth=2.5)
    axes.axvline(0.5, color="white", linewidth=2.5)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="relative error", extend="both")
    resampled = "" if found["exact"] else " · maps are turned by resampling"
    measured = f"group {found['group']}" if len(columns) > 1 else "circular shifts"
    note(
        figure,
        f"{measured} · each layer at its own inputs, "
        f"from {found['images']} training images · the network's outputs should not change{resampled}",
    )
    worst = ", ".join(f"{label} {row[0]:.1e}" for label, row in zip(labels, errors, strict=True))
    figure.set_label(f"Relative equivariance errors by layer; under shifts: {worst}")
    return figure
