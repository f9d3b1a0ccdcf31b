"""F-FC as two grouped linear maps against the `block_diag` expansion of its input.

The reference code of van der Ouderaa et al. 2023 lays every sample's channels along a block diagonal, c_in
(resp. c_out) times as large, and puts an ordinary `nn.Linear` on it. Both forms give the same numbers.
Sizes: c 20 -> 40, 16 x 16 -> 8 x 8, batch 128.

    python experiments/benchmarks/f_fc.py

Axes: batch, c_in, c_out, x (input place), v (output place).
"""

from __future__ import annotations

import torch
from timing import Comparison, Prepare, Side, at_scale, benchmark
from torch import Tensor, nn

import kfac
from symlearn.layers import FactoredLinear2d

BATCH, C_IN, C_OUT, IN_SIZE, OUT_SIZE = at_scale((128, 20, 40, 16, 8), smoke=(4, 2, 3, 4, 2))
CLASSES = 10


class ExpandedFactoredLinear2d(nn.Module):
    """F-FC with expanded inputs and ordinary linear maps; takes over the weights of the grouped form."""

    def __init__(self, grouped: FactoredLinear2d) -> None:
        super().__init__()
        theta1, theta2 = grouped.theta1, grouped.theta2
        c_out, c_in, x = theta1.weight.shape
        v = theta2.weight.shape[2]
        self.out_size = grouped.out_size
        self.linear1, self.linear2 = nn.Linear(c_in * x, c_out), nn.Linear(c_out * c_in, v)
        with torch.no_grad():
            self.linear1.weight.copy_(theta1.weight.flatten(1))
            self.linear2.weight.copy_(theta2.weight.flatten(0, 1).T)
            for linear, theta in ((self.linear1, theta1), (self.linear2, theta2)):
                assert theta.bias is not None
                linear.bias.copy_(theta.bias)

    @staticmethod
    def block_diagonal(x: Tensor) -> Tensor:
        """`[batch, c, d] -> [batch, c, c * d]`, every channel in a block of its own."""
        return torch.diag_embed(x.transpose(1, 2), dim1=1, dim2=2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, c_in, h, w] -> [batch, c_out, h', w']`."""
        z = self.linear1(self.block_diagonal(x.flatten(2)))  # [batch, c_in, c_out]
        return self.linear2(self.block_diagonal(z.transpose(1, 2))).unflatten(2, self.out_size)


def layers() -> dict[str, nn.Module]:
    """The two forms with equal weights."""
    torch.manual_seed(0)
    grouped = FactoredLinear2d(C_IN, C_OUT, IN_SIZE, OUT_SIZE)
    return {"grouped": grouped, "block_diag": ExpandedFactoredLinear2d(grouped)}


def images() -> Tensor:
    """`[batch, c_in, h, w]`."""
    return torch.randn(BATCH, C_IN, IN_SIZE, IN_SIZE, generator=torch.Generator().manual_seed(1))


def forward_backward(form: str) -> Prepare:
    """Output, and the gradients of the weights and of the input."""

    def prepare() -> Side:
        layer, x = layers()[form], images().requires_grad_()
        cotangent = torch.randn(BATCH, C_OUT, OUT_SIZE, OUT_SIZE)
        inputs = [x, *layer.parameters()]
        return lambda: torch.autograd.grad(layer(x), inputs, cotangent)

    return prepare


def factors(form: str) -> Prepare:
    """Type-2 factors of the layer's parameters under a frozen linear head, and their eigenvalues."""

    def prepare() -> Side:
        layer, x = layers()[form], images()
        head = nn.Linear(C_OUT * OUT_SIZE**2, CLASSES).requires_grad_(False)
        model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), head)
        loader = [(x, torch.arange(BATCH) % CLASSES)]
        return lambda: kfac.compute_factors(model, loader, "classification").eigendecompose()

    return prepare


def check_that_both_forms_agree() -> None:
    """Refuse to compare different functions."""
    both, x = layers(), images()
    error = float((both["grouped"](x) - both["block_diag"](x)).abs().max().detach())
    if error > 1e-4:
        raise RuntimeError(f"the two forms differ by {error:.1e}")


if __name__ == "__main__":
    check_that_both_forms_agree()
    forms = ("grouped", "block_diag")
    benchmark(
        "f_fc",
        {
            **{f"{form}, forward + backward": forward_backward(form) for form in forms},
            **{f"{form}, factors": factors(form) for form in forms},
        },
        [
            Comparison(
                f"block_diag / grouped, {what}",
                f"block_diag, {what}",
                f"grouped, {what}",
                at_least=bound,
            )
            for what, bound in (("forward + backward", 15), ("factors", 80))
        ],
        repeats=5,
    )
