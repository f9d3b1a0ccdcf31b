"""What keeps a network from having curvature datum by datum, said in one line before or as it fails.

Axes: batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kfac.modes import autocast_within, differentiable_kernels, evaluated


def one_line(error: Exception) -> str:
    """What an error of other people's code says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def has_values(tensor: Tensor) -> bool:
    """Whether there is anything to check in a tensor.

    A pass over tensors of shapes alone computes nothing and refuses nothing; what it would hold can be
    counted.

    Returns:
        False for tensors on the `meta` device and for torch's fakes, True for all others.
    """
    return not (tensor.is_meta or hasattr(tensor, "fake_mode"))


def check_modules(model: nn.Module) -> None:
    """Refuse wrappers and layers under which a datum's gradients cannot be told apart; in `eval` mode.

    Raises:
        ValueError: data-parallel wrappers, batch normalisation by the batch's own statistics.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            where = f"{path!r} is" if path else "the model is"
            raise ValueError(
                f"{where} wrapped in {type(module).__name__}, whose replicas cannot be observed; give the "
                "network inside, its .module, and split the data over devices by adding their factors"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is None or module.running_var is None:
                raise ValueError(
                    f"batch normalisation {path!r} has no running statistics, so it ties a batch's data "
                    "together and has no curvature datum by datum; use track_running_stats=True"
                )
            if module.training:
                raise ValueError(
                    f"batch normalisation {path!r} stays in train mode after model.eval(), so it ties a "
                    "batch's data together; curvature needs its running statistics: let eval() reach it"
                )


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """The model in `eval` mode and fit for a curvature pass; left in the mode it was in.

    The caller's autocast holds for its forward pass alone; see `kfac.precision`.

    Raises:
        ValueError: see `check_modules`.
    """
    with evaluated(model), differentiable_kernels(model), autocast_within(model):
        check_modules(model)
        yield


def run(model: nn.Module, x: Tensor) -> Tensor:
    """Put a batch through a model.

    Returns:
        Outputs as the model gives them; `check_outputs` looks at their shape.

    Raises:
        ValueError: the model does not take the input, for its type, its device or its shape, or returns
            something else than a tensor.
        RuntimeError: out of memory, or a failure on a shape without values; passed on as it is.
    """
    try:
        f = model(x)
    except RuntimeError as error:
        parameter = next(model.parameters(), x)
        if x.device != parameter.device:
            raise ValueError(
                f"the inputs are on {x.device} and the model is on {parameter.device}; move one of them with "
                ".to(device)"
            ) from error
        if x.dtype != parameter.dtype:
            raise ValueError(
                f"the inputs are {x.dtype} and the model's parameters {parameter.dtype}; convert one of them "
                "(.to(dtype), or .astype(dtype) of an array)"
            ) from error
        if isinstance(error, torch.OutOfMemoryError) or not has_values(x):
            raise
        raise ValueError(
            f"the model does not run on inputs {list(x.shape)} ({one_line(error)}); give it inputs of the "
            "shape it was built for"
        ) from error
    if not isinstance(f, Tensor):
        raise ValueError(
            f"the model must return a tensor [batch, classes], got a {type(f).__name__}; return the outputs "
            "alone"
        )
    return f


@contextmanager
def explained_backward() -> Iterator[None]:
    """Say in one line what autograd says in many.

    Raises:
        ValueError: an operation in place destroyed what the backward pass needs.
        RuntimeError: any other failure of the backward pass, passed on as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise ValueError(
            "the network modifies in place a tensor that its own backward pass needs, so it has no "
            "gradients; use the out-of-place form of the operation"
        ) from error
