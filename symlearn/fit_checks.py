"""What is said before a fit starts: data, network and configuration that do not go together.

Axes: batch, c, h, w, outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kfac.checks import check_modules, one_line
from symlearn.config import Config
from symlearn.coverage import check_coverage, has_evidence
from symlearn.declared import hyperparameters_of
from symlearn.pairs import Pairs
from symlearn.training_curvature import curvature_of


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of a network's parameters, which images are brought to.

    Raises:
        ValueError: no network, or one without anything to train.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a network, an nn.Module, got {type(model).__name__}")
    parameters = list(model.parameters())
    if not any(p.requires_grad for p in parameters):
        why = "every parameter is frozen; call requires_grad_()" if parameters else "it has no parameters"
        raise ValueError(f"the network has nothing to train: {why}")
    return parameters[0].dtype


def check_fits(model: nn.Module, train: Pairs, test: Pairs | None, config: Config) -> None:
    """Run an image of every set through the network, so that a misfit is said before anything starts.

    The network is left in `eval` mode.

    Raises:
        ValueError: curvature or corrected eigenvalues where they are not to be had, images that the network
            does not take; see `check_coverage` and `check_targets` too.
    """
    selects = config.evidence.selection != "none"
    check_coverage(model, config.curvature, selects)
    model.eval()
    f = outputs_of_one(model, train[0], "training")
    check_targets(f, train[1], config, "training")
    if test is not None:
        f_test = outputs_of_one(model, test[0], "test")
        if f_test.shape != f.shape:
            raise ValueError(
                f"the network has {f.shape[1]} outputs for training images {list(train[0].shape[1:])}, but "
                f"{f_test.shape[1]} for test images {list(test[0].shape[1:])}; bring them to one size"
            )
        check_targets(f, test[1], config, "test")
    declared = sorted(hyperparameters_of(model))
    if declared and config.curvature.eigenvalues != "kronecker":
        raise ValueError(
            f"corrected eigenvalues have no gradient for {declared[0]}, which the evidence learns; set "
            "curvature.eigenvalues to 'kronecker', or model.learn to 'nothing'"
        )
    if not has_evidence(model, config.curvature):
        return
    check_modules(model)
    if config.curvature.eigenvalues != "kronecker":
        curvature_of(model, config, (train[0][:1], train[1][:1]))  # says what has no corrected eigenvalues


def outputs_of_one(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """The outputs `[1, outputs]` of a set's first image.

    Raises:
        ValueError: the network does not take it, or its outputs are of another shape.
    """
    try:
        with torch.no_grad():
            f = model(x[:1])
    except Exception as error:  # whatever a user's code raises
        raise ValueError(
            f"the network takes no {name} images {[1, *x.shape[1:]]} ({one_line(error)}); give it the size "
            "and channels it was built for"
        ) from error
    if not isinstance(f, Tensor) or f.dim() != 2 or len(f) != 1:
        got = list(f.shape) if isinstance(f, Tensor) else f"a {type(f).__name__}"
        raise ValueError(f"the network must return [batch, outputs], but one image gives {got}")
    return f


def check_targets(f: Tensor, y: Tensor, config: Config, name: str) -> None:
    """Refuse targets of a set that do not fit the outputs `f` of one image.

    Raises:
        ValueError: a wrong type, shape or range.
    """
    if config.data.likelihood == "regression":
        if not y.is_floating_point() or y.reshape(len(y), -1).shape[1] != f.shape[1]:
            raise ValueError(
                f"regression needs real targets [n, {f.shape[1]}], got {y.dtype} {list(y.shape)} for {name}"
            )
        return
    if y.is_floating_point() or y.dim() != 1:
        raise ValueError(f"classification needs integer labels [n], got {y.dtype} {list(y.shape)} for {name}")
    if int(y.min()) < 0 or int(y.max()) >= f.shape[1]:
        raise ValueError(
            f"{name} labels run from {int(y.min())} to {int(y.max())}, but the network has {f.shape[1]} "
            "outputs; build it with classes=… to match"
        )
