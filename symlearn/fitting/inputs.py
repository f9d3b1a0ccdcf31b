"""What a fit is given, checked together with the room it needs.

Axes: n, c, h, w.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from symlearn.config import Config
from symlearn.cost.dry_fit import sizes_of
from symlearn.cost.room import expect_room
from symlearn.data.samples import Samples
from symlearn.data.streams import Data
from symlearn.training.inputs import check_fits, inputs_of


def ready_inputs(
    model: nn.Module,
    train: Data,
    test: Data | None,
    config: Config | dict[str, Any] | None,
    checkpoints: bool,
) -> tuple[Config, Samples, Samples | None]:
    """`inputs_of`, with the network on the same device, checked together with the room for the fit.

    Returns:
        The configuration with its schedules worked out, training pairs, and test pairs or None.

    Raises:
        ValueError: see `inputs_of`, `check_fits` and `expect_room`.
    """
    chosen, samples, test_samples = inputs_of(model, train, test, config)
    device = samples.device
    check_fits(model.to(device), samples, test_samples, chosen)
    expect_room(model, sizes_of(chosen, samples, test_samples, checkpoints), device)
    return chosen, samples, test_samples
