"""Parameters that no curvature rule covers, in a fit of one's own network: declared, left out, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_fits
import torch
from torch import Tensor, nn

import kfac
import symlearn
from symlearn.analysis.predictive import LaplacePredictive, last_layer, predictive_factors
from symlearn.config import Config, checked
from symlearn.curvature.coverage import diagonal_blocks, seen
from symlearn.curvature.training_set import curvature_of, curvature_options, training_factors
from symlearn.evidence.gradient import HyperObjective, evidence_gradients
from symlearn.fitting.fit import fit
from symlearn.fitting.stages import Fit
from symlearn.layers.declared import Hyperparameter
from symlearn.report.table import layer_table_text
from symlearn.selection.changes import possible_changes, strictest_start
from symlearn.selection.screening import screen
from symlearn.training.guard import quiet_layers
from symlearn.training.state import FitState
from symlearn.training.updates import update_evidence

MODES = ("diagonal", "left_out")
FREE = ("token", "place.weight")
SIDE = 4


class Embedded(nn.Module):
    """Convolution, group norm, a learned map from an `nn.Embedding` and a token added, a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.place = nn.Embedding(SIDE * SIDE, 4)
        self.token = nn.Parameter(0.1 * torch.randn(4, 1, 1))
        self.head = nn.Linear(4 * SIDE * SIDE, classes)
        self.register_buffer("log_gain", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, 8, 8] -> [batch, classes]`."""
        places = torch.arange(SIDE * SIDE, device=x.device)
        added = self.place(places).T.unflatten(1, (SIDE, SIDE)) + self.token
        z = (self.norm(self.conv(x)) + added * self.log_gain.exp().to(x.dtype)).tanh()
        return self.head(z.flatten(1))


class Gained(Embedded):
    """The same, and a hyperparameter: by how much the added map is scaled."""

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return {"log_gain": Hyperparameter(self.log_gain, read=torch.exp)}


def network(kind: type[Embedded] = Embedded) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def declared(mode: str, **changes: Any) -> Config:
    short = {"epochs": 6, "batch_size": 25, "frequency": 2, "burn_in": 1, "rounds": 1, "refit_epochs": 2}
    short |= {"proposals": 1, "fisher_type": "type-2", mode: list(FREE), **changes}
    return Config().with_options(**short)


def state(mode: str, kind: type[Embedded] = Embedded, **changes: Any) -> FitState:
    data = tiny_fits.directions(60)
    return FitState(network(kind), declared(mode, **changes).resolved(len(data[0])), len(data[0]))


@pytest.mark.parametrize("fisher_type", ["type-2", "sketch"])
def test_the_diagonal_is_the_exact_blocks(fisher_type: str) -> None:
    data = tiny_fits.directions(60)
    model = network().double()
    batch = data[0].double(), data[1]
    options = {"fisher_type": fisher_type, "seed": 3, "fallback": dict.fromkeys(FREE, "diagonal")}
    factors = kfac.compute_factors(model, [batch], "classification", **options)
    for name in FREE:
        exact = kfac.ggn_block(model, batch, "classification", name).diagonal()
        found = factors.to_dense(name).diagonal()
        tolerance = 1e-9 if fisher_type == "type-2" else 0.5  # random signs: right in the mean alone
        assert torch.allclose(found, exact, rtol=tolerance, atol=tolerance * float(exact.max())), name


def test_chunks_of_data_add(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_fits.directions(60)
    whole = kfac.compute_factors(network(), [data], "classification", fallback="diagonal")
    monkeypatch.setattr("kfac.diagonal.MEMORY", 7 * 4 * (4 + 64))
    parts = kfac.compute_factors(network(), [data], "classification", fallback="diagonal")
    for name in FREE:
        assert torch.allclose(whole.to_dense(name), parts.to_dense(name), rtol=1e-4), name


def test_a_diagonal_is_part_of_the_evidence_and_what_is_left_out_is_not() -> None:
    data = tiny_fits.directions(60)
    covered = {name for name, _ in network().named_parameters()} - set(FREE)
    for mode, names in (("diagonal", covered | set(FREE)), ("left_out", covered)):
        one = state(mode)
        model = curvature_of(one.model, one.config, data)
        assert set(model.names) == names, mode
        before = one.prior.floats()
        update_evidence(one, data)
        moved = {name for name, value in one.prior.floats().items() if value != before[name]}
        assert moved == names, mode
        assert all(p.requires_grad for p in one.model.parameters())


def test_the_rest_of_the_evidence_is_that_of_a_network_with_constants() -> None:
    data = tiny_fits.directions(60)
    frozen = state("left_out")
    for name, p in frozen.model.named_parameters():
        p.requires_grad_(name not in FREE)
    options = {**curvature_options(frozen.model, frozen.config), "fallback": None}
    constants = kfac.compute_factors(frozen.model, [data], "classification", **options)
    left_out = state("left_out")
    found = training_factors(left_out.model, left_out.config, data)
    assert found.names == constants.names
    assert all(torch.equal(found.to_dense(n), constants.to_dense(n)) for n in found.names)


@pytest.mark.parametrize("structure", ["tensor", "path", "scalar"])
def test_what_is_left_out_keeps_its_precision(structure: str) -> None:
    one = state("left_out", prior_structure=structure, prior_precision=2.5)
    update_evidence(one, tiny_fits.directions(60))
    precision = one.prior.floats()
    assert all(precision[name] == pytest.approx(2.5) for name in FREE)
    assert precision["head.weight"] != pytest.approx(2.5)


@pytest.mark.parametrize("mode", MODES)
def test_hyperparameter_gradients_against_finite_differences(mode: str) -> None:
    data = tiny_fits.directions(40)
    model = network(Gained).double()
    config = declared(mode).curvature
    curvature = {"fisher_type": "type-2", "fallback": diagonal_blocks(model, config)}
    precision = {name: 0.7 for name, _ in model.named_parameters()}
    pairs = data[0].double(), data[1]
    objective = HyperObjective(model, pairs, precision, curvature=curvature)
    with seen(model, config):
        slope = evidence_gradients(objective, symlearn.hyperparameters_of(model))["log_gain"]
        values = []
        for step in (1e-5, -1e-5):
            model.log_gain.fill_(step)
            values.append(float(objective.full().detach()))
    assert float(slope) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def relaxed(kind: type[Embedded] = Embedded) -> nn.Module:
    return symlearn.relax(network(kind), (1, 8, 8))


@pytest.mark.parametrize("selection", ["gradient", "search"])
@pytest.mark.parametrize("mode", MODES)
def test_a_fit_from_end_to_end(mode: str, selection: str) -> None:
    train, test = tiny_fits.directions(120), tiny_fits.directions(200)
    result = fit(relaxed(Gained), train, (test[0][:40], test[1][:40]), declared(mode, selection=selection))
    report = json.loads(json.dumps(result.report))
    assert report["schema"] == 2 and report[mode] == list(FREE)
    assert report["laplace"]["nll"] > 0 and report["log_marginal_likelihood"] < 0
    layers = {layer["name"]: layer["paths"] for layer in report["layers"]}
    told = layers["place"]["linear"]
    assert told["parameters"] == 4 * SIDE * SIDE and told["weight_norm"] > 0
    assert (told["effective_parameters"] is None) == (mode == "left_out")
    text = layer_table_text(report)
    line = {"diagonal": "with diagonal curvature", "left_out": "left out of the evidence"}[mode]
    assert any(row.startswith(line) and row.endswith("token, place.weight") for row in text.splitlines())
    if mode == "left_out":
        assert all(result.prior_precision[name] == 1.0 for name in FREE)
    plain = symlearn.collapse(result.model, result, removal="local")
    changes = [fate.delta_log_evidence for fate in plain.collapse_report.paths]
    assert len(changes) == 1 or all(change is not None for change in changes)
    symlearn.collapse(result.model, result, removal="measured")


@pytest.mark.parametrize("mode", MODES)
def test_map_alone_gives_the_evidence_of_the_rest(mode: str) -> None:
    result = fit(network(), tiny_fits.directions(60), None, declared(mode, selection="none"))
    assert result.report["log_marginal_likelihood"] is not None
    result = fit(network(), tiny_fits.directions(60), None, Config().with_options(selection="none", epochs=2))
    assert result.report["log_marginal_likelihood"] is None and result.report["left_out"] == []


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_fit_ends_the_same(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = declared(mode, selection="search"), tiny_fits.directions(60)
    whole = fit(relaxed(), data, None, config)
    real, calls = Fit.tell, []

    def interrupt(running: Fit, *rest: Any) -> None:
        calls.append(1)
        running.save(force=True)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(running, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "tell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(relaxed(), data, None, config, out=tmp_path / "run")
    again = fit(relaxed(), data, None, config, out=tmp_path / "run", resume=True)
    assert not tiny_fits.differences(dict(whole.model.state_dict()), dict(again.model.state_dict()))
    assert whole.prior_precision == again.prior_precision
    text = (tmp_path / "run" / "config.toml").read_text()
    assert f'{mode} = [\n    "token",\n    "place.weight",\n]' in text


def test_regression_predicts_with_both() -> None:
    x, y = tiny_fits.noisy_map(60, 0.1)
    for mode in MODES:
        torch.manual_seed(0)
        config = declared(mode, likelihood="regression")
        result = fit(Embedded(1), (x, y), (x, y), config)
        factors = predictive_factors(result.model, (x, y), config)
        assert (set(FREE) <= set(factors.names)) == (mode == "diagonal")
        predictive = LaplacePredictive(result.model, factors, result.prior_precision, result.sigma_noise)
        deviation = predictive.targets(x[:3])[1]
        assert bool((deviation > 0).all())


def test_a_diagonal_path_is_screened(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr("symlearn.selection.screening.best_gain", lambda u, _: sizes.append(u.numel()) or 1.0)
    config = Config().with_options(selection="search", diagonal=["conv.paths.f-fc.theta2.weight", *FREE])
    data = tiny_fits.directions(60)
    one = FitState(relaxed(), config.resolved(60), 60)
    strictest_start(one)
    assert diagonal_blocks(one.model, config.curvature).keys() == set(FREE)  # the path is off
    ranked = screen(one, possible_changes(one, 0), data)
    path = one.model.conv.paths["f-fc"]
    assert sorted(sizes) == sorted([path.theta1.weight.numel(), path.theta2.weight.numel()])
    assert ranked[0].score == 2.0


def test_an_added_map_without_effect_is_no_collapse() -> None:
    one = state("diagonal")
    one.effective_parameters = {name: 5.0 for name, _ in one.model.named_parameters()}
    one.effective_parameters |= dict.fromkeys(FREE, 0.0)
    assert quiet_layers(one) == []


def test_the_last_layer_is_one_with_a_rule() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.PReLU())
    curvature = Config().with_options(left_out=["1.weight"]).curvature
    assert last_layer(model, torch.zeros(2, 2), curvature) == ["0.weight", "0.bias"]


REFUSED = {
    "neither": ({}, "no curvature rule covers token, .*curvature.diagonal.*curvature.left_out"),
    "the other": ({"diagonal": ["token"]}, "no curvature rule covers place.weight"),
    "unknown": (
        {"diagonal": ["token"], "left_out": ["place.weights"]},
        r"curvature.left_out names 'place.weights', .*did you mean 'place.weight'",
    ),
    "both": ({"diagonal": FREE, "left_out": ["token"]}, "'token' is in curvature.diagonal and in"),
    "a path": (
        {"left_out": [*FREE, "conv.paths.conv.weight"]},
        "curvature.left_out names 'conv.paths.conv.weight', of 'conv', whose paths",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    tables, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as error:
        fit(relaxed(), tiny_fits.directions(60), None, {"curvature": tables})
    assert "\n" not in str(error.value)


def test_nothing_left_to_see() -> None:
    names = [name for name, _ in network().named_parameters()]
    with pytest.raises(ValueError, match="names every trainable parameter"):
        fit(network(), tiny_fits.directions(60), None, {"curvature": {"left_out": names}})


def test_names_are_a_list_of_text() -> None:
    for wrong in ("token", [3], {"token": 1}):
        with pytest.raises(ValueError, match=r"curvature.diagonal is .*; expected a list of parameter names"):
            checked({"curvature": {"diagonal": wrong}})
