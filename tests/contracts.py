"""The contract suite every layer inherits: laws of maps `[batch, c_in, h, w] -> [batch, c_out, h', w']`.

A test class of a layer inherits `LayerContract` and is parametrised by its cases:

    @pytest.mark.parametrize("case", CASES, ids=str)
    class TestSomeLayer(LayerContract): ...

Axes: batch, c_in, c_out, group, h, w.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn
from torch.func import functional_call, vmap


@dataclass(frozen=True)
class LayerCase:
    """One size of a layer.

    Attributes:
        name: a readable id.
        build: makes the layer, in the default dtype.
        in_shape: `[c_in, h, w]` (or `[c, group, h, w]`).
        out_shape: the same of the output.
        linear: whether the layer is affine and has `to_dense`.
        wrong_shapes: shapes of one datum that the layer must refuse with a ValueError.
        axes: how many axes of places there are.
    """

    name: str
    build: Callable[[], nn.Module]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    linear: bool = True
    wrong_shapes: tuple[tuple[int, ...], ...] = ()
    axes: int = 2

    def __str__(self) -> str:
        return self.name

    def layer(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        """The layer with every parameter (biases too) drawn by the seed."""
        layer = self.build().to(dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 3)
        return layer

    def data(self, batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        """Random maps `[batch, *in_shape]`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *self.in_shape, generator=generator, dtype=torch.float64).to(dtype)


class LayerContract:
    """The laws; see the module's notation."""

    def test_output_shape(self, case: LayerCase) -> None:
        for batch in (1, 3):
            y = case.layer()(case.data(batch))
            assert tuple(y.shape) == (batch, *case.out_shape), f"{tuple(y.shape)} for {case}"

    def test_to_dense_matches_forward(self, case: LayerCase) -> None:
        layer, x = case.layer(), case.data(4)
        if not case.linear:
            pytest.skip("not linear")
        dense = layer.to_dense(case.in_shape[-case.axes :])
        linear_part = (layer(x) - layer(torch.zeros_like(x))).flatten(1)
        assert_close((x.flatten(1) @ dense.T).detach(), linear_part.detach(), 1e-12, "to_dense")

    def test_sample_ignores_its_batch_mates(self, case: LayerCase) -> None:
        layer, x = case.layer(), case.data(64)
        x = x * torch.logspace(-2, 2, 64, dtype=x.dtype).reshape(
            -1, *[1] * len(case.in_shape)
        )  # loud neighbours
        together = layer(x).detach()
        alone = torch.cat([layer(x[i : i + 1]).detach() for i in range(64)])
        for i in range(64):
            assert_close(together[i], alone[i], 1e-12, f"sample {i} in a batch of 64 and alone")
        shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(2))
        assert_close(layer(x[shuffled]).detach(), together[shuffled], 1e-12, "samples in another order")

    def test_state_dict_round_trip(self, case: LayerCase) -> None:
        layer, other, x = case.layer(seed=0), case.layer(seed=5), case.data(2)
        stored = io.BytesIO()
        torch.save(layer.state_dict(), stored)
        stored.seek(0)
        other.load_state_dict(torch.load(stored, weights_only=True))
        assert torch.equal(layer(x), other(x))

    def test_float32_agrees_with_float64(self, case: LayerCase) -> None:
        single, double = case.layer(torch.float32), case.layer(torch.float64)
        x = case.data(3, torch.float32)
        y = single(x)
        assert y.dtype == torch.float32 and double(x.double()).dtype == torch.float64
        assert_close(y.detach().double(), double(x.double()).detach(), 1e-5, "float32")

    def test_vmap_over_data(self, case: LayerCase) -> None:
        layer, x = case.layer(), case.data(5)
        mapped = vmap(lambda datum: layer(datum[None])[0])(x)
        assert_close(mapped.detach(), layer(x).detach(), 1e-12, "vmap over data")

    def test_vmap_over_weights(self, case: LayerCase) -> None:
        layers, x = [case.layer(seed=s) for s in range(3)], case.data(2)
        names = [name for name, _ in layers[0].named_parameters()]
        stacked = {
            n: torch.stack([dict(layer.named_parameters())[n].detach() for layer in layers]) for n in names
        }
        if not names:
            pytest.skip("no parameters")
        mapped = vmap(lambda weights: functional_call(layers[0], weights, (x,)))(stacked)
        assert_close(mapped, torch.stack([layer(x).detach() for layer in layers]), 1e-12, "vmap over weights")

    def test_gradients_reach_everything(self, case: LayerCase) -> None:
        layer, x = case.layer(), case.data(2).requires_grad_()
        layer(x).square().sum().backward()
        for name, value in [("the input", x), *layer.named_parameters()]:
            assert value.grad is not None and bool(value.grad.isfinite().all()), name
            assert float(value.grad.norm()) > 0, f"no gradient at {name}"

    def test_wrong_shapes_are_refused(self, case: LayerCase) -> None:
        layer = case.layer()
        for shape in case.wrong_shapes:
            with pytest.raises(ValueError) as error:
                layer(torch.randn(2, *shape, dtype=torch.float64))
            message = str(error.value)
            assert "\n" not in message and any(str(s) in message for s in shape), message
