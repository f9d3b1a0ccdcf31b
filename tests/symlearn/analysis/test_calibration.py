"""Scores and reliability against torchmetrics and cases worked out by hand; the diagram's shape."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from symlearn.analysis.calibration import reliability, scores
from symlearn.report.plots import reliability_diagram


def predictions(data: int = 300, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Random probabilities and labels that follow them."""
    generator = torch.Generator().manual_seed(0)
    p = (2 * torch.randn(data, classes, generator=generator, dtype=torch.float64)).softmax(1)
    return p, torch.multinomial(p, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_is_torchmetrics_one(bins: int) -> None:
    p, y = predictions()
    theirs = multiclass_calibration_error(p, y, num_classes=4, n_bins=bins)
    assert scores(p, y, bins)["ece"] == pytest.approx(float(theirs), rel=1e-6)


def test_scores_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0])
    found = scores(p, y)
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-sum(torch.tensor([0.9, 0.4, 0.8, 1.0]).log().tolist()) / 4)
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.0) / 4)
    assert [b["count"] for b in reliability(p, y)] == [1, 1, 1, 1]


def test_certain_and_wrong_stays_finite() -> None:
    found = scores(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert found["nll"] is not None
    assert 100 < found["nll"] < 1e4


def test_diagram_shows_every_curve() -> None:
    p, y = predictions()
    figure = reliability_diagram({"MAP": reliability(p, y), "Laplace": reliability(p.sqrt() / 2, y)})
    assert "MAP, ECE" in figure.get_label()
    assert "Laplace, ECE" in figure.get_label()
    assert len(figure.axes) == 2
    empty = reliability_diagram({"MAP": []})
    assert "no predictions" in empty.get_label()
