"""Laplace predictions beside the MAP's: negative log-likelihood and calibration, three seeds.

One network a data set, seed and selection ("gradient": precisions by the evidence; "none": MAP, all of them
1), fitted to nine tenths of the training images; the rest, `held`, chooses the temperatures. Then, on the
same test images:

    map                          softmax of the outputs
    last-layer                   the last layer's posterior, averaged over draws: the report's laplace field
    last-layer, probit           the same in closed form, by pairs of classes
    last-layer, cold             covariance times the temperature that `held` likes best
    all                          every weight's posterior by Kronecker factors, averaged over draws
    all, ekfac                   the same with corrected eigenvalues
    all, ekfac, cold             covariance times the temperature that `held` likes best
    all, probit of outputs       each output by its own variance, as laplace-torch computes it

    python experiments/laplace/predictives.py [--data digits] [--data-root DIR] [--seeds 0 1 2]

It writes results/<data>.json, a row a fit, with the reliability of map and last-layer (drawn by
figures/make_gallery.py), and prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import symlearn
from symlearn.analysis.calibration import reliability, scores
from symlearn.analysis.predictive import (
    LaplacePredictive,
    averaged_softmax,
    corrected_spectra,
    last_layer,
    predictive_factors,
    probit,
)
from symlearn.config import Config
from symlearn.run_folder import environment, to_json
from symlearn.runs.experiment import load, network_of
from symlearn.runs.provenance import commit

HERE = Path(__file__).resolve().parent
TEMPERATURES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)
SMALL: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {"size": 16, "limit": 2000, "test_limit": 2000, "epochs": 100},
}


def output_by_output(mean: Tensor, covariance: Tensor) -> Tensor:
    """softmax(f / sqrt(1 + pi v / 8)), v the outputs' own variances."""
    variance = covariance.diagonal(dim1=1, dim2=2)
    return (mean.double() / (1 + math.pi / 8 * variance).sqrt()).softmax(1)


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood."""
    value = scores(probabilities, labels)["nll"]
    assert value is not None
    return value


def best_temperature(predictive: LaplacePredictive, x: Tensor, y: Tensor) -> float:
    """The temperature under which these data are most likely."""
    mean, covariance = predictive.outputs(x)
    return min(TEMPERATURES, key=lambda t: nll(averaged_softmax(mean, t * covariance), y))


def one_fit(options: dict[str, Any]) -> dict[str, Any]:
    """Fit, predict in every way, score."""
    config, splits = load(Config().with_options(**options))
    x, y = splits.train.tensors
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(config.training.seed))
    held, kept = order[: len(x) // 10], order[len(x) // 10 :]
    config = config.resolved(len(kept))
    torch.manual_seed(config.training.seed)
    train, test = (x[kept], y[kept]), splits.test.tensors
    result = symlearn.fit(network_of(config, splits), train, test, config)
    model, delta = result.model, result.prior_precision
    factors = predictive_factors(model, train, config)
    spectra = corrected_spectra(model, factors, train, config)
    head = LaplacePredictive(model, factors, delta, names=last_layer(model, train[0]))
    plain = LaplacePredictive(model, factors, delta)
    ekfac = LaplacePredictive(model, factors, delta, eigen=spectra)
    outputs = {name: p.outputs(test[0]) for name, p in (("head", head), ("plain", plain), ("ekfac", ekfac))}
    temperatures = {
        name: best_temperature(p, x[held], y[held]) for name, p in (("head", head), ("ekfac", ekfac))
    }
    mean = outputs["head"][0]
    predicted = {
        "map": mean.double().softmax(1),
        "last-layer": averaged_softmax(*outputs["head"]),
        "last-layer, probit": probit(*outputs["head"]),
        "last-layer, cold": averaged_softmax(mean, temperatures["head"] * outputs["head"][1]),
        "all": averaged_softmax(*outputs["plain"]),
        "all, ekfac": averaged_softmax(*outputs["ekfac"]),
        "all, ekfac, cold": averaged_softmax(mean, temperatures["ekfac"] * outputs["ekfac"][1]),
        "all, probit of outputs": output_by_output(*outputs["plain"]),
    }
    return {
        "seed": config.training.seed,
        "selection": config.evidence.selection,
        "train_examples": len(kept),
        "test_examples": len(test[1]),
        "temperature": temperatures,
        "log_marginal_likelihood": result.report["log_marginal_likelihood"],
        "seconds": result.report["seconds"],
        "scores": {name: scores(p, test[1]) for name, p in predicted.items()},
        "reliability": {name: reliability(predicted[name], test[1]) for name in ("map", "last-layer")},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, and ranges of the NLL, a line a selection and way to predict."""
    lines = [f"{'selection':10s} {'predictive':24s} {'accuracy %':>10s} {'NLL':>20s} {'ECE %':>7s}"]
    for selection in dict.fromkeys(row["selection"] for row in rows):
        chosen = [row["scores"] for row in rows if row["selection"] == selection]
        for name in chosen[0]:
            accuracy, loss, ece = (
                [scored[name][key] for scored in chosen] for key in ("accuracy", "nll", "ece")
            )
            spread = f"{statistics.mean(loss):.3f} ({min(loss):.3f}-{max(loss):.3f})"
            lines.append(
                f"{selection:10s} {name:24s} {100 * statistics.mean(accuracy):10.1f} {spread:>20s}"
                f" {100 * statistics.mean(ece):7.1f}"
            )
    return "\n".join(lines)


def main() -> None:
    """Run everything, write JSON and figures, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", choices=SMALL)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--task", default="class")
    parser.add_argument("--paths", default="f-fc+conv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--selections", nargs="+", default=["gradient", "none"])
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--alpha", type=int, default=None)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    shared = {
        "data": asked.data,
        "data_root": asked.data_root,
        "task": asked.task,
        "paths": asked.paths,
        "epochs": asked.epochs,
        "limit": asked.limit,
        "alpha": asked.alpha,
    }
    given = SMALL[asked.data] | {key: value for key, value in shared.items() if value is not None}
    rows = []
    for selection in asked.selections:
        for seed in asked.seeds:
            rows.append(one_fit({**given, "selection": selection, "seed": seed}))
            print(f"{selection}, seed {seed}: {rows[-1]['seconds']:.0f} s", flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    name = asked.data if asked.task == "class" else f"{asked.data}-{asked.task}"
    content = {
        "experiment": "Laplace predictives",
        "options": {key: value for key, value in given.items() if key != "data_root"},
        "commit": commit(HERE),
        "environment": environment(),
        "config": json.loads(Config().model_dump_json()),
        "rows": rows,
    }
    (asked.out / f"{name}.json").write_text(to_json(content) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
