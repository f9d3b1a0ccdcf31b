"""How much of each layer is used, and by which path: stacked bars of effective parameters."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from symlearn.report.plots.style import (
    INK,
    ink_on,
    message_figure,
    new_figure,
    path_colour,
    tidy,
)
from symlearn.report.reading import (
    HEAD_PATH,
    Report,
    body_layers,
    effective_parameters,
    finite,
    head_layers,
    layer_label,
    path_entry,
    path_names,
)
from symlearn.report.wording import count, percent

TITLE = "Effective parameters of each layer by path"


def layer_shares(report: Report) -> Figure:
    """A bar a layer, its height gamma (effective number of parameters), stacked by path; heads in grey.

    Each part says its share of the layer's gamma where there is room, each bar its gamma.

    Returns:
        A figure whose label gives the shares; without effective parameters, one that says so.
    """
    layers = [*body_layers(report), *head_layers(report)]
    totals = [effective_parameters(layer) for layer in layers]
    if not any(totals):
        return message_figure(TITLE, report, "no effective parameters were computed (or all are zero)")
    paths = [*path_names(report), *([HEAD_PATH] if head_layers(report) else [])]
    figure = new_figure(4.2, TITLE, report)
    axes = figure.subplots()
    tallest = max(total or 0.0 for total in totals)
    gap = 0.4  # between the layers and the heads
    places = [at + gap * (at >= len(body_layers(report))) for at in range(len(layers))]
    for at, layer, total in zip(places, layers, totals, strict=True):
        base = 0.0
        for path in paths:
            gamma = finite((path_entry(layer, path) or {}).get("effective_parameters")) or 0.0
            if not gamma:
                continue
            axes.bar(
                at, gamma, bottom=base, width=0.72, color=path_colour(path), edgecolor="white", linewidth=0.8
            )
            if total and gamma < total and gamma > 0.05 * tallest and len(layers) <= 16:
                ink = ink_on(path_colour(path))
                axes.text(
                    at,
                    base + gamma / 2,
                    percent(gamma / total),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=ink,
                )
            base += gamma
        words = "–" if total is None else count(total)
        axes.annotate(
            words,
            (at, base),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9.5,
            color=INK,
            rotation=0 if len(layers) <= 16 else 90,
        )
    turned = 0 if len(layers) <= 12 else 90
    labels = [layer_label(layer["name"]) for layer in layers]
    axes.set_xticks(places, labels, rotation=turned, parse_math=False)
    axes.set_ylabel("effective parameters γ", fontsize=10.5)
    axes.margins(x=0.01)
    axes.set_ylim(0, (1.1 if len(layers) <= 16 else 1.2) * tallest)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if tallest > 10 else "{x:g}"))
    tidy(axes)
    axes.tick_params(axis="x", length=0)
    axes.legend(
        handles=[Patch(color=path_colour(path), label=path) for path in paths],
        fontsize=9.5,
        frameon=False,
        ncols=min(6, len(paths)),
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0,
        handlelength=1.2,
    )
    figure.set_label(f"Stacked bars of effective parameters by path. {_summary(report)}")
    return figure


def _summary(report: Report) -> str:
    """The paths' shares over all layers but the heads: "Over the layers, conv holds 81 %, f-fc 19 %."."""
    gamma = {
        path: sum(
            finite((path_entry(layer, path) or {}).get("effective_parameters")) or 0.0
            for layer in body_layers(report)
        )
        for path in path_names(report)
    }
    total = sum(gamma.values())
    if not total:
        return "No layer but the heads has effective parameters."
    parts = [
        f"{path} {percent(gamma[path] / total)}" for path in sorted(gamma, key=lambda path: -gamma[path])
    ]
    return f"Share of the effective parameters over the layers without the heads: {', '.join(parts)}."
