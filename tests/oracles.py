"""Dense oracles and comparisons that the tests share: what is exact, and how far off something is.

Axes as in `kfac`: batch, place, d_in, d_out, group, params.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import kfac
from kfac import KroneckerFactors

Batch = tuple[Tensor, Tensor]


def relative_error(found: Tensor, truth: Tensor) -> float:
    """||found - truth|| / ||truth||, or ||found|| where the truth is zero."""
    found, truth = found.detach(), truth.detach()
    scale = float(truth.norm())
    return float((found - truth).norm()) / (scale if scale > 0 else 1.0)


def assert_close(found: Tensor, truth: Tensor, tolerance: float, what: str) -> None:
    """Fail with the relative error, and the worst entry's place and values."""
    assert found.shape == truth.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(truth.shape)}"
    error = relative_error(found, truth)
    if not error <= tolerance:
        place = int((found - truth).abs().argmax())
        worst = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), found.shape))
        raise AssertionError(
            f"{what}: relative error {error:.2e} > {tolerance:.0e}; worst at {worst}: "
            f"{float(found.flatten()[place]):.6g} for {float(truth.flatten()[place]):.6g}"
        )


def same_group(factors: KroneckerFactors, name: str) -> Tensor:
    """Mask `[params, params]` of the entries within one group (Kronecker factors have no others)."""
    block = factors[name]
    assert isinstance(block, kfac.KroneckerBlock)
    labels = torch.arange(block.groups)[:, None, None].expand(block.to_groups(torch.empty(block.shape)).shape)
    flat = torch.empty(block.shape, dtype=torch.long)
    block.to_groups(flat).copy_(labels)  # a view, so this writes the labels in parameter order
    return flat.flatten()[:, None] == flat.flatten()[None, :]


def assert_exact(
    factors: KroneckerFactors,
    model: nn.Module,
    batch: Batch,
    likelihood: str,
    name: str,
    tolerance: float = 1e-10,
) -> None:
    """The factors' block equals the exact GGN block within every group; between groups it is zero."""
    truth = kfac.ggn_block(model, batch, likelihood, name)
    found = factors.to_dense(name)
    mask = same_group(factors, name)
    assert_close(found, torch.where(mask, truth, 0.0), tolerance, f"block of {name}")


def log_determinant(block: Tensor, delta: float) -> float:
    """log det(H + delta I) of a dense block, in float64."""
    identity = torch.eye(len(block), dtype=torch.float64)
    return float(torch.linalg.slogdet(block.double() + delta * identity).logabsdet)


def conv_patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """Patches `[group, batch, place, d_in]` of a convolution, place by place, from `F.pad` alone."""
    k_h, k_w = module.kernel_size
    s_h, s_w = module.stride
    d_h, d_w = module.dilation
    pads = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, pads, mode=mode)
    height = (padded.shape[2] - d_h * (k_h - 1) - 1) // s_h + 1
    width = (padded.shape[3] - d_w * (k_w - 1) - 1) // s_w + 1
    places = []
    for i, j in itertools.product(range(height), range(width)):
        window = padded[:, :, i * s_h :, j * s_w :][
            :, :, : d_h * (k_h - 1) + 1 : d_h, : d_w * (k_w - 1) + 1 : d_w
        ]
        places.append(window.reshape(len(x), module.groups, -1))
    return torch.stack(places, 2).transpose(0, 1)


def per_datum_gradients(model: nn.Module, batch: Batch, name: str) -> Tensor:
    """Gradients `[batch, params]` of each datum's own cross-entropy, by autograd."""
    x, y = batch
    parameters = {key: p.detach() for key, p in model.named_parameters()}

    def loss(value: Tensor, x_n: Tensor, y_n: Tensor) -> Tensor:
        outputs = functional_call(model, {**parameters, name: value}, (x_n[None],))
        return F.cross_entropy(outputs, y_n[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters[name], x, y).flatten(1)


def block_diagonal_f_fc(layer: nn.Module, x: Tensor) -> Tensor:
    """F-FC by the `block_diag` expansion: both factors as one large sparse matrix each.

    The channels of the input are laid side by side c_in-fold, so that one ordinary linear map applies theta1
    to all of them, and again for theta2: what the reference code does.
    """
    theta1, theta2 = layer.theta1, layer.theta2
    c_out, c_in, _ = theta1.weight.shape
    expanded1 = torch.block_diag(*theta1.weight.transpose(0, 1))  # [c_in * c_out, c_in * x]
    z = x.flatten(1) @ expanded1.T  # [batch, c_in * c_out]
    z = z.unflatten(1, (c_in, c_out)).transpose(1, 2)
    if theta1.bias is not None:
        z = z + theta1.bias[:, None]
    expanded2 = torch.block_diag(*theta2.weight)  # [c_out * c_in, c_out * v]
    y = (z.flatten(1) @ expanded2).unflatten(1, (c_out, -1))
    if theta2.bias is not None:
        y = y + theta2.bias
    return y.unflatten(2, layer.out_size)


def assert_refused(call: Callable[[], object], words: str) -> None:
    """The call raises a ValueError of one line that holds these words."""
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value) and words in str(error.value), str(error.value)


def free_taps(matrices: list[np.ndarray], k: int) -> bool:
    """Whether filters are k x k free taps: all elements permute them; otherwise they are harmonics."""
    return k == 1 or all(np.allclose(matrix, np.round(matrix)) for matrix in matrices)


def harmonic_values(k: int, places: np.ndarray) -> np.ndarray:
    """The circular harmonics of a k x k support at any places (row, column), `[place, coefficient]`.

    By complex powers ((row + i column) / rho)^m; normalised over the taps, pair by pair.
    """
    edge = (k - 1) / 2
    taps = np.array(list(itertools.product(np.arange(k) - edge, repeat=2)))

    def values(radius: float, m: int, at: np.ndarray) -> np.ndarray:
        z = at[:, 0] + 1j * at[:, 1]
        rho = np.abs(z)
        width = 0.45 if radius == edge else 0.6
        unit = np.where(rho > 1e-9, z / np.maximum(rho, 1e-9), 1.0 if m == 0 else 0.0)
        wave = np.exp(-((rho - radius) ** 2) / (2 * width**2)) * unit**m
        return np.stack([wave.real, wave.imag] if m else [wave.real], 1)

    found = []
    for radius in np.arange(edge % 1, edge + 0.5):
        highest = 0 if radius == 0 else math.floor(radius + 1 if radius == edge else 2 * radius)
        for m in range(highest + 1):
            norm = np.sqrt((values(radius, m, taps) ** 2).sum(0).mean())
            found.append(values(radius, m, places) / norm)
    return np.concatenate(found, 1)
