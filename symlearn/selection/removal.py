"""The last question of a fit: which of the paths that remain does the evidence need?

A *round* starts from the best state of the anneal. Every path that shares its layer with another is taken out
alone, and the rest is refit under a short schedule of its own; *controls* get the same refit with nothing
taken out, on batches of their own (`differences.py`). A path is needed where all of the interval of its
difference is a loss that counts, `min_gain` an image. (A refit that fails says so too where even the constant
predictor, which no network need be worse than, lies as far below the controls; otherwise nothing.) What is
not needed is then taken out together, for paths may stand in for each other: of a layer's paths the most
symmetric one stays (of those, the one of fewer parameters). What the evidence does not miss for certain goes:
the simpler network wins. If it misses them together, the single one goes that it missed least. The next round
asks again.

Axes: none.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from symlearn.config import Config
from symlearn.data.samples import SamplesLike, samples_of
from symlearn.layers.registry import path_kind
from symlearn.layers.structure import layer_paths, relaxed_layers
from symlearn.selection.changes import Proposal, apply
from symlearn.selection.differences import CONTROLS, difference, within
from symlearn.selection.growth import EndState, Paired, paired
from symlearn.selection.refits import Candidate, Observe, Round
from symlearn.training.phases import PhaseRun
from symlearn.training.state import Augment, FitState

REWARM = 0.3  # part of the learning rate that a refit starts with
NEGLIGIBLE = 1 / 3  # of the refits' own spread: a sampling error that makes the interval 5 % longer at most
LayerPath = tuple[str, str]  # a layer's name and one of its paths


@dataclass(frozen=True)
class Removal:
    """Paths that were taken out together, and what the evidence said.

    Attributes:
        round: counted from 0.
        paths: (layer, path), one or more.
        delta_log_evidence: of the refit without them, in nats; None: it failed, or no control ended.
        interval: that holds 90 % of what further refits would give, in nats; None: too few controls ended.
        probability_needed: that the true loss is more than what counts, by Student's distribution.
        free: whether the evidence does not miss them for certain: within its noise, or by less than counts.
        removed: whether they stayed out.
        images: that the change of evidence is from, where that is not all of them.
        sampling_error: its standard error for that, in nats; part of the interval.
    """

    round: int
    paths: tuple[LayerPath, ...]
    delta_log_evidence: float | None = None
    interval: tuple[float, float] | None = None
    probability_needed: float | None = None
    free: bool = False
    removed: bool = False
    images: int | None = None
    sampling_error: float | None = None


def least_worth(config: Config, n_data: int) -> float:
    """Nats that a path must be worth: `min_gain` an image, and at least one."""
    return max(config.evidence.min_gain * n_data, 1.0)


def removable(state: FitState) -> list[LayerPath]:
    """Every path that shares its layer with another one."""
    return [
        (name, path)
        for name, layer in relaxed_layers(state.model).items()
        for path, action in layer.changes()
        if action == "remove"
    ]


def simplest(state: FitState, free: Sequence[LayerPath]) -> tuple[LayerPath, ...]:
    """Choose which of some paths to take out together, so that the simplest path of every layer stays.

    Where all of a layer's paths are among them, the most symmetric one stays, of these the smallest.

    Returns:
        (layer, path) of those, layer by layer.
    """
    sizes = {name: p.numel() for name, p in state.model.named_parameters()}
    out: list[LayerPath] = []
    for layer in layer_paths(state.model):
        here = [path for name, path in free if name == layer.name]
        active = relaxed_layers(state.model)[layer.name].active if layer.relaxed else ()
        if here and len(here) == len(active):
            here.remove(
                max(here, key=lambda p: (path_kind(p).symmetry, -sum(sizes[n] for n in layer.paths[p])))
            )
        out += [(layer.name, path) for path in here]
    return tuple(out)


@dataclass
class Outcomes:
    """Evidences at the ends of refits, and what they say about a difference.

    Attributes:
        earlier: the controls' evidences of earlier rounds.
        controls: of this round; None for a refit that failed.
        constant: the constant predictor's log evidence.
        threshold: nats that count, a path.
    """

    earlier: list[list[float]] = field(default_factory=list)
    controls: list[float | None] = field(default_factory=list)
    constant: float = -math.inf
    threshold: float = 0.0

    @property
    def ended(self) -> list[float]:
        """The controls that ended."""
        return [e for e in self.controls if e is not None]

    def undecided(self, paths: int, value: float, error: float) -> bool:
        """Whether a change of evidence is open for its sampling error, and more images could tell."""
        counts, ended = self.threshold * paths, self.ended
        evidence = value + statistics.mean(ended)
        interval = difference(evidence, ended, self.earlier, error).interval
        refits = difference(evidence, ended, self.earlier).spread
        if interval is None or refits is None:
            return False
        return interval[0] < -counts <= interval[1] and error > NEGLIGIBLE * refits

    def judged(self, removal: Removal, evidence: float | None, part: Paired | None = None) -> Removal:
        """Judge a removal by its evidence against the controls'.

        Args:
            removal: the paths.
            evidence: of the refit without them, None if it failed.
            part: what it is from, where that is not all of the images.

        Returns:
            The removal with its change of evidence, interval and odds; as it was if no control ended. Of a
            refit that failed, with the constant predictor's evidence if that is for certain a loss that
            counts, else as it was.
        """
        ended = self.ended
        if not ended:
            return removal
        if evidence is None:
            failed = self.judged(removal, self.constant) if math.isfinite(self.constant) else removal
            return removal if failed.interval is None or failed.free else failed
        error = 0.0 if part is None else part.error
        found, counts = difference(evidence, ended, self.earlier, error), self.threshold * len(removal.paths)
        interval, odds = found.interval, found.probability_below(-counts)
        free = interval is not None and interval[1] >= -counts
        return replace(
            removal,
            delta_log_evidence=found.value,
            interval=interval,
            probability_needed=odds,
            free=free,
            images=None if part is None else part.images,
            sampling_error=None if part is None else part.error,
        )


class RemovalRound(Round):
    """One round of removals, an epoch at a time; see the module's notation.

    Only the refits under way, the best single removal and the joint one are held: one refit under way in one
    process, some for every rank where several share the fit (`turns.py`). Refits are judged in their order.

    Args:
        start: where the round starts; left as it is.
        number: counted from 0.
        data: the training set.
        observe: completes an epoch's metrics.
        augment: augmentation of the weights' steps.
        earlier: the controls' evidences of earlier rounds.
        saved: what `saved` gave, to go on with an interrupted round.
    """

    kind = "removals"

    def __init__(
        self,
        start: FitState,
        number: int,
        data: SamplesLike,
        observe: Observe,
        augment: Augment | None = None,
        earlier: list[list[float]] | None = None,
        saved: dict[str, Any] | None = None,
    ) -> None:
        training = start.config.training
        super().__init__(start, number, data, observe, augment, REWARM * training.lr, training.lr_end)
        singles = [(path,) for path in removable(start)]
        self.queue: list[tuple[LayerPath, ...]] = [*[()] * CONTROLS, *singles] if singles else []
        self.evidences: list[float | None] = []
        self.parts: list[Paired | None] = []
        self.ends: list[EndState] = []  # of the controls, where their evidence is from a part of the images
        constant = start.likelihood.constant_log_evidence(samples_of(data).targets)
        self.outcomes = Outcomes(
            list(earlier or []), constant=constant, threshold=least_worth(start.config, start.n_data)
        )
        self.kept: dict[str, dict[str, Any]] = {}  # "single" and "together": state, records, paths, evidence
        self.joined = not singles
        self.running: dict[int, Candidate] = {}  # refits under way, or waiting for earlier ones, by number
        if saved is not None:
            self._load(saved)

    def saved(self) -> dict[str, Any]:
        """The round as plain values, for checkpoints."""
        return copy.deepcopy(
            {
                "queue": self.queue,
                "evidences": self.evidences,
                "parts": [None if part is None else asdict(part) for part in self.parts],
                "ends": [end.saved() for end in self.ends],
                "outcomes": asdict(self.outcomes),
                "kept": self.kept,
                "joined": self.joined,
                "running": {at: candidate.saved() for at, candidate in self.running.items()},
            }
        )

    def _load(self, saved: dict[str, Any]) -> None:
        saved = copy.deepcopy(saved)
        self.queue = [tuple((layer, path) for layer, path in paths) for paths in saved["queue"]]
        self.evidences, self.kept, self.joined = saved["evidences"], saved["kept"], saved["joined"]
        self.parts = [None if part is None else Paired(**part) for part in saved["parts"]]
        self.ends = [EndState.restored(self.start.clone(), end) for end in saved["ends"]]
        self.outcomes = Outcomes(**saved["outcomes"])
        for at, kept in saved["running"].items():
            self.running[at] = Candidate(None, self.start.clone(), PhaseRun(self.phase))
            self.running[at].load(kept)

    @property
    def over(self) -> bool:
        """Whether everything has been tried."""
        return self.joined and len(self.evidences) == len(self.queue)

    @property
    def progress(self) -> int:
        """Epochs of all refits so far."""
        return len(self.evidences) * self.phase.epochs + sum(c.run.done for c in self.running.values())

    def candidate(self, at: int) -> Candidate:
        """A copy of the start without the paths of the queue's entry."""
        twin = self.start.clone()
        if 0 < at < CONTROLS:
            twin.generator.manual_seed(twin.config.training.seed + 6151 * (CONTROLS * self.number + at))
        for layer, path in self.queue[at]:
            apply(twin, Proposal(self.number, layer, path, "remove"))
        return Candidate(None, twin, PhaseRun(self.phase))

    def waiting(self) -> dict[int, int]:
        """Epochs that refits have left, by number; next is who comes first."""
        left = {}
        for at in range(len(self.evidences), len(self.queue)):
            begun = self.running.get(at)
            if begun is None or not (begun.run.over or begun.failed):
                left[at] = self.phase.epochs - (0 if begun is None else begun.run.done)
        return left

    def next_epoch(self) -> Candidate:
        """One epoch of the refit under way, or a turn of all ranks; refits that are over are judged in order.

        Returns:
            One that was trained.
        """
        candidate = super().next_epoch()
        while (first := self.running.get(len(self.evidences))) and (first.run.over or first.failed):
            del self.running[len(self.evidences)]
            self._close(first)
        return candidate

    def refit(self, at: int) -> Candidate:
        """The refit of a number, begun if need be."""
        if at not in self.running:
            self.running[at] = self.candidate(at)
        return self.running[at]

    def _close(self, candidate: Candidate) -> None:
        paths, evidence = self.queue[len(self.evidences)], candidate.evidence
        ended = evidence if math.isfinite(evidence) else None
        part, end = None, candidate.end
        if paths and end is not None and self.ends:
            undecided = partial(self.outcomes.undecided, len(paths))
            part = self.start.ranks.from_first(partial(paired, end, self.ends, undecided, self.data))
            ended = statistics.mean(self.outcomes.ended) + part.value
        self.evidences.append(ended)
        self.parts.append(part)
        if not paths:
            self.outcomes.controls.append(ended)
            self.ends += [] if end is None else [end]
        elif ended is not None:
            kind = "single" if len(paths) == 1 else "together"
            best = self.kept.get(kind)
            if best is None or ended > best["evidence"]:
                self.kept[kind] = {
                    "state": candidate.state.saved(),
                    "records": candidate.records,
                    "paths": [list(pair) for pair in paths],
                    "evidence": ended,
                }
        if not self.joined and len(self.evidences) == len(self.queue):
            self.joined = True
            free = [removal.paths[0] for removal in self.removals() if removal.free]
            together = simplest(self.start, free)
            if len(together) > 1:
                self.queue.append(together)

    def removals(self) -> list[Removal]:
        """What was tried so far and what the evidence said of it."""
        tried = zip(self.queue[CONTROLS:], self.evidences[CONTROLS:], self.parts[CONTROLS:], strict=False)
        return [
            self.outcomes.judged(Removal(self.number, paths), evidence, part)
            for paths, evidence, part in tried
        ]

    def outcome(self) -> tuple[FitState, list[dict[str, Any]], list[Removal], bool]:
        """(state to go on with, its metrics, every removal with what became of it, did anything go)."""
        removals = self.removals()
        together = [r for r in removals if len(r.paths) > 1 and r.free]
        best = self.kept.get("together" if together else "single")
        chosen = next(
            (
                at
                for at, r in enumerate(removals)
                if best is not None and r.free and [list(pair) for pair in r.paths] == best["paths"]
            ),
            None,
        )
        if chosen is None or best is None:
            return self.start, [], removals, False
        state = self.start.clone()
        state.load(best["state"])
        removals[chosen] = replace(removals[chosen], removed=True)
        return state, best["records"], removals, True


def told(removal: Removal) -> str:
    """One line about a removal."""
    what = " and ".join(f"{path} of {layer}" for layer, path in removal.paths)
    if removal.delta_log_evidence is None:
        return f"without {what}: failed, so nothing is known"
    change = f"{removal.delta_log_evidence:+.0f} nats{within(removal.interval)}"
    return f"without {what}: {change}{', removed' if removal.removed else ''}"
