"""Whether the evidence is of the whole GGN or of its blocks, tensor by tensor.

The whole GGN is exact and asks no rule; its cost grows with the square and the cube of its rows, images times
outputs (times classes less one), and with the rows times the largest tensor. Of too many rows a few mixtures
of each image's may stand for all, if that is asked for. Gradients of declared hyperparameters are of blocks
alone.

Axes: row, params.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from kfac import evaluated, rows_needed
from symlearn.config import WHOLE_UP_TO, Config, CurvatureConfig
from symlearn.curvature.coverage import seen
from symlearn.data.samples import Samples
from symlearn.layers.declared import hyperparameters_of
from symlearn.ranks import ALONE, Ranks

MOST = 4 * WHOLE_UP_TO  # rows, where it is asked for
OF_BLOCKS = ("fisher_type", "mc_samples", "weight_sharing", "group_factors", "eigenvalues")  # kinds of them
LARGEST = 2**27  # rows times parameters of one tensor: half a GiB


def uses_whole(
    model: nn.Module, config: Config, train: Samples, ranks: Ranks = ALONE, n_data: int | None = None
) -> bool:
    """Whether the evidence is of the whole GGN; `n_data`: of the training set, where `train` is a part."""
    n = len(train) if n_data is None else n_data
    if config.curvature.ggn == "auto":
        if n > WHOLE_UP_TO:
            return False
        if ranks.size > 1 and train.device.type != "cpu":  # what GPUs compute again need not be the same
            return False
    return applies(model, config, n, partial(rows_of, model, config, train, n))


def applies(model: nn.Module, config: Config, n_data: int, rows: Callable[[], int]) -> bool:
    """The rule alone: by configuration, what layers declare, rows and the largest tensor."""
    chosen = config.curvature
    if chosen.ggn != "auto":
        return chosen.ggn != "blocks"
    if kinds_of_blocks(chosen) or of_a_part(config, n_data) or hyperparameters_of(model):
        return False
    found = rows()
    return found <= WHOLE_UP_TO and found * largest_tensor(model, config) <= LARGEST


def drawn_columns(config: Config, n_data: int, rows: int) -> int | None:
    """How many mixtures of an image's rows stand for all of them; None: all are there.

    Args:
        config: of a fit whose evidence is of the whole GGN.
        n_data: number of images.
        rows: of all of them.
    """  # noqa: DOC201, the first line says it
    if config.curvature.ggn != "drawn" or rows <= WHOLE_UP_TO:
        return None
    return max(WHOLE_UP_TO // n_data, 1)


def columns_of(model: nn.Module, config: Config, train: Samples) -> int | None:
    """`drawn_columns` of a training set; the network is run only where rows may be drawn."""
    if config.curvature.ggn != "drawn":
        return None
    return drawn_columns(config, len(train), rows_of(model, config, train, len(train)))


def kinds_of_blocks(chosen: CurvatureConfig) -> list[str]:
    """Keys that are set to another kind of blocks than the default's."""
    return [key for key in OF_BLOCKS if getattr(chosen, key) != CurvatureConfig.model_fields[key].default]


def of_a_part(config: Config, n_data: int) -> bool:
    """Whether an update is asked to look at a part of so few images, which goes by sums of blocks."""
    images = config.evidence.evidence_images
    return isinstance(images, int) and images < n_data


def rows_of(model: nn.Module, config: Config, train: Samples, n_data: int) -> int:
    """Rows of the whole GGN."""
    with torch.no_grad(), evaluated(model):
        outputs = model(train.first(1)[0]).shape[1]
    return rows_needed(outputs, n_data, config.data.likelihood)


def largest_tensor(model: nn.Module, config: Config) -> int:
    """Parameters of the largest tensor that the evidence sees."""
    with seen(model, config.curvature):
        return max((p.numel() for p in model.parameters() if p.requires_grad), default=0)


def check_whole(model: nn.Module, config: Config, train: Samples) -> None:
    """Refuse a whole GGN that is asked for and cannot be.

    Raises:
        ValueError: too many rows, hyperparameters that layers declare, a part of the images, or a kind of
            blocks asked for too.
    """
    chosen = config.curvature
    if chosen.ggn not in ("whole", "drawn"):
        return
    if declared := sorted(hyperparameters_of(model)):
        raise ValueError(
            f"the whole GGN has no gradient for {declared[0]}, which the evidence learns; set curvature.ggn "
            "to 'blocks', or model.learn to 'nothing'"
        )
    for key in kinds_of_blocks(chosen):
        if (value := getattr(chosen, key)) != "type-2":  # whose columns are the whole GGN's too
            raise ValueError(
                f"the whole GGN is exact, so curvature.{key} {value!r} says nothing of it; leave it out, or "
                "set curvature.ggn to 'blocks'"
            )
    if of_a_part(config, len(train)):
        raise ValueError(
            f"evidence_images is {config.evidence.evidence_images}, but the whole GGN is of all images; set "
            "evidence.evidence_images to 'all', or curvature.ggn to 'blocks'"
        )
    columns = columns_of(model, config, train)
    rows = rows_of(model, config, train, len(train)) if columns is None else columns * len(train)
    if rows > MOST or rows * largest_tensor(model, config) > LARGEST:
        raise ValueError(
            f"the whole GGN of {len(train):,} images has {rows:,} rows, whose gradients do not fit; expected "
            f"up to {MOST:,}, and {LARGEST:,} numbers of the largest tensor; set curvature.ggn to 'blocks'"
        )
