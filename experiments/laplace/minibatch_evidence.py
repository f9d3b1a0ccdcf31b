"""The evidence from M of N images beside the full pass: errors, stated errors, coverage, bias.

A network is fitted briefly; weights and hyperparameters then stay. From all N images and from random subsets:

    blocks     N images in random order in `BLOCKS` blocks, raw sums of each; a draw takes 5, 10, 25 or 50 %
               of the blocks at random and divides them into 8 chunks. The full value is the sum of all
               blocks, so what differs is the images alone.
    a fit's    10 % as an evidence update draws them (`ChunkSums`); the full value is a full pass. Drawn
               columns of the Fisher differ too.
    paired     the evidence of the fitted network minus that of the same network some steps later, on the
               same 10 %: its error beside that of either.
    declared   gradients in what layers declare (log lengthscales), 10 % of `GRADIENT_OF` images.

For each quantity: mean and standard deviation of the errors over the draws, mean stated standard error, share
of errors within 1.645 of their stated errors (a normal would say 90 %, Student's t of 7 degrees of freedom
86 %), with the jackknife's correction of bias and without.

    python experiments/laplace/minibatch_evidence.py [--data digits] [--data-root DIR] [--draws 20]
    python experiments/laplace/minibatch_evidence.py --plot

It writes results/minibatch-<data>.json and prints a table; --plot draws figures/minibatch-evidence.png of
both.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import symlearn
from kfac import KroneckerFactors, compute_factors
from symlearn.config import Config
from symlearn.curvature.coverage import seen
from symlearn.curvature.sampled import ChunkSums, without_each
from symlearn.curvature.training_set import curvature_of, curvature_options
from symlearn.data.samples import Held, Pairs, seeded_order
from symlearn.evidence.gradient import HyperObjective, evidence_gradients, sampled_gradients
from symlearn.evidence.jackknife import CHUNKS, Jackknife
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.evidence.sampled import SampledEvidence, paired_error, quantities
from symlearn.run_folder import environment, to_json
from symlearn.runs import reproduce as reproduction
from symlearn.runs.experiment import load, network_of
from symlearn.training.state import FitState
from symlearn.training.steps import train_epoch

HERE = Path(__file__).resolve().parent
FIGURE = HERE.parents[1] / "figures" / "minibatch-evidence.png"
BLOCKS, FRACTIONS, Z = 320, (0.05, 0.1, 0.25, 0.5), 1.645
GRADIENT_OF = 3000
SHARED = {"network": "small", "selection": "gradient", "removal_rounds": 0, "test_limit": 100}
SETS: dict[str, dict[str, Any]] = {
    "digits": {"paths": "f-fc+s-conv", "epochs": 15, "burn_in": 200},
    "mnist": {"paths": "f-fc+s-conv", "epochs": 3, "size": 16, "evidence_images": 5000},
}
NAMES = ("log_likelihood", "log_det", "log_marginal_likelihood", "effective_parameters")


def parts_of(found: SampledEvidence) -> dict[str, Jackknife]:
    """The quantities by name."""
    several = (found.log_likelihood, found.log_det, found.total, found.all_effective_parameters)
    return dict(zip(NAMES, several, strict=True))


def summary(draws: list[Jackknife], full: Tensor) -> dict[str, float]:
    """Errors of a quantity over the draws beside the stated ones; entries of a vector are pooled."""
    error = torch.stack([draw.whole - full for draw in draws])
    corrected = torch.stack([draw.corrected - full for draw in draws])
    stated = torch.stack([draw.standard_error for draw in draws])
    held = stated > 1e-9  # what depends on no image has no error
    return {
        "full": float(full.mean()),
        "mean_error": float(error.mean()),
        "sd_error": float(error.std(0).mean()),
        "mean_absolute_error": float(error.abs().mean()),
        "stated_error": float(stated.mean()),
        "coverage": float((error.abs() <= Z * stated)[held].double().mean()),
        "mean_error_corrected": float(corrected.mean()),
        "sd_error_corrected": float(corrected.std(0).mean()),
        "mean_absolute_error_corrected": float(corrected.abs().mean()),
        "coverage_corrected": float((corrected.abs() <= Z * stated)[held].double().mean()),
    }


def summaries(draws: list[SampledEvidence], full: Tensor) -> dict[str, dict[str, float]]:
    """Of every quantity; precisions' gradients pooled over the tensors."""
    truth = dict(zip(NAMES, (*full[:3], full[3:].sum()), strict=True))
    found = {name: summary([parts_of(d)[name] for d in draws], truth[name]) for name in NAMES}
    halves = [Jackknife(0.5 * d.gamma.whole, 0.5 * d.gamma.without, d.gamma.part) for d in draws]
    found["gradients of log precisions"] = summary(halves, 0.5 * full[3:])
    return found


def sums_of(state: FitState, data: Pairs, seed: int) -> KroneckerFactors:
    """Raw sums over some images."""
    options = {**curvature_options(state.model, state.config), "seed": seed}
    with seen(state.model, state.config.curvature):
        loader = Held(*data).batches(state.config.curvature.batch_size)
        return compute_factors(state.model, loader, state.config.data.likelihood, **options)


def by_blocks(state: FitState, data: Pairs, draws: int) -> dict[str, Any]:
    """Random blocks of images against all of them."""
    size = len(data[0]) // BLOCKS
    order = seeded_order(len(data[0]), 1)[: BLOCKS * size]
    blocks = [
        sums_of(state, Held(*data).subset(places).whole(), k) for k, places in enumerate(order.split(size))
    ]
    delta, norms = state.prior.by_tensor(), squared_norms(state.model)
    full = quantities(EvidenceModel(reduce(add, blocks), norms), delta, 1.0)
    found = {}
    for fraction in FRACTIONS:
        used = round(fraction * BLOCKS)
        per_chunk = used // CHUNKS

        def scaled(factors: KroneckerFactors, taken: int) -> EvidenceModel:
            return EvidenceModel(factors.scaled(BLOCKS / taken), norms)

        drawn = []
        for draw in range(draws):
            chosen = seeded_order(BLOCKS, 1000 + draw)[:used].split(per_chunk)
            chunks = [reduce(add, [blocks[int(k)] for k in places]) for places in chosen]
            whole = scaled(reduce(add, chunks), used)
            without = (scaled(rest, used - per_chunk) for rest in without_each(chunks))
            drawn.append(SampledEvidence.of(whole, without, used / BLOCKS, delta))
        found[f"{fraction:g}"] = {"images": used * size, "of": BLOCKS * size, **summaries(drawn, full)}
    return found


def as_fitted(state: FitState, data: Pairs, draws: int) -> dict[str, Any]:
    """A tenth as an evidence update draws it, and the paired difference to a later state."""
    later = state.clone()
    few = (data[0][:2000], data[1][:2000])
    train_epoch(later, few, lambda _: 1e-3)
    found: dict[str, list[Any]] = {"now": [], "later": []}
    full = {}
    for name, one in (("now", state), ("later", later)):
        delta = one.prior.by_tensor()
        full[name] = quantities(curvature_of(one.model, one.config, data), delta, 1.0)
        for draw in range(draws):
            sums = ChunkSums(one.model, one.config, data, len(data[0]) // 10, 5000 + draw)
            found[name].append(sums.evidence(delta))
    images = sums.images
    truth = float(full["now"][2] - full["later"][2])
    notes = [
        (now.noted(images, len(data[0])), after.noted(images, len(data[0])))
        for now, after in zip(found["now"], found["later"], strict=True)
    ]
    errors = [now.evidence - after.evidence - truth for now, after in notes]
    stated = [paired_error(now, [after]) for now, after in notes]
    return {
        "images": images,
        "of": len(data[0]),
        **summaries(found["now"], full["now"]),
        "paired": {
            "full": truth,
            "mean_error": statistics.mean(errors),
            "sd_error": statistics.stdev(errors),
            "stated_error": statistics.mean(stated),
            "unpaired_error": statistics.mean(
                (a.standard_error[NAMES[2]] ** 2 + b.standard_error[NAMES[2]] ** 2) ** 0.5 for a, b in notes
            ),
            "coverage": statistics.mean(abs(e) <= Z * s for e, s in zip(errors, stated, strict=True)),
        },
    }


def declared_gradients(state: FitState, data: Pairs, draws: int) -> dict[str, Any]:
    """Gradients in what layers declare, a tenth of a set small enough for its own gradient."""
    n = min(GRADIENT_OF, len(data[0]))
    data = (data[0][:n], data[1][:n])
    config, declared = state.config, state.hyper.declared

    def objective(pairs: Pairs) -> HyperObjective:
        scale = n / len(pairs[0])
        options = curvature_options(state.model, config)
        return HyperObjective(
            state.model, pairs, state.prior.floats(), scale=scale, batch_size=500, curvature=options
        )

    full = evidence_gradients(objective(data), declared)
    drawn = [
        sampled_gradients(
            objective(Held(*data).subset(seeded_order(n, 7000 + d)[: n // 10]).whole()), declared
        )
        for d in range(draws)
    ]
    gradients = {name: summary([d[name] for d in drawn], full[name].double()) for name in full}
    return {"images": CHUNKS * (n // 10 // CHUNKS), "of": n, "gradients": gradients}


PARTS = {"blocks": by_blocks, "as a fit draws": as_fitted, "declared": declared_gradients}


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """Fit briefly, then every part that is asked for; the others are the file's, of the same network."""
    given = {**SHARED, **SETS[asked.data], "data": asked.data, "data_root": asked.data_root}
    config, splits = load(Config().with_options(**given, limit=asked.limit, seed=asked.seed))
    torch.manual_seed(config.training.seed)
    train: Pairs = splits.train.tensors
    began = time.process_time()
    result = symlearn.fit(network_of(config, splits), train, splits.test.tensors, config)
    state = FitState(result.model, config, len(train[0]))
    for group in state.prior.log:
        names = [name for name, of in state.prior.groups.items() if of == group]
        state.prior.set_log(group, torch.tensor(result.prior_precision[names[0]]).log().item())
    seconds = {"fit": time.process_time() - began}
    before = json.loads(asked.file.read_text(encoding="utf-8")) if asked.file.exists() else {}
    found: dict[str, Any] = before.get("results", {}) if asked.parts != [*PARTS] else {}
    commits: dict[str, Any] = before.get("commits", {}) if found else {}
    seconds = {**before["cpu_seconds"], **seconds} if found else seconds
    commit = reproduction.commit(HERE)
    for name in asked.parts:
        began = time.process_time()
        found[name] = PARTS[name](copy.copy(state), train, asked.draws)
        seconds[name], commits[name] = time.process_time() - began, commit
        print(f"{name}: {seconds[name]:.0f} s of the CPU", flush=True)
    return {
        "experiment": "evidence from a part of the images",
        "data": asked.data,
        "options": {key: value for key, value in given.items() if key != "data_root"},
        "seed": asked.seed,
        "draws": asked.draws,
        "chunks": CHUNKS,
        "blocks": BLOCKS,
        "train_examples": len(train[0]),
        "accuracy": result.report["test"]["accuracy"],
        "cpu_seconds": seconds,
        "commits": commits,
        "environment": environment(),
        "results": found,
    }


def rows_of(content: dict[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """(part, quantity, numbers) of everything measured."""
    rows = []
    for fraction, found in content["results"]["blocks"].items():
        rows += [
            (f"{float(fraction):.0%}", name, one) for name, one in found.items() if isinstance(one, dict)
        ]
    fitted = content["results"]["as a fit draws"]
    rows += [("a fit's 10%", name, one) for name, one in fitted.items() if isinstance(one, dict)]
    rows += [("10%", f"d/d {n}", one) for n, one in content["results"]["declared"]["gradients"].items()]
    return rows


def table(content: dict[str, Any]) -> str:
    """A line a part and quantity: mean error, its spread, the stated error, coverage; corrected behind."""
    lines = []
    for part, name, one in rows_of(content):
        corrected = (
            f" | corrected {one['mean_error_corrected']:10.2f} {one['sd_error_corrected']:9.2f} "
            f"{one['coverage_corrected']:6.0%}"
            if "coverage_corrected" in one
            else f" | unpaired {one['unpaired_error']:9.2f}"
        )
        lines.append(
            f"{part:12s} {name:34s} full {one['full']:12.2f} bias {one['mean_error']:10.2f} "
            f"sd {one['sd_error']:9.2f} stated {one['stated_error']:9.2f} {one['coverage']:6.0%}{corrected}"
        )
    return "\n".join(lines)


def drawn(contents: list[dict[str, Any]]) -> Figure:
    """Bias, spread and stated error of the log determinant, gamma and the log evidence against M / N."""
    shown = ("log_likelihood", "log_det", "effective_parameters", "log_marginal_likelihood")
    figure, axes = plt.subplots(
        len(contents), len(shown), figsize=(13, 3.1 * len(contents)), squeeze=False, layout="constrained"
    )
    for row, content in zip(axes, contents, strict=True):
        blocks = content["results"]["blocks"]
        at = [100 * float(fraction) for fraction in blocks]
        for axis, name in zip(row, shown, strict=True):
            one = [found[name] for found in blocks.values()]
            for key, label, colour, shift in (
                ("", "as it is", "#8c510a", 0.97),
                ("_corrected", "corrected", "#01665e", 1.03),
            ):
                axis.errorbar(
                    [shift * x for x in at],
                    [o[f"mean_error{key}"] for o in one],
                    [o[f"sd_error{key}"] for o in one],
                    fmt="o",
                    ms=4,
                    capsize=3,
                    color=colour,
                    label=f"{label}: mean and spread of errors",
                )
            stated = [o["stated_error"] for o in one]
            axis.fill_between(at, [-s for s in stated], stated, color="0.85", label="stated error", zorder=0)
            axis.axhline(0, color="0.4", lw=0.8)
            axis.set_xscale("log")
            axis.set_xticks(at, [f"{x:g}" for x in at])
            axis.minorticks_off()
            axis.set_title(f"{content['data']}: {name.replace('_', ' ')}", fontsize=9)
            axis.set_xlabel("images, % of all")
        row[0].set_ylabel("error against the full pass")
    axes[0][0].legend(fontsize=7)
    return figure


def main() -> None:
    """Measure and write JSON, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", choices=SETS)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--plot", action="store_true")
    asked = parser.parse_args()
    if asked.plot:
        files = [asked.out / f"minibatch-{name}.json" for name in SETS]
        figure = drawn([json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()])
        figure.savefig(FIGURE, dpi=130)
        return
    asked.file = asked.out / f"minibatch-{asked.data}.json"
    content = measured(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.file.write_text(to_json(content) + "\n", encoding="utf-8")
    print(table(content))


if __name__ == "__main__":
    main()
