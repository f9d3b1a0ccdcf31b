"""Paths that are convolutions of the same map, computed as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from symlearn.layers.conv import CircularConv2d
from symlearn.layers.merged import merged, plane_filters
from symlearn.layers.registry import PathOptions
from symlearn.layers.relaxed import RelaxedLayer2d

SUMS = {
    "conv+gconv-p4": 1,
    "conv+s-conv": 1,
    "f-fc+conv+gconv-p4m": 1,
    "conv+gconv-p4+gconv-p4:pointwise": 1,
    "f-fc+conv": 0,
    "gconv-p4:separable+gconv-p4:pointwise": 0,
    "gconv-p4": 0,
}


def layer_of(paths: str, **options: int) -> RelaxedLayer2d:
    """A small layer in float64 with biases that are not zero."""
    torch.manual_seed(0)
    layer = RelaxedLayer2d(2, 3, 6, paths, stride=2, options=PathOptions(**options)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def outcome(layer: RelaxedLayer2d, x: Tensor) -> list[Tensor]:
    """Output and gradients of all parameters and of the input."""
    y = layer(x)
    leaves = [x, *layer.parameters()]
    return [y, *torch.autograd.grad(y.sin().sum(), leaves)]


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("paths", SUMS)
def test_merging_changes_neither_outputs_nor_gradients(paths: str, kernel_size: int) -> None:
    layer = layer_of(paths, kernel_size=kernel_size)
    members = () if layer.group is None else (len(layer.group),)
    x = torch.randn(4, 2, *members, 6, 6, dtype=torch.float64, requires_grad=True)
    full = {n: layer.paths[n] for n in layer.active if n != "f-fc"}
    assert len(merged(full)[1]) == SUMS[paths]
    found = outcome(layer, x)
    for path in layer.paths.values():
        path.register_forward_hook(lambda *_: None)
    assert not merged(full)[1], "a path with a hook must be computed by itself"
    for k, (one, each) in enumerate(zip(found, outcome(layer, x), strict=True)):
        torch.testing.assert_close(one, each, msg=lambda text, k=k: f"part {k}: {text}")


def test_filters_of_different_supports_stay_apart() -> None:
    three, five = CircularConv2d(2, 2, 3), CircularConv2d(2, 2, 5)
    assert merged({"three": three, "five": five}) == (["three", "five"], [])
    alone, together = merged({"three": three, "five": five, "again": CircularConv2d(2, 2, 3)})
    assert alone == ["five"]
    assert len(together) == 1


def test_a_subclass_with_a_forward_of_its_own_is_not_merged() -> None:
    class Doubled(CircularConv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert plane_filters(Doubled(1, 1)) is None
    assert plane_filters(CircularConv2d(1, 1)) is not None


def test_a_hook_on_a_part_or_on_all_modules_is_seen() -> None:
    conv = CircularConv2d(1, 1)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert plane_filters(conv) is None
    finally:
        handle.remove()
    conv.register_full_backward_hook(lambda *_: None)
    assert plane_filters(conv) is None
