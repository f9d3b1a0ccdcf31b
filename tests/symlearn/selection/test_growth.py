"""Decisions from a part of the images: when they take more, what their intervals hold, and resuming exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_fits import bars, differences, one_layer, options, phase, quadrants, state_of

from symlearn.evidence.jackknife import CHUNKS
from symlearn.evidence.sampled import Noted, paired_error
from symlearn.fitting.fit import fit
from symlearn.report.sentence import sample_sentence
from symlearn.report.table import run_numbers
from symlearn.selection.differences import RELATIVE, difference
from symlearn.selection.growth import EndState, open_at, paired
from symlearn.selection.removal import Outcomes, Removal
from symlearn.training.phases import PhaseRun
from symlearn.training.updates import update_evidence

SHORT: dict[str, Any] = {
    "epochs": 12,
    "frequency": 2,
    "lr": 0.02,
    "burn_in": 10,
    "refit_epochs": 2,
    "prior_warmup": 20,
    "rounds": 1,
    "proposals": 2,
    "removal_rounds": 1,
    "evidence_images": 64,
}


def noted(evidence: float, wobble: float, images: int = 100, of: int = 1600) -> Noted:
    """An evidence whose chunks differ by `wobble`."""
    return Noted(images, of, evidence, [wobble * (-1) ** c for c in range(CHUNKS)])


def end_of(*found: Noted) -> EndState:
    """An end whose evidences are known beforehand."""
    data = quadrants(40)
    end = EndState(state_of(one_layer(), data), [found[0]])
    end.found = list(found)
    return end


class TestPairs:
    """How often the subset doubles."""

    DOUBLED = tuple(noted(v, w, m) for v, w, m in ((-90, 2, 100), (-94, 1, 200), (-95, 0.5, 400)))
    CONTROL = tuple(noted(-100, 0, m) for m in (100, 200, 400))

    @pytest.mark.parametrize(("threshold", "images"), [(60.0, 100), (-20.0, 100), (15.0, 200), (9.0, 400)])
    def test_stops_once_decided(self, threshold: float, images: int) -> None:
        asked = []

        def undecided(value: float, error: float) -> bool:
            asked.append(value)
            return open_at(threshold, value, error)

        found = paired(end_of(*self.DOUBLED), [end_of(*self.CONTROL)], undecided, quadrants(40))
        assert found.images == images
        assert asked == [10.0, 6.0, 5.0][: len(asked)] and len(asked) == 1 + [100, 200, 400].index(images)
        assert not open_at(threshold, found.value, found.error)

    def test_stops_at_all_images(self) -> None:
        everything = (noted(-90, 8), noted(-95, 0, 1600))
        control = (noted(-100, 0), noted(-100, 0, 1600))
        found = paired(end_of(*everything), [end_of(*control)], lambda *_: True, quadrants(40))
        assert (found.value, found.error, found.images) == (5.0, 0.0, 1600)

    def test_evaluates_the_end(self) -> None:
        """On all images it is the full pass's evidence, of the state as it is."""
        data = quadrants(200)
        one = state_of(one_layer(), data, evidence_images=64, fisher_type="type-2")
        update_evidence(one, data)
        assert one.sampled is not None
        end = EndState(one, [one.sampled])
        sizes = [end.at(doublings, data).images for doublings in range(3)]
        assert sizes == [64, 128, 200]
        full = one.clone()
        full.config = one.config.with_options(evidence_images="all")
        update_evidence(full, data, step_hyperparameters=False)
        assert end.at(2, data).evidence == pytest.approx(full.evidence, rel=1e-5)
        other = state_of(one_layer(seed=1), data, evidence_images=64, fisher_type="type-2")
        again = EndState.restored(other, end.saved())
        assert again.at(1, data) == end.at(1, data), "bit for bit"


class TestIntervals:
    """The sampling error is part of them."""

    def test_in_quadrature(self) -> None:
        controls = [-100.0, -103.0, -98.0]
        plain, wider = difference(-110.0, controls), difference(-110.0, controls, error=30.0)
        assert plain.spread is not None and wider.spread is not None
        assert wider.spread == pytest.approx(math.hypot(plain.spread, 30.0))
        assert wider.freedom < CHUNKS, "the larger part has 7 degrees of freedom"
        measured = math.sqrt(plain.spread**2 - (RELATIVE * plain.value) ** 2)
        expected = wider.spread**4 / (measured**4 / 2 + 30.0**4 / (CHUNKS - 1))
        assert wider.freedom == pytest.approx(expected)

    def test_without_an_error_nothing_changes(self) -> None:
        one, other = difference(-110.0, [-100.0, -103.0]), difference(-110.0, [-100.0, -103.0], (), 0.0)
        assert one == other

    @pytest.mark.parametrize(
        ("value", "error", "open_"),
        [(-40.0, 8.0, True), (-40.0, 0.5, False), (-400.0, 8.0, False), (30.0, 8.0, False)],
    )
    def test_more_images_only_where_they_tell(self, value: float, error: float, open_: bool) -> None:
        outcomes = Outcomes([], [-1.0, 0.0, 1.0], threshold=45.0)
        assert outcomes.undecided(1, value, error) is open_

    def test_of_a_removal(self) -> None:
        outcomes = Outcomes([], [-1.0, 0.0, 1.0], threshold=6.0)
        removal = Removal(0, (("a", "conv"),))
        end, control = end_of(noted(-10, 8)), end_of(noted(0, 0))
        part = paired(end, [control], lambda *_: False, quadrants(40))
        found, exact = outcomes.judged(removal, -10.0, part), outcomes.judged(removal, -10.0)
        assert found.interval is not None and exact.interval is not None
        assert found.interval[1] > exact.interval[1] and found.images == 100 and exact.images is None
        assert found.sampling_error == paired_error(end.found[0], [control.found[0]])


@pytest.mark.parametrize("selection", ["search", "gradient"])
@pytest.mark.slow
def test_a_fit_from_a_part_resumes_exactly(selection: str, tmp_path: Path) -> None:
    """Killed again and again; decisions, subsets and what they grew to are the same."""
    data = bars(240, "quadrant")
    config = options(**{**SHORT, "selection": selection})
    alone = fit(one_layer(), data, data, config)
    told = 0

    class Killed(BaseException):
        pass

    def interrupt(_: Any) -> None:
        nonlocal told
        told += 1
        if told % 9 == 0:
            raise Killed

    resume = False
    while True:
        try:
            resumed = fit(
                one_layer(), data, data, config, out=tmp_path / "run", resume=resume, progress=interrupt
            )
            break
        except Killed:
            resume = True
    assert not differences(resumed.model.state_dict(), alone.model.state_dict())
    for key in ("log_marginal_likelihood", "evidence_sample", "selection"):
        assert json.dumps(resumed.report[key]) == json.dumps(alone.report[key]), key
    sample = alone.report["evidence_sample"]
    assert (sample["images"], sample["of"]) == (64, 240)
    sentence = sample_sentence(alone.report)
    assert sentence is not None and "64 of 240 images" in sentence
    assert " from 64 of 240 images" in dict(run_numbers(alone.report))["log marginal likelihood"]
    asked = [
        *alone.report["selection"]["removals"],
        *(p for p in alone.report["selection"]["proposals"] if p["delta_log_evidence"] is not None),
    ]
    assert asked and all(one["images"] in (64, 128, 240) for one in asked if one["interval"])


@pytest.mark.slow
def test_rounds_have_subsets_of_their_own() -> None:
    data = bars(240, "quadrant")
    result = fit(one_layer(), data, None, options(**{**SHORT, "selection": "gradient"}))
    full = fit(
        one_layer(), data, None, options(**{**SHORT, "selection": "gradient", "evidence_images": "all"})
    )
    assert full.report["evidence_sample"] is None and sample_sentence(full.report) is None
    assert all(one["images"] is None for one in full.report["selection"]["removals"])
    assert result.report["evidence_sample"]["standard_error"]["log_marginal_likelihood"] > 0


def test_updates_are_kept_with_their_errors() -> None:
    data = quadrants(200)
    one = state_of(one_layer(), data, evidence_images=64)
    update_evidence(one, data)
    assert one.sampled is not None
    run = PhaseRun(phase(2), sampled=[one.sampled])
    twin = PhaseRun(phase(2))
    twin.load(run.saved())
    assert twin.sampled == run.sampled
