"""The plain network that was learned.

A path whose share of its layer's effective parameters gamma is negligible is dropped, the scales are folded
in, and what is left is written with `torch.nn` alone (`plain.py`). How far dropping moved the outputs is
measured. Beside gamma stands the change of log evidence that removing the path would bring:
*measured*, the evidence of the network without the path minus that of the network, all other weights and
precisions as they are, by a curvature pass for every path; or *local*, under the Laplace posterior, by the
Savage-Dickey ratio of posterior and prior density at zero (Dickey 1971), for all paths from one pass,

    log q(D | path = 0) - log q(D) = 1/2 sum_i [log(1 + lambda_i / delta) - (lambda_i + delta) u_i^2]

with a tensor's curvature eigenvalues lambda and its weights' coordinates u in their eigenbasis. The local
change is quadratic in the weights, drops the terms between tensors (for F-FC those between its two factors)
and leaves other tensors' curvature as it is, so the two agree near zero alone. Negative: the path is needed.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from symlearn.curvature.coverage import trainable, undeclared
from symlearn.curvature.training_set import curvature_of, spectra, training_factors
from symlearn.data.samples import SamplesLike
from symlearn.data.streams import Data
from symlearn.evidence.likelihood import likelihood_of
from symlearn.fitting.result import FitResult
from symlearn.layers.structure import effective_type_of, layer_paths, relaxed_layers
from symlearn.training.inputs import samples_from
from symlearn.transfer.plain import plain_copy

MEASURED = 256  # images that outputs are compared on
TIMED = 64  # images of the pass that is timed
ROUNDS = 5  # times it is timed
Removal = Literal["local", "measured"]


@dataclass(frozen=True)
class PathFate:
    """What became of one path.

    Attributes:
        layer: the layer's name.
        path: the path's name.
        effective_parameters: gamma; None where no curvature was to be had, and every path is kept.
        share: of the layer's gamma.
        delta_log_evidence: of removing it alone, in nats; None for a layer's only path, and where there were
            no data or no curvature.
        kept: whether the plain network has it.
    """

    layer: str
    path: str
    effective_parameters: float | None
    share: float | None
    delta_log_evidence: float | None
    kept: bool


@dataclass(frozen=True)
class CollapseReport:
    """How the plain network differs from the learned one.

    Attributes:
        paths: every path that was switched on.
        symmetries: by layer, what it commutes with by the verdict of the fit; "undecided" where that is open.
        layer_types: by layer, the upper-case types of the paths that are left, joined by "+".
        max_change: largest absolute change of an output over the measured images, or None without data.
        relative_change: the same over the largest absolute output.
        parameters: before and after; before, without the paths that were switched off.
        seconds: of one pass over the timed images, before and after, or None without data.
    """

    paths: tuple[PathFate, ...]
    symmetries: dict[str, str]
    layer_types: dict[str, str]
    max_change: float | None
    relative_change: float | None
    parameters: tuple[int, int]
    seconds: tuple[float, float] | None


def collapse(
    model: nn.Module,
    result: FitResult,
    data: Data | None = None,
    *,
    negligible: float = 0.01,
    removal: Removal = "measured",
) -> nn.Module:
    """The learned network written with `torch.nn` alone, for the same inputs and outputs.

    A user's own classes stay around their replaced layers (`symlearn.relax`); a network of ours becomes a
    `torch.fx` graph.

    Args:
        model: the network that was fitted, or the result's own; the learned weights are the result's.
        result: of `symlearn.fit`.
        data: (x `[n, c, h, w]`, y `[n]`), a data set or a loader to compare outputs on; None takes the
            training set of the fit.
        negligible: share of its layer's effective parameters below which a path is dropped; 0 drops what is
            switched off alone.
        removal: how the change of log evidence is found, on the training set of the fit: "measured", a
            curvature pass for every path, or "local" (Savage-Dickey), one pass for all.

    Returns:
        A new network in `eval` mode, whose attribute `collapse_report` is a `CollapseReport`.

    Raises:
        ValueError: a network of another structure than the result's, a share outside [0, 1), an unknown
            `removal`, a layer of ours that has no plain form.
    """
    changes_of = REMOVALS[removal_of(removal)]
    if not 0 <= negligible < 1:
        raise ValueError(f"negligible is a share in [0, 1), got {negligible}")
    learned = copy.deepcopy(result.model).eval()
    if {n: p.shape for n, p in model.named_parameters()} != {
        n: p.shape for n, p in learned.named_parameters()
    }:
        raise ValueError("the result is of another network; give the model that was fitted, or result.model")
    like = next(learned.parameters())
    given = result.train if data is None else samples_from(data, like.device, like.dtype)
    if undeclared(result.model, result.config.curvature):
        fates = all_kept(result.model)
    else:
        changes = {} if result.train is None else changes_of(result, result.train)
        fates = path_fates(result, changes, negligible)
    kept = copy.deepcopy(learned)
    for name, layer in relaxed_layers(kept).items():
        layer.set_active([fate.path for fate in fates if fate.layer == name and fate.kept])
    plain = plain_copy(kept).eval()
    change = relative = seconds = None
    if given is not None:
        change, relative, seconds = compared(learned, plain, given.first(MEASURED)[0])
    report = CollapseReport(
        tuple(fates),
        {
            layer["name"]: layer["verdict"]["symmetry"]
            for layer in result.report["layers"]
            if "verdict" in layer
        },
        {name: types_of(fates, name) for name in relaxed_layers(learned)},
        change,
        relative,
        (weights_in_use(learned), sum(p.numel() for p in plain.parameters())),
        seconds,
    )
    plain.collapse_report = report  # type: ignore[assignment]
    return plain


def removal_of(name: str) -> Removal:
    """A way to find the change of log evidence, by its name.

    Returns:
        The name itself, for type checkers narrowed to those there are.

    Raises:
        ValueError: no such way.
    """
    if name not in get_args(Removal):
        raise ValueError(f"removal is one of {', '.join(get_args(Removal))}, got {name!r}")
    return cast(Removal, name)


def path_fates(
    result: FitResult, changes: Mapping[tuple[str, str], float], negligible: float
) -> list[PathFate]:
    """What to do with every path that is switched on.

    A layer keeps its largest path whatever its share, those that the verdict needs, and those with frozen
    weights, which have no gamma.

    Args:
        result: of the fit.
        changes: of log evidence by layer and path.
        negligible: see `collapse`.

    Returns:
        A fate a path, layer by layer: its gamma, its share, its change of log evidence in nats (None if not
        asked), and whether it is kept.
    """
    by_layer = {layer["name"]: layer["paths"] for layer in result.report["layers"]}
    needed = {
        layer["name"]: (layer.get("verdict") or {}).get("needed", ()) for layer in result.report["layers"]
    }
    fates = []
    for name, layer in relaxed_layers(result.model).items():
        gamma = {path: float(by_layer[name][path]["effective_parameters"]) for path in layer.active}
        total = max(sum(gamma.values()), 1e-12)
        largest = max(gamma, key=lambda path: gamma[path])
        for path in layer.active:
            share, change = gamma[path] / total, changes.get((name, path))
            frozen = any(not p.requires_grad for p in layer.paths[path].parameters())
            kept = frozen or path == largest or path in needed[name] or share >= negligible
            fates.append(PathFate(name, path, gamma[path], share, change, kept))
    return fates


def all_kept(model: nn.Module) -> list[PathFate]:
    """Every path that is switched on, where no curvature is to be had."""
    return [
        PathFate(name, path, None, None, None, kept=True)
        for name, layer in relaxed_layers(model).items()
        for path in layer.active
    ]


def removable(model: nn.Module) -> dict[tuple[str, str], tuple[str, ...]]:
    """Tensor names of every path that shares its layer with another, by layer and path."""
    layers = relaxed_layers(model)
    return {
        (layer.name, path): names
        for layer in layer_paths(model)
        if layer.relaxed and len(layers[layer.name].active) > 1
        for path, names in layer.paths.items()
        if path in layers[layer.name].active
    }


def local_changes(result: FitResult, data: SamplesLike) -> dict[tuple[str, str], float]:
    """Savage-Dickey ratios by layer and path, in nats; see the module's notation."""
    paths = removable(result.model)
    if not paths:
        return {}
    with trainable(result.model, {name for names in paths.values() for name in names}):
        factors = training_factors(result.model, result.config, data)
        eigen = spectra(result.model, result.config, data, factors, vectors=True)
    weights = dict(result.model.named_parameters())
    noise = likelihood_of(result.config.data.likelihood).variance(result.sigma_noise)

    def ratio(name: str) -> float:
        block, delta = eigen.blocks[name], result.prior_precision[name]
        u = block.coordinates(factors[name].to_groups(weights[name].detach()))
        spectrum = block.eigenvalues / noise
        return float(0.5 * (torch.log1p(spectrum / delta) - (spectrum + delta) * u.square()).sum())

    return {key: sum(map(ratio, names)) for key, names in paths.items()}


def measured_changes(result: FitResult, data: SamplesLike) -> dict[tuple[str, str], float]:
    """The change of log evidence when each path is taken out and nothing else moves, in nats."""
    whole = evidence_of(result.model, result, data)
    return {
        (layer, path): evidence_of(without(result.model, layer, path), result, data) - whole
        for layer, path in removable(result.model)
    }


REMOVALS = {"local": local_changes, "measured": measured_changes}


def without(model: nn.Module, layer: str, path: str) -> nn.Module:
    """A copy in which one path is switched off."""
    changed = copy.deepcopy(model)
    part = relaxed_layers(changed)[layer]
    part.set_active([name for name in part.active if name != path])
    return changed


def evidence_of(model: nn.Module, result: FitResult, data: SamplesLike) -> float:
    """The log marginal likelihood of a network at the result's precisions."""
    evidence = curvature_of(model, result.config, data)
    return float(evidence.terms(result.prior_precision, result.sigma_noise).total)


def weights_in_use(model: nn.Module) -> int:
    """Parameters of a network without those of switched-off paths."""
    off = {
        id(p)
        for layer in relaxed_layers(model).values()
        for name, path in layer.paths.items()
        if name not in layer.active
        for p in path.parameters()
    }
    return sum(p.numel() for p in model.parameters() if id(p) not in off)


def types_of(fates: list[PathFate], layer: str) -> str:
    """The types of a layer's paths that are left."""
    return "+".join(effective_type_of(fate.path) for fate in fates if fate.layer == layer and fate.kept)


@torch.no_grad()
def compared(before: nn.Module, after: nn.Module, images: Tensor) -> tuple[float, float, tuple[float, float]]:
    """(largest absolute change of an output, the same over the largest output, seconds of a pass each)."""
    old, new = before(images[:MEASURED]), after(images[:MEASURED])
    change = float((old - new).abs().max())
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(ROUNDS):
        for name, network in (("before", before), ("after", after)):
            start = time.perf_counter()
            network(images[:TIMED]).sum().item()  # waits for a GPU
            seconds[name].append(time.perf_counter() - start)
    medians = (statistics.median(seconds["before"]), statistics.median(seconds["after"]))
    return change, change / max(float(old.abs().max()), 1e-12), medians
