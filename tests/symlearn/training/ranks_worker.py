"""What `test_ranks.py` runs in every process of a group: `torchrun ... WORKER CASE FOLDER`.

Each process writes what it found to `FOLDER/RANK.pt`. The test calls the same functions in one process.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_fits
import torch
import torch.distributed as dist
from tiny_fits import one_layer, options, state_of
from torch import Tensor, nn

import symlearn
import symlearn.fitting.stages as fitting
import symlearn.ranks
import symlearn.selection.turns as turns
import symlearn.training.phases as phases
import symlearn.training.steps as steps
from symlearn.cli import run
from symlearn.data.samples import samples_of
from symlearn.data.streams import Stream
from symlearn.fitting.agreement import expect_agreement
from symlearn.ranks import ALONE, Ranks, present_ranks
from symlearn.selection.changes import strictest_start
from symlearn.selection.removal import RemovalRound
from symlearn.selection.search import SearchRound
from symlearn.training.inputs import samples_from
from symlearn.training.state import FitState
from symlearn.training.steps import evaluate, train_epoch
from symlearn.training.updates import update_evidence

Pairs = tuple[Tensor, Tensor]
CURVATURES: dict[str, dict[str, Any]] = {
    "all": {},
    "part": {"evidence_images": 64},
    "corrected": {"eigenvalues": "corrected"},
    "traces": {"eigenvalues": "partial-traces"},
    "sketched": {"fisher_type": "sketch", "curvature_batch_size": 20},
    "sketched, part": {"fisher_type": "sketch", "evidence_images": 64},
}
SEARCH = {
    "selection": "search",
    "epochs": 4,
    "rounds": 1,
    "proposals": 2,
    "refit_epochs": 4,
    "removal_rounds": 1,
    "frequency": 1,
    "batch_size": 20,
}


def data() -> Pairs:
    x, y = tiny_fits.directions(91)
    return x.double(), y


def state(ranks: Ranks = ALONE, **changes: Any) -> FitState:
    model = one_layer(classes=3).double()
    made = state_of(model, data(), **{"fisher_type": "type-2", **changes})
    made.ranks = ranks
    return made


def epochs(ranks: Ranks = ALONE, batch: int = 25, augment: bool = False, streamed: bool = False) -> Any:
    """Loss and accuracy of two epochs, the weights after them, and scores on other data."""
    one, given = state(ranks, batch_size=batch), samples_of(data())
    if streamed:
        pairs = torch.utils.data.TensorDataset(*data())
        given = samples_from(Stream(Items(pairs)), torch.device("cpu"), torch.float64)
    shifted = (lambda x, g: x + torch.randn(x.shape, generator=g, dtype=x.dtype)) if augment else None
    told = [train_epoch(one, given, lambda _: 0.01, shifted) for _ in range(2)]
    weights = {name: p.detach() for name, p in one.model.named_parameters()}
    return told, weights, evaluate(one, samples_of(data()), 9)


class Items(torch.utils.data.Dataset[Any]):
    """A map-style data set that is read item by item."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, at: int) -> Any:
        return self.pairs[at]


EPOCHS: dict[str, dict[str, Any]] = {
    "uneven": {},
    "fewer images than ranks": {"batch": 1},
    "augmented": {"augment": True},
    "streamed": {"streamed": True},
}


def evidence(ranks: Ranks = ALONE, **changes: Any) -> tuple[float | None, dict[str, float], dict[str, float]]:
    """Evidence and effective parameters at fixed weights, and precisions after a step."""
    one = state(ranks, **changes)
    update_evidence(one, data(), step_hyperparameters=False)
    found = one.evidence, one.effective_parameters
    update_evidence(one, data())
    return *found, one.prior.floats()


ROUNDS: dict[str, dict[str, Any]] = {
    "whole turns": {},
    "turns of one epoch, evidence of a part": {"seconds": 0.0, "evidence_images": 64, "proposals": 2},
}


def rounds(ranks: Ranks = ALONE, seconds: float = turns.SECONDS, **changes: Any) -> dict[str, Any]:
    """What a round of the search and one of removals come to, their states half-way included."""
    turns.SECONDS, pairs, found = seconds, tiny_fits.directions(91), {}
    short = {"refit_epochs": 4, "frequency": 1, "proposals": 3, "batch_size": 30, **changes}
    for name, kind in (("search", SearchRound), ("removals", RemovalRound)):
        start = state_of(one_layer("f-fc+conv+fc", classes=3), pairs, **short)
        if name == "search":
            strictest_start(start)
        train_epoch(start, pairs, lambda _: 0.02)
        update_evidence(start, pairs)
        start.ranks = ranks
        round_ = kind(start, 0, pairs, lambda _, __, record: record)
        while not round_.over:
            round_.next_epoch()
        ended, records, tried, changed = round_.outcome()
        found[name] = (ended.saved(), records, [vars(one) for one in tried], changed, round_.progress)
    turns.SECONDS = 5.0
    return found


def tiny_fit(out: Path | None, resume: bool = False) -> symlearn.FitResult:
    """A fit with a search and removals."""
    x, y = tiny_fits.directions(61)
    held_out = x[:30], y[:30]
    return symlearn.fit(one_layer(classes=3), (x, y), held_out, options(**SEARCH), out=out, resume=resume)


def plain(result: symlearn.FitResult) -> dict[str, Any]:
    return {"report": dict(result.report), "weights": result.model.state_dict(), "metrics": result.metrics}


def refused(call: Callable[[], object]) -> tuple[str, str]:
    try:
        call()
    except Exception as error:  # noqa: BLE001, whatever it is
        return type(error).__name__, str(error)
    return "nothing", ""


def refusals(ranks: Ranks) -> dict[str, tuple[str, str]]:
    """Kinds and lines of what ranks that differ are told."""
    rank, (x, y) = ranks.rank, data()

    def agree(
        model: nn.Module | None = None, given: Pairs = (x, y), lr: float = 0.01, resume: bool = False
    ) -> Any:
        model = model or one_layer(classes=3)
        return refused(
            lambda: expect_agreement(ranks, model, samples_of(given), None, options(lr=lr), resume)
        )

    def fails() -> None:
        if rank == 1:
            raise symlearn.TrainingStoppedError("a reason\non two lines")

    return {
        "nothing": agree(),
        "lr": agree(lr=0.01 * (1 + rank)),
        "resume": agree(resume=rank == 1),
        "weights": agree(one_layer(classes=3, seed=rank)),
        "shapes": agree(one_layer(classes=3 + rank)),
        "order": agree(given=(x.roll(rank, 0), y.roll(rank, 0))),
        "images": agree(given=(x + rank, y)),
        "number": agree(given=(x[rank:], y[rank:])),
        "failure": refused(lambda: ranks.together(fails)),
        "first fails": refused(lambda: ranks.from_first(lambda: [][1])),
    }


def command_line(folder: Path, rank: int) -> dict[str, Any]:
    """Exit codes and words of a fit, and of one whose ranks were given different options."""
    common = [
        "fit",
        "--data",
        "digits",
        "--limit",
        "40",
        "--test-limit",
        "20",
        "--epochs",
        "2",
        "--rounds",
        "1",
    ]
    common += ["--refit-epochs", "1", "--proposals", "1", "--removal-rounds", "1", "--alpha", "1"]
    found = {}
    for name, own in (("same", []), ("different", ["--lr", f"{0.01 * (1 + rank)}"])):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*common, "--out", str(folder / name), *own])
        found[name] = (code, out.getvalue(), err.getvalue())
    return found


def numbers(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Everything that ends well."""
    small = plain(tiny_fit(folder / "fit"))
    steps.STEP = symlearn.ranks.PASS = 0.0  # from here on fits share whatever they do
    return {
        "epochs": {name: epochs(ranks, **given) for name, given in EPOCHS.items()},
        "evidence": {name: evidence(ranks, **given) for name, given in CURVATURES.items()},
        "rounds": {name: rounds(ranks, **given) for name, given in ROUNDS.items()},
        "small fit": small,
        "fit": plain(tiny_fit(folder / "divided")),
        "refusals": refusals(ranks),
        "command line": command_line(folder, ranks.rank),
    }


def killed(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """A fit whose rank 1 is killed within a round."""
    calls, honest = [0], phases.train_epoch
    fitting.SAVE_EVERY = 0.0

    def counted(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == SEARCH["epochs"] + 3 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*given)

    phases.train_epoch = counted
    return {"line": refused(lambda: tiny_fit(folder / "fit"))}


if __name__ == "__main__":
    case, place = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    here = present_ranks()
    made = numbers(place, here) if case == "numbers" else killed(place, here)
    torch.save(made, place / f"{here.rank}.pt")
    if case == "numbers":
        dist.destroy_process_group()
