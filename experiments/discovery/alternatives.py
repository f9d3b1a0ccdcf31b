"""What people would do instead of a search by evidence, on tasks whose symmetries are known.

    python experiments/discovery/alternatives.py --tasks planted-texture planted-side --seeds 0

Six ways to a network's symmetries, with the same data, the same layers (F-FC + CONV) and schedules of the
same length:

    symlearn          `symlearn.fit` with its defaults
    gradient          all paths present, precisions by evidence, verdicts by effective parameters (van der
                      Ouderaa et al. 2023)
    cross-validation  every single-path network by MAP, the best on a held-out fifth trained again on all
    greedy            MAP from the strictest network; layer by layer the change of lowest held-out loss is
                      kept; what is found is trained again on all
    rpp               all paths by MAP with fixed weight decays, strong on what is not equivariant (Finzi et
                      al. 2021a); a layer is called by the least symmetric path that carries a tenth of its
                      output
    conv by MAP       for comparison: no choice at all

Every row has the verdict of every layer, how many are right, wrong and undecided, which
`symlearn/runs/truth.py` counts, what it cost in forward and backward passes over the training set (curvature
included), test accuracy and NLL.
Results: results/alternatives.json; rows that are there already are not run again.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symlearn.selection.screening as screening_of
import symlearn.training.phases as phases
import symlearn.training.updates as updates
from symlearn.config import Config
from symlearn.data import load_data
from symlearn.data.samples import Pairs, SamplesLike, samples_of
from symlearn.fitting.fit import fit
from symlearn.fitting.result import FitResult
from symlearn.layers.registry import path_kind
from symlearn.layers.structure import relaxed_layers
from symlearn.networks import build_model
from symlearn.run_folder import environment
from symlearn.runs.provenance import commit
from symlearn.runs.table_file import write_content
from symlearn.runs.truth import scores
from symlearn.selection.changes import Proposal, apply, strictest_start
from symlearn.training.phases import Phase, PhaseRun
from symlearn.training.state import FitState
from symlearn.training.steps import evaluate

RESULTS = Path(__file__).parent / "results" / "alternatives.json"
PATHS = ("f-fc", "conv")
TRUTH = {  # data and task: what is true of the layers
    "planted-texture": "shifts",
    "planted-side": "late",
    "planted-glyph": "shifts",
    "planted-codes": "shifts",
    "planted-shifted-codes": "somewhere",
    "planted-mixture": "late",
    "digits/quadrant-digit": "shifts",
    "digits/quadrant": "late",
}
DECAY = {"f-fc": 10.0, "conv": 0.01}  # RPP: prior precisions
CARRIES = 0.1  # share of a layer's output that makes RPP's path count


@dataclass(frozen=True)
class Scale:
    """How long everything is.

    Attributes:
        epochs: of a network by MAP.
        refit: epochs of a greedy trial.
        limit: of training images; None: all.
        options: of `symlearn.fit`.
    """

    epochs: int = 125
    refit: int = 20
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


SEARCH = {"epochs": 2, "burn_in": 1, "rounds": 1, "refit_epochs": 1, "proposals": 1, "removal_rounds": 1}
SCALES = {"small": Scale(), "smoke": Scale(2, 1, 60, SEARCH)}


@dataclass
class Task:
    """A task at hand.

    Attributes:
        name: "data" or "data/task".
        train: all training images.
        fit, held: the same without, and only, a fifth drawn by the seed.
        test: the test set.
        size, channels, classes: of its images and labels.
        seed: of the run.
        scale: of every fit.
    """

    name: str
    train: Pairs
    fit: Pairs
    held: Pairs
    test: Pairs
    size: int
    channels: int
    classes: int
    seed: int
    scale: Scale

    @staticmethod
    def load(name: str, seed: int, scale: Scale) -> Task:
        """Load it and put a fifth aside."""
        data, _, task = name.partition("/")
        splits = load_data(data, task or "class", seed=seed, limit=scale.limit)
        x, y = splits.train.tensors
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        held, rest = order[: len(x) // 5], order[len(x) // 5 :]
        tx, ty = splits.test.tensors
        sizes = (x.shape[-1], x.shape[1], splits.classes)
        return Task(name, (x, y), (x[rest], y[rest]), (x[held], y[held]), (tx, ty), *sizes, seed, scale)

    def network(self, paths: str) -> nn.Module:
        """A network of these paths."""
        torch.manual_seed(self.seed)
        return build_model(
            paths, network="small", size=self.size, in_channels=self.channels, classes=self.classes
        )

    def state(self, paths: str, data: Pairs, **options: Any) -> FitState:
        """A network for training by MAP."""
        chosen = Config().with_options(
            paths=paths, selection="none", epochs=self.scale.epochs, seed=self.seed, **options
        )
        return FitState(self.network(paths), chosen.resolved(len(data[0])), len(data[0]))


@contextmanager
def counted(images: int) -> Iterator[list[float]]:
    """Count passes over `images`, forward and backward: epochs of steps and sweeps of the curvature."""
    total = [0.0]
    honest = (phases.train_epoch, updates.curvature_of, screening_of.training_factors)

    def epoch(state: FitState, data: SamplesLike, *rest: Any) -> tuple[float, float | None]:
        total[0] += len(samples_of(data)) / images
        return honest[0](state, data, *rest)

    def curvature(model: nn.Module, config: Config, data: SamplesLike, *rest: Any) -> Any:
        total[0] += len(samples_of(data)) / images
        return honest[1](model, config, data, *rest)

    def screening(model: nn.Module, config: Config, data: SamplesLike, *rest: Any) -> Any:
        total[0] += 2 * len(samples_of(data)) / images  # curvature and gradients
        return honest[2](model, config, data, *rest)

    phases.train_epoch = cast(Any, epoch)
    updates.curvature_of, screening_of.training_factors = curvature, screening
    try:
        yield total
    finally:
        phases.train_epoch, updates.curvature_of, screening_of.training_factors = honest


def by_map(state: FitState, data: Pairs, epochs: int | None = None, lr: float | None = None) -> FitState:
    """Train by MAP under one cosine, of as many epochs as configured if not said."""
    settings = state.config.training
    run = PhaseRun(
        Phase("map", epochs or cast(int, settings.epochs), lr or settings.lr, settings.lr_end, None)
    )
    while not run.over:
        run.next_epoch(state, data)
    return state


Found = tuple[list[str], FitState]  # the verdict of every layer, and the network that was trained


def everywhere(path: str, state: FitState) -> list[str]:
    """One path's symmetry for every layer."""
    return [path_kind(path).commutes_with for _ in relaxed_layers(state.model)]


def conv_by_map(task: Task) -> Found:
    """No choice."""
    state = by_map(task.state("conv", task.train), task.train)
    return everywhere("conv", state), state


def cross_validation(task: Task) -> Found:
    """The best single path on a held-out fifth."""
    losses = {p: evaluate(by_map(task.state(p, task.fit), task.fit), task.held)[1] for p in PATHS}
    best = min(PATHS, key=lambda path: losses[path])
    state = by_map(task.state(best, task.train), task.train)
    return everywhere(best, state), state


def greedy(task: Task) -> Found:
    """Layer by layer, whatever lowers the held-out loss most against the same training with no change."""
    paths = "+".join(PATHS)
    state = task.state(paths, task.fit)
    strictest_start(state)
    by_map(state, task.fit)
    for name in list(relaxed_layers(state.model)):
        tried = [state.clone()]
        for path, action in relaxed_layers(state.model)[name].changes():
            twin = state.clone()
            apply(twin, Proposal(0, name, path, action))
            tried.append(twin)
            if action == "add":  # in the place of what was there
                other = twin.clone()
                for before in relaxed_layers(state.model)[name].active:
                    apply(other, Proposal(0, name, before, "remove"))
                tried.append(other)
        for one in tried:
            by_map(one, task.fit, task.scale.refit, 0.3 * one.config.training.lr)
        state = min(tried, key=lambda one: evaluate(one, task.held)[1])
    found = {name: layer.active for name, layer in relaxed_layers(state.model).items()}
    whole = task.state(paths, task.train)
    strictest_start(whole)
    for name, layer in relaxed_layers(whole.model).items():
        layer.set_active(found[name])
    by_map(whole, task.train)
    least = [min(active, key=lambda p: path_kind(p).symmetry) for active in found.values()]
    return [path_kind(path).commutes_with for path in least], whole


def rpp(task: Task) -> Found:
    """Fixed weight decays; what carries a tenth of a layer's output counts."""
    state = task.state("+".join(PATHS), task.train, prior_structure="path")
    for group in set(state.prior.groups.values()):
        if (path := group.rpartition(".")[2]) in DECAY:
            state.prior.set_log(group, math.log(DECAY[path]))
    by_map(state, task.train)
    verdicts = []
    for layer in relaxed_layers(state.model).values():
        energy: dict[str, float] = {}
        hooks = [
            layer.paths[path].register_forward_hook(
                lambda _, __, y, path=path, energy=energy: energy.update({path: float(y.square().mean())})
            )
            for path in layer.active
        ]
        with torch.no_grad():
            state.model.eval()(task.train[0])
        for hook in hooks:
            hook.remove()
        counts = [path for path in energy if energy[path] > CARRIES * sum(energy.values())]
        verdicts.append(path_kind(min(counts, key=lambda p: path_kind(p).symmetry)).commutes_with)
    return verdicts, state


def fitted(task: Task, **options: Any) -> FitResult:
    """`symlearn.fit` on all training images."""
    chosen = {**task.scale.options, **options}
    config = Config().with_options(paths="+".join(PATHS), seed=task.seed, **chosen)
    return fit(task.network("+".join(PATHS)), task.train, None, config)


def by_search(task: Task) -> tuple[list[str], nn.Module]:
    """The product as it comes."""
    result = fitted(task)
    return [
        layer["verdict"]["symmetry"] for layer in result.report["layers"] if "verdict" in layer
    ], result.model


def by_gradient(task: Task) -> tuple[list[str], nn.Module]:
    """The published method and its measure."""
    result = fitted(task, selection="gradient", removal_rounds=0)
    names = {"FC": "f-fc", "CONV": "conv"}
    types = [layer["effective_type"] for layer in result.report["layers"] if "verdict" in layer]
    return [path_kind(names[t]).commutes_with if t in names else "undecided" for t in types], result.model


METHODS: dict[str, Callable[[Task], tuple[list[str], FitState | nn.Module]]] = {
    "symlearn": by_search,
    "gradient": by_gradient,
    "cross-validation": cross_validation,
    "greedy": greedy,
    "rpp": rpp,
    "conv by MAP": conv_by_map,
}


def tested(model: nn.Module, test: Pairs) -> tuple[float, float]:
    """Accuracy and mean NLL on the test set."""
    with torch.no_grad():
        logits: Tensor = model.eval()(test[0])
    return float((logits.argmax(1) == test[1]).double().mean()), float(F.cross_entropy(logits, test[1]))


def row_of(method: str, name: str, seed: int, scale: Scale) -> dict[str, Any]:
    """One method on one task."""
    task, begun = Task.load(name, seed, scale), time.perf_counter()
    with counted(len(task.train[0])) as passes:
        verdicts, network = METHODS[method](task)
    model = network.model if isinstance(network, FitState) else network
    accuracy, nll = tested(model, task.test)
    return {
        "method": method,
        "task": name,
        "seed": seed,
        "verdicts": verdicts,
        "layers": scores(TRUTH[name], verdicts),
        "passes": round(passes[0], 1),
        "seconds": round(time.perf_counter() - begun, 1),
        "accuracy": accuracy,
        "nll": nll,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means by method: layers right, passes, accuracy and NLL."""
    lines = [
        "| | tasks found | layers right / wrong / undecided | passes | accuracy % | test NLL |",
        "|---|" + "---|" * 5,
    ]
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        counts = " / ".join(
            str(sum(row["layers"][k] for row in mine)) for k in ("right", "wrong", "undecided")
        )
        whole = sum(row["layers"]["right"] == len(row["verdicts"]) for row in mine)
        mean = {k: sum(row[k] for row in mine) / len(mine) for k in ("passes", "accuracy", "nll")}
        lines.append(
            f"| {method} | {whole} of {len(mine)} | {counts} | {mean['passes']:.0f} | "
            f"{100 * mean['accuracy']:.1f} | {mean['nll']:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is left and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TRUTH), choices=list(TRUTH))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", choices=list(SCALES), default="small", help="smoke: to see that it runs")
    parser.add_argument("--results", type=Path, help="the JSON; of smoke results/alternatives.smoke.json")
    options = parser.parse_args()
    usual = RESULTS if options.scale == "small" else RESULTS.with_suffix(f".{options.scale}.json")
    options.results = options.results or usual
    torch.set_num_threads(1)
    rows = json.loads(options.results.read_text())["rows"] if options.results.exists() else []
    done = {(row["method"], row["task"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.tasks:
            for method in options.methods:
                if (method, name, seed) in done:
                    continue
                rows.append(row_of(method, name, seed, SCALES[options.scale]))
                about = {"commit": commit(RESULTS.parents[1]), "environment": environment()}
                write_content(options.results, {**about, "rows": rows})
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
