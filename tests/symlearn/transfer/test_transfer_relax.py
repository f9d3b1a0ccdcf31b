"""Relaxing users' networks: the same outputs at the start, and every convolution accounted for."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm

import symlearn
from symlearn.layers.relaxed_conv import RelaxedConv2d
from symlearn.layers.structure import relaxed_layers
from symlearn.transfer.one_image import outputs_of
from symlearn.transfer.relax import Relaxation


class Residual(nn.Module):
    """User code: a residual sum, a functional call, a tied convolution and one used functionally."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(4, 6, 3, dilation=2, padding=2, groups=2, padding_mode="reflect")
        self.norm = nn.GroupNorm(2, 6)
        self.hidden = nn.Conv2d(6, 6, 1)
        self.shrunk = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, h, w] -> [batch, 3]`."""
        x = self.act(self.first(x))
        x = x + self.tied(F.relu(self.tied(x)))
        x = self.act(self.norm(self.wide(x)))
        x = x + F.conv2d(x, self.hidden.weight, self.hidden.bias)
        x = self.shrunk(x) + F.interpolate(self.shrunk(F.avg_pool2d(x, 2)), x.shape[-2:])
        return self.head(x.mean((2, 3)))


def users(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of a user, and the shape of its input."""
    torch.manual_seed(0)
    built = {
        "residual": lambda: (Residual(), (1, 12, 10)),
        "resnet18": lambda: (torchvision.models.resnet18(num_classes=4), (3, 32, 32)),
        "vgg11": lambda: (torchvision.models.vgg11_bn(num_classes=4), (3, 32, 32)),
        "one layer": lambda: (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 5)),
    }
    model, shape = built[name]()
    return model.eval(), shape


class TestRelax:
    @pytest.mark.parametrize("name", ["residual", "resnet18", "vgg11", "one layer"])
    def test_outputs_at_the_start_are_the_networks(self, name: str) -> None:
        model, shape = users(name)
        relaxed = symlearn.relax(model, shape)
        x = torch.randn(3, *shape)
        wanted = model(x)
        assert (relaxed(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        kept = {p.data_ptr() for p in model.parameters()}
        assert not kept & {p.data_ptr() for p in relaxed.parameters()}, "shares weights with the original"

    @pytest.mark.parametrize("paths", ["f-fc", ("s-fc",), ("fc", "f-fc")])
    def test_added_paths_learn_from_the_start(self, paths: str | tuple[str, ...]) -> None:
        model, shape = users("residual")
        relaxed = symlearn.relax(model, shape, paths)
        relaxed(torch.randn(4, *shape)).square().sum().backward()
        for name, layer in relaxed_layers(relaxed).items():
            for path in layer.path_names[1:]:
                moved = [p.grad.abs().max() for p in layer.paths[path].parameters() if p.grad is not None]
                assert max(moved) > 0, f"{name}.{path} is at a saddle"

    def test_every_convolution_is_relaxed_or_listed_with_the_reason(self) -> None:
        model, shape = users("residual")
        relaxation = symlearn.relax(model, shape).relaxation
        assert relaxation.relaxed == ("first", "tied", "wide")
        assert "not called" in relaxation.left["hidden"]
        assert "different sizes" in relaxation.left["shrunk"]

    def test_only_the_layers_asked_for(self) -> None:
        model, shape = users("residual")
        relaxed = symlearn.relax(model, shape, only=["wide"])
        assert list(relaxed_layers(relaxed)) == ["wide"]
        assert relaxed.relaxation.left["first"] == "not asked for"

    def test_all_of_resnet18(self) -> None:
        model, shape = users("resnet18")
        relaxation = symlearn.relax(model, shape).relaxation
        assert (len(relaxation.relaxed), relaxation.left) == (20, {})

    def test_subclasses_of_conv2d_are_left(self) -> None:
        class Standardised(nn.Conv2d):
            """A convolution that does something else with its weight."""

        model = nn.Sequential(Standardised(1, 2, 3), nn.Conv2d(2, 2, 3))
        assert symlearn.relax(model, (1, 8, 8)).relaxation.left == {
            "0": "a Standardised, not an nn.Conv2d, may do something else with its weights"
        }

    def test_weights_that_two_convolutions_share_are_left(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
        model[1].weight = model[0].weight
        relaxation = symlearn.relax(model, (2, 9, 9)).relaxation
        assert relaxation.relaxed == ("2",)
        assert relaxation.left == {"0": "its weight is also that of 1", "1": "its weight is also that of 0"}

    def test_convolutions_reached_another_way_are_left(self) -> None:
        class Listed(nn.Module):
            """The first convolution is called through a plain list."""

            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)
                self.called = [self.a]

            def forward(self, x: Tensor) -> Tensor:
                """One after the other."""
                return self.b(self.called[0](x))

        relaxation = symlearn.relax(Listed(), (1, 9, 9)).relaxation
        assert relaxation.relaxed == ("b",)
        assert "by another way" in relaxation.left["a"]

    def test_convolutions_whose_weight_is_read_are_left(self) -> None:
        class Reading(nn.Module):
            """Convolutions that are called; the first one's weight is read besides."""

            def __init__(self, count: int) -> None:
                super().__init__()
                self.convs = nn.ModuleList([nn.Conv2d(1, 1, 3) for _ in range(count)])

            def forward(self, x: Tensor) -> Tensor:
                """Scaled by the first weight's size."""
                scale = self.convs[0].weight.abs().sum()
                for conv in self.convs:
                    x = conv(x)
                return x * scale

        relaxation = symlearn.relax(Reading(3), (1, 9, 9)).relaxation
        assert relaxation.relaxed == ("convs.1", "convs.2")
        assert "does not run with paths beside it" in relaxation.left["convs.0"]
        with pytest.raises(
            ValueError, match=r"no convolution can be relaxed \(convs\.0: .*no attribute"
        ) as caught:
            symlearn.relax(Reading(1), (1, 9, 9))
        assert "\n" not in str(caught.value)

    def test_networks_that_look_at_types_keep_their_outputs(self) -> None:
        class Typed(nn.Module):
            """Sends what comes from an `nn.Conv2d` through a tanh, and puts out a dictionary."""

            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)

            def forward(self, x: Tensor) -> dict[str, tuple[Tensor]]:
                """One after the other."""
                x = self.a(x).tanh() if isinstance(self.a, nn.Conv2d) else self.a(x)
                return {"out": (self.b(x),)}

        relaxation = symlearn.relax(Typed(), (1, 9, 9)).relaxation
        assert relaxation.relaxed == ("b",)
        assert "outputs are others" in relaxation.left["a"]

    def test_convolutions_in_a_dictionary_are_relaxed(self) -> None:
        class Keyed(nn.Module):
            """Convolutions called by their keys."""

            def __init__(self) -> None:
                super().__init__()
                self.m = nn.ModuleDict({"a": nn.Conv2d(1, 2, 3), "b": nn.Conv2d(2, 1, 3)})

            def forward(self, x: Tensor) -> Tensor:
                """One after the other."""
                return self.m["b"](self.m["a"](x))

        relaxed = symlearn.relax(Keyed(), (1, 9, 9))
        assert relaxed.relaxation == Relaxation(("m.a", "m.b"), {})
        assert list(relaxed_layers(relaxed)) == ["m.a", "m.b"]

    @pytest.mark.parametrize("body", ["overwrites", "draws"])
    def test_passes_are_compared_on_the_same_image_and_draws(self, body: str) -> None:
        class Own(nn.Module):
            """A network that overwrites its input, or draws in eval mode too."""

            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(1, 1, 3)

            def forward(self, x: Tensor) -> Tensor:
                """With noise, or of a shifted image."""
                if body == "draws":
                    return self.conv(x + torch.randn_like(x))
                x -= 0.5
                return self.conv(x)

        model = Own()
        assert symlearn.relax(model, (1, 9, 9)).relaxation.relaxed == ("conv",)
        state = torch.get_rng_state()
        outputs_of(model, torch.zeros(1, 1, 9, 9))
        assert torch.equal(state, torch.get_rng_state())

    def test_a_network_that_never_repeats_itself_is_refused(self) -> None:
        class Counting(nn.Module):
            """Adds the number of passes so far."""

            def __init__(self) -> None:
                super().__init__()
                self.conv, self.passes = nn.Conv2d(1, 1, 3), 0

            def forward(self, x: Tensor) -> Tensor:
                """Shifted by the count."""
                self.passes += 1
                return self.conv(x) + self.passes

        with pytest.raises(ValueError, match=r"differ from pass to pass, .* make eval mode repeatable"):
            symlearn.relax(Counting(), (1, 9, 9))

    def test_weights_that_a_hook_computes(self) -> None:
        normed = spectral_norm(nn.Conv2d(1, 2, 3))
        relaxation = symlearn.relax(nn.Sequential(normed, nn.Conv2d(2, 2, 3)), (1, 9, 9)).relaxation
        assert relaxation.relaxed == ("1",)
        assert relaxation.left == {"0": "its weight is computed by a hook, and is no parameter of it"}
        pruned = nn.Conv2d(1, 2, 3)
        prune.l1_unstructured(pruned, "weight", 0.5)
        with pytest.raises(
            ValueError, match=r"cannot be copied .* where hooks compute its weights"
        ) as caught:
            symlearn.relax(nn.Sequential(pruned, nn.Conv2d(2, 2, 3)), (1, 9, 9))
        assert "\n" not in str(caught.value)

    def test_building_a_layer_leaves_the_convolutions_state(self) -> None:
        normed = spectral_norm(nn.Conv2d(1, 2, 3))
        vector = normed.weight_u.clone()
        RelaxedConv2d(normed, 6, ("f-fc",))
        assert torch.equal(vector, normed.weight_u) and normed.training

    def test_frozen_weights_stay_frozen(self) -> None:
        model, shape = users("residual")
        model.first.requires_grad_(False)
        relaxed = symlearn.relax(model, shape)
        layer = relaxed_layers(relaxed)["first"]
        for active in (["f-fc"], ["conv"], ["conv", "f-fc"]):
            layer.set_active(active)
            assert not any(p.requires_grad for p in layer.paths["conv"].parameters()), active
            added = [p.requires_grad for p in layer.paths["f-fc"].parameters()]
            assert all(added) if "f-fc" in active else not any(added)

    def test_twice_is_refused(self) -> None:
        model, shape = users("one layer")
        with pytest.raises(ValueError, match="already a path"):
            symlearn.relax(symlearn.relax(model, shape), shape)

    def test_a_search_starts_from_the_convolution(self) -> None:
        layer = RelaxedConv2d(nn.Conv2d(2, 3, 3, padding=1), 6, ("f-fc",))
        layer.start_search()
        assert layer.active == ("conv",)
        assert layer.changes() == [("f-fc", "add")]

    @pytest.mark.parametrize(
        ("arguments", "fragment"),
        [
            ({"paths": "conv"}, "cannot be added"),
            ({"paths": "foo"}, "unknown path 'foo'"),
            ({"paths": ()}, "one or more"),
            ({"paths": "f-fc+f-fc"}, "one or more different"),
            ({"input_shape": (1, 12)}, "input_shape is [c, h, w]"),
            ({"input_shape": 8}, "input_shape is [c, h, w] of one image, got 8"),
            ({"input_shape": (2, 12, 10)}, "takes no input [1, 2, 12, 10]"),
            ({"only": ["nowhere"]}, "name no convolution"),
        ],
    )
    def test_wrong_input(self, arguments: dict, fragment: str) -> None:
        model, shape = users("residual")
        with pytest.raises(ValueError, match=re.escape(fragment)) as caught:
            symlearn.relax(model, **{"input_shape": shape, **arguments})
        assert "\n" not in str(caught.value)

    def test_networks_without_convolutions_and_wrappers(self) -> None:
        with pytest.raises(ValueError, match="the network has none"):
            symlearn.relax(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
        with pytest.raises(ValueError, match=r"give model\.module"):
            symlearn.relax(nn.DataParallel(nn.Conv2d(1, 1, 3)), (1, 8, 8))
        with pytest.raises(ValueError, match=r"within DataParallel; put its \.module in place of '0'"):
            symlearn.relax(nn.Sequential(nn.DataParallel(nn.Conv2d(1, 1, 3))), (1, 8, 8))
        with pytest.raises(ValueError, match=r"an nn\.Module, got str"):
            symlearn.relax("resnet18", (1, 8, 8))
