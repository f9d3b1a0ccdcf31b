"""S-FC and S-CONV: the contract, their formulas written out, and what their bases must and must not do."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contracts import LayerCase, LayerContract
from oracles import assert_close
from torch import Tensor, nn
from torch.func import functional_call

from symlearn.layers import CircularConv2d, FactoredLinear2d, SparseConv2d, SparseLinear2d
from symlearn.layers.anchor_basis import AnchorBasis, grid_points

SIZES = [
    # c_in, c_out, in_size, out_size
    (2, 3, 4, 2),
    (3, 2, (4, 6), (2, 3)),
    (1, 4, (5, 3), (5, 3)),
    (2, 1, (1, 7), 1),
]


def seeded(build, seed: int = 3):
    """A layer whose anchors are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def linear_cases() -> list[LayerCase]:
    """S-FC at every size."""
    found = []
    for c_in, c_out, in_size, out_size in SIZES:
        h_w = (in_size, in_size) if isinstance(in_size, int) else in_size
        out = (out_size, out_size) if isinstance(out_size, int) else out_size

        def build(shape=(c_in, c_out, in_size, out_size)) -> nn.Module:
            return seeded(lambda: SparseLinear2d(*shape))

        wrong = ((c_in + 1, *h_w), (c_in, h_w[0] + 1, h_w[1]), (c_in, h_w[0]))
        found.append(
            LayerCase(
                f"{c_in}x{h_w} to {c_out}x{out}", build, (c_in, *h_w), (c_out, *out), wrong_shapes=wrong
            )
        )
    return found


def conv_cases() -> list[LayerCase]:
    """S-CONV with odd, even and non-square filters, in every padding mode."""
    found = []
    for kernel in (3, (2, 5), (1, 4)):
        for mode in ("circular", "zeros", "reflect", "replicate"):

            def build(kernel=kernel, mode=mode) -> nn.Module:
                return seeded(lambda: SparseConv2d(2, 3, kernel, padding_mode=mode))

            found.append(LayerCase(f"{kernel} {mode}", build, (2, 6, 7), (3, 6, 7)))
    return found


@pytest.mark.parametrize("case", linear_cases(), ids=str)
class TestSparseLinear2d(LayerContract):
    """S-FC."""


@pytest.mark.parametrize("case", conv_cases(), ids=str)
class TestSparseConv2d(LayerContract):
    """S-CONV."""


def basis_by_hand(basis: AnchorBasis) -> np.ndarray:
    """Phi `[anchor, point]` by loops in numpy."""
    z, l = basis.anchors.double().numpy(), float(basis.lengthscale)  # noqa: E741
    h, w = basis.size
    grid = [(r, c) for r in range(h) for c in range(w)]

    def k(a, b) -> float:
        return math.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * l**2))

    kzz = np.array([[k(a, b) for b in z] for a in z]) + float(basis.noise) ** 2 * np.eye(len(z))
    kzx = np.array([[k(a, b) for b in grid] for a in z])
    return np.linalg.solve(kzz, kzx)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 6)], ids=str)
@pytest.mark.parametrize("lengthscale", [0.5, 1.0, 3.0])
def test_basis_is_gaussian_process_interpolation(size: tuple[int, int], lengthscale: float) -> None:
    basis = AnchorBasis(size, 0.5, lengthscale).double()
    assert_close(basis(), torch.from_numpy(basis_by_hand(basis)), 1e-6, "Phi")


def test_linear_is_the_sum_over_its_basis_functions() -> None:
    layer = seeded(lambda: SparseLinear2d(2, 3, (3, 4), (2, 3))).double()
    phi1, phi2 = basis_by_hand(layer.theta1.basis), basis_by_hand(layer.theta2.basis)
    u1, u2 = layer.theta1.weight.detach().numpy(), layer.theta2.weight.detach().numpy()
    dense = np.zeros((3, 6, 2, 12))
    for o in range(3):
        for v in range(6):
            for i in range(2):
                for x in range(12):
                    theta1 = sum(u1[o, i, p] * phi1[p, x] for p in range(len(phi1)))
                    theta2 = sum(u2[o, i, q] * phi2[q, v] for q in range(len(phi2)))
                    dense[o, v, i, x] = theta1 * theta2
    truth = torch.from_numpy(dense.reshape(18, 24))
    assert_close(layer.to_dense().detach(), truth, 1e-6, "to_dense")


def test_convolution_is_the_sum_over_its_basis_functions() -> None:
    layer = seeded(lambda: SparseConv2d(2, 3, (3, 5))).double()
    phi, u = basis_by_hand(layer.basis), layer.weight.detach().numpy()
    dense = np.zeros((3, 6, 7, 2, 6, 7))
    for row in range(6):
        for column in range(7):
            for t in range(15):
                down, right = t // 5 - 1, t % 5 - 2
                for p in range(len(phi)):
                    dense[:, row, column, :, (row + down) % 6, (column + right) % 7] += u[:, :, p] * phi[p, t]
    truth = torch.from_numpy(dense.reshape(3 * 42, 2 * 42))
    assert_close(layer.to_dense((6, 7)).detach(), truth, 1e-6, "to_dense")


def test_anchors_on_the_grid_give_the_dense_layers_back() -> None:
    in_size, out_size, kernel = (5, 4), (3, 4), (3, 2)
    dense = FactoredLinear2d(2, 3, in_size, out_size)
    sparse = SparseLinear2d(
        2, 3, in_size, out_size, anchors=(grid_points(in_size), grid_points(out_size)), noise=1e-5
    )
    with torch.no_grad():
        sparse.theta1.weight.copy_(dense.theta1.weight)
        sparse.theta2.weight.copy_(dense.theta2.weight)
    assert_close(sparse.to_dense(), dense.to_dense(), 1e-4, "S-FC against F-FC")
    x = torch.randn(3, 2, *in_size)
    assert_close(sparse(x), dense(x), 1e-4, "outputs, with all biases zero")
    conv = CircularConv2d(2, 3, kernel)
    sparse_conv = SparseConv2d(2, 3, kernel, anchors=grid_points(kernel), noise=1e-5)
    with torch.no_grad():
        sparse_conv.weight.copy_(conv.weight.flatten(2))
    assert_close(sparse_conv.to_dense((5, 6)), conv.to_dense((5, 6)), 1e-4, "S-CONV against CONV")


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (3, 8)], ids=str)
def test_circular_padding_is_real(size: tuple[int, int]) -> None:
    layer = SparseConv2d(2, 3, (3, 4)).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    for down in range(size[0]):
        for right in range(size[1]):
            shift = (down, right)
            assert_close(
                layer(x.roll(shift, (2, 3))), layer(x).roll(shift, (2, 3)), 1e-12, f"a shift by {shift}"
            )


def test_zero_padding_is_that_of_torch() -> None:
    layer = SparseConv2d(2, 3, (3, 4), padding_mode="zeros")
    x = torch.randn(2, 2, 5, 6)
    assert_close(layer(x), F.conv2d(x, layer.filters(), layer.bias, padding="same"), 1e-6, "zeros")


def test_initial_values_are_the_least_squares_fit() -> None:
    basis = AnchorBasis((5, 4), 0.5).double()
    dense = torch.randn(7, 20, dtype=torch.float64)
    residual = dense - basis.fitted(dense) @ basis()
    assert float((residual @ basis().T).abs().max()) < 1e-8, "the residual is orthogonal to the basis"
    layer = SparseLinear2d(30, 30, 6, 6)
    for factor, bound in ((layer.theta1, math.sqrt(3 / 36)), (layer.theta2, math.sqrt(3 / 30))):
        spread = float((factor.weight @ factor.basis()).std())
        assert 0.4 * bound / math.sqrt(3) < spread < bound / math.sqrt(3), "about the dense factor's spread"


def test_a_long_lengthscale_makes_weights_stationary() -> None:
    layer = SparseLinear2d(2, 2, (4, 5), (4, 5), lengthscale=1e4, noise=0.1).double()
    dense = layer.to_dense().unflatten(0, (2, 20)).unflatten(2, (2, 20))
    assert float(dense.std((1, 3)).max()) < 1e-3 * float(dense.abs().mean())


COUNTS = [(0.5, 9, 5), (0.8, 9, 8), (1.0, 9, 9), (0.5, 1024, 512), (0.1, 20, 2), (3, 9, 3), (1, 9, 1)]


@pytest.mark.parametrize(("anchors", "points", "count"), COUNTS)
def test_number_of_anchors(anchors: float | int, points: int, count: int) -> None:
    size = {9: 3, 1024: 32, 20: (4, 5)}[points]
    assert len(AnchorBasis(size, anchors)) == count


def test_anchors_are_drawn_over_the_whole_support() -> None:
    torch.manual_seed(0)
    places = torch.cat([AnchorBasis((3, 5), 1.0).anchors for _ in range(100)])
    assert float(places.min()) > -0.5
    for axis, side in enumerate((3, 5)):
        assert -0.5 < float(places[:, axis].min()) < -0.4
        assert side - 0.6 < float(places[:, axis].max()) < side - 0.5
        assert abs(float(places[:, axis].mean()) - (side - 1) / 2) < 0.1


class TestKeptBasis:
    """Phi is computed once, and never stale."""

    def test_is_kept(self) -> None:
        basis = AnchorBasis(4)
        assert basis() is basis()

    def test_follows_steps_in_place(self) -> None:
        basis = AnchorBasis(4)
        before = basis().clone()
        with torch.no_grad():
            basis.log_lengthscale.add_(0.5)
        assert not torch.allclose(basis(), before)
        with torch.no_grad():
            basis.log_lengthscale.sub_(0.5)
        assert torch.allclose(basis(), before, atol=1e-6)

    def test_follows_loaded_states_and_dtypes(self) -> None:
        one, other = AnchorBasis(4), AnchorBasis(4, lengthscale=2.0)
        one(), other()
        other.load_state_dict(one.state_dict())
        assert torch.equal(one(), other())
        assert one.double()().dtype == torch.float64

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
    def test_copies_start_without_it(self, copied) -> None:
        basis = AnchorBasis(4)
        with torch.no_grad():
            basis.log_lengthscale.add_(0.1)
        basis()
        twin = copied(basis)
        with torch.no_grad():
            twin.log_lengthscale.add_(1.0)
            assert not torch.allclose(twin(), basis())

    def test_other_hyperparameters_for_one_call(self) -> None:
        layer = SparseConv2d(1, 1)
        x = torch.randn(1, 1, 5, 5)
        other = functional_call(layer, {"basis.log_lengthscale": torch.tensor(1.0)}, (x,))
        with torch.no_grad():
            layer.basis.log_lengthscale.fill_(1.0)
        assert_close(layer(x), other, 1e-6, "functional_call")

    def test_gradients_pass_through(self) -> None:
        layer = SparseLinear2d(1, 2, 4, 2).double()
        layer(torch.randn(2, 1, 4, 4, dtype=torch.float64))

        def value(log_lengthscale: Tensor) -> Tensor:
            name = "theta1.basis.log_lengthscale"
            return functional_call(layer, {name: log_lengthscale}, (torch.ones(1, 1, 4, 4).double(),))

        assert torch.autograd.gradcheck(value, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))


def test_a_kernel_that_is_not_positive_definite_is_said() -> None:
    with pytest.raises(ValueError, match="4 anchors is not positive definite at lengthscale 1"):
        AnchorBasis(3, torch.ones(4, 2), noise=1e-12)()


WRONG = {
    "more anchors than points": (lambda: SparseConv2d(1, 1, 3, anchors=10), "10 anchors are more than the 9"),
    "more places than points": (
        lambda: AnchorBasis(1, torch.zeros(2, 2)),
        "2 anchors are more than the 1",
    ),
    "no anchors": (lambda: SparseConv2d(1, 1, 3, anchors=0), "fraction in"),
    "half an anchor too many": (lambda: SparseConv2d(1, 1, 3, anchors=1.5), "fraction in"),
    "lengthscale zero": (lambda: SparseLinear2d(1, 1, 3, 3, lengthscale=0.0), "lengthscale must be positive"),
    "lengthscale negative": (lambda: SparseConv2d(1, 1, lengthscale=-1.0), "lengthscale must be positive"),
    "lengthscale nan": (lambda: SparseConv2d(1, 1, lengthscale=math.nan), "lengthscale must be positive"),
    "noise zero": (lambda: SparseConv2d(1, 1, noise=0.0), "noise must be positive"),
    "anchors outside": (
        lambda: SparseConv2d(1, 1, (3, 4), anchors=torch.tensor([[0.0, 3.6]])),
        r"rows in \(-0.5, 2.5\) and columns in \(-0.5, 3.5\)",
    ),
    "anchors not pairs": (lambda: AnchorBasis(3, torch.zeros(4, 3)), r"\[anchor, 2\], got \[4, 3\]"),
    "unknown to learn": (lambda: AnchorBasis(3, learn=("sound",)), "cannot learn"),
    "padding": (lambda: SparseConv2d(1, 1, padding_mode="mirror"), "unknown padding mode 'mirror'"),
    "channels": (lambda: SparseLinear2d(0, 1, 3, 3), "channel counts must be positive"),
    "hyperprior": (lambda: AnchorBasis(3, lengthscale_precision=0.0), "lengthscale_precision must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str) -> None:
    build, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        build()
