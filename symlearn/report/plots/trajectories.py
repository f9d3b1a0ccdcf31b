"""What the declared hyperparameters of layers have in common as figures: a line a layer over the epochs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlearn.report.plots.epochs import as_array, epoch_axis, points
from symlearn.report.plots.style import INK, tidy
from symlearn.report.reading import Metrics, Report, layer_label, tensor_place


@dataclass(frozen=True)
class Trajectories:
    """The values of one kind of hyperparameter.

    Attributes:
        epochs: of the values, `[epoch]`.
        label: of the epochs' axis.
        values: by the hyperparameter's name, `[epoch]`, NaN where its path was not in the network.
        layers: by the hyperparameter's name, the layer that declares it.
    """

    epochs: np.ndarray
    label: str
    values: dict[str, np.ndarray]
    layers: dict[str, str]

    @classmethod
    def of(cls, metrics: Metrics, kind: str, report: Report | None) -> Trajectories:
        """Those of a kind, such as "lengthscale", from the epochs in which there are any."""
        rows = [row for row in metrics if row.get(kind)]
        names = list(dict.fromkeys(name for row in rows for name in row[kind]))
        if not rows:
            return cls(np.empty(0), "", {}, {})
        axis, label = epoch_axis(metrics)
        values = {name: as_array(row[kind].get(name) for row in rows) for name in names}
        layers = {name: tensor_place(name, report)[0] for name in names}
        return cls(axis[[bool(row.get(kind)) for row in metrics]], label, values, layers)

    def draw(self, axes: Axes, title: str, names: list[str]) -> None:
        """A panel of these hyperparameters, layers light to dark."""
        layers = list(dict.fromkeys(self.layers.values()))
        shades = colormaps["viridis_r"]
        for name in names:
            layer = self.layers[name]
            axes.plot(
                self.epochs,
                self.values[name],
                color=shades(0.1 + 0.9 * layers.index(layer) / max(len(layers) - 1, 1)),
                linewidth=1.8,
                label=layer_label(layer),
                **points(self.epochs),
            )
        axes.set_title(title, fontsize=10, color=INK, parse_math=False)
        axes.set_xlabel(self.label, fontsize=9.5, color=INK)
        tidy(axes)


def legend_of_layers(figure: Figure) -> None:
    """One entry a layer, below all panels."""
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    handles = {str(line.get_label()): line for line in lines if not str(line.get_label()).startswith("_")}
    figure.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=min(8, len(handles)),
        frameon=False,
        fontsize=9.5,
    )
