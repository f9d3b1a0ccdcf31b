"""The relaxed layer: the contract for every sum of paths, order, divisor, and switching paths off and on."""

from __future__ import annotations

import itertools

import pytest
import torch
from contracts import LayerCase, LayerContract
from oracles import assert_close
from torch import Tensor

from symlearn.layers import PATHS, RelaxedLayer2d, parse_paths

SUMS = ["fc", "f-fc", "conv", "f-fc+conv", "fc+f-fc+conv"]
CASES = [
    LayerCase(
        f"{paths} {h}x{w} stride {stride}",
        lambda paths=paths, h=h, w=w, stride=stride: RelaxedLayer2d(2, 3, (h, w), paths, stride),
        (2, h, w),
        (3, h // stride, w // stride),
        linear=stride == 1,
        wrong_shapes=((1, h, w), (2, h + 2, w)),
    )
    for paths in SUMS
    for (h, w), stride in (((4, 6), 1), ((5, 3), 1), ((4, 6), 2))
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestRelaxedLayer2d(LayerContract):
    """Sums of paths."""


def layer_of(paths: str, stride: int = 1, seed: int = 0, size: tuple[int, int] = (4, 6)) -> RelaxedLayer2d:
    layer = RelaxedLayer2d(2, 3, size, paths, stride).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return layer


def maps(size: tuple[int, int] = (4, 6)) -> Tensor:
    return torch.randn(5, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_order_of_the_sum() -> None:
    """Full-resolution paths first, one subsampling, then the paths that map straight to the output size."""
    layer, x = layer_of("fc+f-fc+conv", stride=2), maps()
    paths = layer.paths
    expected = (layer.subsample(paths["conv"](x)) + paths["fc"](x) + paths["f-fc"](x)) / 3
    assert_close(layer(x).detach(), expected.detach(), 1e-12, "the sum")


@pytest.mark.parametrize(
    "active", [c for n in (1, 2) for c in itertools.combinations(["fc", "f-fc", "conv"], n)], ids="+".join
)
@pytest.mark.parametrize("stride", [1, 2])
def test_switching_paths(active: tuple[str, ...], stride: int) -> None:
    """Off means neither computed nor trained, and the others keep their scale."""
    layer, x = layer_of("fc+f-fc+conv", stride), maps()
    reference = layer_of("fc+f-fc+conv", stride)
    with torch.no_grad():
        for name in set(layer.path_names) - set(active):
            for p in reference.paths[name].parameters():
                p.zero_()
    layer.set_active(active)
    if stride == 1 or "conv" in active:
        assert_close(layer(x).detach(), reference(x).detach(), 1e-12, "silenced and switched off")
    trained = {name.split(".")[1] for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == set(active)
    layer(x).sum().backward()
    for name, p in layer.named_parameters():
        assert (p.grad is not None) == (name.split(".")[1] in active), name
    layer.set_active(layer.path_names)
    assert_close(layer(x).detach(), layer_of("fc+f-fc+conv", stride)(x).detach(), 1e-14, "switched on again")


@pytest.mark.parametrize("active", ["fc", "conv", "f-fc"])
def test_state_dict_carries_the_active_paths(active: str) -> None:
    layer, other, x = layer_of("fc+f-fc+conv", 2), layer_of("fc+f-fc+conv", 2, seed=9), maps()
    layer.set_active([active])
    other.load_state_dict(layer.state_dict())
    assert other.active == (active,)
    assert torch.equal(layer(x), other(x))
    wanted = {name: p.requires_grad for name, p in layer.named_parameters()}
    assert {name: p.requires_grad for name, p in other.named_parameters()} == wanted


def test_conv_path_with_stride_two_commutes_with_every_shift() -> None:
    layer, x = layer_of("conv", stride=2), maps()
    y = layer(x).detach()
    for shift in itertools.product(range(4), range(6)):
        moved = layer(x.roll(shift, (2, 3))).detach()
        steps = itertools.product(*({s // 2, (s + 1) // 2} for s in shift))
        gaps = torch.stack([(moved - y.roll(step, (2, 3))).flatten(1).norm(dim=1) for step in steps]).amin(0)
        assert float(gaps.max()) < 1e-12 * float(y.norm()), f"shift {shift}: off by {float(gaps.max()):.1e}"


def test_errors_say_what_to_do() -> None:
    for arguments, message in [
        ((2, 3, 4, "f-fc+convv"), "unknown path 'convv'; choose from fc, f-fc, s-fc, conv, s-conv"),
        ((2, 3, 4, ""), "no path"),
        ((2, 3, 4, "conv+conv"), "named twice"),
        ((2, 3, 4, "conv", 3), "stride must be 1 or 2"),
        ((2, 3, (4, 5), "conv", 2), "even size, got 4x5"),
        ((0, 3, 4, "conv"), "channel counts must be positive"),
    ]:
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            RelaxedLayer2d(*arguments)
    layer = layer_of("f-fc+conv")
    for names in ([], ["fc"], ["conv", "nowhere"]):
        with pytest.raises(ValueError, match="choose one or more of f-fc, conv"):
            layer.set_active(names)
    with pytest.raises(ValueError, match="not linear"):
        layer_of("conv", 2).to_dense()


def test_paths_parse() -> None:
    assert parse_paths("f-fc + conv") == ("f-fc", "conv")
    assert parse_paths(["fc"]) == ("fc",)
    assert set(PATHS) >= {"fc", "f-fc", "conv"}
