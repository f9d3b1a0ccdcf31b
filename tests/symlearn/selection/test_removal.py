"""Removals at the end of a fit: intervals, what goes together, rounds, and what the report makes of them."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from tiny_fits import bars, differences, one_layer, options, quadrants, small_network, state_of
from torch import Tensor, nn

import symlearn
from symlearn.evidence.likelihood import LIKELIHOODS
from symlearn.fitting.fit import fit
from symlearn.fitting.result import Progress
from symlearn.layers.structure import relaxed_layers
from symlearn.selection.differences import CONTROLS, EXCESS, RELATIVE
from symlearn.selection.removal import Outcomes, Removal, RemovalRound, removable, simplest, told
from symlearn.training.phases import Phase
from symlearn.training.state import FitState, TrainingStoppedError
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence

SHORT = {"epochs": 48, "frequency": 3, "lr": 0.02, "burn_in": 40, "refit_epochs": 6, "prior_warmup": 60}


def trained(paths: str, data: tuple[Tensor, Tensor], epochs: int = 12, **changes: Any) -> FitState:
    """A network of all paths, some epochs and an evidence update behind it."""
    classes = int(data[1].max()) + 1
    state = state_of(one_layer(paths, classes=classes), data, **{"refit_epochs": 4, **changes})
    for _ in range(epochs):
        train_epoch(state, data, lambda _: 0.02)
    update_evidence(state, data)
    return state


def observe(state: FitState, phase: Phase, record: dict[str, Any]) -> dict[str, Any]:
    """The least a metrics line can be."""
    return {"epoch": state.epoch, "phase": phase.name, **record}


def finished(round_: RemovalRound) -> RemovalRound:
    """A round run to its end."""
    while not round_.over:
        round_.next_epoch()
    return round_


class TestIntervals:
    REMOVAL = Removal(0, (("a", "conv"),))

    def test_student_about_the_controls_mean(self) -> None:
        controls = [-100.0, -103.0, -98.0]
        found = Outcomes([], list(controls)).judged(self.REMOVAL, -110.0)
        mean, s = statistics.mean(controls), statistics.stdev(controls)
        assert found.delta_log_evidence == pytest.approx(-110 - mean)
        measured = s * math.sqrt(4 / 3 + EXCESS)
        spread = math.hypot(measured, RELATIVE * (-110 - mean))
        freedom = 2 * (spread / measured) ** 4
        half = stats.t.ppf(0.95, freedom) * spread
        assert found.interval == pytest.approx((-110 - mean - half, -110 - mean + half))
        assert found.probability_needed == pytest.approx(stats.t.cdf(-(-110 - mean) / spread, freedom))

    def test_rounds_are_pooled(self) -> None:
        first, second = [-1.0, 1.0, 0.0], [50.0, 54.0, 52.0]
        found = Outcomes([first], list(second)).judged(self.REMOVAL, 52.0)
        spread = math.sqrt((2 * 1.0 + 2 * 4.0) / 4 * (1 + EXCESS + 1 / 3))
        assert found.interval == pytest.approx(
            (-stats.t.ppf(0.95, 4) * spread, stats.t.ppf(0.95, 4) * spread)
        )
        assert found.probability_needed == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("evidence", "threshold", "paths", "free"),
        [(-4.0, 6.0, 1, True), (-10.0, 6.0, 1, False), (-10.0, 6.0, 2, True), (-4.0, 0.0, 1, False)],
    )
    def test_small_losses_do_not_count(
        self, evidence: float, threshold: float, paths: int, free: bool
    ) -> None:
        removal = Removal(0, (("a", "conv"), ("b", "conv"))[:paths])
        found = Outcomes([], [-0.1, 0.0, 0.1], threshold=threshold).judged(removal, evidence)
        assert found.free is free and (found.probability_needed > 0.9) is not free

    def test_coverage(self) -> None:
        """Of a difference between one refit, which varies more, and the mean of three, nine times in ten."""
        generator = torch.Generator().manual_seed(0)
        draws = 7.0 * torch.randn(2000, 1 + CONTROLS, generator=generator, dtype=torch.float64)
        held = 0
        for refit, *controls in draws.tolist():
            evidence = math.sqrt(1 + EXCESS) * refit - 1.0
            low, high = Outcomes([], controls).judged(self.REMOVAL, evidence).interval or (1, 0)
            held += low <= -1.0 <= high
        assert 0.88 < held / 2000 < 0.92

    @pytest.mark.parametrize(("controls", "known"), [([None, -5.0, None], True), ([None] * 3, False)])
    def test_too_few_controls_give_no_interval(self, controls: list[float | None], known: bool) -> None:
        found = Outcomes([], controls).judged(self.REMOVAL, -9.0)
        assert found.interval is None and not found.free
        assert (found.delta_log_evidence == -4.0) is known
        assert told(found).endswith("-4 nats" if known else "nothing is known")


class TestTogether:
    def test_the_most_symmetric_path_stays(self) -> None:
        data = quadrants()
        state = trained("fc+f-fc+conv", data, epochs=0)
        free = [("layer", path) for path in ("fc", "f-fc", "conv")]
        assert simplest(state, free) == (("layer", "fc"), ("layer", "f-fc"))
        assert simplest(state, free[:2]) == tuple(free[:2]), "conv is needed, so both may go"
        assert simplest(state, []) == ()

    def test_of_equals_the_smaller_one(self) -> None:
        state = trained("fc+f-fc", quadrants(), epochs=0)
        assert simplest(state, [("layer", "fc"), ("layer", "f-fc")]) == (("layer", "fc"),)

    def test_every_layer_keeps_one(self) -> None:
        data = bars(40, "quadrant", size=16)
        state = state_of(small_network("f-fc+conv"), data)
        every = removable(state)
        assert len(every) == 12
        assert simplest(state, every) == tuple(pair for pair in every if pair[1] == "f-fc")


class TestRound:
    def test_single_paths_are_not_asked(self) -> None:
        data = quadrants()
        round_ = RemovalRound(trained("conv", data, epochs=1), 0, data, observe)
        assert round_.over
        state, records, removals, removed = round_.outcome()
        assert (state, records, removals, removed) == (round_.start, [], [], False)

    @pytest.mark.slow
    def test_position_needs_fc(self) -> None:
        data = quadrants()
        start = trained("f-fc+conv", data, epochs=20)
        before = start.saved()
        round_ = finished(RemovalRound(start, 0, data, observe))
        assert not differences(before, start.saved()), "the start is left alone"
        state, records, removals, removed = round_.outcome()
        by_path = {removal.paths[0][1]: removal for removal in removals}
        assert not by_path["f-fc"].free and by_path["f-fc"].delta_log_evidence < -20, removals
        assert by_path["conv"].removed is removed is by_path["conv"].free
        if removed:
            assert relaxed_layers(state.model)["layer"].active == ("f-fc",)
            assert {record["phase"] for record in records} == {"removals 0"}
        assert told(by_path["f-fc"]).startswith("without f-fc of layer: -")

    @pytest.mark.parametrize("epochs", [1, 13, 21])
    def test_interrupted_it_continues_bit_identically(self, epochs: int) -> None:
        data = bars(60, "direction")
        start = trained("f-fc+conv", data, epochs=4)
        whole = finished(RemovalRound(start, 0, data, observe))
        part = RemovalRound(start, 0, data, observe)
        for _ in range(epochs):
            if not part.over:
                part.next_epoch()
        resumed = finished(RemovalRound(start, 0, data, observe, saved=part.saved()))
        a, b = whole.outcome(), resumed.outcome()
        assert not differences(a[0].saved(), b[0].saved()) and a[2:] == b[2:]
        assert not differences(a[1], b[1])

    def test_a_refit_that_fails_is_never_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = quadrants()
        start = trained("f-fc+conv", data, epochs=20)
        honest = train_epoch

        def broken(state: FitState, *rest: Any) -> tuple[float, float | None]:
            if relaxed_layers(state.model)["layer"].active == ("conv",):
                raise TrainingStoppedError("the training loss became nan")
            return honest(state, *rest)

        monkeypatch.setattr("symlearn.training.phases.train_epoch", broken)
        _, _, removals, _ = finished(RemovalRound(start, 0, data, observe)).outcome()
        (without_fc,) = [r for r in removals if r.paths == (("layer", "f-fc"),)]
        assert without_fc.delta_log_evidence is not None and without_fc.delta_log_evidence < 0
        constant = LIKELIHOODS["classification"].constant_log_evidence(data[1])
        for controls, known in (
            ([constant + 50, constant + 51], True),
            ([constant - 1, constant - 2], False),
        ):
            found = Outcomes([], list(controls), constant).judged(Removal(0, (("layer", "f-fc"),)), None)
            assert not found.free and (found.interval is not None) is known


class TestFit:
    @pytest.mark.slow
    @pytest.mark.parametrize("selection", ["search", "gradient"])
    @pytest.mark.parametrize(("by", "commutes"), [("direction", "shifts"), ("quadrant", "none")])
    def test_known_truth(self, selection: str, by: str, commutes: str) -> None:
        """Directions need no place, quadrants do; the verdict is the same in report, network and collapse."""
        data = bars(300, by)
        model = one_layer(classes=3 if by == "direction" else 4)
        config = options(**SHORT, selection=selection, rounds=1)
        result = fit(model, data, config=config)
        (layer,) = [entry for entry in result.report["layers"] if "verdict" in entry]
        assert layer["verdict"]["symmetry"] == commutes, result.report["selection"]
        if selection == "search":
            left = [path for path, entry in layer["paths"].items() if entry["present"]]
            assert set(layer["verdict"]["needed"]) == set(left), "what is not needed is out"
        plain = symlearn.collapse(model, result)
        kept = [fate.path for fate in plain.collapse_report.paths if fate.kept]
        assert set(layer["verdict"]["needed"]) <= set(kept)
        assert plain.collapse_report.symmetries == {"layer": commutes}

    @pytest.mark.slow
    def test_gradients_keep_every_path(self) -> None:
        """The removals are asked of copies; the network is the paper's."""
        model = one_layer(classes=3)
        result = fit(model, bars(100, "direction"), config=options(**SHORT, selection="gradient"))
        assert relaxed_layers(result.model)["layer"].active == ("f-fc", "conv")
        assert any(removal["removed"] for removal in result.report["selection"]["removals"])

    @pytest.mark.parametrize("changes", [{"removal_rounds": 0}, {"epochs": 11}], ids=["none", "short"])
    def test_nobody_asked(self, changes: dict[str, Any]) -> None:
        config = options(**{**SHORT, "selection": "gradient", **changes})
        report = fit(one_layer(classes=3), bars(60, "direction"), config=config).report
        assert report["selection"]["removals"] == []
        verdict = report["layers"][0]["verdict"]
        assert (verdict["symmetry"], verdict["undecided"]) == ("undecided", ["f-fc", "conv"])

    @pytest.mark.slow
    def test_a_network_of_the_users_own(self) -> None:
        torch.manual_seed(0)
        cnn = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        relaxed = symlearn.relax(nn.Sequential(*cnn, nn.Linear(6, 4)), (1, 8, 8))
        report = fit(relaxed, bars(300, "quadrant"), config=options(**SHORT, rounds=1)).report
        assert report["layers"][0]["verdict"]["symmetry"] in ("none", "undecided"), report["selection"]

    @pytest.mark.slow
    @pytest.mark.parametrize(("selection", "epochs"), [("search", 1), ("search", 20), ("gradient", 9)])
    def test_killed_among_the_removals_resumes_exactly(
        self, selection: str, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("symlearn.fitting.stages.SAVE_EVERY", 0.0)
        data, config = bars(60, "quadrant"), options(**SHORT, selection=selection, rounds=0)
        if selection == "search":  # with nothing to add, both paths have to be there from the start
            monkeypatch.setattr("symlearn.fitting.beginning.strictest_start", lambda *_: None)
        alone = fit(one_layer(), data, config=config)
        seen = 0

        def interrupt(progress: Progress) -> None:
            nonlocal seen
            seen += progress.stage.startswith("removals") and progress.note is None
            if seen == epochs:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(one_layer(), data, config=config, out=tmp_path / "run", progress=interrupt)
        resumed = fit(one_layer(), data, config=config, out=tmp_path / "run", resume=True)
        assert not differences(resumed.model.state_dict(), alone.model.state_dict())
        assert resumed.report["selection"] == alone.report["selection"]
        assert resumed.report["layers"] == alone.report["layers"]
