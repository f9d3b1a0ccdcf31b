"""Figures of tables: what they draw from rows made by hand, and what they leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from pictures import rendered

from symlearn.report import plots
from symlearn.report.plots.evidence_accuracy import rank_correlation


def texts(figure: Figure) -> list[str]:
    """Every text of a figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def row(label: str, accuracy: float | None, evidence: float | None, **more: Any) -> dict[str, Any]:
    """A row of a table."""
    known = {"label": label, "seed": 0, "accuracy": accuracy, "train_examples": 100}
    return {**known, "log_marginal_likelihood": evidence, **more}


def test_evidence_over_accuracy_with_its_rank_correlation() -> None:
    rows = [row("a", 0.9, -50.0), row("a", 0.8, -70.0), row("b", 0.7, -60.0), row("c", 0.6, None)]
    figure = plots.evidence_accuracy({"experiment": "Made up", "rows": rows})
    (axes,) = figure.axes
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    assert drawn.tolist() == pytest.approx(np.array([[90, 0.5], [80, 0.7], [70, 0.6]]))
    assert "3 runs of 2 rows; rank correlation of accuracy and log evidence 0.50" in texts(figure)
    assert rendered(figure) and "Made up" in str(figure.get_label())
    none = plots.evidence_accuracy({"experiment": "E", "rows": rows[3:]})
    assert "no run has both evidence and accuracy" in texts(none)


def test_rank_correlation_of_ties_and_orders() -> None:
    assert rank_correlation(np.array([[1.0, 9.0], [2.0, 8.0], [3.0, 1.0]])) == pytest.approx(1)
    assert rank_correlation(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 9.0]])) == pytest.approx(-1)
    assert rank_correlation(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])) == 0


def test_layer_types_have_the_colour_and_the_part_of_their_largest_path() -> None:
    layers = [
        {"relative": {"f-fc": 0.1, "conv": 0.9}},
        {"relative": {"f-fc": 0.75, "conv": 0.25}},
        {"relative": {"linear": 1.0}},
    ]
    single = [{"relative": {"conv": 1.0}}]
    rows = [
        row("a", 0.5, -1.0, layers=layers),
        row("b", 0.5, -1.0, layers=single),
        row("c", 0.5, -1.0, layers=[{"paths": {"conv": 3.0}}]),
        {"label": "d", "seed": 0, "stopped": "nan"},
    ]
    figure = plots.layer_types({"experiment": "Made up", "rows": rows})
    (axes,) = figure.axes
    cells = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_alpha() is not None]
    expected = [to_hex(plots.path_colour(path)) for path in ("conv", "f-fc")]
    assert [to_hex(cell.get_facecolor()) for cell in cells] == expected
    assert [cell.get_alpha() for cell in cells] == pytest.approx([0.3 + 0.7 * 0.8, 0.3 + 0.7 * 0.5])
    written = texts(figure)
    assert {"90", "75", "a, seed 0", "layer 1"} <= set(written) and "b, seed 0" not in written
    assert rendered(figure)
    none = plots.layer_types({"experiment": "E", "rows": rows[1:]})
    assert "no run has layers with a choice of paths" in texts(none)
