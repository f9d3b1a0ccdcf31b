"""Effective numbers of parameters by tensor, path and layer (MacKay 1992; van der Ouderaa et al. 2023, D.2).

gamma_t = sum lambda / (lambda + delta_t). Of a path: gamma = sum over its tensors; *normalised* = gamma / P;
*relative* = normalised, divided by the sum of the layer's normalised values; *share* = gamma / the layer's
sum of gamma. A layer's effective type is its path of largest relative value.

Axes: none; this file handles numbers by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from kfac import EigenFactors, KroneckerFactors
from symlearn.layers.declared import hyperparameters_of
from symlearn.layers.path_sum import PathSum
from symlearn.layers.structure import LayerPaths, effective_type_of, layer_paths, relaxed_layers


def effective_parameters(
    model: nn.Module,
    factors: KroneckerFactors | EigenFactors,
    prior_precision: Mapping[str, Tensor | float],
    sigma_noise: float = 1.0,
) -> dict[str, dict[str, dict[str, float]]]:
    """Effective number of parameters of a model, layer by layer and path by path.

    Args:
        model: the network the factors were computed for.
        factors: `kfac.compute_factors` of it, or their eigendecomposition.
        prior_precision: delta by parameter name.
        sigma_noise: standard deviation of a Gaussian likelihood (regression only).

    Returns:
        {layer: {path: {effective_parameters, parameters, normalised, relative, share}}}.

    Raises:
        ValueError: a tensor has no prior precision.
    """
    eigen = factors.eigendecompose() if isinstance(factors, KroneckerFactors) else factors
    gamma = {n: float(g) for n, g in eigen.effective_parameters(prior_precision, sigma_noise).items()}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return {layer.name: path_numbers(layer, gamma, sizes) for layer in layer_paths(model)}


def path_numbers(
    layer: LayerPaths, gamma: Mapping[str, float], sizes: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """One layer's numbers by path; tensors without gamma count as switched off."""
    counts = {path: sum(sizes[n] for n in names) for path, names in layer.paths.items()}
    found = {path: sum(gamma.get(n, 0.0) for n in names) for path, names in layer.paths.items()}
    normalised = {path: found[path] / max(counts[path], 1) for path in layer.paths}
    whole, total = sum(normalised.values()), sum(found.values())
    return {
        path: {
            "parameters": counts[path],
            "effective_parameters": found[path],
            "normalised": normalised[path],
            "relative": normalised[path] / whole if whole > 0 else 0.0,
            "share": found[path] / total if total > 0 else 0.0,
        }
        for path in layer.paths
    }


def layer_reports(
    model: nn.Module,
    gamma: Mapping[str, float],
    prior_precision: Mapping[str, float],
    left_out: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The `layers` of report.json.

    Tensors that are left out of the evidence count in no gamma and no P.

    Returns:
        An entry a layer, `name`, `index`, `effective_type` and the numbers of its `paths`; a layer with
        nothing but tensors left out has None for what was not measured.
    """
    parameters = dict(model.named_parameters())
    sizes = {name: 0 if name in left_out else p.numel() for name, p in parameters.items()}
    relaxed = relaxed_layers(model)
    reports = []
    for layer in layer_paths(model):
        numbers: dict[str, dict[str, Any]] = dict(path_numbers(layer, gamma, sizes))
        paths: dict[str, dict[str, Any]] = {}
        for path, names in layer.paths.items():
            if names and all(name in left_out for name in names):
                whole = sum(parameters[name].numel() for name in names)
                numbers[path] = {**dict.fromkeys(numbers[path]), "parameters": whole}
            norm = sum(float(parameters[n].detach().double().square().sum()) for n in names) ** 0.5
            present = layer.name not in relaxed or path in relaxed[layer.name].active
            paths[path] = {
                **numbers[path],
                "weight_norm": norm if present else 0.0,
                "prior_precision": {n: prior_precision[n] for n in names} if present else {},
                "hyperparameters": readings(relaxed[layer.name], path) if layer.name in relaxed else {},
                "present": present,
            }
        kept = [path for path in paths if paths[path]["present"]]
        winner = max(kept, key=lambda path: paths[path]["relative"] or 0.0)
        reports.append(
            {
                "name": layer.name,
                "index": layer.index,
                "effective_type": effective_type_of(winner),
                "paths": paths,
            }
        )
    return reports


def readings(layer: PathSum, path: str) -> dict[str, float | list[Any]]:
    """What a path declared, by name and in its own units; empty if it is switched off."""
    if path not in layer.active:
        return {}
    declared = hyperparameters_of(layer.paths[path])
    return {name: one.read(one.value.detach()).tolist() for name, one in declared.items()}


def share_by_path(report: Mapping[str, Any]) -> dict[str, float]:
    """Effective parameters by path over all relaxed layers of a report."""
    totals: dict[str, float] = {}
    for layer in report["layers"]:
        for path, numbers in layer["paths"].items():
            if path != "linear":
                totals[path] = totals.get(path, 0.0) + numbers["effective_parameters"]
    return totals
