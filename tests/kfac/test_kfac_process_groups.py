"""Data in two processes: sums, counts and spectra are those of one process over all data, refusals reach both.

`process_group_worker.py` runs in real processes under torchrun, over gloo.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close, assert_refused
from process_group_worker import PARTS, SPLITS, batches, everything, network, placed

import kfac
from kfac.draws import seed_of_rank
from kfac.eigen_shares import shares

WORKER = Path(__file__).parent / "process_group_worker.py"
pytestmark = pytest.mark.slow


def in_two_processes(case: str, folder: Path) -> list[Any]:
    """What each process of `torchrun` found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(WORKER), case, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_two_processes("same", tmp_path_factory.mktemp("same"))


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_two_processes("failures", tmp_path_factory.mktemp("failures"))


@pytest.mark.parametrize("split", list(SPLITS), ids=list(PARTS.values()))
def test_two_processes_give_what_one_gives(same: list[Any], split: str) -> None:
    # corrected in the basis that the processes agreed on: signs and ties of vectors are free
    alone = everything(network(), batches(SPLITS[split][0]), basis=same[0][split]["basis"])
    for rank, found in enumerate(same):
        for key in ("expand", "reduce", "expand, eigenvalues", "reduce, eigenvalues", "corrected", "traces"):
            for name, truth in alone[key].items():
                got = found[split][key][name]
                if "eigenvalues" in key or key == "traces":
                    got, truth = got.sort().values, truth.sort().values
                assert_close(got.double(), truth.double(), 1e-6, f"{key} of {name}, rank {rank}")
        for sharing in ("expand", "reduce"):
            counts, expected = found[split][f"{sharing}, counts"], alone[f"{sharing}, counts"]
            assert counts[:2] == expected[:2] and counts[2] == pytest.approx(expected[2], rel=1e-6)
            assert found[split][f"{sharing}, kept"] == alone[f"{sharing}, kept"], "rows, where one keeps rows"


@pytest.mark.parametrize("split", list(SPLITS))
def test_all_processes_hold_the_same_numbers(same: list[Any], split: str) -> None:
    first, second = same[0][split], same[1][split]
    for key in ("expand", "expand, eigenvalues", "reduce, eigenvalues", "corrected", "traces"):
        for name in first[key]:
            assert torch.equal(first[key][name], second[key][name]), f"{key} of {name}"
    for name, block in first["basis"].blocks.items():
        other = second["basis"].blocks[name]
        assert block.same_basis(other) and block.needs_vectors == other.needs_vectors, name


def test_random_columns_differ_by_process_and_come_again(same: list[Any]) -> None:
    once, again, other = same[0]["sketched"]
    for name in once:
        assert torch.equal(once[name], again[name]) and torch.equal(once[name], same[1]["sketched"][0][name])
    assert not torch.equal(once["0.weight"], other["0.weight"])
    alike = [
        kfac.compute_factors(network(), [b], "classification", "sketch", seed=3) for b in batches((6, 6))
    ]
    assert not torch.allclose((alike[0] + alike[1]).to_dense("6.bias"), once["6.bias"], rtol=1e-3)
    seeds = [seed_of_rank(3, 0), seed_of_rank(3, 1), seed_of_rank(3, 2), seed_of_rank(4, 1)]
    assert seeds[0] == 3 and len(set(seeds)) == 4


def test_columns_of_data_in_their_place_are_those_of_one_process(same: list[Any]) -> None:
    alone = placed()
    for rank, found in enumerate(same):
        for key, truths in alone.items():
            for name, truth in truths.items():
                assert_close(
                    found["placed"][key][name].double(), truth.double(), 1e-6, f"{key} {name} {rank}"
                )


def test_rows_in_low_precision_travel_whole(same: list[Any]) -> None:
    data = [(x.bfloat16(), y) for x, y in batches((6, 6))]
    alone = kfac.compute_factors(network().bfloat16(), data, "classification")
    for found in same:
        assert found["bfloat16 rows"] == [torch.bfloat16] * 2
        for name in alone.names:
            assert_close(found["bfloat16"][name].double(), alone.to_dense(name).double(), 1e-6, name)


REFUSED = {
    "names": "different networks",
    "shapes": "different networks",
    "weights": "different values in the networks' weights",
    "options": "different options, first in mc_samples",
    "unknown choice": "unknown likelihood",
    "no data": "gave no data",
    "no data, corrected": "gave no data",
    "no data, traces": "gave no data",
    "uncovered": "no curvature rule covers extra",
    "basis": "different values in the eigenvectors",
    "not finite": "outputs are not finite",
    "differentiable": "leave process_group out",
    "factors": "different factors",
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_refusals_reach_every_process_in_one_line(failures: list[Any], case: str) -> None:
    for found in failures:
        kind, line = found[case]
        assert kind == ("NonFiniteError" if case == "not finite" else "ValueError"), found[case]
        assert REFUSED[case] in line and "\n" not in line, line
    if case in ("no data", "uncovered", "not finite"):
        assert any("of the process group failed" in found[case][1] for found in failures)


def test_no_process_group_to_be_found() -> None:
    model, data = network(), batches((4,))
    call = lambda: kfac.compute_factors(model, data, "classification", process_group=object())
    assert_refused(call, "torch.distributed is not initialised")


def test_blocks_are_shared_out_by_size() -> None:
    found = shares({"a": 8.0, "b": 5.0, "c": 4.0, "d": 1.0, "e": 0.0}, 2)
    assert found == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}
    assert set(shares({"a": 1.0}, 3).values()) == {0}
