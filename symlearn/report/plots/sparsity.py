"""How sparse the codes of an unfolded network are, by layer and bank."""

import numpy as np
from matplotlib.figure import Figure

from symlearn.report.plots.style import INK, message_figure, new_figure, path_colour, tidy
from symlearn.report.reading import Report, layer_label

TITLE = "Sparsity of the codes"


def code_sparsity(report: Report) -> Figure:
    """A group of bars a layer, a bar a bank: share of the code's entries that are not zero."""
    entries = report.get("sparsity") or []
    if not entries:
        return message_figure(TITLE, report, "the network has no codes")
    layers = list(dict.fromkeys(entry["layer"] for entry in entries))
    banks = list(dict.fromkeys(entry["path"] for entry in entries))
    figure = new_figure(3.6, TITLE, report)
    axes = figure.subplots()
    width = 0.8 / len(banks)
    for k, bank in enumerate(banks):
        values = {entry["layer"]: entry["nonzero"] for entry in entries if entry["path"] == bank}
        heights = [100 * values.get(layer, np.nan) for layer in layers]
        places = np.arange(len(layers)) + (k - (len(banks) - 1) / 2) * width
        bars = axes.bar(places, heights, 0.92 * width, color=path_colour(bank), label=bank)
        axes.bar_label(bars, fmt="%.0f", fontsize=8.5, color=INK)
    axes.set_xticks(range(len(layers)), [layer_label(layer) for layer in layers], fontsize=9.5)
    axes.set_ylabel("not exactly zero [%]", fontsize=10, color=INK)
    axes.set_ylim(0, 108)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=min(8, len(banks)), frameon=False, fontsize=9.5)
    told = ", ".join(f"{layer_label(e['layer'])} {e['path']} {100 * e['nonzero']:.0f} %" for e in entries)
    figure.set_label(f"Entries of the codes that are not zero: {told}")
    return figure
