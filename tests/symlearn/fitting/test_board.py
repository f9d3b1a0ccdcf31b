"""Event files of a fit: what TensorBoard reads is what metrics.jsonl says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_fits import bars, one_layer, options

import symlearn


def test_events_are_the_metrics(tmp_path: Path) -> None:
    data = bars(60, "direction")
    config = options(epochs=12, selection="gradient", removal_rounds=0)
    result = symlearn.fit(
        one_layer("f-fc+conv", classes=3), data, data, config, tensorboard=tmp_path / "events"
    )
    read = EventAccumulator(str(tmp_path / "events"))
    read.Reload()
    for name in ("train_loss", "test_accuracy", "log_marginal_likelihood"):
        expected = [(line["epoch"], line[name]) for line in result.metrics if line[name] is not None]
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert [step for step, _ in found] == [epoch for epoch, _ in expected], name
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6), (
            name
        )
    tensors = {tag.partition("/")[2] for tag in read.Tags()["scalars"] if tag.startswith("prior_precision/")}
    assert tensors == {n for line in result.metrics for n in line.get("prior_precision", {})}
