"""What is said before a fit starts: data, network and configuration that do not go together.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symlearn.config import Config
from symlearn.coverage import check_coverage
from symlearn.declared import hyperparameters_of
from symlearn.pairs import Pairs
from symlearn.training_curvature import curvature_of


def check_fits(model: nn.Module, data: Pairs, config: Config) -> None:
    """Run one image through the network, so that a misfit is said before anything starts.

    Raises:
        ValueError: corrected eigenvalues where they are not to be had; see `check_coverage` and
            `check_targets` too.
    """
    x, y = data
    check_coverage(model, config.curvature, config.evidence.selection != "none")
    model.eval()
    with torch.no_grad():
        f: Tensor = model(x[:1])
    check_targets(f, y, config)
    if config.curvature.eigenvalues == "kronecker":
        return
    declared = sorted(hyperparameters_of(model))
    if declared:
        raise ValueError(
            f"corrected eigenvalues have no gradient for {declared[0]}, which the evidence learns; set "
            "curvature.eigenvalues to 'kronecker', or model.learn to 'nothing'"
        )
    if config.evidence.selection != "none":
        curvature_of(model, config, (x[:1], y[:1]))  # says what has no corrected eigenvalues


def check_targets(f: Tensor, y: Tensor, config: Config) -> None:
    """Refuse targets that do not fit the outputs `f` of one image.

    Raises:
        ValueError: a wrong type, shape or range.
    """
    if config.data.likelihood == "regression":
        if not y.is_floating_point() or y.reshape(len(y), -1).shape[1] != f.shape[1]:
            raise ValueError(
                f"regression needs real targets [n, {f.shape[1]}], got {y.dtype} {list(y.shape)}"
            )
        return
    if y.is_floating_point() or y.dim() != 1:
        raise ValueError(f"classification needs integer labels [n], got {y.dtype} {list(y.shape)}")
    if int(y.min()) < 0 or int(y.max()) >= f.shape[1]:
        raise ValueError(
            f"labels run from {int(y.min())} to {int(y.max())}, but the network has {f.shape[1]} outputs; "
            "build it with classes=… to match"
        )
