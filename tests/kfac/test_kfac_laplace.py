"""laplace-torch on our factors: its own test patterns, its other backends, every layer of ours."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toys import Batch, batch_of, factored, mixed, mlp, seeded

import kfac
from symlearn.layers import GroupConv2d, LiftingConv2d, SparseConv2d, SparseLinear2d

pytestmark = pytest.mark.filterwarnings("ignore")  # laplace-torch and what it imports warn about themselves


def laplace(
    model: nn.Module, likelihood: str, subset: str = "all", structure: str = "kron", **options: Any
) -> Any:
    """`laplace.Laplace`, imported late."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from laplace import Laplace
    options.setdefault("backend", kfac.KfacGGN)
    return Laplace(model, likelihood, subset, structure, **options)


def loader(batch: Batch, size: int = 4) -> DataLoader:
    """Batches in order."""
    return DataLoader(TensorDataset(*batch), batch_size=size)


def conv_net() -> nn.Module:
    """Zero-padded convolution and Linear, no biases: what curvlinops reads right."""
    return seeded(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(60, 3, bias=False)
    )


EVERY_LAYER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (mlp, (5,)),
    "conv, f-fc, fc": (mixed, (2, 5, 4)),
    "f-fc": (factored, (2, 4, 3)),
    "s-fc, s-conv": (
        lambda: seeded(
            SparseConv2d(2, 2),
            nn.Tanh(),
            SparseLinear2d(2, 3, (4, 3), (2, 2)),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (2, 4, 3),
    ),
    "group convolution": (
        lambda: seeded(
            LiftingConv2d(1, 2), nn.Tanh(), GroupConv2d(2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 3)
        ),
        (1, 3, 3),
    ),
    "norm layers": (
        lambda: seeded(
            nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 3)
        ),
        (2, 4, 3),
    ),
}


def dense_posterior(
    model: nn.Module, batch: Batch, likelihood: str, delta: Tensor, sigma: float = 1.0
) -> Tensor:
    """P = H / sigma^2 + delta, block by block from the factors, `[params, params]`."""
    factors = kfac.compute_factors(model, [batch], likelihood)
    blocks = [
        factors.to_dense(name) / sigma**2 + float(d) * torch.eye(factors[name].shape.numel())
        for name, d in zip(factors.names, delta, strict=True)
    ]
    return torch.block_diag(*blocks)


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
@pytest.mark.parametrize("case", EVERY_LAYER)
def test_every_layer_against_dense_algebra(case: str, likelihood: str) -> None:
    """Log determinant, evidence, variances and samples, with a precision for each parameter."""
    build, shape = EVERY_LAYER[case]
    model, batch = build(), batch_of(shape, 9, likelihood=likelihood)
    sigma = 0.6 if likelihood == "regression" else 1.0
    delta = torch.linspace(0.4, 1.7, len(list(model.parameters())), dtype=torch.float64)
    la = laplace(model, likelihood, prior_precision=delta, sigma_noise=sigma)
    la.fit(loader((batch[0], batch[1])))
    dense = dense_posterior(model, batch, likelihood, delta, sigma)
    assert float(la.log_det_posterior_precision) == pytest.approx(float(torch.logdet(dense)), rel=1e-10)
    assert_close(la.posterior_precision.to_matrix(), dense, 1e-10, "P")
    assert_close(la.H_facs.to_matrix(), dense_posterior(model, batch, likelihood, 0 * delta), 1e-10, "H")
    jacobian, _ = la.backend.jacobians(batch[0][:3])
    variance = jacobian @ torch.linalg.inv(dense) @ jacobian.mT
    assert_close(la.functional_variance(jacobian), variance, 1e-8, "functional variance")
    assert_close(la.posterior_precision.diag(), dense.diagonal(), 1e-10, "diagonal")
    root = la.posterior_precision.to_matrix(-0.5)
    assert_close(root @ dense @ root, torch.eye(len(dense)), 1e-8, "P^-1/2 P P^-1/2")
    drawn = la.sample(5, generator=torch.Generator().manual_seed(0)) - la.mean
    noise = torch.randn(5, la.n_params, generator=torch.Generator().manual_seed(0))
    assert_close(drawn, noise @ root, 1e-8, "samples")
    norms = torch.stack([p.detach().square().sum() for p in model.parameters()])
    counts = torch.tensor([float(p.numel()) for p in model.parameters()])
    fit = kfac.compute_factors(model, [batch], likelihood).log_likelihood
    if likelihood == "regression":
        fit = fit / sigma**2 - batch[1].numel() * math.log(sigma * math.sqrt(2 * math.pi))
    evidence = (
        fit - 0.5 * float(delta @ norms) + 0.5 * float(counts @ delta.log()) - 0.5 * torch.logdet(dense)
    )
    assert float(la.log_marginal_likelihood()) == pytest.approx(float(evidence), rel=1e-9)


@pytest.fixture(autouse=True)
def double() -> Any:
    """Noise and identities in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_agrees_with_the_curvlinops_backend(likelihood: str) -> None:
    """Where it is right: zero padding, no biases."""
    from laplace.curvature.curvlinops import CurvlinopsGGN

    model, batch = conv_net(), batch_of((2, 5, 4), 12, likelihood=likelihood)
    options = {"prior_precision": torch.tensor([0.3, 2.0])}
    ours = laplace(model, likelihood, **options)
    theirs = laplace(model, likelihood, backend=CurvlinopsGGN, **options)
    assert type(theirs).__name__ == "KronLaplace", "other backends keep laplace-torch's own class"
    for la in (ours, theirs):
        la.fit(loader(batch, 12))
    assert float(ours.log_marginal_likelihood()) == pytest.approx(
        float(theirs.log_marginal_likelihood()), rel=1e-8
    )
    (mean, variance), (their_mean, their_variance) = (
        la._glm_predictive_distribution(batch[0][:4]) for la in (ours, theirs)
    )
    assert_close(mean, their_mean, 1e-12, "mean")
    assert_close(variance, their_variance, 1e-8, "variance")


def test_agrees_with_the_full_ggn_where_kfac_is_exact() -> None:
    model, batch = seeded(nn.Linear(5, 3, bias=False)), batch_of((5,), 12, likelihood="regression")
    ours = laplace(model, "regression", sigma_noise=0.7, prior_precision=0.4)
    full = laplace(model, "regression", structure="full", sigma_noise=0.7, prior_precision=0.4)
    for la in (ours, full):
        la.fit(loader(batch))
    assert float(ours.log_marginal_likelihood()) == pytest.approx(
        float(full.log_marginal_likelihood()), rel=1e-10
    )
    for found, truth in zip(ours(batch[0]), full(batch[0]), strict=True):
        assert_close(found, truth, 1e-10, "predictive")


@pytest.mark.parametrize(
    "pred_type, link", [("glm", "probit"), ("glm", "mc"), ("glm", "bridge"), ("nn", "mc")]
)
def test_class_predictives(pred_type: str, link: str) -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 12)
    la = laplace(model, "classification", prior_precision=2.0)
    la.fit(loader(batch))
    torch.manual_seed(0)
    p = la(batch[0], pred_type=pred_type, link_approx=link, n_samples=200)
    assert p.shape == (12, 3)
    assert_close(p.sum(1), torch.ones(12), 1e-9, "sums")
    certain = model(batch[0]).softmax(1).detach()
    entropy = [float(-(q * q.log()).sum(1).mean()) for q in (p, certain)]
    assert entropy[0] > entropy[1], f"entropy {entropy[0]:.3f}, {entropy[1]:.3f} at the MAP"


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_regression_example(single: bool) -> None:
    """Sinusoid data: precisions and noise learned together by the evidence, then glm and nn predictives."""
    dtype = torch.float32 if single else torch.float64
    generator = torch.Generator().manual_seed(711)
    x = (torch.rand(150, 1, generator=generator) * 8).to(dtype)
    y = torch.sin(x) + 0.3 * torch.randn(x.shape, generator=generator, dtype=dtype)
    torch.manual_seed(711)
    model = nn.Sequential(nn.Linear(1, 30), nn.Tanh(), nn.Linear(30, 1)).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(600):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    la = laplace(model, "regression")
    la.fit(loader((x, y), 150))
    log_prior, log_sigma = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    hyper = torch.optim.Adam([log_prior, log_sigma], 0.1)
    evidences = []
    for _ in range(60):
        hyper.zero_grad()
        evidence = la.log_marginal_likelihood(log_prior.exp(), log_sigma.exp())
        (-evidence).backward()
        hyper.step()
        evidences.append(float(evidence))
    assert evidences[-1] > evidences[0]
    assert float(la.sigma_noise) == pytest.approx(0.3, abs=0.08)
    mean, variance = la(torch.linspace(-5, 13, 50, dtype=dtype)[:, None])
    assert mean.shape == (50, 1)
    assert variance.shape == (50, 1, 1)
    spread = variance.flatten()
    assert float(spread[0]) > 3 * float(spread[25]), "far from the data the network is less sure"
    la.prior_precision = 1e8
    torch.manual_seed(0)
    drawn_mean, _ = la(x[:5], pred_type="nn", link_approx="mc", n_samples=100)
    assert_close(drawn_mean, la(x[:5])[0], 0.02, "sampled networks under a tight prior")


@pytest.mark.parametrize("structure", ["scalar", "layerwise"])
def test_prior_precision_is_optimised(structure: str) -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 12)
    la = laplace(model, "classification")
    la.fit(loader(batch))
    before = float(la.log_marginal_likelihood().detach())
    la.optimize_prior_precision(pred_type="glm", method="marglik", n_steps=30, prior_structure=structure)
    assert len(la.prior_precision) == (1 if structure == "scalar" else len(list(model.parameters())))
    assert float(la.log_marginal_likelihood().detach()) > before


@pytest.mark.parametrize("eigenvalues", ["kronecker", "corrected", "partial-traces"])
@pytest.mark.parametrize("case", ["conv, f-fc, fc", "group convolution", "norm layers"])
def test_serialization(case: str, eigenvalues: str) -> None:
    build, shape = EVERY_LAYER[case]
    model, batch = build(), batch_of(shape, 9)
    options = {"backend_kwargs": {"eigenvalues": eigenvalues}}
    la = laplace(model, "classification", prior_precision=0.7, **options)
    la.fit(loader(batch))
    stored = io.BytesIO()
    torch.save(la.state_dict(), stored)
    stored.seek(0)
    other = laplace(copy.deepcopy(model), "classification", **options)
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert float(other.log_marginal_likelihood()) == pytest.approx(
        float(la.log_marginal_likelihood()), rel=1e-12
    )
    assert_close(other(batch[0]), la(batch[0]), 1e-12, "predictive")
    assert_close(copy.deepcopy(la)(batch[0]), la(batch[0]), 1e-12, "predictive of a copy")


@pytest.mark.parametrize("eigenvalues", ["corrected", "partial-traces"])
def test_corrected_eigenvalues(eigenvalues: str) -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 12)
    la = laplace(model, "classification", backend_kwargs={"eigenvalues": eigenvalues})
    la.fit(loader(batch))
    traces = [float(values.sum()) for values in la.H.eigen.eigenvalues.values()]
    exact = [
        float(torch.trace(kfac.ggn_block(model, batch, "classification", name)))
        for name, _ in model.named_parameters()
    ]
    assert traces == pytest.approx(exact, rel=1e-9)
    with pytest.raises(ValueError, match="fit again with all data"):
        la.fit(loader(batch), override=False)


def test_data_added_to_a_fit_give_the_whole() -> None:
    model, (x, y) = mixed(), batch_of((2, 5, 4), 12)
    parts, whole = laplace(model, "classification"), laplace(model, "classification")
    parts.fit(loader((x[:5], y[:5])))
    parts.fit(loader((x[5:], y[5:])), override=False)
    whole.fit(loader((x, y)))
    assert float(parts.log_marginal_likelihood()) == pytest.approx(
        float(whole.log_marginal_likelihood()), rel=1e-10
    )


def test_frozen_parameters_are_left_out() -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 12)
    for p in model[0].parameters():
        p.requires_grad_(False)
    la = laplace(model, "classification", prior_precision=0.7)
    la.fit(loader(batch))
    dense = dense_posterior(model, batch, "classification", torch.full((la.n_layers,), 0.7))
    assert la.n_params == len(dense) < sum(p.numel() for p in model.parameters())
    assert float(la.log_det_posterior_precision) == pytest.approx(float(torch.logdet(dense)), rel=1e-10)
    assert la(batch[0]).shape == (12, 3)


@pytest.mark.parametrize("pred_type", ["glm", "nn"])
def test_predictive_and_functional_samples(pred_type: str) -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 12)
    la = laplace(model, "classification", prior_precision=5.0)
    la.fit(loader(batch))
    p = la.predictive_samples(batch[0], pred_type=pred_type, n_samples=7)
    assert p.shape == (7, 12, 3)
    assert_close(p.sum(2), torch.ones(7, 12), 1e-9, "sums")
    assert la.functional_samples(batch[0], pred_type=pred_type, n_samples=7).shape == (7, 12, 3)


def test_joint_regression_predictive() -> None:
    model, batch = factored(), batch_of((2, 4, 3), 6, likelihood="regression")
    la = laplace(model, "regression", sigma_noise=0.5)
    la.fit(loader(batch))
    mean, covariance = la(batch[0][:4], joint=True)
    assert mean.shape == (12,)
    assert covariance.shape == (12, 12)
    _, apart = la(batch[0][:4])
    for n in range(4):
        assert_close(covariance[3 * n : 3 * n + 3, 3 * n : 3 * n + 3], apart[n], 1e-9, f"datum {n}")


def test_log_prob_and_square_norm() -> None:
    model, batch = mlp(), batch_of((5,), 12)
    la = laplace(model, "classification", prior_precision=0.7)
    assert float(la.log_det_posterior_precision) == pytest.approx(la.n_params * math.log(0.7))
    la.fit(loader(batch))
    value = la.sample(1)[0]
    step = value - la.mean
    dense = dense_posterior(model, batch, "classification", torch.full((4,), 0.7))
    assert float(la.square_norm(value)) == pytest.approx(float(step @ dense @ step), rel=1e-9)
    truth = 0.5 * float(torch.logdet(dense) - step @ dense @ step) - la.n_params / 2 * math.log(2 * math.pi)
    assert float(la.log_prob(value)) == pytest.approx(truth, rel=1e-9)


def test_training_by_the_marginal_likelihood() -> None:
    from laplace import marglik_training

    torch.manual_seed(0)
    model = seeded(
        nn.Conv2d(1, 2, 2, padding_mode="circular", padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)
    )
    x, y = batch_of((1, 3, 3), 24)
    la, _, evidences, _ = marglik_training(
        model,
        loader((x, y), 24),
        likelihood="classification",
        hessian_structure="kron",
        backend=kfac.KfacGGN,
        n_epochs=12,
        n_epochs_burnin=2,
        marglik_frequency=2,
        n_hypersteps=10,
    )
    assert type(la).__name__ == "KfacLaplace"
    assert len(evidences) > 2
    assert min(evidences) < evidences[0]


def test_last_layer() -> None:
    from laplace.curvature.curvlinops import CurvlinopsGGN

    batch = batch_of((5,), 12)
    ours = laplace(mlp(), "classification", "last_layer")
    theirs = laplace(mlp(), "classification", "last_layer", backend=CurvlinopsGGN)
    for la in (ours, theirs):
        la.fit(loader(batch))
    assert float(ours.log_marginal_likelihood()) == pytest.approx(
        float(theirs.log_marginal_likelihood()), rel=1e-8
    )
    assert_close(ours(batch[0]), theirs(batch[0]), 1e-8, "predictive")


@pytest.mark.parametrize(
    ("subset", "options"),
    [
        ("all", {}),
        ("all", {"eigenvalues": "corrected"}),
        ("all", {"stochastic": True, "seed": 0}),
        ("last_layer", {}),
    ],
    ids=["all", "corrected", "sampled", "last layer"],
)
def test_empty_batches_change_nothing(subset: str, options: dict[str, Any]) -> None:
    x, y = batch_of((5,), 6)
    parts = [(x[:2], y[:2]), (x[:0], y[:0]), (x[2:], y[2:]), (x[:0], y[:0])]

    class Loader(list):
        dataset = TensorDataset(x, y)

    def evidence(batches: list[Batch]) -> float:
        la = laplace(mlp(), "classification", subset, backend_kwargs=options)
        la.fit(Loader(batches))
        return float(la.log_marginal_likelihood())

    assert evidence(parts) == evidence([part for part in parts if len(part[0])])


def test_sampled_labels_are_fixed_by_the_seed() -> None:
    model, batch = mixed(), batch_of((2, 5, 4), 12)

    def evidence(seed: int) -> float:
        la = laplace(
            model, "classification", backend_kwargs={"stochastic": True, "num_samples": 2, "seed": seed}
        )
        la.fit(loader(batch))
        return float(la.log_marginal_likelihood())

    assert evidence(0) == evidence(0) != evidence(1)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "uncovered parameter": (
        lambda: laplace(
            seeded(nn.Unflatten(1, (1, 5)), nn.ConvTranspose1d(1, 3, 5), nn.Flatten()), "classification"
        ),
        r"no curvature rule covers 1\.weight, 1\.bias",
    ),
    "unknown eigenvalues": (
        lambda: laplace(mlp(), "classification", backend_kwargs={"eigenvalues": "exact"}),
        "unknown eigenvalues 'exact'",
    ),
    "damping": (
        lambda: laplace(mlp(), "classification", damping=True).fit(loader(batch_of((5,), 4))),
        "damping",
    ),
    "correction of a last layer": (
        lambda: laplace(
            mlp(), "classification", "last_layer", backend_kwargs={"eigenvalues": "corrected"}
        ).fit(loader(batch_of((5,), 4))),
        "for all weights only",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named(case: str) -> None:
    attempt, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_kfac_imports_without_laplace_torch() -> None:
    code = (
        "import sys, kfac; assert not {'laplace', 'backpack', 'curvlinops'} & set(sys.modules); kfac.nothing"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "module 'kfac' has no attribute 'nothing'" in found.stderr, found.stderr
