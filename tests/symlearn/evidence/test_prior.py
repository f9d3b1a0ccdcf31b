"""Prior precisions: who shares one, how they are bounded, saved and refused."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_fits import directions, linear_model, noisy_map, one_layer, small_network, state_of

from symlearn.evidence.prior import LOG_MAX, LOG_MIN, WIDEST, PriorPrecision, tensor_groups, widest_priors
from symlearn.layers.structure import layer_paths
from symlearn.training.updates import update_evidence


def test_every_tensor_by_itself() -> None:
    model = small_network()
    names = [name for name, _ in model.named_parameters()]
    assert tensor_groups(model, "tensor") == dict(zip(names, names, strict=True))


def test_a_path_shares_one_precision_and_no_two_paths_do() -> None:
    model = small_network()
    groups = tensor_groups(model, "path")
    by_path = [{groups[n] for n in names} for layer in layer_paths(model) for names in layer.paths.values()]
    assert all(len(group) == 1 for group in by_path), f"a path with several precisions: {by_path}"
    assert len(set.union(*by_path)) == len(by_path), "two paths share a precision"
    assert list(groups) == [name for name, _ in model.named_parameters()]


def test_one_precision_for_all() -> None:
    assert set(tensor_groups(small_network(), "scalar").values()) == {"all"}


def test_sharing_reaches_every_tensor_of_the_group() -> None:
    prior = PriorPrecision(tensor_groups(one_layer(), "path"))
    path = "layer.paths.f-fc.theta1.weight"
    prior.set_log(prior.groups[path], math.log(7.0))
    changed = {name for name, delta in prior.floats().items() if abs(delta - 7.0) < 1e-12}
    assert changed == {name for name in prior.groups if ".f-fc." in name}


def test_by_tensor_is_differentiable_in_the_shared_log() -> None:
    prior = PriorPrecision({"a": "g", "b": "g", "c": "h"}, 2.0)
    prior.log["g"].requires_grad_()
    delta = prior.by_tensor()
    (slope,) = torch.autograd.grad(delta["a"] + 3 * delta["b"] + delta["c"], prior.log["g"])
    assert float(slope) == pytest.approx(4 * 2.0), "d(delta_a + 3 delta_b) / d log delta = 4 delta"


@pytest.mark.parametrize(("value", "kept"), [(1e9, LOG_MAX), (-1e9, LOG_MIN), (0.5, 0.5)], ids=str)
def test_log_precisions_stay_within_bounds(value: float, kept: float) -> None:
    prior = PriorPrecision({"a": "a"})
    prior.set_log("a", value)
    assert float(prior.log["a"]) == kept
    assert math.isfinite(prior.floats()["a"]) and prior.floats()["a"] > 0


def test_no_prior_is_learned_wider_than_its_bound() -> None:
    prior = PriorPrecision({"a": "g", "b": "g", "c": "h"}, 2.0, {"a": 0.5, "b": 0.25, "c": 7.0})
    for group in ("g", "h"):
        prior.set_log(group, LOG_MIN)
    assert prior.floats() == pytest.approx({"a": 0.25, "b": 0.25, "c": 2.0}), (
        "the least of a group, or initial"
    )
    prior.keep_within({"g": math.log(1e-3), "h": 0.0}, 0.1)
    assert prior.floats()["a"] == pytest.approx(0.25), "a bound holds against the stride"


def test_widest_priors_go_by_fan_in_and_small_inputs() -> None:
    model = one_layer("f-fc+conv")
    least = widest_priors(model)
    assert least["layer.paths.conv.weight"] == pytest.approx(9 / (2 * WIDEST**2))
    assert least["layer.paths.conv.bias"] == pytest.approx(1 / (2 * WIDEST**2))
    theta = model.layer.paths["f-fc"].theta2
    assert least["layer.paths.f-fc.theta2.weight"] == pytest.approx(theta.fan_in / (2 * WIDEST**2))
    assert widest_priors(model, 0.1) == pytest.approx({name: 0.01 * delta for name, delta in least.items()})
    assert widest_priors(model, 50.0) == least


@pytest.mark.parametrize("method", ["mackay", "adam"])
def test_saturated_classes_do_not_widen_a_prior_without_end(method: str) -> None:
    """Curvature that has gone to zero drives delta to zero; the bound of the network's own state holds it."""
    data = directions(30)
    state = state_of(one_layer(classes=3), data, method=method, hyper_steps=400, hyper_lr=1.0)
    with torch.no_grad():
        state.model.head.bias.copy_(1e4 * torch.tensor([1.0, 0.0, 0.0]))  # every p is 0 or 1
    for _ in range(20):
        state.trust = 1.0
        update_evidence(state, (data[0], torch.zeros_like(data[1])))
    least = widest_priors(state.model, state.input_scale)
    found = state.prior.floats()
    assert found["layer.paths.conv.weight"] == pytest.approx(least["layer.paths.conv.weight"])
    assert all(found[name] >= 0.999 * least[name] for name in least)


def test_regression_has_no_such_bound() -> None:
    state = state_of(linear_model(1), noisy_map(30, 0.1), likelihood="regression")
    assert set(state.prior.log_least.values()) == {LOG_MIN}


def test_state_round_trip() -> None:
    groups = {"a": "g", "b": "g", "c": "h"}
    first, second = PriorPrecision(groups), PriorPrecision(groups, 5.0)
    first.set_log("g", 0.1 + 0.2)
    second.load(first.state())
    assert second.state() == first.state() and second.floats() == first.floats()


def test_reset_starts_whole_groups_anew() -> None:
    prior = PriorPrecision({"a": "g", "b": "g", "c": "h"}, 2.0)
    prior.set_log("g", 3.0)
    prior.set_log("h", 4.0)
    prior.reset({"a", "b"})
    assert prior.floats() == pytest.approx({"a": 2.0, "b": 2.0, "c": math.exp(4.0)})


def test_reset_leaves_a_precision_that_others_share() -> None:
    """One precision for the whole network has learned from all of it; a path that joins does not undo that."""
    prior = PriorPrecision({"a": "all", "b": "all"}, 2.0)
    prior.set_log("all", 3.0)
    prior.reset({"a"})
    assert prior.floats() == pytest.approx({"a": math.exp(3.0), "b": math.exp(3.0)})


@pytest.mark.parametrize("initial", [0.0, -1.0, math.nan, math.inf], ids=str)
def test_a_precision_must_be_positive_and_finite(initial: float) -> None:
    with pytest.raises(ValueError, match=f"must be positive and finite, got {initial}"):
        PriorPrecision({"a": "a"}, initial)


def test_unknown_structure_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown prior structure 'layer'; choose 'tensor', 'path'"):
        tensor_groups(one_layer(), "layer")  # type: ignore[arg-type]


def test_precisions_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="belong to another network or prior structure"):
        PriorPrecision({"a": "a"}).load({"b": 0.0})
