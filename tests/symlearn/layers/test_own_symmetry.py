"""Groups of users as paths: registered, built at every size, named by verdicts, read back from runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close, assert_refused

import symlearn
from symlearn.layers import (
    PATHS,
    RelaxedLayer2d,
    SymmetricLinear2d,
    any_order,
    circular_shifts,
    places_in_any_order,
    register_symmetry,
    rows_in_any_order,
    turns_and_mirrors,
)
from symlearn.layers.exchanges import rotations_of
from symlearn.layers.own_symmetry import actions_of_layer, blocks
from symlearn.layers.registry import path_kind
from symlearn.report.sentence import verdict_sentence
from symlearn.run_folder import RunFolder
from symlearn.runs.experiment import read_result
from symlearn.runs.results import read_report
from symlearn.selection.verdict import symmetry


def register_rows() -> None:
    """The path of the examples."""
    register_symmetry("rows", rows_in_any_order, group="exchanges of rows", words="free to exchange rows")


def test_a_group_joins_and_says_what_it_is() -> None:
    register_rows()
    kind = path_kind("rows")
    assert (kind.commutes_with, kind.words, kind.effective_type) == (
        "exchanges of rows",
        "free to exchange rows",
        "ROWS",
    )
    assert not kind.full_resolution and kind.group is None


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 6), (6, 4)])
def test_layers_of_the_path_alone_commute(size: tuple[int, int], stride: int) -> None:
    """Every exchange of the output's rows; where the layer halves its map, pairs of rows move."""
    register_rows()
    torch.manual_seed(0)
    layer = RelaxedLayer2d(2, 3, size, "rows", stride).double()
    torch.nn.init.normal_(layer.paths["rows"].linear.bias)
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    y, rows = layer(x), size[0] // stride
    for order in itertools.islice(itertools.permutations(range(rows)), 0, None, 7):
        wide = [stride * r + k for r in order for k in range(stride)]
        assert_close(layer(x[:, :, wide]).detach(), y[:, :, list(order)].detach(), 1e-12, f"{order}")


def test_blocks_of_a_smaller_output() -> None:
    assert blocks((4, 4), (2, 2)).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("signed", [False, True])
def test_blocks_move_as_the_output_does(signed: bool) -> None:
    """Of permutations and of other matrices alike: averaging over blocks commutes."""
    flip = torch.eye(4, dtype=torch.float64)
    flip[0, 0] = -1
    small: Any = torch.stack([flip, flip[[1, 0, 2, 3]]]) if signed else places_in_any_order(2, 2)
    on_in, on_out = actions_of_layer(small, None, (4, 6), (2, 2))
    mean = torch.zeros(4, 24, dtype=torch.float64)
    mean.scatter_(1, blocks((4, 6), (2, 2)), 1 / 6)
    for a, b in zip(on_in.matrices(), on_out.matrices(), strict=True):
        assert_close(mean @ a, b @ mean, 1e-12, "block means")


def test_blocks_of_other_matrices() -> None:
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0.0, -2.0], [2.0, 0.0]], dtype=torch.float64) * torch.pi / 3
    )
    small = torch.block_diag(turn, turn)[None]
    on_in, on_out = actions_of_layer(small, None, (2, 4), (2, 2))
    mean = torch.zeros(4, 8, dtype=torch.float64).scatter_(1, blocks((2, 4), (2, 2)), 1 / 2)
    assert_close(mean @ on_in.matrices()[0], on_out.matrices()[0] @ mean, 1e-12, "block means")


def test_an_action_on_the_output_that_is_given() -> None:
    """Rotations of four places; of two, with the same generator."""
    on_in, on_out = actions_of_layer(rotations_of(4), rotations_of(2), (1, 4), (1, 2))
    layer = SymmetricLinear2d(1, 1, (1, 4), (1, 2), on_in, on_out).double()
    x = torch.randn(2, 1, 1, 4, dtype=torch.float64)
    assert_close(layer(x.roll(1, 3)).detach(), layer(x).roll(1, 3).detach(), 1e-12, "a rotation")


def test_a_relaxed_path_starts_the_search_and_trains_beside_others() -> None:
    register_rows()
    torch.manual_seed(0)
    layer = RelaxedLayer2d(1, 2, 4, "f-fc+conv+rows", 2)
    assert tuple(layer(torch.randn(3, 1, 4, 4)).shape) == (3, 2, 2, 2)
    layer.start_search()
    assert layer.active == ("rows",)


KNOWN = {  # needed, undecided -> what a layer commutes with
    (("rows",), ()): "exchanges of rows",
    (("conv",), ()): "shifts",
    (("rows", "conv"), ()): "exchanges of rows ∩ shifts",
    (("rows", "f-fc"), ()): "none",
    (("rows", "conv", "f-fc"), ()): "none",
    (("rows",), ("conv",)): "undecided",
    (("conv",), ("rows",)): "undecided",
    (("rows",), ("f-fc",)): "undecided",
    (("f-fc",), ("rows",)): "none",
    (("any", "conv"), ()): "shifts",
    (("any", "rows"), ()): "exchanges of rows",
    (("any", "rows", "conv"), ()): "exchanges of rows ∩ shifts",
    (("conv",), ("any",)): "shifts",
    (("any",), ("conv",)): "undecided",
    (("rows", "conv"), ("any",)): "exchanges of rows ∩ shifts",
    (("rows", "gconv-p4"), ()): "exchanges of rows ∩ p4",
    (("gconv-p4", "conv"), ()): "shifts",
    ((), ("rows",)): "undecided",
}


@pytest.mark.parametrize(("needed", "undecided"), KNOWN, ids=str)
def test_what_a_layer_commutes_with(needed: tuple[str, ...], undecided: tuple[str, ...]) -> None:
    """Groups neither of which contains the other leave what they share; which contains which is declared."""
    register_rows()
    register_symmetry("any", places_in_any_order, contains=("shifts", "exchanges of rows"), symmetry=9)
    for order in itertools.permutations(needed):
        assert symmetry(order, undecided) == KNOWN[needed, undecided]


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "nothing moves": (lambda: register_symmetry("still"), "moves nothing"),
    "no permutation": (
        lambda: register_symmetry("a", [[0, 0]]),
        "generator 0 of the action on places of path 'a' is no permutation",
    ),
    "no permutation of channels": (lambda: register_symmetry("a", channels=[[1, 2]]), "the action on channels"),
    "a name that is taken": (lambda: register_symmetry("conv", rows_in_any_order), "there is a path 'conv' already"),
    "a group called none": (lambda: register_symmetry("a", rows_in_any_order, group="none"), "another name"),
    "no rank": (lambda: register_symmetry("a", rows_in_any_order, symmetry=0), "at least 1"),
    "another size": (
        lambda: actions_of_layer(rows_in_any_order(3, 3), None, (8, 8), (4, 4)),
        "puts out 4x4 places, and the group moves 9",
    ),
    "no blocks": (lambda: actions_of_layer(circular_shifts, None, (5, 5), (2, 2)), "has no blocks to move"),
    "an output of another group": (
        lambda: SymmetricLinear2d(1, 1, 4, 3, *actions_of_layer(turns_and_mirrors, circular_shifts, (4, 4), (3, 3))),
        "not of one group",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(name: str) -> None:
    call, words = WRONG[name]
    assert_refused(call, words)


def test_a_layer_of_another_width_is_refused_where_it_is_built() -> None:
    register_symmetry("colours", channels=any_order(3))
    assert RelaxedLayer2d(3, 6, 2, "colours+conv").c_out == 6
    assert_refused(lambda: RelaxedLayer2d(3, 4, 2, "colours"), "give multiples of 3")


@pytest.mark.slow
def test_a_run_is_read_again_where_the_path_is_registered(tmp_path: Path) -> None:
    """Fit, write, report, collapse; without the path: the report is read, the network refused in one line."""
    register_rows()
    config = symlearn.Config().with_options(
        data="digits", paths="rows+conv", alpha=1, size=8, limit=20, test_limit=10, epochs=1, selection="none"
    )
    folder = tmp_path / "run"
    result = symlearn.run_experiment(config, folder)
    assert "rows" in result.model.layers[0].paths
    again = read_result(folder)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again.model(x), result.model.eval()(x))
    plain = symlearn.collapse(again.model, again)
    assert plain.collapse_report.relative_change is None or plain.collapse_report.relative_change < 1e-4
    del PATHS["rows"]
    assert_refused(lambda: read_result(folder), "register a path of your own before")
    assert verdict_sentence(read_report(RunFolder(folder)))


def test_another_group_under_the_same_name_is_refused() -> None:
    register_symmetry("own", channels=rotations_of(4))
    torch.manual_seed(0)
    state = RelaxedLayer2d(4, 4, 1, "own").state_dict()
    del PATHS["own"]
    register_symmetry("own", channels=[[1, 3, 0, 2]])
    assert_refused(
        lambda: RelaxedLayer2d(4, 4, 1, "own").load_state_dict(state), "learned with another group"
    )
