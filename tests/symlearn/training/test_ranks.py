"""A fit in two processes: the numbers, decisions and files of one; ranks that differ or die say so.

`ranks_worker.py` runs in real processes under torchrun, over gloo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_worker import CURVATURES, EPOCHS, ROUNDS, epochs, evidence, rounds, tiny_fit
from tiny_fits import differences

import symlearn
from symlearn.cli import run
from symlearn.data.samples import WHOLE, Held, Share
from symlearn.ranks import ALONE, code_digest, launched, losses_told, present_ranks
from symlearn.report.sentence import verdict_sentence
from symlearn.run_folder import CHECKPOINT, REPORT
from symlearn.selection.turns import dealt

WORKER = Path(__file__).parent / "ranks_worker.py"
ROOT = Path(__file__).resolve().parents[3]


def started(case: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The worker in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, str(WORKER), case, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(place: Path) -> list[dict[str, Any]]:
    done = started("numbers", place)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(place / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> symlearn.FitResult:
    return tiny_fit(None)


def far(a: dict[str, Any], b: dict[str, Any], relative: float) -> dict[str, Any]:
    """Entries that differ by more."""
    assert set(a) == set(b)
    pairs = {name: (torch.as_tensor(a[name]).double(), torch.as_tensor(b[name]).double()) for name in a}
    return {
        name: (p, q)
        for name, (p, q) in pairs.items()
        if float((p - q).norm()) > relative * float(q.norm()) + 1e-12
    }


@pytest.mark.slow
class TestTwoProcesses:
    @pytest.mark.parametrize("kind", list(EPOCHS))
    def test_steps_are_those_of_the_whole_batch(self, two: list[dict[str, Any]], kind: str) -> None:
        told, weights, scores = epochs(**EPOCHS[kind])
        for found in two:
            assert found["epochs"][kind][2] == pytest.approx(scores, rel=1e-9)
            assert not far(found["epochs"][kind][1], weights, 1e-9)
            for got, expected in zip(found["epochs"][kind][0], told, strict=True):
                assert got == pytest.approx(expected, rel=1e-6)  # summed in float32

    @pytest.mark.parametrize("kind", list(CURVATURES))
    def test_evidence_and_effective_parameters(self, two: list[dict[str, Any]], kind: str) -> None:
        total, gamma, precisions = evidence(**CURVATURES[kind])
        for found in two:
            assert found["evidence"][kind][0] == pytest.approx(total, rel=1e-6)
            assert found["evidence"][kind][1] == pytest.approx(gamma, rel=1e-6)
            assert found["evidence"][kind][2] == pytest.approx(precisions, rel=1e-6)

    @pytest.mark.parametrize("kind", list(ROUNDS))
    def test_rounds_are_those_of_one_process_bit_for_bit(self, two: list[dict[str, Any]], kind: str) -> None:
        alone = rounds(**ROUNDS[kind])
        assert all(len(tried) > 1 for _, _, tried, _, _ in alone.values())
        for found in two:
            assert not differences(found["rounds"][kind], alone)

    def test_all_ranks_hold_the_same_state(self, two: list[dict[str, Any]]) -> None:
        for key in ("epochs", "evidence"):
            assert not differences(two[0][key], two[1][key])
        assert not differences(two[0]["fit"]["weights"], two[1]["fit"]["weights"])
        for first, second in zip(two[0]["fit"]["metrics"], two[1]["fit"]["metrics"], strict=True):
            assert {**first, "seconds": 0} == {**second, "seconds": 0}

    def test_a_small_fit_is_that_of_one_process_bit_for_bit(
        self, two: list[dict[str, Any]], one: symlearn.FitResult
    ) -> None:
        for found in two:
            assert not differences(found["small fit"]["weights"], one.model.state_dict())
            for got, expected in zip(found["small fit"]["metrics"], one.metrics, strict=True):
                assert {**got, "seconds": 0} == {**expected, "seconds": 0}
            assert {**found["small fit"]["report"], "seconds": 0} == {**one.report, "seconds": 0}

    def test_a_fit_comes_to_the_same_verdict(
        self, two: list[dict[str, Any]], one: symlearn.FitResult
    ) -> None:
        for found in two:
            report = found["fit"]["report"]
            assert verdict_sentence(report) == verdict_sentence(one.report)
            assert report["log_marginal_likelihood"] == pytest.approx(
                one.report["log_marginal_likelihood"], rel=1e-3
            )
            assert len(found["fit"]["metrics"]) == len(one.metrics)
            proposed = [(p["layer"], p["path"], p["accepted"]) for p in report["selection"]["proposals"]]
            assert proposed == [
                (p["layer"], p["path"], p["accepted"]) for p in one.report["selection"]["proposals"]
            ]

    def test_one_writer_and_one_voice(
        self, two: list[dict[str, Any]], place: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (first, said, _), (second, silence, trouble) = (found["command line"]["same"] for found in two)
        assert first == second == 0 and "log marginal likelihood" in said and not silence and not trouble
        assert run(["report", str(place / "same")]) == 0
        assert "log marginal likelihood" in capsys.readouterr().out
        lines = (place / "same" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == len({line for line in lines})

    def test_ranks_of_different_options_say_so(self, two: list[dict[str, Any]], place: Path) -> None:
        for found in two:
            code, _, line = found["command line"]["different"]
            assert code == 2 and line.count("\n") == 1, line
            assert "ranks 0 and 1 differ in lr of [training]: 0.01 and 0.02" in line
        assert not (place / "different" / REPORT).exists()

    REFUSED = {
        "lr": "differ in lr of [training]",
        "resume": "differ in whether the fit is resumed",
        "weights": "differ in the initial weights layer",
        "shapes": "differ in the parameter head.weight",
        "order": "differ in the training targets",
        "images": "differ in the training images",
        "number": "differ in the number of training images: 91 and 90",
    }

    def test_ranks_that_differ_are_refused(self, two: list[dict[str, Any]]) -> None:
        for found in two:
            assert found["refusals"]["nothing"] == ("nothing", "")
            for case, line in self.REFUSED.items():
                kind, said = found["refusals"][case]
                assert kind == "ValueError" and line in said and "\n" not in said, said
        assert two[0]["refusals"]["failure"] == (
            "TrainingStoppedError",
            "rank 1 failed: a reason on two lines",
        )
        assert two[1]["refusals"]["failure"][0] == "TrainingStoppedError"
        assert two[0]["refusals"]["first fails"][0] == "IndexError"
        assert two[1]["refusals"]["first fails"][0] == "ValueError"

    def test_a_killed_rank_leaves_a_run_that_resumes(self, tmp_path: Path, one: symlearn.FitResult) -> None:
        done = started("killed", tmp_path)
        assert done.returncode != 0
        folder, found = tmp_path / "fit", tmp_path / "0.pt"
        assert (folder / CHECKPOINT).is_file()
        if found.is_file():  # torchrun may have ended rank 0 before it could say so
            kind, line = torch.load(found, weights_only=False)["line"]
            assert kind == "ValueError" and "lost the others" in line and "\n" not in line
        resumed = tiny_fit(folder, resume=True)
        assert verdict_sentence(resumed.report) == verdict_sentence(one.report)
        assert len(resumed.metrics) == len(one.metrics)


class TestOneProcess:
    def test_nothing_is_shared(self) -> None:
        assert present_ranks() is ALONE
        assert ALONE.first and ALONE.size == 1 and ALONE.group is None and ALONE.share == WHOLE
        assert ALONE.gather(3) == [3] and ALONE.totals(1.5, 2) == (1.5, 2) and ALONE.over(0) is ALONE
        ALONE.expect_same({})
        with launched("cpu") as ranks:
            assert ranks is ALONE

    def test_errors_of_other_kinds_stay_what_they_are(self) -> None:
        for line in ("gloo is far away", "something else"):
            with pytest.raises(RuntimeError, match=line), losses_told():
                raise RuntimeError(line)

    def test_the_digest_is_of_the_source(self) -> None:
        assert len(code_digest()) == 16 and code_digest() == code_digest()


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_make_the_whole(n: int, size: int) -> None:
    x = torch.arange(float(n)).reshape(n, 1, 1, 1)
    samples = Held(x, torch.arange(n))
    found = [y for rank in range(size) for _, y in samples.batches(4, Share(rank, size))]
    assert torch.cat(found).tolist() == list(range(n))
    counts = [stop - start for start, stop in (Share(rank, size).of(n) for rank in range(size))]
    assert max(counts) - min(counts) <= 1
    whole = [y for _, y in samples.epoch(3, torch.Generator().manual_seed(0))]
    parts = [
        [y for _, y in samples.epoch(3, torch.Generator().manual_seed(0), Share(rank, size))]
        for rank in range(size)
    ]
    assert [torch.cat(batch).tolist() for batch in zip(*parts, strict=True)] == [y.tolist() for y in whole]


def test_refits_are_dealt_out_by_what_they_have_left() -> None:
    assert dealt({0: 4, 1: 4, 2: 4, 3: 2, 4: 2, 5: 2, 6: 2}, 2) == {0: 0, 1: 1, 2: 0, 3: 1, 4: 1, 5: 0, 6: 1}
    assert dealt({3: 1, 5: 1}, 1) == {3: 0, 5: 0}
