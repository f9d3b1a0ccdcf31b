"""Rates by fan-in: which tensor moves how far in one step."""

from __future__ import annotations

import torch

import symlearn
from symlearn.training.optimizer import ProximalAdam
from symlearn.training.rates import FAN_IN, rate_scales


def test_fan_in_of_every_kind_of_path() -> None:
    model = symlearn.build_model("f-fc+s-fc+conv+gconv-p4", size=16, network="small", alpha=8, classes=3)
    scales = rate_scales(model)
    expected = {
        "conv.weight": 8 * 4 * 9,  # the plane's paths see the group as channels
        "gconv-p4.stages.0.weight": 8 * 4 * 9,
        "f-fc.theta1.weight": 256,
        "f-fc.theta2.weight": 32,
        "s-fc.theta1.weight": 128,
        "s-fc.theta2.weight": 32,
    }
    for name, fan_in in expected.items():
        assert scales[f"layers.1.paths.{name}"] == min(1.0, FAN_IN / fan_in), name
    assert all(scale == 1.0 for name, scale in scales.items() if name.endswith("bias"))


def test_a_step_is_scaled_and_the_state_travels() -> None:
    torch.manual_seed(0)
    slow, fast = (torch.nn.Parameter(torch.zeros(5)) for _ in range(2))

    def optimizer() -> ProximalAdam:
        made = ProximalAdam([("slow", slow), ("fast", fast)], 10, 0.1, {"slow": 0.25})
        made.decay = {"slow": 0.0, "fast": 0.0}
        return made

    one = optimizer()
    one.set_rate(0.1)
    for parameter in (slow, fast):
        parameter.grad = torch.ones(5)
    one.step()
    assert torch.allclose(slow, torch.tensor(-0.025), rtol=1e-4), slow
    assert torch.allclose(fast, torch.tensor(-0.1), rtol=1e-4), fast
    other = optimizer()
    other.load_state_dict(one.state_dict())
    other.set_rate(0.2)
    assert [group["lr"] for group in other.param_groups] == [0.05, 0.2]
    assert [group["scale"] for group in other.param_groups] == [0.25, 1.0]
