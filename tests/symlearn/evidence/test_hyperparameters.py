"""What the evidence learns: never a parameter, never moved by MAP steps, kept and restored with the state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fits import bars, differences, options, phase, run, state_of
from torch import Tensor, nn

from symlearn.evidence.hyperparameters import Hyperparameters
from symlearn.fitting.fit import fit
from symlearn.layers import RelaxedLayer2d
from symlearn.layers.anchor_basis import AnchorBasis
from symlearn.layers.declared import Hyperparameter, hyperparameters_of
from symlearn.layers.registry import PathOptions
from symlearn.networks import build_model
from symlearn.run_folder import CHECKPOINT, RunFolder
from symlearn.training.phases import PhaseRun
from symlearn.training.state import FitState, TrainingStoppedError
from symlearn.training.steps import train_epoch
from symlearn.training.updates import update_evidence


def sparse_network(paths: str = "s-fc+s-conv", **chosen: Any) -> nn.Module:
    """The `small` network at its narrowest, sparsified."""
    torch.manual_seed(0)
    chosen.setdefault("learn", ("lengthscale", "anchors"))
    return build_model(paths, network="small", alpha=1, size=16, classes=4, **chosen)


def sparse_state(**chosen: Any) -> tuple[FitState, tuple[Tensor, Tensor]]:
    """A state before its first step, and its data."""
    data = bars(80, "quadrant", size=16)
    return state_of(sparse_network(**chosen), data, gradient_images=40), data


def values(model: nn.Module) -> dict[str, Tensor]:
    """Declared values, copied."""
    return {name: one.value.clone() for name, one in hyperparameters_of(model).items()}


def test_declared_by_layers_and_no_parameters() -> None:
    model = sparse_network()
    declared = model.hyperparameters()
    assert len(declared) == 6 * (2 * 2 + 2)
    assert "layers.0.paths.s-fc.theta1.basis.log_lengthscale" in declared
    parameters = dict(model.named_parameters())
    assert not set(declared) & set(parameters)
    assert not {id(one.value) for one in declared.values()} & {id(p) for p in parameters.values()}
    assert all(name in model.state_dict() for name in declared), "a checkpoint carries them"
    assert sparse_network(learn=()).hyperparameters() == {}
    kinds = {one.kind for one in sparse_network(learn=("anchors",)).hyperparameters().values()}
    assert kinds == {"anchors"}


def test_only_present_paths_declare() -> None:
    layer = RelaxedLayer2d(1, 2, 4, "s-fc+s-conv", options=PathOptions(learn=("lengthscale",)))
    assert len(layer.hyperparameters()) == 3
    layer.set_active(["s-conv"])
    assert list(layer.hyperparameters()) == ["paths.s-conv.basis.log_lengthscale"]


def test_a_declared_parameter_is_refused() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def hyperparameters(self) -> dict[str, Hyperparameter]:
            return {"gain": Hyperparameter(self.gain)}

    with pytest.raises(ValueError, match=r"0\.gain is declared .* and is a parameter; make it a buffer"):
        hyperparameters_of(nn.Sequential(Wrong()))


def test_map_steps_never_move_them() -> None:
    state, data = sparse_state()
    before = values(state.model)
    for _ in range(3):
        train_epoch(state, data, lambda _: 0.05)
    run(state, PhaseRun(phase(3, burn_in=None)), data)
    assert differences(values(state.model), before) == []


def test_evidence_updates_move_all_of_them() -> None:
    state, data = sparse_state()
    train_epoch(state, data, lambda _: 0.01)
    before = values(state.model)
    update_evidence(state, data)
    assert set(differences(values(state.model), before)) == {f"/{name}" for name in before}
    assert set(state.hyper.declared_moments) == set(before)
    after = values(state.model)
    update_evidence(state, data, step_hyperparameters=False)
    assert differences(values(state.model), after) == []


def test_readings_are_in_their_own_units() -> None:
    hyper = Hyperparameters(sparse_network(lengthscale=1.7), "path", 2.0)
    readings = hyper.readings()
    assert float(readings["layers.3.paths.s-conv.basis.log_lengthscale"]) == pytest.approx(1.7)
    anchors = readings["layers.3.paths.s-conv.basis.anchor_logits"]
    assert anchors.shape == (5, 2) and float(anchors.min()) > -0.5 and float(anchors.max()) < 2.5
    assert float(readings["prior_precision.layers.0.s-fc"]) == pytest.approx(2.0)
    assert float(readings["sigma_noise"]) == 1.0


def test_steps_stay_within_bounds() -> None:
    basis = AnchorBasis(3, learn=("lengthscale",))
    hyper = Hyperparameters(nn.Sequential(basis), "tensor", 1.0)
    for _ in range(200):
        hyper.step({"0.log_lengthscale": torch.tensor(-1.0)}, 0.1)
    assert float(basis.lengthscale) == pytest.approx(0.1)


def test_a_state_with_hyperparameters_survives_and_continues() -> None:
    state, data = sparse_state()
    first = PhaseRun(phase(6))
    for _ in range(3):
        first.next_epoch(state, data)
    twin, second = state.clone(), PhaseRun(first.phase)
    second.load(first.saved())
    for _ in range(3):
        first.next_epoch(state, data)
        second.next_epoch(twin, data)
    assert differences(state.saved(), twin.saved()) == []


def test_a_prior_on_the_lengthscale_leaves_the_weights_alone() -> None:
    """The paper's omega rows: the hyperprior stands in for the precisions of the anchors' values."""
    state, data = sparse_state(lengthscale_precision=3.0, learn=("lengthscale",))
    for _ in range(2):
        train_epoch(state, data, lambda _: 0.01)
    update_evidence(state, data)
    precision = state.prior.floats()
    for name in precision:
        between_anchors = ".paths." in name and name.endswith("weight")
        assert (precision[name] == pytest.approx(1.0)) == between_anchors, name
    omega = [1 / float(one.read(one.value)) for one in state.hyper.declared.values()]
    density = sum(0.5 * math.log(2 * 3.0 / math.pi) - 0.5 * 3.0 * w**2 for w in omega)
    assert state.evidence is not None
    plain = state.clone()
    for module in plain.model.modules():
        if isinstance(module, AnchorBasis):
            module.lengthscale_precision = None
    update_evidence(plain, data, step_hyperparameters=False)
    assert plain.evidence is not None
    assert state.evidence - plain.evidence == pytest.approx(density, abs=1e-3)


class Cliff(torch.autograd.Function):
    """The identity, with a slope that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * math.nan


class Gain(nn.Module):
    """A user's layer with a hyperparameter of its own, whose gradient is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * Cliff.apply(self.gain)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return {"gain": Hyperparameter(self.gain)}


def test_a_gradient_that_is_not_finite_stops_the_fit_and_keeps_the_state(tmp_path: Path) -> None:
    data = bars(80, "direction")
    model = nn.Sequential(Gain(), nn.Flatten(), nn.Linear(64, 3))
    state = state_of(model, data)
    train_epoch(state, data, lambda _: 0.01)
    before = state.saved()
    with pytest.raises(TrainingStoppedError, match=r"epoch 1 .* with respect to 0\.gain is not finite"):
        update_evidence(state, data)
    assert differences(state.saved(), before) == []
    with pytest.raises(TrainingStoppedError, match=r"0\.gain"):
        fit(model, data, data, options(epochs=6, burn_in=20, selection="gradient"), out=tmp_path / "run")
    kept = RunFolder(tmp_path / "run").load_tensors(CHECKPOINT)
    assert kept["state"]["epoch"] >= 1


def test_fits_report_what_was_learned() -> None:
    data = bars(80, "quadrant", size=16)
    model = sparse_network("s-conv", learn=("lengthscale",))
    result = fit(model, data, data, options(epochs=6, burn_in=1, selection="gradient", gradient_images=40))
    learned = result.report["layers"][0]["paths"]["s-conv"]["hyperparameters"]
    assert list(learned) == ["basis.log_lengthscale"]
    lines = [row["lengthscale"] for row in result.metrics if row.get("lengthscale")]
    last = lines[-1]["layers.0.paths.s-conv.basis.log_lengthscale"]
    assert len(lines) >= 2 and last != 1.0
    kept = {
        row["lengthscale"]["layers.0.paths.s-conv.basis.log_lengthscale"]
        for row in result.metrics
        if row.get("lengthscale")
    }
    assert learned["basis.log_lengthscale"] in [pytest.approx(v) for v in kept]
