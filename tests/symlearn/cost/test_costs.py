"""What a fit is said to cost, against what it holds; refusals with a suggestion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_fits
import torch
from torch import Tensor, nn

import symlearn
from symlearn.config import Config
from symlearn.cost.dry_fit import hyper_bytes, memory_of, sizes_of
from symlearn.cost.memory import CurvatureBytes, Memory, fewer_weights, memory_advice
from symlearn.cost.room import rough_bytes
from symlearn.cost.shapes import LiveBytes, shadow_of
from symlearn.fitting.fit import fit
from symlearn.training.updates import step_declared
from symlearn.units import duration, size


def cnn(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * width, 4),
    )


def test_live_bytes_count_what_is_held() -> None:
    weight = torch.zeros(10, 10)
    with LiveBytes([weight]) as live:
        a = torch.zeros(1000)
        b = weight.T + 1
        assert live.now == 4000 + 400
        c = b.T  # the same storage
        del a
        assert (live.now, live.peak) == (400, 4400)
        assert live.mark() == 400 == live.peak
        del b, c
        assert live.now == 0
        d = (weight.requires_grad_() * 2).exp().sum()  # keeps the exponential, and its own value
        assert live.now == 400 + 4
        del d
    assert live.now == 0


def test_shapes_alone_hold_what_values_hold() -> None:
    model, x = cnn(), torch.randn(30, 1, 8, 8)

    def gradients(network: nn.Module, images: Tensor) -> None:
        network(images).square().sum().backward()

    with LiveBytes([*model.parameters(), *model.buffers(), x]) as real:
        gradients(model, x)
    shadow = shadow_of(cnn(), (1, 8, 8))
    images = shadow.images(30, (1, 8, 8))
    shadow.model.train()
    with shadow.counted(images) as live:
        gradients(shadow.model, images)
    assert (live.peak, live.now) == (real.peak, real.now)


CASES: dict[str, dict[str, Any]] = {
    "gradient": {"selection": "gradient", "curvature_batch_size": 60},
    "type-2": {"selection": "gradient", "fisher_type": "type-2", "batch_size": 100},
    "search": {"selection": "search", "proposals": 2},
    "removals": {"selection": "gradient", "epochs": 12},
    "MAP": {"selection": "none", "epochs": 2, "optimizer": "sgd"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_prediction_is_what_a_fit_holds(case: str) -> None:
    """Live tensors, not the process: the same on every machine; kernels' own work space is not seen."""
    config = tiny_fits.options(**CASES[case])
    model = symlearn.relax(cnn(16), (1, 8, 8))
    train, test = tiny_fits.directions(200), tiny_fits.quadrants(200)
    memory = symlearn.estimate(model, train, test, config, seconds=False).memory
    with LiveBytes([*train, *test, *model.parameters(), *model.buffers()]) as live:
        fit(model, train, test, config)
    assert live.peak == pytest.approx(memory.rise, rel=0.25), memory.stages


@pytest.mark.parametrize("estimator", ["full", "local"])
def test_gradients_of_hyperparameters(estimator: str) -> None:
    data = tiny_fits.bars(60, "quadrant", size=16)
    model = tiny_fits.small_network("s-fc")
    state = tiny_fits.state_of(model, data, gradient=estimator, gradient_images=40, curvature_batch_size=20)
    given = sizes_of(state.config, data, None, checkpoints=False)
    expected = hyper_bytes(shadow_of(model, (1, 16, 16)), given)
    with LiveBytes([*data, *model.parameters(), *model.buffers()]) as live:
        step_declared(state, data)
    assert live.peak == pytest.approx(expected, rel=0.25)


def test_the_network_is_left_as_it_is() -> None:
    model = cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    found = symlearn.estimate(model, tiny_fits.directions(60), None, {"training": {"epochs": 2}})
    assert found.fits and found.seconds is not None and found.seconds.most > 0
    assert not tiny_fits.differences(before, dict(model.state_dict()))
    assert modes == [module.training for module in model.modules()] and torch.equal(
        state, torch.get_rng_state()
    )
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    text = str(found)
    for line in ("training images", "1×8×8, 4 outputs", "curvature factors", "memory at once", "a step"):
        assert line in text


class OwnTensors(nn.Module):
    """Makes tensors of its own on the CPU, and keeps one in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.ramp = torch.linspace(0, 1, 64)
        self.linear = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1) * torch.ones(64) + self.ramp)


class ReadsValues(OwnTensors):
    """Branches on a value."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if float(y.detach().sum()) > 0 else y + 1


@pytest.mark.parametrize(
    ("fisher_type", "columns"), [("sketch", 1), ("mc", 1), ("empirical", 1), ("type-2", 4)]
)
def test_passes_count_steps_and_the_columns_of_curvature(fisher_type: str, columns: int) -> None:
    """MAP: every image once an epoch in whole batches, and the curvature once at the end; else each update."""
    model = symlearn.build_model("conv", network="small", alpha=1, size=8, classes=4)
    data = torch.randn(26, 1, 8, 8), torch.arange(26) % 4
    config: dict[str, Any] = {
        "training": {"epochs": 5, "batch_size": 8},
        "evidence": {"selection": "none"},
        "curvature": {"fisher_type": fisher_type},
    }
    found = symlearn.estimate(model, data, None, config).seconds
    assert found is not None and found.passes == 5 * 24 + 26 * columns
    config["evidence"] = {"selection": "gradient", "burn_in": 6, "frequency": 1}
    found = symlearn.estimate(model, data, None, config).seconds
    assert found is not None and found.passes == 5 * 24 + 3 * 26 * columns


def test_a_network_that_makes_tensors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_fits.directions(60)
    found = symlearn.estimate(
        OwnTensors(), data, None, {"evidence": {"selection": "gradient"}}, seconds=False
    )
    assert found.memory.shapes == "fake" and "fake tensors" in str(found)
    assert found.memory.curvature.factors > 4 * 64
    with pytest.raises(ValueError, match=r"does not run on shapes alone \(.*\)") as error:
        symlearn.estimate(ReadsValues(), data, None, {}, seconds=False)
    assert "\n" not in str(error.value)
    monkeypatch.setattr("symlearn.cost.room.available_bytes", lambda _: 1000)
    options = {"training": {"epochs": 1}, "evidence": {"selection": "none"}}
    with pytest.warns(UserWarning, match="so its memory is not predicted"):
        fit(ReadsValues(), data, None, options)


def test_a_fit_that_does_not_fit_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("symlearn.cost.room.available_bytes", lambda _: 10_000)
    words = r"does not fit into memory: about .* [kM]B are needed and 10.0 kB are free; use .*"
    with pytest.raises(ValueError, match=words) as error:
        fit(symlearn.relax(cnn(), (1, 8, 8)), tiny_fits.directions(60), None, out=tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_the_rough_count_is_above_the_closer_one() -> None:
    train = tiny_fits.directions(200)
    for model in (cnn(), symlearn.relax(cnn(), (1, 8, 8), "fc"), tiny_fits.linear_model(4)):
        for options in CASES.values():
            given = sizes_of(tiny_fits.options(**options).resolved(200), train, train, checkpoints=True)
            memory = memory_of(model, given)
            assert rough_bytes(model, given) > memory.peak


SMALL = Memory(1, 1, 3, 1, CurvatureBytes(1, 1, 1, 1), 1, 0, 0, 0, 0, 0, 1, 0, "meta")
ADVICE = {
    "factors": (replace(SMALL, curvature=CurvatureBytes(90, 50, 5, 9)), "sketch", "fewer weights"),
    "eigenvalues": (replace(SMALL, curvature=CurvatureBytes(9, 5, 5, 90)), "sketch", "fewer weights"),
    "many columns": (
        replace(SMALL, curvature=CurvatureBytes(9, 5, 90, 9)),
        "type-2",
        "smaller curvature_batch_size, or fisher_type 'mc'",
    ),
    "one column": (
        replace(SMALL, curvature=CurvatureBytes(9, 5, 90, 9)),
        "mc",
        "smaller curvature_batch_size",
    ),
    "data": (replace(SMALL, data=900), "mc", "subset of the data (limit"),
    "weights": (replace(SMALL, model=900), "mc", "fewer weights"),
    "steps": (replace(SMALL, activations=900), "mc", "smaller batch_size"),
    "copies": (replace(SMALL, copies=900, activations=9), "mc", "fewer weights"),
    "trials": (replace(SMALL, trials=900), "mc", "fewer proposals"),
    "a trial's curvature": (replace(SMALL, trial_curvature=900), "mc", "curvature_batch_size"),
    "test": (replace(SMALL, predictions=900), "mc", "test_limit"),
    "removals": (replace(SMALL, removals=900), "mc", "removal_rounds 0"),
    "declared": (replace(SMALL, hyperparameters=900), "mc", "gradient_images"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_advice_follows_what_takes_most(case: str) -> None:
    memory, fisher_type, words = ADVICE[case]
    told = memory_advice(memory, Config().with_options(fisher_type=fisher_type), "use fewer weights")
    assert words in told and ("'mc'" in told) == (fisher_type == "type-2")


NARROWER = "narrower network (a smaller alpha)"
FEWER = {
    "ours, fc": (lambda: tiny_fits.small_network("fc+conv"), f"use f-fc in place of fc, or a {NARROWER}"),
    "ours, f-fc": (
        lambda: tiny_fits.small_network("f-fc+conv"),
        f"use s-fc in place of f-fc, or a {NARROWER}",
    ),
    "ours, deviations": (
        lambda: tiny_fits.small_network("gconv-p4+dev-p4"),
        f"use dev-p4:pointwise in place of dev-p4, or a {NARROWER}",
    ),
    "ours, conv": (lambda: tiny_fits.small_network("conv"), f"use s-conv in place of conv, or a {NARROWER}"),
    "ours, s-fc": (lambda: tiny_fits.small_network("s-fc"), f"use a {NARROWER}"),
    "relaxed, fc": (
        lambda: symlearn.relax(cnn(2), (1, 8, 8), "fc"),
        "use f-fc in place of fc, or relax fewer layers (only=[...])",
    ),
    "relaxed, s-fc": (
        lambda: symlearn.relax(cnn(2), (1, 8, 8), "s-fc"),
        "relax fewer layers (only=[...])",
    ),
    "a user's": (cnn, "use a narrower network"),
}


@pytest.mark.parametrize("case", FEWER)
def test_fewer_weights_are_named_by_what_the_network_has(case: str) -> None:
    build, words = FEWER[case]
    assert fewer_weights(build()) == words


def test_numbers_for_people() -> None:
    assert [size(n) for n in (512, 3_400, 234_000, 2_500_000_000)] == ["512 B", "3.4 kB", "234 kB", "2.5 GB"]
    assert [duration(s) for s in (0.012, 3.4, 90, 720, 8000)] == [
        "12 ms",
        "3.4 s",
        "90 s",
        "12 min",
        "2 h 13 min",
    ]


def test_a_run_that_does_not_fit_makes_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("symlearn.cost.room.available_bytes", lambda _: 10_000)
    with pytest.raises(ValueError, match="does not fit into memory"):
        symlearn.run_experiment(Config().with_options(limit=100, alpha=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_whole_ggn_counts_where_data_are_few() -> None:
    """The Gram matrices of 100 images with ten outputs, and what kfac holds to make them."""
    from kfac.whole_ggn import MEMORY
    from symlearn.cost.dry_fit import ROWS_HELD

    assert ROWS_HELD == MEMORY
    model = symlearn.build_model("f-fc+conv", network="small", size=16, classes=10)
    tensors = len(list(model.parameters()))
    few, many = (
        symlearn.estimate(
            model, (torch.zeros(n, 1, 16, 16), torch.arange(n) % 10), seconds=False
        ).memory.curvature
        for n in (100, 600)
    )
    assert few.factors == 4 * tensors * 900**2 and many.factors < few.factors
    assert few.activations >= few.factors


class TestSeveralProcesses:
    """Each holds the whole state; of a step that is worth sharing it sees its part of the batch."""

    def test_steps_worth_sharing(self) -> None:
        model = symlearn.build_model("conv+gconv-p4", network="small", size=16, classes=4)
        data = torch.zeros(1200, 1, 16, 16), torch.arange(1200) % 4
        one, two = (symlearn.estimate(model, data, seconds=False, processes=k) for k in (1, 2))
        assert two.memory.activations == pytest.approx(one.memory.activations / 2, rel=0.2)
        assert two.memory.curvature == one.memory.curvature and two.needed == 2 * two.memory.rise
        assert "in 2 processes" in str(two) and "a process" in str(two) and "processes" not in str(one)

    def test_small_steps_are_not(self) -> None:
        model = symlearn.build_model("conv", network="small", alpha=1, size=16, classes=4)
        data = torch.zeros(100, 1, 16, 16), torch.arange(100) % 4
        one, two = (symlearn.estimate(model, data, seconds=False, processes=k) for k in (1, 2))
        assert two.memory == one.memory

    def test_none_are_refused(self) -> None:
        model = symlearn.build_model("conv", network="small", alpha=1, size=16, classes=4)
        data = torch.zeros(100, 1, 16, 16), torch.arange(100) % 4
        with pytest.raises(ValueError, match="processes is 0; expected a whole number above 0"):
            symlearn.estimate(model, data, seconds=False, processes=0)


def test_a_whole_ggn_that_is_asked_for_counts_whatever_the_default_would_be() -> None:
    model = symlearn.build_model("conv", network="small", alpha=1, size=16, classes=2)
    data = torch.zeros(2000, 1, 16, 16), torch.arange(2000) % 2
    chosen = {"curvature": {"ggn": "whole"}}
    found = symlearn.estimate(model, data, config=chosen, seconds=False).memory.curvature
    assert found.factors == 4 * len(list(model.parameters())) * 2000**2
