"""Layers of ours written with `torch.nn` alone: the same outputs, and nothing of ours left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from symlearn import build_model
from symlearn.layers import (
    CircularConv2d,
    CosetPool2d,
    FactoredLinear2d,
    FullyConnected2d,
    PathKind,
    PathOptions,
    RelaxedLayer2d,
    SparseLinear2d,
    register_path,
)
from symlearn.layers.structure import relaxed_layers
from symlearn.transfer.plain import convolution_of, plain_copy, plain_form

NETWORKS: dict[str, dict[str, Any]] = {
    "conv": {"paths": "conv", "network": "small", "size": 16, "alpha": 1},
    "f-fc+conv": {"paths": "f-fc+conv", "network": "small", "size": 16, "alpha": 1},
    "fc+s-conv+s-fc": {"paths": "fc+s-conv+s-fc", "network": "small", "size": 8, "alpha": 2},
    "mixture with p4": {"paths": "f-fc+conv+gconv-p4", "network": "small", "size": 8, "alpha": 1},
    "p4m separable": {"paths": "gconv-p4m:separable", "network": "small", "size": 8, "alpha": 1},
    "depthwise": {"paths": "conv+gconv-p4:depthwise-separable", "network": "small", "size": 8, "alpha": 1},
    "harmonics of c6": {"paths": "gconv-c6", "network": "small", "size": 8, "alpha": 1},
    "p4 and its deviation": {"paths": "gconv-p4+dev-p4", "network": "small", "size": 8, "alpha": 1},
    "deviations pointwise": {"paths": "gconv-c6+dev-c6:pointwise", "network": "small", "size": 8, "alpha": 1},
    "varying by place": {"paths": "conv+dev-shifts:2", "network": "small", "size": 8, "alpha": 2},
    "by place alone": {"paths": "dev-shifts", "network": "small", "size": 8, "alpha": 1},
    "by place and turn": {
        "paths": "f-fc+gconv-p4+dev-shifts+dev-p4",
        "network": "small",
        "size": 8,
        "alpha": 1,
    },
    "filters wider than a map": {"paths": "f-fc+conv", "network": "small", "size": 4, "kernel_size": 5},
    "even filters": {"paths": "conv", "network": "small", "size": 16, "kernel_size": 4, "alpha": 1},
    "p4cnn": {"paths": "gconv-p4", "network": "p4cnn", "size": 28, "alpha": 3},
    "rotation pooling": {"paths": "gconv-p4", "network": "p4cnn-rotation-pooling", "size": 28, "alpha": 3},
    "all-cnn": {"paths": "gconv-p4m", "network": "all-cnn", "size": 16, "alpha": 2, "in_channels": 3},
    "resnet44": {"paths": "gconv-p4", "network": "resnet44", "size": 8, "alpha": 2, "in_channels": 3},
}


def disturbed(options: dict[str, Any]) -> nn.Module:
    """A network in `eval` mode whose biases and running statistics are not those of the start."""
    torch.manual_seed(0)
    model = build_model(**options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.train()(torch.rand(6, options.get("in_channels", 1), *2 * [options["size"]]).double())
    return model.eval()


class TestPlainCopy:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_same_outputs_from_modules_of_torch_alone(self, name: str) -> None:
        options = NETWORKS[name]
        model = disturbed(options)
        before = copy.deepcopy(model.state_dict())
        x = torch.rand(5, options.get("in_channels", 1), *2 * [options["size"]]).double()
        plain = plain_copy(model)
        ours = {type(m).__name__ for m in plain.modules() if not type(m).__module__.startswith("torch.")}
        assert not ours, f"left of ours: {ours}"
        wanted = model(x).detach()
        assert (plain(x) - wanted).abs().max() <= 1e-12 * wanted.abs().max()
        after = model.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items() if torch.is_tensor(v)), "changed"

    def test_switched_off_paths_and_the_divisor_are_folded(self) -> None:
        model = disturbed(NETWORKS["f-fc+conv"])
        for index, layer in enumerate(relaxed_layers(model).values()):
            layer.set_active([("f-fc", "conv")[index % 2]])
        x = torch.rand(4, 1, 16, 16).double()
        plain = plain_copy(model)
        torch.testing.assert_close(plain(x), model(x), rtol=1e-12, atol=1e-14)
        kinds = {type(m) for m in plain.modules()}
        assert {nn.Conv2d, nn.Linear} <= kinds

    def test_one_convolution_for_all_full_resolution_paths(self) -> None:
        layer = RelaxedLayer2d(2, 3, 8, "conv+gconv-p4+s-conv").eval()
        plain = plain_form(layer)
        (found,) = [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
        assert list(found.weight.shape) == [12, 8, 3, 3]

    def test_a_deviation_from_turns_is_in_the_one_convolution(self) -> None:
        """A p4 layer that deviates is a plain convolution between its orientation channels."""
        plain = plain_form(RelaxedLayer2d(2, 3, 8, "gconv-p4+dev-p4+dev-p4:pointwise").eval())
        (found,) = [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
        assert list(found.weight.shape) == [12, 8, 3, 3]

    def test_a_deviation_from_shifts_is_a_convolution_times_numbers_by_place(self) -> None:
        """Beside the shared convolution; no matrix between all places."""
        layer = RelaxedLayer2d(2, 3, (8, 6), "conv+dev-shifts:2", stride=2).eval()
        plain, x = plain_form(layer), torch.rand(4, 2, 8, 6)
        shapes = [list(m.weight.shape) for m in plain.modules() if isinstance(m, nn.Conv2d)]
        assert shapes == [[3, 2, 3, 3], [6, 2, 3, 3]]
        assert not [m for m in plain.modules() if isinstance(m, nn.Linear)]
        torch.testing.assert_close(plain(x), layer(x))

    def test_a_deviation_from_shifts_on_a_map_smaller_than_its_filters(self) -> None:
        layer, x = (
            RelaxedLayer2d(2, 3, 2, "conv+dev-shifts", options=PathOptions(kernel_size=7)),
            torch.rand(4, 2, 2, 2),
        )
        plain = plain_form(layer)
        assert [m for m in plain.modules() if isinstance(m, nn.Linear)]
        torch.testing.assert_close(plain(x), layer(x))

    def test_a_users_path_at_full_resolution_must_commute_with_shifts(self) -> None:
        kind = PathKind(lambda s: CircularConv2d(s.c_in, s.c_out), "ODD", full_resolution=True, symmetry=0)
        register_path("odd", kind)
        with pytest.raises(ValueError, match="CircularConv2d keeps the full resolution and does not commute"):
            plain_form(RelaxedLayer2d(2, 3, 8, "odd"))

    def test_a_layer_that_became_fc_is_a_linear(self) -> None:
        layer = RelaxedLayer2d(2, 3, (4, 6), "f-fc+conv", stride=2)
        layer.set_active(["f-fc"])
        plain = plain_form(layer)
        assert [type(m) for m in plain.children()] == [nn.Flatten, nn.Linear, nn.Unflatten]
        x = torch.rand(3, 2, 4, 6)
        torch.testing.assert_close(plain(x), layer(x))

    @pytest.mark.parametrize("reduce", ["max", "mean"])
    @pytest.mark.parametrize("subgroup", [None, [0, 2]])
    def test_pooling_over_a_group_or_cosets(self, reduce: Any, subgroup: list[int] | None) -> None:
        pool = CosetPool2d("p4", reduce, subgroup)
        x = torch.rand(2, 3, 4, 5, 5)
        assert torch.equal(plain_form(pool)(x), pool(x))

    def test_unfolded_networks_are_refused_by_name(self) -> None:
        model = build_model("free", network="unfolded", size=8)
        with pytest.raises(ValueError, match="has no plain form"):
            plain_copy(model)

    def test_one_form_for_a_module_in_two_places(self) -> None:
        class Twice(nn.Module):
            """A layer of ours under two names."""

            def __init__(self) -> None:
                super().__init__()
                self.a = CircularConv2d(2, 2)
                self.b = self.a

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                """One after the other, with control flow that no tracer follows."""
                return self.b(self.a(x)) if x.sum() > -1e9 else x

        model = Twice()
        plain = plain_copy(model)
        assert isinstance(plain, Twice)
        assert plain.a is plain.b
        assert type(plain.a) is nn.Conv2d
        x = torch.rand(2, 2, 5, 5)
        torch.testing.assert_close(plain(x), model(x))

    @pytest.mark.parametrize("kind", [FullyConnected2d, FactoredLinear2d, SparseLinear2d])
    def test_layers_on_their_own_within_a_users_network(self, kind: Any) -> None:
        model = nn.Sequential(kind(2, 3, (4, 6), 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
        plain = plain_copy(model)
        assert type(plain) is nn.Sequential
        assert [m for m in plain.modules() if type(m).__module__.startswith("symlearn.")] == []
        x = torch.rand(3, 2, 4, 6)
        torch.testing.assert_close(plain(x), model(x))

    def test_a_network_of_ours_within_a_users(self) -> None:
        class Halved(nn.Module):
            """A user's preprocessing before a network of ours."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = build_model("f-fc+conv", network="small", size=8, alpha=1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                """Half of the image, by the network."""
                return self.inner(x / 2) if len(x) else x

        model = Halved().eval()
        plain = plain_copy(model)
        assert isinstance(plain, Halved)
        x = torch.rand(3, 1, 8, 8)
        torch.testing.assert_close(plain(x), model(x))

    def test_subclasses_of_layers_are_refused(self) -> None:
        class Louder(CircularConv2d):
            """A layer that does more."""

        with pytest.raises(ValueError, match="Louder is a subclass"):
            plain_copy(nn.Sequential(Louder(1, 1)))

    def test_filters_too_wide_before_a_stride_are_refused(self) -> None:
        model = build_model("conv", network="small", size=4, kernel_size=7)
        with pytest.raises(ValueError, match="wrap around 2x2 maps"):
            plain_copy(model)

    def test_users_layers_are_left_alone(self) -> None:
        linear = nn.Linear(2, 3)
        assert plain_form(linear) is linear


class TestConvolutionOf:
    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
    def test_reads_off_the_weight_of_a_convolution(self, kernel_size: int, padding: str) -> None:
        torch.manual_seed(0)
        source = (
            nn.Conv2d(2, 3, kernel_size, padding=0 if padding == "valid" else "same")
            if padding != "circular"
            else CircularConv2d(2, 3, kernel_size)
        )
        found = convolution_of(source, 2, kernel_size, padding, source.weight)
        torch.testing.assert_close(found.weight, source.weight)
        torch.testing.assert_close(found.bias, source.bias)
        x = torch.rand(2, 2, 7, 6)
        torch.testing.assert_close(found(x), source(x))
