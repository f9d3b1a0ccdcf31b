"""Parameter counts of the published networks, exact, and what the networks refuse."""

from __future__ import annotations

import pytest
import torch

from symlearn.networks import build_model, default_network

COUNTS = {
    "fc": 133_635_690,
    "conv": 338_770,
    "f-fc": 1_542_625,
    "f-fc+conv": 1_771_945,
    "s-fc": 831_820,
    "s-conv": 237_050,
    "s-fc+s-conv": 959_420,
}
GROUP_COUNTS = {  # paths, alpha, input channels: parameters; Tables 3 and 7
    ("gconv-p4", 10, 3): 1_025_380,
    ("gconv-p4", 6, 3): 371_200,
    ("gconv-p4:separable", 10, 3): 214_550,
    ("gconv-p4:separable", 13, 3): 358_463,
    ("gconv-p4:depthwise-separable", 10, 3): 139_725,  # the paper prints 139,735
    ("gconv-p4:depthwise-separable", 16, 3): 346_215,
    ("gconv-p4:pointwise", 10, 3): 338_770,
    ("f-fc+conv+gconv-p4:pointwise", 2, 3): 1_237_527,
    ("f-fc+conv+gconv-p4", 2, 3): 1_265_121,
    ("f-fc+conv+gconv-p4:pointwise", 2, 1): 1_105_843,
    ("f-fc+conv+gconv-p4", 2, 1): 1_133_329,
}


@pytest.mark.parametrize("paths", COUNTS)
def test_parameter_counts_of_the_ten_layer_network(paths: str) -> None:
    """van der Ouderaa et al. 2023, Tables 2 to 4: alpha 10, 3 x 32 x 32, 10 classes."""
    with torch.device("meta"):
        model = build_model(paths, network="ten-layer", alpha=10, in_channels=3, size=32, classes=10)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[paths]


@pytest.mark.parametrize("case", GROUP_COUNTS, ids=str)
def test_parameter_counts_with_a_group(case: tuple[str, int, int]) -> None:
    paths, alpha, channels = case
    model = build_model(paths, network="ten-layer", alpha=alpha, in_channels=channels, size=32, classes=10)
    assert sum(p.numel() for p in model.parameters()) == GROUP_COUNTS[case]


@pytest.mark.parametrize("size", [32, 64, (32, 64)], ids=str)
def test_ten_layer_output(size: int | tuple[int, int]) -> None:
    model = build_model("conv", network="ten-layer", alpha=1, in_channels=3, size=size, classes=7)
    h, w = (size, size) if isinstance(size, int) else size
    assert model(torch.randn(2, 3, h, w)).shape == (2, 7)


@pytest.mark.parametrize("paths", ["fc", "conv", "f-fc+conv"])
def test_small_output(paths: str) -> None:
    model = build_model(paths, alpha=2, size=16)
    assert model(torch.randn(3, 1, 16, 16)).shape == (3, 10)


def test_conv_network_is_invariant_to_shifts() -> None:
    """Ten strictly equivariant layers and an average: every circular shift leaves the logits alone."""
    torch.manual_seed(0)
    model = build_model("conv", alpha=1, in_channels=1, size=32).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    for shift in ((1, 0), (3, 5), (16, 31)):
        gap = float((model(x.roll(shift, (2, 3))) - model(x)).detach().abs().max())
        assert gap < 1e-12, f"shift {shift}: logits move by {gap:.1e}"


def test_default_network_by_size() -> None:
    chosen = {size: default_network(size) for size in (16, 28, 32, (64, 32))}
    assert chosen == {16: "small", 28: "small", 32: "ten-layer", (64, 32): "ten-layer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "eleven-layer"}, "unknown network 'eleven-layer'; choose from ten-layer, small"),
        ({"paths": "gconv-p5"}, "unknown group 'p5'"),
        ({"paths": "gkonv"}, "unknown path 'gkonv'"),
        ({"size": 18, "network": "small"}, "multiples of 4, got 18x18"),
        ({"alpha": 0}, "alpha must be a positive integer"),
        ({"classes": 0}, "classes must be a positive integer"),
    ],
    ids=["network", "group", "path", "size", "alpha", "classes"],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(**options)
