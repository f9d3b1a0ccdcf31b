"""Images to look at, and what the network says of them: at the edge of what counts as the same.

    as they are
    until the answer changes    a row a transformation: every image as far as it must go (`edges.py`)
    at the range's end          two rows a range that an average has (`layers/orbit_average.py`), one a mirror

Pixels are whole numbers 0 to 255: in the units of the raw images where those are known, between the darkest
and the brightest of the images shown. Images of more than SIDE pixels are made smaller, and channels that are
no colours are averaged.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfac import evaluated
from symlearn.analysis.edges import Edge, changed, moved, one_by_one, told
from symlearn.analysis.range_curves import average_within
from symlearn.data import Preprocessing
from symlearn.layers.transforms import Transform

SIDE = 48  # pixels
FEW = 2  # outputs of a regression that are written down


@dataclass(frozen=True, eq=False)
class Shown:
    """Images to show, and how.

    Attributes:
        model: `[batch, c, h, w] -> [batch, classes]`.
        x: the images as they are.
        scale: standard deviations of a regression's outputs `[classes]`; None: they are logits of classes.
        class_names: of the outputs; where there are none, classes are numbers.
        preprocessing: what raw images went through, where it is known.
    """

    model: nn.Module
    x: Tensor
    scale: Tensor | None = None
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    @property
    def side(self) -> float:
        """Of the images, in pixels."""
        return float(self.x.shape[-2] * self.x.shape[-1]) ** 0.5

    def pixels(self, images: Tensor) -> list[Any]:
        """`[batch, h, w]` or `[batch, h, w, 3]` of whole numbers."""
        both = torch.cat([self.x, images]).double().cpu()
        if self.preprocessing is not None:
            mean, std = (
                torch.tensor(values, dtype=torch.float64)[:, None, None]
                for values in (self.preprocessing.mean, self.preprocessing.std)
            )
            both = both * std + mean
        if both.shape[1] != 3:
            both = both.mean(1, keepdim=True)
        if max(both.shape[-2:]) > SIDE:
            factor = SIDE / max(both.shape[-2:])
            both = F.interpolate(both, scale_factor=factor, mode="bilinear", antialias=True)
        rest = both[: len(self.x)]
        low, high = rest.min(), rest.max()
        scaled = ((both[len(self.x) :] - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        whole = (255 * scaled).round().int()
        found: list[Any] = (whole[:, 0] if whole.shape[1] == 1 else whole.permute(0, 2, 3, 1)).tolist()
        return found

    def answers(self, f: Tensor) -> list[str]:
        """The likeliest class, or the first outputs, of outputs `[batch, classes]`."""
        if self.scale is None:
            numbers: list[int] = f.argmax(1).tolist()
            return [self.class_names[k] if self.class_names else str(k) for k in numbers]
        more = "…" if f.shape[1] > FEW else ""
        rows = f[:, :FEW].tolist()
        return [", ".join(f"{value:.2f}" for value in row).replace("-", "−") + more for row in rows]

    def row(self, words: str, images: Tensor, amounts: Sequence[str]) -> dict[str, Any]:
        """One row of the sheet."""
        f = self.model(images)
        other = changed(f, self.model(self.x), self.scale).tolist()
        cells = zip(self.pixels(images), self.answers(f), other, amounts, strict=True)
        names = ("pixels", "answer", "other", "amount")
        return {"words": words, "cells": [dict(zip(names, cell, strict=True)) for cell in cells]}


@torch.no_grad()
def edge_sheet(shown: Shown, edges: Mapping[Transform, Sequence[Edge]]) -> list[dict[str, Any]]:
    """The rows of examples.json.

    Args:
        shown: the images.
        edges: of every image, by transform.

    Returns:
        `words` and `cells` a row: `pixels`, the `answer`, whether it is another than at rest (`other`), and
        the `amount` in words, empty where there is none; cells of images whose answer never changes are None.
    """
    with evaluated(shown.model):
        rows = [shown.row("as it is", shown.x, [""] * len(shown.x))]
        for transform, found in edges.items():
            amplitudes = [edge.amplitude for edge in found]
            images = one_by_one(shown.x, transform, [a or 0.0 for a in amplitudes])
            amounts = ["" if a is None else told(transform, a, shown.side) for a in amplitudes]
            row = shown.row(f"{transform.verb} until the answer changes", images, amounts)
            row["cells"] = [
                None if a is None else cell for a, cell in zip(amplitudes, row["cells"], strict=True)
            ]
            if any(row["cells"]):
                rows.append(row)
        within = average_within(shown.model)
        for transform, reading in ({} if within is None else within[1].readings()).items():
            if transform.at_lowest(reading):
                continue
            if transform.acts_on == "mirror":
                images = moved(shown.x, transform, [0.0])[:, 0]
                rows.append(shown.row(f"counts as the same: {transform.verb}", images, [""] * len(images)))
                continue
            for way in (1, -1):
                amplitude = way * transform.amplitude(reading)
                images = moved(shown.x, transform, [amplitude])[:, 0]
                amounts = [told(transform, amplitude, shown.side)] * len(images)
                rows.append(shown.row(f"the range's end: {transform.verb}", images, amounts))
    return rows
