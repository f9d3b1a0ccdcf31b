"""What is said before a fit starts: data, network and configuration that do not go together.

Axes: batch, c, h, w, outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kfac import check_modules, one_line
from symlearn.config import Config, checked
from symlearn.curvature.coverage import check_coverage, has_evidence
from symlearn.curvature.training_set import curvature_of
from symlearn.curvature.whole import check_whole
from symlearn.data.pairs import pair_of
from symlearn.data.reading import deaths_told
from symlearn.data.samples import Held, Pairs, Samples
from symlearn.data.streams import Data, Stream, in_memory, streamed
from symlearn.evidence.likelihood import likelihood_of
from symlearn.layers.declared import hyperparameters_of


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type that images are brought to.

    Returns:
        That of the network's first parameter.

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


def check_fits(model: nn.Module, train: Samples, test: Samples | None, config: Config) -> None:
    """Run an image of every set through the network, so that a misfit is said before anything starts.

    The network is left in `eval` mode.

    Raises:
        ValueError: curvature or corrected eigenvalues where they are not to be had, images that the network
            does not take; see `check_coverage` and `check_targets` too.
    """
    selects = config.evidence.selection != "none"
    check_coverage(model, config.curvature, selects)
    if config.training.augment and len(train.shape) != 3:
        raise ValueError(
            f"augment mirrors and shifts images [n, c, h, w], and the training data are [n, "
            f"{', '.join(map(str, train.shape))}]; leave augment out"
        )
    model.eval()
    f = outputs_of_one(model, train.first(1)[0], "training")
    check_targets(f, train.targets, config, "training")
    if test is not None:
        f_test = outputs_of_one(model, test.first(1)[0], "test")
        if f_test.shape != f.shape:
            raise ValueError(
                f"the network has {f.shape[1]} outputs for training images {list(train.shape)}, but "
                f"{f_test.shape[1]} for test images {list(test.shape)}; bring them to one size"
            )
        check_targets(f, test.targets, config, "test")
    declared = sorted(hyperparameters_of(model))
    if declared and config.curvature.eigenvalues != "kronecker":
        raise ValueError(
            f"corrected eigenvalues have no gradient for {declared[0]}, which the evidence learns; set "
            "curvature.eigenvalues to 'kronecker', or model.learn to 'nothing'"
        )
    images = config.evidence.evidence_images
    if isinstance(images, int) and images < len(train) and config.curvature.eigenvalues != "kronecker":
        raise ValueError(
            f"evidence_images is {images}, but corrected eigenvalues are those of all images' basis; set "
            "evidence.evidence_images to 'all', or curvature.eigenvalues to 'kronecker'"
        )
    check_whole(model, config, train)
    if not has_evidence(model, config.curvature):
        return
    check_modules(model)
    if config.curvature.eigenvalues != "kronecker":
        curvature_of(model, config, train.first(1))  # says what has no corrected eigenvalues


def outputs_of_one(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """Put a set's first image through the network.

    Returns:
        Outputs `[1, outputs]`, without gradients.

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
    wrong = likelihood_of(config.data.likelihood).misfit(f, y)
    if wrong is not None:
        raise ValueError(f"{name} targets: {wrong}")


def as_tensors(data: Data, device: torch.device, dtype: torch.dtype = torch.float32) -> Pairs:
    """Bring a data set, a loader or a pair of tensors or arrays to a device.

    Returns:
        x `[n, c, h, w]` and y `[n]` or `[n, outputs]`; images and real targets in the given dtype, labels as
        int64.

    Raises:
        ValueError: no data, values that are not finite, or x and y of different lengths; see `pair_of` too.
    """
    x, y = pair_of(data)
    if x.dim() < 2 or y.dim() < 1:
        raise ValueError(
            f"expected images [n, c, h, w] and targets [n], got {list(x.shape)} and {list(y.shape)}; "
            "give every image an axis of its own"
        )
    if len(x) != len(y) or not len(x):
        raise ValueError(f"expected as many targets as images and at least one, got {len(x)} and {len(y)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{int((~torch.isfinite(x)).sum())} pixels are NaN or infinite; clean the images")
    if y.is_floating_point() and not torch.isfinite(y).all():
        raise ValueError("some targets are NaN or infinite; clean them")
    return x.to(device, dtype), y.to(device, dtype if y.is_floating_point() else torch.int64)


def inputs_of(
    model: nn.Module,
    train: Data,
    test: Data | None,
    config: Config | dict[str, Any] | None,
    device: torch.device | None = None,
) -> tuple[Config, Samples, Samples | None]:
    """Check what a fit is given and bring it to its device.

    Args:
        model: the network.
        train: the training set.
        test: the test set, or None.
        config: of the fit; None takes the defaults.
        device: for the data; None takes the configuration's.

    Returns:
        The configuration with its schedules worked out, training samples in the network's type, and test
        samples or None.

    Raises:
        ValueError: a configuration, a device, a network or data that no fit can use.
    """
    chosen = checked(config) if isinstance(config, dict) else config or Config()
    own, dtype = usable_device(chosen), dtype_of(model)
    samples, test_samples = (
        None if data is None else samples_from(data, device or own, dtype, chosen.data.workers)
        for data in (train, test)
    )
    assert samples is not None
    return chosen.resolved(len(samples)), samples, test_samples


@deaths_told()
def samples_from(
    data: Data, device: torch.device, dtype: torch.dtype = torch.float32, workers: int = 0
) -> Samples:
    """Bring what a user gives to a device.

    Returns:
        Samples, images and real targets in the given dtype.

    Tensors, arrays and lists are held; data sets and loaders are read as their images are needed. `Samples`
    stay as they are.

    Raises:
        ValueError: see `as_tensors` and `streamed`.
    """
    if isinstance(data, Samples):
        return data
    if in_memory(data):
        tensors: Any = data.dataset if isinstance(data, DataLoader) else data
        return Held(*as_tensors(tensors, device, dtype))
    return streamed(data if isinstance(data, Stream) else Stream(data, workers=workers), device, dtype)


def usable_device(config: Config) -> torch.device:
    """The device a fit runs on.

    Returns:
        The CPU or a CUDA device that is there.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    device = torch.device(config.training.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this machine has no CUDA device; use device 'cpu'")
    return device
