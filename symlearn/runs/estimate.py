"""The cost of what a configuration describes, before anything is run.

Axes: n, c, h, w.
"""

from __future__ import annotations

from functools import partial

import torch

from symlearn.config import Config
from symlearn.cost.estimate import Estimate, estimate, estimated
from symlearn.curvature.coverage import check_coverage
from symlearn.runs.experiment import Build, check_new, load, network_of
from symlearn.training.inputs import samples_from, usable_device


def estimate_experiment(config: Config, network: Build | None = None, processes: int = 1) -> Estimate:
    """The cost of what a configuration describes; loads the data, writes nothing.

    Args:
        config: of the fit.
        network: builds a network of the user's own; see `run_experiment`.
        processes: that share the fit.

    Returns:
        As of `symlearn.estimate`: bytes by stage, and seconds where they could be measured.

    Raises:
        ValueError: whatever `run_experiment` would refuse.
    """
    check_new(config)
    config, splits = load(config)
    if network is not None:
        with torch.random.fork_rng(devices=[]):
            model = network(splits.in_channels, splits.size, splits.classes)
        return estimate(model, splits.train, splits.test, config, processes=processes)
    with torch.device("meta"):
        shadow = network_of(config, splits).to("meta")  # tables of groups are made on the CPU
    check_coverage(shadow, config.curvature, config.evidence.selection != "none")
    device = usable_device(config)
    train, test = (samples_from(half, device) for half in (splits.train, splits.test))
    build = partial(network_of, config, splits)
    return estimated(shadow, build, train, test, config, seconds=True, held=False, processes=processes)
