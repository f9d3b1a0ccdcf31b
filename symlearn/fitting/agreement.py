"""What the ranks of a fit settle before it begins: that they are the same, and who writes.

Every rank loads data and builds its network by itself. What they have must agree, or else sums would be added
of different networks and decisions would differ; so versions, source, configuration, shapes, weights and data
are compared.

Axes: n, c, h, w.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from symlearn.config import Config
from symlearn.data.samples import Samples
from symlearn.ranks import Ranks, code_digest
from symlearn.run_folder import ReadOnlyFolder, RunFolder, environment

FEW = 100  # images that stand for all where images are compared


def expect_agreement(
    ranks: Ranks, model: nn.Module, train: Samples, test: Samples | None, config: Config, resume: bool
) -> None:
    """Compare what the ranks are about to fit; one rank alone agrees with itself.

    The weights, which must agree to rounding, are rank 0's from here on.

    Raises:
        ValueError: on every rank, with the first difference.
    """
    if ranks.size == 1:
        return
    tables = config.model_dump()
    told = {
        f"{key} of [{table}]": repr(value) for table, keys in tables.items() for key, value in keys.items()
    }
    told["whether the fit is resumed"] = str(resume)
    versions = environment()["versions"]
    told |= {f"the version of {name}": str(versions[name]) for name in ("symlearn", "torch")}
    told["the source of symlearn"] = code_digest()
    for name, p in model.named_parameters():
        told[f"the parameter {name}"] = f"{list(p.shape)} of {p.dtype}"
        told[f"the initial weights {name}"] = f"{float(p.detach().double().abs().sum()):.5g}"
    for name, samples in {"training": train, "test": test}.items():
        if samples is not None:
            told |= told_of(samples, name)
    ranks.expect_same(told)
    ranks.spread([*model.parameters(), *model.buffers()])
    if ranks.first and any(isinstance(m, _BatchNorm) for m in model.modules()):
        warnings.warn(
            "batch normalisation sees each rank's part of a batch while weights are stepped, so the fit "
            "is not that of one process; normalise otherwise, or use one process, to have the same",
            stacklevel=2,
        )


def told_of(samples: Samples, name: str) -> dict[str, str]:
    """What is compared of a set: how many images of which shape, and sums of targets and first images."""
    images, _ = samples.first(FEW)
    return {
        f"the number of {name} images": str(len(samples)),
        f"the shape of {name} images": str(list(samples.shape)),
        f"the {name} targets (their sum)": f"{float(weighted(samples.targets)):.9g}",
        f"the {name} images (sum of the first)": f"{float(images.double().abs().sum()):.5g}",
    }


def weighted(targets: torch.Tensor) -> torch.Tensor:
    """A sum of targets that their order changes."""
    rows = targets.reshape(len(targets), -1).double().sum(1)
    return (rows * (1 + torch.arange(len(rows), device=rows.device) % 1009)).sum()


@contextmanager
def held_folder(ranks: Ranks, path: str | Path, resume: bool) -> Iterator[RunFolder]:
    """The folder of a fit, new or to be resumed, while the context is open; rank 0 holds it and writes.

    Yields:
        The folder; on other ranks one that only reads.

    Raises:
        ValueError: it cannot be used, on every rank.
    """

    def taken() -> RunFolder:
        if not ranks.first:
            return ReadOnlyFolder(path)
        folder = RunFolder.open(path) if resume else RunFolder.create(path)
        folder.acquire()
        return folder

    folder = ranks.together(taken)
    try:
        yield folder
    finally:
        folder.release()
