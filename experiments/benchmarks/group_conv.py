"""Group convolutions against one `conv2d` of the expanded size, and against escnn's where it is installed.

10 fields on p4 and p4m, 28 x 28, batch 32, zero padding: building the bank of moved filters is all that a
group convolution adds to an ordinary one. Its curvature against that of the same network written with
ordinary convolutions (which has |H| times the weights).

    python experiments/benchmarks/group_conv.py

Axes: batch, c, group, h, w.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from timing import Comparison, Prepare, Side, at_scale, benchmark
from torch import Tensor, nn

import kfac
from symlearn.groups import find_group
from symlearn.layers import GroupConv2d

FIELDS, SIZE, BATCH = at_scale((10, 28, 32), smoke=(2, 6, 2))
CLASSES = 10
GROUPS = ("p4", "p4m")


def planes(group: str) -> Tensor:
    """Noise with all fields as channels, `[batch, c * group, h, w]`."""
    members = len(find_group(group))
    return torch.randn(BATCH, FIELDS * members, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def gradients(module: nn.Module, x: Tensor) -> Side:
    """Output, and the gradients of weights and input."""
    inputs = [x.requires_grad_(), *module.parameters()]
    cotangent = torch.randn_like(module(x))
    return lambda: torch.autograd.grad(module(x), inputs, cotangent)


def ours(group: str) -> Prepare:
    """`GroupConv2d`."""

    def prepare() -> Side:
        members = len(find_group(group))
        layer = GroupConv2d(FIELDS, FIELDS, 3, group, "full", "zeros")
        return gradients(layer, planes(group).unflatten(1, (FIELDS, members)))

    return prepare


def plain(group: str) -> Prepare:
    """One convolution of the expanded size."""

    def prepare() -> Side:
        channels = FIELDS * len(find_group(group))
        return gradients(nn.Conv2d(channels, channels, 3, padding=1), planes(group))

    return prepare


def escnn_layer(group: str) -> Prepare:
    """escnn's `R2Conv` on regular fields."""

    def prepare() -> Side:
        from escnn import gspaces
        from escnn import nn as enn

        space = gspaces.rot2dOnR2(4) if group == "p4" else gspaces.flipRot2dOnR2(4)
        fields = enn.FieldType(space, FIELDS * [space.regular_repr])
        layer = enn.R2Conv(fields, fields, 3, padding=1)
        x = planes(group).requires_grad_()
        inputs = [x, *layer.parameters()]
        cotangent = torch.randn_like(layer(fields(x)).tensor)
        return lambda: torch.autograd.grad(layer(fields(x)).tensor, inputs, cotangent)

    return prepare


def curvature(group: str, expanded: bool) -> Prepare:
    """Type-2 factors of two layers and a frozen head."""

    def prepare() -> Side:
        members = len(find_group(group))
        channels = FIELDS * members
        head = nn.Linear(channels, CLASSES).requires_grad_(False)
        if expanded:
            body: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
            x, pool = planes(group), nn.AdaptiveAvgPool2d(1)
        else:
            body = [GroupConv2d(FIELDS, FIELDS, 3, group, "full", "zeros") for _ in range(2)]
            x, pool = planes(group).unflatten(1, (FIELDS, members)), nn.AdaptiveAvgPool3d((members, 1, 1))
        model = nn.Sequential(body[0], nn.ReLU(), body[1], nn.ReLU(), pool, nn.Flatten(), head)
        loader = [(x, torch.arange(BATCH) % CLASSES)]
        return lambda: kfac.compute_factors(model, loader, "classification").eigendecompose()

    return prepare


def main() -> None:
    """Measure and write."""
    sides: dict[str, Callable[[], Side]] = {}
    comparisons = []
    for group in GROUPS:
        sides[f"{group}, GroupConv2d"], sides[f"{group}, conv2d"] = ours(group), plain(group)
        comparisons.append(
            Comparison(
                f"{group}: GroupConv2d / conv2d of the expanded size",
                f"{group}, GroupConv2d",
                f"{group}, conv2d",
                at_most=1.06,
            )
        )
        if importlib.util.find_spec("escnn"):
            sides[f"{group}, escnn"] = escnn_layer(group)
            comparisons.append(Comparison(f"{group}: escnn / conv2d", f"{group}, escnn", f"{group}, conv2d"))
        sides[f"{group}, KFAC"] = curvature(group, expanded=False)
        sides[f"{group}, KFAC expanded"] = curvature(group, expanded=True)
        comparisons.append(
            Comparison(
                f"{group}: KFAC / KFAC of the ordinary network", f"{group}, KFAC", f"{group}, KFAC expanded"
            )
        )
    benchmark("group_conv", sides, comparisons, repeats=9)


if __name__ == "__main__":
    main()
