"""EKFAC: corrected eigenvalues against q_i^T H q_i, partial traces against the exact block, for every rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from oracles import assert_close, assert_refused, log_determinant
from torch import Tensor, nn
from toys import Batch, batch_of, digits, factored, linear_on_places, mixed, mlp, seeded, trained

import kfac
from kfac import EigenFactors, KroneckerFactors
from symlearn.layers import GroupConv2d, LiftingConv2d, SparseConv2d, SparseLinear2d
from symlearn.networks import build_model


def group_convolutions(variant: str) -> nn.Module:
    """Lifting, one group convolution of the variant, Linear."""
    return seeded(
        LiftingConv2d(1, 2),
        nn.Tanh(),
        GroupConv2d(2, 2, variant=variant),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2 * 4 * 9, 3),
    )


class Tied(nn.Module):
    """One Linear used three times, once on two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 4] -> [batch, 3]`."""
        h = self.layer(self.layer(x).tanh()).tanh()
        return self.last(self.layer(torch.stack([h, x], 1)).tanh().sum(1))


RULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "linear on places": (linear_on_places, (3, 2, 5)),
    "conv, f-fc, fc": (mixed, (2, 5, 4)),
    "grouped convolution": (
        lambda: seeded(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(54, 3)),
        (4, 3, 3),
    ),
    "s-fc": (
        lambda: seeded(SparseLinear2d(2, 3, (4, 3), (2, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
        (2, 4, 3),
    ),
    "s-conv": (
        lambda: seeded(SparseConv2d(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)),
        (2, 4, 3),
    ),
    "batch norm": (
        lambda: seeded(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)),
        (2, 4, 3),
    ),
    "tied": (lambda: seeded(Tied()), (4,)),
    **{
        f"group convolution, {variant}": (lambda variant=variant: group_convolutions(variant), (1, 3, 3))
        for variant in ("full", "separable", "depthwise-separable", "pointwise")
    },
}


def basis_vectors(factors: KroneckerFactors, eigen: EigenFactors, name: str) -> Tensor:
    """Eigenvectors as rows `[params, params]`, entries in `parameter.flatten()` order."""
    block, size = factors[name], len(eigen.eigenvalues[name])
    units = torch.eye(size, dtype=torch.float64)
    coordinates = [
        eigen.blocks[name].coordinates(block.to_groups(unit.reshape(block.shape))) for unit in units
    ]
    return torch.stack(coordinates, 1)


def assert_quadratic_forms(model: nn.Module, batch: Batch, likelihood: str, **options: str) -> None:
    """s_i = q_i^T H q_i for every vector of every parameter's basis."""
    fallback = "diagonal"
    factors = kfac.compute_factors(model, [batch], likelihood, fallback=fallback, **options)
    eigen = factors.eigendecompose(vectors=True)
    corrected = kfac.correct_eigenvalues(model, [batch], likelihood, eigen)
    assert corrected.names == eigen.names
    for name in factors.names:
        q, h = basis_vectors(factors, eigen, name), kfac.ggn_block(model, batch, likelihood, name)
        assert_close(corrected.eigenvalues[name], (q @ h * q).sum(1), 1e-10, name)


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("case", RULES)
def test_every_rule_gives_the_quadratic_forms(case: str, likelihood: str) -> None:
    build, shape = RULES[case]
    assert_quadratic_forms(build(), batch_of(shape, 6, likelihood=likelihood), likelihood)


@pytest.mark.parametrize("group_factors", ["grouped", "shared"])
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
def test_every_basis_gives_the_quadratic_forms(weight_sharing: str, group_factors: str) -> None:
    options = {"weight_sharing": weight_sharing, "group_factors": group_factors}
    assert_quadratic_forms(mixed(), batch_of((2, 5, 4), 6), "classification", **options)


@pytest.mark.parametrize("case", RULES)
def test_trace_is_the_exact_blocks(case: str) -> None:
    build, shape = RULES[case]
    model, batch = build(), batch_of(shape, 6)
    eigen = kfac.compute_factors(model, [batch], "classification").eigendecompose(vectors=True)
    corrected = kfac.correct_eigenvalues(model, [batch], "classification", eigen)
    for name, values in corrected.eigenvalues.items():
        trace = float(torch.trace(kfac.ggn_block(model, batch, "classification", name)))
        assert float(values.sum()) == pytest.approx(trace, rel=1e-10), name


def test_where_kfac_is_exact_nothing_changes() -> None:
    """One datum within groups; a Gaussian's last Linear; every bias."""
    for model, batch, likelihood in (
        (factored(), batch_of((2, 4, 3), 1), "classification"),
        (seeded(nn.Linear(5, 4)), batch_of((5,), 9, 4, "regression"), "regression"),
    ):
        eigen = kfac.compute_factors(model, [batch], likelihood).eigendecompose(vectors=True)
        corrected = kfac.correct_eigenvalues(model, [batch], likelihood, eigen)
        for name, values in eigen.eigenvalues.items():
            assert_close(corrected.eigenvalues[name], values, 1e-10, name)


def test_halves_add_in_one_basis() -> None:
    model, (x, y) = RULES["batch norm"][0](), batch_of((2, 4, 3), 7)
    fallback = {"1.weight": "diagonal"}
    factors = kfac.compute_factors(model, [(x, y)], "classification", fallback=fallback)
    eigen = factors.eigendecompose(vectors=True)
    parts = [
        kfac.correct_eigenvalues(model, [(x[s], y[s])], "classification", eigen)
        for s in (slice(3), slice(3, 7), slice(7))
    ]
    batches = kfac.correct_eigenvalues(model, [(x[:3], y[:3]), (x[3:], y[3:])], "classification", eigen)
    for name, values in parts[2].eigenvalues.items():
        assert_close((parts[0] + parts[1]).eigenvalues[name], values, 1e-12, f"halves of {name}")
        assert_close(batches.eigenvalues[name], values, 1e-12, f"batches of {name}")
    other = factors.eigendecompose()
    with pytest.raises(ValueError, match="add only in one basis"):
        _ = other + other


@pytest.mark.slow
def test_sampled_columns_converge_to_the_exact_ones() -> None:
    model, batch = mlp(), batch_of((5,), 6)
    eigen = kfac.compute_factors(model, [batch], "classification").eigendecompose(vectors=True)
    exact = kfac.correct_eigenvalues(model, [batch], "classification", eigen)
    drawn = kfac.correct_eigenvalues(
        model, [batch], "classification", eigen, fisher_type="mc", mc_samples=4000, seed=0
    )
    for name in eigen.names:
        assert_close(drawn.eigenvalues[name], exact.eigenvalues[name], 0.1, name)


def test_single_precision_agrees_with_double() -> None:
    model, (x, y) = mixed(), batch_of((2, 5, 4), 6)
    eigen = kfac.compute_factors(model, [(x, y)], "classification").eigendecompose(vectors=True)
    double = kfac.correct_eigenvalues(model, [(x, y)], "classification", eigen)
    single = kfac.correct_eigenvalues(model.float(), [(x.float(), y)], "classification", eigen)
    for name, values in double.eigenvalues.items():
        assert single.eigenvalues[name].dtype == torch.float64
        assert_close(single.eigenvalues[name], values, 1e-4, name)


def test_wrong_input_is_named() -> None:
    model, batch = mlp(), batch_of((5,), 4)
    factors = kfac.compute_factors(model, [batch], "classification")
    with pytest.raises(ValueError, match="vectors=True"):
        kfac.correct_eigenvalues(model, [batch], "classification", factors.eigendecompose())
    eigen = factors.eigendecompose(vectors=True)
    with pytest.raises(ValueError, match=r"basis and model differ in 0\.0\.0\.bias, "):
        kfac.correct_eigenvalues(seeded(nn.Sequential(mlp())), [batch], "classification", eigen)
    with pytest.raises(ValueError, match="gave no data"):
        kfac.correct_eigenvalues(model, [], "classification", eigen)


@pytest.mark.parametrize("case", RULES)
def test_partial_traces_are_the_exact_blocks(case: str) -> None:
    """A' (x) B' / tr H has the block's own partial traces, in every group."""
    build, shape = RULES[case]
    model, batch = build(), batch_of(shape, 6)
    factors = kfac.compute_factors(model, [batch], "classification")
    eigen = kfac.partial_trace_basis(model, [batch], "classification")
    assert eigen.names == factors.names
    for name in eigen.names:
        q, h = basis_vectors(factors, eigen, name), kfac.ggn_block(model, batch, "classification", name)
        found = q.T @ torch.diag(eigen.eigenvalues[name]) @ q
        places = factors[name].to_groups(torch.arange(len(h)).reshape(factors[name].shape))
        for group in places:
            d_out, d_in = group.shape
            for sums in ("oioj->ij", "oipi->op"):
                inside = [
                    torch.einsum(
                        sums, m[group.flatten()][:, group.flatten()].reshape(d_out, d_in, d_out, d_in)
                    )
                    for m in (found, h)
                ]
                assert_close(*inside, 1e-10, f"{sums} of {name}")


def test_partial_traces_with_a_diagonal_block_and_several_batches() -> None:
    model, (x, y) = RULES["batch norm"][0](), batch_of((2, 4, 3), 7)
    fallback = {"1.weight": "diagonal"}
    whole = kfac.partial_trace_basis(model, [(x, y)], "classification", fallback=fallback)
    parts = kfac.partial_trace_basis(
        model, [(x[:3], y[:3]), (x[3:], y[3:])], "classification", fallback=fallback
    )
    for name in whole.names:
        assert_close(parts.eigenvalues[name], whole.eigenvalues[name], 1e-9, name)
    corrected = kfac.correct_eigenvalues(model, [(x, y)], "classification", whole)
    assert torch.equal(corrected.eigenvalues["1.weight"], whole.eigenvalues["1.weight"])
    with pytest.raises(ValueError, match="gave no data"):
        kfac.partial_trace_basis(model, [], "classification")


def log_determinant_errors(model: nn.Module, batch: Batch, delta: Mapping[str, float]) -> dict[str, float]:
    """Mean error of the log determinant over the weights, against the exact blocks, by estimator."""
    shared = kfac.compute_factors(model, [batch], "classification", group_factors="shared")
    basis = kfac.compute_factors(model, [batch], "classification").eigendecompose(vectors=True)
    traces = kfac.partial_trace_basis(model, [batch], "classification")
    spectra = {
        "shared": shared.eigendecompose(),
        "grouped": basis,
        "ekfac": kfac.correct_eigenvalues(model, [batch], "classification", basis),
        "partial traces": traces,
        "ekfac, partial traces": kfac.correct_eigenvalues(model, [batch], "classification", traces),
    }
    errors = dict.fromkeys(spectra, 0.0)
    weights = [name for name in basis.names if name.endswith("weight")]
    for name in weights:
        exact = log_determinant(kfac.ggn_block(model, batch, "classification", name), delta[name])
        for kind, eigen in spectra.items():
            found = float(torch.log(eigen.eigenvalues[name] + delta[name]).sum())
            errors[kind] += abs(found - exact) / len(weights)
    return errors


def evidence_precisions(model: nn.Module, batch: Batch) -> dict[str, float]:
    """MacKay's fixed point gamma / ||theta||^2 of every tensor."""
    eigen = kfac.compute_factors(model, [batch], "classification").eigendecompose()
    norms = {name: float(p.detach().square().sum()) for name, p in model.named_parameters()}
    delta = dict.fromkeys(eigen.names, 1.0)
    for _ in range(30):
        gamma = eigen.effective_parameters(delta)
        delta = {n: math.sqrt(delta[n] * float(gamma[n]) / max(norms[n], 1e-9)) for n in delta}
    return delta


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "ekfac", "partial_traces"),
    [("f-fc", 0.6, 0.5), ("mixture", 0.7, 0.6), ("zero-padded", 0.95, 0.75)],
)
def test_log_determinant_error_beside_shared_kfac(kind: str, ekfac: float, partial_traces: float) -> None:
    """At the precisions that the evidence learns, as a part of `shared` KFAC's error.

    Where the exact block's own basis is far from a Kronecker product, correcting eigenvalues alone does not
    halve the error; the basis of partial traces does, on the network of factored layers.
    """
    model, batch = trained(kind), digits()
    errors = log_determinant_errors(model, batch, evidence_precisions(model, batch))
    assert errors["ekfac"] < min(errors["grouped"], ekfac * errors["shared"]), errors
    assert errors["ekfac, partial traces"] < partial_traces * errors["shared"], errors


def test_weights_in_several_roles_are_refused_by_name() -> None:
    """A bank analyses and synthesises: its gradients lie differently in the two."""
    torch.manual_seed(0)
    model = build_model("free", network="unfolded", size=8, alpha=2).double()
    batch = batch_of((1, 8, 8), 4, outputs=10)
    eigen = kfac.compute_factors(model, [batch], "classification").eigendecompose(vectors=True)
    words = "layers.0.paths.free.analysis.weight"
    assert_refused(lambda: kfac.correct_eigenvalues(model, [batch], "classification", eigen), words)
    assert_refused(lambda: kfac.partial_trace_basis(model, [batch], "classification"), "several roles")
