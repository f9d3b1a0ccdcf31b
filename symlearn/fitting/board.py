"""A fit's metrics for TensorBoard, as they come.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symlearn.extras import need

SCALARS = ("train_loss", "train_accuracy", "test_accuracy", "test_nll", "log_marginal_likelihood")
BY_TENSOR = ("prior_precision", "effective_parameters")


class Board:
    """Writes lines of metrics.jsonl as scalars, an epoch a step.

    Args:
        folder: for the event files, made if it is not there.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        need("tensorboard", "event files", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write some epochs' metrics; what they lack is left out."""
        for line in lines:
            for name in SCALARS:
                if line.get(name) is not None:
                    self.writer.add_scalar(name, line[name], line["epoch"])
            for kind in BY_TENSOR:
                for tensor, value in (line.get(kind) or {}).items():
                    self.writer.add_scalar(f"{kind}/{tensor}", value, line["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Close the files."""
        self.writer.close()
