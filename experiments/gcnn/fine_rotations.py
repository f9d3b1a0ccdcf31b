"""How equivariant are C_5, C_6, C_8, C_12 and D_6? Filters before (interpolated taps) and after (harmonics).

    python experiments/gcnn/fine_rotations.py

Relative errors ||f(h x) - h f(x)|| / ||f(x)||, the worst over the elements h, of untrained maps on smooth
images: white noise blurred by a Gaussian of so many pixels (0: not blurred, its spectrum the disc up to the
grid's highest frequency). Nothing is resampled to measure them: images are given by their spectrum and
evaluated where they lie after the turn, and outputs are compared at the centre of the map, which stays where
it is. Noise like this is the same everywhere, so the centre stands for every place whose filter sees the
image.

    lifting, full  one layer, 2 -> 4 channels: the expected squares in closed form, from the covariance of the
                   image, exp(-d^2 / (4 blur^2)) at a distance d, between all places that a filter and a
                   turned filter look at
    network        lifting, ReLU, full, ReLU, full (1 -> 2 -> 2 -> 2 channels), on images of 64 waves each
    invariant      its mean over the group; relative to the spread over images
    resampled      `symlearn.equivariance_error` of a lifting layer on 33 x 33 images that fade towards the
                   border: turns image and map by bilinear resampling
    floor          what resampling alone does to those images: the turned one less the one drawn turned

`fraction` is the norm of a layer's filters that is left after the worst move, over that of the identity's.
escnn's filters (lifting layers, cyclic groups) stand beside ours where it can be imported.

Results: results/fine_rotations.json; figure: figures/fine-rotations.png. Cases that are
there are not measured again, and `--draw` only draws.

Axes: image, c_in, c_out, group, member, tap, point, row-column.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.special import j1
from torch import Tensor, nn

import symlearn
from symlearn.groups import FiniteGroup, find_group
from symlearn.layers.filter_bank import FilterBank
from symlearn.layers.group_conv import FullGroupConv2d, GroupStage, LiftingConv2d
from symlearn.layers.steerable_basis import tap_places
from symlearn.run_folder import environment, to_json
from symlearn.runs.reproduce import commit

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "fine_rotations.json"
GROUPS, SIZES, BLURS = ("c5", "c6", "c8", "c12", "d6"), (3, 5, 7, 9), (0.0, 0.75, 1.0, 1.5, 2.0, 3.0)
SEEDS, IMAGES, WAVES, SIDE = (0, 1, 2), 16, 64, 33
COLOURS = {3: "#CC79A7", 5: "#E69F00", 7: "#0072B2", 9: "#009E73"}


class InterpolatedBank(FilterBank):
    """Free taps, interpolated bilinearly inside a disc: the filters of earlier versions."""

    def __init__(self, group: FiniteGroup, kernel_size: int, regular: bool) -> None:
        super().__init__(group, kernel_size, regular, (kernel_size, kernel_size))
        self.register_buffer("taps", group.grid_action(kernel_size), persistent=False)

    def build(self, weight: Tensor) -> Tensor:
        """See `FilterBank`."""
        by_member = weight.unflatten(-1, (-1, self.kernel_size**2))
        if self.regular:
            by_member = by_member[..., self.group.regular_permutation(), :]
        else:
            by_member = by_member.unsqueeze(-3)
        return torch.einsum(
            "...hgs,hts->...hgt", by_member.expand(*by_member.shape[:-3], len(self.group), -1, -1), self.taps
        ).flatten(-2)

    def turn(self, rows: Tensor, element: int) -> Tensor:
        """Not needed here."""
        raise NotImplementedError


def stage_of(filters: str, group: FiniteGroup, k: int, c_in: int, c_out: int, regular: bool) -> GroupStage:
    """A stage with its initial weights, without padding and bias, float64."""
    stage = (FullGroupConv2d if regular else LiftingConv2d)(c_in, c_out, k, group, "valid", bias=False)
    if filters == "interpolated":
        stage.bank = InterpolatedBank(group, k, regular)
        stage.weight = nn.Parameter(torch.empty(c_out, c_in, *stage.bank.axes))
        stage.reset_parameters()
    return stage.double()


def escnn_bank(group: FiniteGroup, k: int, c_in: int, c_out: int) -> Tensor:
    """The bank of escnn's own lifting layer, cyclic groups, its initial weights."""
    from escnn import gspaces
    from escnn import nn as enn

    space = gspaces.rot2dOnR2(len(group))
    fields = enn.FieldType(space, c_in * [space.trivial_repr])
    layer = enn.R2Conv(fields, enn.FieldType(space, c_out * [space.regular_repr]), k, bias=False)
    filters, _ = layer.expand_parameters()
    return filters.detach().double().unflatten(0, (c_out, len(group))).transpose(1, 2).flatten(3)


def covariance(points: Tensor, blur: float) -> Tensor:
    """Of the image between points `[point, 2]`, `[point, point]`; 1 on the diagonal."""
    d = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    if blur:
        return torch.exp(-d.square() / (4 * blur**2))
    z = (math.pi * d).clamp_min(1e-9)
    return 2 * torch.from_numpy(j1(z.numpy())) / z


def layer_errors(bank: Tensor, group: FiniteGroup, k: int, blur: float) -> list[float]:
    """Expected relative error of every element, of a bank `[c_out, c_in, group, member * tap]`."""
    bank = bank.unflatten(-1, (-1, k * k))  # [c_out, c_in, group, member, tap]
    regular, taps = bank.shape[3] > 1, tap_places(k)
    still = covariance(taps, blur)
    scale = torch.einsum("oihms,st,oihmt->", bank, still, bank)
    found = []
    for h, matrix in enumerate(group.matrices):
        turned = bank[:, :, :, group.product[h]] if regular else bank  # of the member m, which h moves to h m
        expected = bank[:, :, group.product[group.inverse[h]]]
        difference = torch.cat([turned, -expected], -1)
        both = covariance(torch.cat([taps @ matrix, taps]), blur)
        squares = torch.einsum("oihms,st,oihmt->", difference, both, difference)
        found.append(float((squares / scale).clamp_min(0).sqrt()))
    return found


def waves(points: Tensor, blur: float, images: int, seed: int) -> Tensor:
    """Images `[image, 1, *point]` at places `[*point, 2]`, sums of waves with the noise's spectrum."""
    generator = torch.Generator().manual_seed(1000 + seed)
    if blur:
        vectors = torch.randn(images, WAVES, 2, generator=generator).double() / (math.sqrt(2) * blur)
    else:
        radius, angle = torch.rand(2, images, WAVES, generator=generator).double()
        vectors = (
            math.pi
            * radius.sqrt().unsqueeze(-1)
            * torch.stack([torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)], -1)
        )
    phases = 2 * math.pi * torch.rand(images, 1, WAVES, generator=generator).double()
    values = torch.cos(points.reshape(-1, 2) @ vectors.mT + phases).sum(2) / math.sqrt(WAVES / 2)
    return values.unflatten(1, points.shape[:-1]).unsqueeze(1)


def inexact(group: FiniteGroup) -> list[int]:
    """The elements that do not permute the grid; the others are exact."""
    return [h for h in range(len(group)) if not group.permutes(h)]


@torch.no_grad()
def network_errors(filters: str, group: FiniteGroup, k: int, blur: float, seed: int) -> tuple[float, float]:
    """The worst errors of the network's group map at the centre, and of its mean over the group."""
    torch.manual_seed(seed)
    stages = [stage_of(filters, group, k, 1, 2, regular=False)]
    stages += [stage_of(filters, group, k, 2, 2, regular=True) for _ in range(2)]
    places = tap_places(3 * (k - 1) + 1).unflatten(0, (3 * (k - 1) + 1, -1))

    def outputs(matrix: Tensor) -> Tensor:
        x = waves(places @ matrix, blur, IMAGES, seed)
        for index, stage in enumerate(stages):
            x = stage(x if index == 0 else x.relu())
        return x.flatten(3).squeeze(3)  # [image, c, group]

    y = outputs(group.matrices[0])
    spread = (y.mean(2) - y.mean((0, 2))).norm()
    worst = worst_mean = 0.0
    for h in inexact(group):
        gap = outputs(group.matrices[h]) - y[:, :, group.product[group.inverse[h]]]
        worst = max(worst, float(gap.norm() / y.norm()))
        worst_mean = max(worst_mean, float(gap.mean(2).norm() / spread))
    return worst, worst_mean


@torch.no_grad()
def resampled_errors(filters: str, group: FiniteGroup, k: int, blur: float, seed: int) -> tuple[float, float]:
    """The worst error as `equivariance_error` measures it, and the worst that resampling alone makes."""
    torch.manual_seed(seed)
    stage, places = stage_of(filters, group, k, 2, 4, regular=False), tap_places(SIDE)
    places = places.unflatten(0, (SIDE, SIDE))
    fade = torch.exp(-((places.norm(dim=2) / (SIDE / 3.3)) ** 8))

    def images(matrix: Tensor) -> Tensor:
        return (waves(places @ matrix, blur, 2 * 8, seed) * fade).unflatten(0, (8, 2)).squeeze(2)

    stage.padding_mode, x = "circular", images(group.matrices[0])
    error = float(symlearn.equivariance_error(stage, group, x, elements=inexact(group)).max())
    gaps = [group.act_on_image(x, h) - images(group.matrices[h]) for h in inexact(group)]
    return error, max(float(gap.norm() / x.norm()) for gap in gaps)


def layer_bank(filters: str, group: FiniteGroup, k: int, regular: bool, seed: int) -> Tensor:
    """The bank of a layer of 2 -> 4 channels, `[c_out, c_in, group, member * tap]`."""
    torch.manual_seed(seed)
    if filters == "escnn":
        return escnn_bank(group, k, 2, 4)
    return stage_of(filters, group, k, 2, 4, regular).moved().detach()


def measured(filters: str, name: str, k: int) -> list[dict[str, Any]]:
    """The rows of one kind of filters, group and size: the worst error of every seed, by map and blur."""
    group, rows = find_group(name), []
    case = {"filters": filters, "group": name, "kernel_size": k}
    for kind, regular in (("lifting", False), ("full", True))[: 1 if filters == "escnn" else 2]:
        banks = [layer_bank(filters, group, k, regular, seed) for seed in SEEDS]
        norms = torch.stack([bank.square().sum((0, 1, 3)).sqrt() for bank in banks])
        told = {**case, "map": kind, "fraction": float((norms / norms[:, :1]).min())}
        if filters != "escnn":
            told["weights"] = stage_of(filters, group, k, 2, 4, regular).weight.numel()
        for blur in BLURS:
            rows.append(
                {**told, "blur": blur, "errors": [max(layer_errors(bank, group, k, blur)) for bank in banks]}
            )
    if filters == "escnn":
        return rows
    for kinds, errors_of, blurs in (
        (("network", "invariant"), network_errors, BLURS),
        (("resampled", "floor"), resampled_errors, BLURS[2:]),
    ):
        for blur in blurs:
            pairs = [errors_of(filters, group, k, blur, seed) for seed in SEEDS]
            for kind, errors in zip(kinds, zip(*pairs, strict=True), strict=True):
                rows.append({**case, "map": kind, "blur": blur, "errors": list(errors)})
    return rows


def worst(content: dict[str, Any], **wanted: Any) -> dict[float, float]:
    """By blur, the largest error over all groups and seeds of the rows with these values."""
    found: dict[float, float] = {}
    for row in content["rows"]:
        if all(row[key] == value for key, value in wanted.items()):
            found[row["blur"]] = max(found.get(row["blur"], 0.0), *row["errors"])
    return found


def drawn(content: dict[str, Any]) -> Figure:
    """Worst error over groups and seeds against blur: a panel a map, a colour a filter size."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    titles = {
        "lifting": "lifting layer",
        "full": "full layer",
        "network": "three layers with ReLU",
        "resampled": "lifting layer, maps resampled",
    }
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for filters, style in (("interpolated", "--"), ("harmonics", "-"), ("escnn", ":")):
            for k, colour in COLOURS.items():
                if found := worst(content, map=kind, filters=filters, kernel_size=k):
                    style_of = {"color": colour, "linestyle": style, "label": f"{k}×{k}, {filters}"}
                    axes.plot(list(found), list(found.values()), marker="o", markersize=3, **style_of)
        axes.set_title(title, fontsize=11)
        axes.set_yscale("log")
        axes.set_xlabel("blur of the images [pixels]")
        for goal in (0.05, 0.1):
            axes.axhline(goal, color="#8a8a8a", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    floor = worst(content, map="floor")
    panels[3].plot(list(floor), list(floor.values()), color="#222222", linewidth=1, label="resampling alone")
    panels[0].set_ylabel("relative error (worst element, group, seed)")
    handles, labels = panels[3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def main() -> int:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="only draw the results that are there")
    if not parser.parse_args().draw:
        torch.set_num_threads(1)
        try:
            escnn = f"escnn {importlib.import_module('escnn').__version__}"
        except ImportError as error:
            escnn = f"not compared: {error}"
        cases = [(f, name, k) for k in SIZES for name in GROUPS for f in ("interpolated", "harmonics")]
        if escnn.startswith("escnn"):
            cases += [("escnn", name, k) for name in GROUPS if name[0] == "c" for k in SIZES]
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
        known = {(row["filters"], row["group"], row["kernel_size"]) for row in rows}
        for case in cases:
            if case in known:
                continue
            rows += measured(*case)
            content = {
                "commit": commit(HERE),
                "environment": environment(),
                "seeds": SEEDS,
                "images": IMAGES,
                "escnn": escnn,
                "rows": rows,
            }
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(to_json(content, indent=None) + "\n", encoding="utf-8")
    figure = drawn(json.loads(RESULTS.read_text(encoding="utf-8")))
    figure.savefig(HERE.parents[1] / "figures" / "fine-rotations.png", dpi=110)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
