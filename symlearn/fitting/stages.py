"""A whole fit: the stages of `training/schedule.py`, an epoch at a time, with exact checkpoints.

Everything that decides the result is in the checkpoint: a fit that is killed at any moment and resumed takes
the same steps, bit for bit on a CPU with the same number of threads. Of a fit that several processes share
(`ranks.py`) the checkpoint does not know how many they were.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from symlearn.analysis.codes import IMAGES as CODED
from symlearn.analysis.equivariance import IMAGES
from symlearn.config import Config
from symlearn.data import augment
from symlearn.data.samples import Samples
from symlearn.fitting.beginning import Beginning, plan_for
from symlearn.fitting.board import Board
from symlearn.fitting.ending import final_report
from symlearn.fitting.result import DataInfo, FitResult, Progress
from symlearn.layers.structure import tensor_places
from symlearn.networks.operations import operations_of
from symlearn.ranks import ALONE, Ranks
from symlearn.report.numbers import TriedChanges
from symlearn.run_folder import CHECKPOINT, CONFIG, MODEL, RunFolder
from symlearn.selection.changes import Proposal, describe
from symlearn.selection.refits import Round
from symlearn.selection.removal import Removal, RemovalRound, told
from symlearn.selection.search import SearchRound
from symlearn.training.phases import Phase, PhaseRun
from symlearn.training.schedule import Stage, plan
from symlearn.training.state import Augment, FitState, TrainingStoppedError
from symlearn.training.steps import evaluate
from symlearn.training.updates import update_evidence

SAVE_EVERY = 5.0  # seconds between checkpoints within a stage; longer where writing takes more than
SAVE_SHARE = 0.03  # of the time
LOOKED_AT = max(IMAGES, CODED)  # training images that equivariance and codes are measured on


@dataclass
class Fit:
    """A fit in progress; `run` takes it to its end.

    Args:
        model: the network; changed in place.
        train: the training set.
        test: the test set or None; only ever recorded.
        config: with its schedules worked out.
        folder: where to keep everything, or None.
        progress: told after every epoch.
        info: what the report says about the data.
        board: for TensorBoard, or None.
        ranks: the processes that share the fit.
    """

    model: nn.Module
    train: Samples
    test: Samples | None
    config: Config
    folder: RunFolder | None = None
    progress: Callable[[Progress], None] | None = None
    info: DataInfo = field(default_factory=DataInfo)
    board: Board | None = None
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        self.given = self.model
        self.places = tensor_places(self.model)
        self.state = FitState(self.model, self.config, len(self.train), input_scale=self.train.input_scale())
        if self.ranks.size > 1 and self.train.device.type == "cpu":  # GPUs need not come to the same again
            self.ranks.operations = operations_of(self.model, self.train.first(1)[0])
        self.state.ranks = self.ranks
        self.beginning = Beginning()
        self.best: dict[str, Any] | None = None
        self.proposals: list[Proposal] = []
        self.removals: list[Removal] = []
        self.controls: list[list[float]] = []
        self.search_controls: list[list[float]] = []
        self.metrics: list[dict[str, Any]] = []
        self.stage = 0
        self.run_: PhaseRun | None = None
        self.round_: SearchRound | RemovalRound | None = None
        self.search_over = self.removals_over = False
        self.seconds_before = 0.0
        self.clock = time.monotonic()
        self.saved_at, self.saving_took = -float("inf"), 0.0
        self.beginning.open(self.state)
        self.stages = plan(self.config)
        self.augment = self._augmentation()

    def _augmentation(self) -> Augment | None:
        if not self.config.training.augment:
            return None
        black = self.info.preprocessing.black if self.info.preprocessing is not None else 0.0
        return lambda images, generator: augment(images, generator, fill=black)

    @property
    def data(self) -> dict[str, Samples]:
        """The sets by name."""
        return {"train": self.train} if self.test is None else {"train": self.train, "test": self.test}

    @property
    def seconds(self) -> float:
        """Time spent, over all resumptions."""
        return self.seconds_before + time.monotonic() - self.clock

    def observe(self, state: FitState, phase: Phase, record: dict[str, Any]) -> dict[str, Any]:
        """Complete an epoch's metrics."""
        line: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "phase": phase.name, **record}
        line["log_marginal_likelihood"] = record.get("log_marginal_likelihood")
        tested = (None, None) if self.test is None else evaluate(state, self.test)
        line["test_accuracy"], line["test_nll"] = tested
        line["seconds"] = round(self.seconds, 3)
        if line["log_marginal_likelihood"] is not None:
            precision = state.prior.floats()
            line["prior_precision"] = {name: precision[name] for name in state.effective_parameters}
            line["effective_parameters"] = dict(state.effective_parameters)
            line["sigma_noise"] = state.sigma_noise
            for name, one in state.hyper.declared.items():
                if one.value.numel() == 1:
                    line.setdefault(one.kind, {})[name] = float(one.read(one.value.detach()))
        return line

    def tell(self, record: dict[str, Any], note: str | None = None) -> None:
        """Report progress."""
        if self.progress is None:
            return
        total = sum(stage.epochs * (1 if stage.phase else 6) for stage in self.stages)
        done = sum(stage.epochs * (1 if stage.phase else 6) for stage in self.stages[: self.stage])
        if self.run_ is not None:
            done += self.run_.done
        elif self.round_ is not None:
            done += self.round_.progress
        name = self.stages[min(self.stage, len(self.stages) - 1)].name
        epoch = record.get("epoch", self.state.epoch)
        fraction = min(done / max(total, 1), 1.0)
        self.progress(Progress(name, epoch, record, note, fraction, self.places))

    def run(self) -> FitResult:
        """Take the fit to its end.

        Returns:
            The result at the state of best evidence, written into the folder if there is one.

        Raises:
            TrainingStoppedError: a value is not finite whatever start was tried; the last checkpoint is kept.
        """
        while self.stage < len(self.stages):
            stage = self.stages[self.stage]
            if stage.phase is not None:
                if self.beginning.fallen:
                    self._phase(stage.phase)
                self.keep_best()
            elif stage.kind == "removals":
                if not self.removals_over and self.beginning.learned and self.best is not None:
                    self._removals(stage.number)
            elif not self.search_over and self.beginning.learned:
                self._round()
                self.keep_best()
            self.stage += 1
            self.run_ = self.round_ = None
            self.save(force=True)
        return self._finish()

    def _phase(self, phase: Phase) -> None:
        while True:
            fault = self._epochs(self.beginning.phase(phase))
            assert self.run_ is not None
            self.go_back(self.run_.best)
            if self.beginning.learned is not None:
                return
            note = self.beginning.next(self.state, self.train, fault)
            if note is None:
                return
            self.run_ = None
            self.tell({}, note)
            self.save(force=True)

    def _epochs(self, phase: Phase) -> str | None:
        """Run a phase to its end, or a start until it is hopeless.

        Returns:
            What made a start stop before, if another start is left; None where nothing did.

        Raises:
            TrainingStoppedError: a value is not finite, and there is neither a state to go back to nor a
                start left.
        """
        if self.run_ is None:
            self.run_ = PhaseRun(phase)
        while not self.run_.over and not self.beginning.hopeless(self.state):
            try:
                record = self.run_.next_epoch(self.state, self.train, self.augment)
            except TrainingStoppedError as error:
                if self.beginning.learned is None and self.beginning.at + 1 < len(plan_for(self.state)):
                    return str(error)
                if self.beginning.learned is None and self.beginning.at:
                    tried = "; ".join(start.words for start in plan_for(self.state))
                    raise TrainingStoppedError(f"{error}; tried: {tried}") from None
                raise
            line = self.observe(self.state, phase, record)
            self.record([line])
            fault = record.get("taken_back")
            note = f"epoch {self.state.epoch} taken back: {fault}; half the rate" if fault else None
            self.tell(line, note)
            self.save()
        return None

    def keep_best(self) -> None:
        """Keep the state of best evidence over all stages."""
        evidence = self.state.evidence
        if evidence is not None and (self.best is None or evidence >= self._evidence_of(self.best)):
            self.best = self.state.saved()

    def _evidence_of(self, saved: dict[str, Any]) -> float:
        """The evidence of a state, on the images that the present one's is from."""
        if self.state.sampled is None or saved["sample"] == self.state.sample:
            return float(saved["evidence"])
        twin = self.state.clone()
        twin.load(saved)
        twin.sample, twin.ranks = self.state.sample, self.ranks
        update_evidence(twin, self.train, step_hyperparameters=False)
        assert twin.evidence is not None
        return twin.evidence

    def _round(self) -> None:
        if self.round_ is None:
            self.state.sample = self.stage  # another subset for every round
            self.round_ = self._round_of(self.stages[self.stage])
        assert isinstance(self.round_, SearchRound)
        self._through(self.round_)
        state, records, proposals, accepted = self.round_.outcome()
        self._go_on_with(state)
        self.record(records)
        self.proposals += proposals
        self.search_controls = [*self.search_controls, self.round_.ended]
        for proposal in proposals:
            self.tell(records[-1] if records else {}, describe(proposal))
        self.search_over = not accepted

    def _go_on_with(self, state: FitState) -> None:
        """The state that a round ended with."""
        self.state, self.model = state, state.model
        state.ranks = self.ranks

    def _round_of(self, stage: Stage, saved: dict[str, Any] | None = None) -> SearchRound | RemovalRound:
        """A stage's round, new or as `saved`."""
        given = (self.state, stage.number, self.train, self.observe, self.augment)
        if stage.kind == "removals":
            return RemovalRound(*given, earlier=self.controls, saved=saved)
        return SearchRound(*given, earlier=self.search_controls, saved=saved)

    def _through(self, round_: Round) -> None:
        while not round_.over:
            candidate = round_.next_epoch()
            self.tell(candidate.records[-1] if candidate.records else {})
            self.save()

    def _removals(self, number: int) -> None:
        """Try every path without; under a search what the evidence does not miss stays out."""
        if self.round_ is None:
            if number == 0:  # time goes on
                epoch, step = self.state.epoch, self.state.step
                self.go_back(self.best)
                self.state.epoch, self.state.step = epoch, step
            self.state.sample = self.stage
            self.round_ = self._round_of(self.stages[self.stage])
        assert isinstance(self.round_, RemovalRound)
        self._through(self.round_)
        state, records, removals, removed = self.round_.outcome()
        self._go_on_with(state)
        self.removals += removals
        self.controls = [*self.controls, self.round_.outcomes.ended]
        self.removals_over = not removed
        if removed and self.config.evidence.selection == "search":
            self.record(records)
            self.best = self.state.saved()
        for removal in removals:
            self.tell({}, told(removal))

    def go_back(self, saved: dict[str, Any] | None) -> None:
        """Go back to a state; what the guard took back is history and stays."""
        if saved is not None:
            setbacks = self.state.setbacks
            self.state.load(saved)
            self.state.setbacks = setbacks

    def record(self, lines: list[dict[str, Any]]) -> None:
        """Keep metrics, in memory and in the folder."""
        self.metrics += lines
        if self.folder is not None:
            self.folder.append_metrics(lines)
        if self.board is not None:
            self.board.add(lines)

    def save(self, force: bool = False) -> None:
        """Write a checkpoint, at most every few seconds unless forced."""
        now = time.monotonic()
        wait = SAVE_EVERY and max(SAVE_EVERY, self.saving_took / SAVE_SHARE)  # 0: at every chance
        due = force or now - self.saved_at > wait
        if self.folder is None or not self.folder.writes or not due:
            return
        self.saved_at = now
        self.folder.save_tensors(
            CHECKPOINT,
            {
                "config": self.config.to_toml(),
                "stage": self.stage,
                "search_over": self.search_over,
                "removals_over": self.removals_over,
                "state": self.state.saved(),
                "run": self.run_.saved() if self.run_ else None,
                "round": self.round_.saved() if self.round_ else None,
                "beginning": self.beginning.saved(),
                "best": self.best,
                "proposals": [asdict(p) for p in self.proposals],
                "removals": [asdict(r) for r in self.removals],
                "controls": self.controls,
                "search_controls": self.search_controls,
                "data": {name: data.state() for name, data in self.data.items()},
                "lines": len(self.metrics),
                "seconds": self.seconds,
            },
        )
        self.saving_took = time.monotonic() - now

    def resume(self) -> None:
        """Go back to the folder's checkpoint, or to the start if there is none yet.

        Raises:
            ValueError: the checkpoint is damaged or belongs to another configuration.
        """
        assert self.folder is not None
        if not self.folder.file(CHECKPOINT).exists():
            self.folder.keep_metrics(0)
            return
        saved = self.folder.load_tensors(CHECKPOINT)
        if saved["config"] != self.config.to_toml():
            raise ValueError(f"{self.folder.file(CHECKPOINT)} belongs to another {CONFIG}; restore that file")
        self.state.load(saved["state"])
        for name, data in self.data.items():
            data.load(saved.get("data", {}).get(name, {}))
        self.stage, self.search_over = saved["stage"], saved["search_over"]
        self.removals_over, self.controls = saved["removals_over"], saved["controls"]
        self.search_controls = saved["search_controls"]
        self.proposals = [Proposal(**p) for p in saved["proposals"]]
        self.removals = [Removal(**r) for r in saved["removals"]]
        self.folder.keep_metrics(saved["lines"])
        self.metrics = self.folder.metrics()[: saved["lines"]]
        self.seconds_before = saved["seconds"]
        self.beginning, self.best = Beginning(**saved["beginning"]), saved["best"]
        if saved["run"] is not None:
            phase = self.stages[self.stage].phase
            assert phase is not None
            self.run_ = PhaseRun(self.beginning.phase(phase))
            self.run_.load(saved["run"])
        if saved["round"] is not None:
            self.round_ = self._round_of(self.stages[self.stage], saved["round"])

    def _finish(self) -> FitResult:
        self.go_back(self.best)
        if self.model is not self.given:  # a search went on with a copy; the network given is the result
            self.given.load_state_dict(self.model.state_dict())
            self.model = self.state.model = self.given
        asked = TriedChanges(self.proposals, self.removals, self.search_controls, self.controls)
        report = final_report(self.state, self.train, self.test, self.info, asked, self.beginning.tried)
        report["seconds"] = round(self.seconds, 1)
        precision, noise = self.state.prior.floats(), self.state.sigma_noise
        if self.folder is not None:
            self.folder.save_tensors(
                MODEL,
                {
                    "model": self.model.state_dict(),
                    "prior_precision": precision,
                    "sigma_noise": noise,
                    "class_names": list(self.info.class_names),
                },
            )
        return FitResult(self.model, report, self.metrics, precision, noise, self.config, self.train)
