"""How the generators that the evidence learns moved over training, layer by layer."""

from matplotlib import colormaps
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from symlearn.analysis.plots.epochs import as_array, epoch_axis, points
from symlearn.analysis.plots.style import FAINT, INK, message_figure, new_figure, note, tidy
from symlearn.analysis.reading import Metrics, Report, cyclic_turns, layer_label, tensor_place

TITLE = "Generators over training"


def generators(metrics: Metrics, report: Report | None = None) -> Figure:
    """A panel a bank: angle (degrees) of every layer over the epochs, light to dark.

    A dashed line marks 360 / n, where the n rotations of a filter close to a group; a line breaks where its
    bank was not in the network.
    """
    rows = [row for row in metrics if row.get("generator")]
    if not rows:
        return message_figure(TITLE, report, "no generator was learned")
    axis, label = epoch_axis(metrics)
    x = axis[[bool(row.get("generator")) for row in metrics]]
    names = list(dict.fromkeys(name for row in rows for name in row["generator"]))
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(tensor_place(name)[1], []).append(name)
    figure = new_figure(4.0, TITLE, report)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    shades: Colormap = colormaps["viridis_r"]
    told = []
    for axes, (bank, members) in zip(grid, panels.items(), strict=True):
        turns = cyclic_turns(bank)
        axes.axhline(360 / turns, color=FAINT, linestyle="--", linewidth=1.2)
        for k, name in enumerate(members):
            layer = layer_label(tensor_place(name)[0])
            values = as_array(row["generator"].get(name) for row in rows)
            colour = shades(0.1 + 0.9 * k / max(len(members) - 1, 1))
            axes.plot(x, values, color=colour, linewidth=1.8, label=layer, **points(x))
            gap = turns * values[-1] - 360
            told.append(f"{layer} {bank} {values[-1]:.1f}°, {gap:+.1f}° off after {turns}")
        axes.set_title(bank, fontsize=10, color=INK, parse_math=False)
        axes.set_xlabel(label, fontsize=9.5, color=INK)
        axes.set_ylabel("generator θ [degrees]", fontsize=10, color=INK)
        tidy(axes)
    handles = {h.get_label(): h for axes in grid for h in axes.get_lines()[1:]}
    figure.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=min(8, len(handles)),
        frameon=False,
        fontsize=9.5,
    )
    note(figure, "dashed: 360° / n, where the n rotations of a filter close to a group")
    figure.set_label(f"Generators over training, at the end: {'; '.join(told)}")
    return figure
