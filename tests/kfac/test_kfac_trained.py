"""On trained toy networks: against the exact block, and against laplace-torch with curvlinops."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_close, log_determinant
from torch.utils.data import DataLoader, TensorDataset
from toys import digits, trained

import kfac

DELTA = 0.01


@pytest.mark.slow
def test_log_determinant_excess_of_grouped_is_at_most_that_of_shared() -> None:
    model, batch = trained("mixture"), digits(100)
    grouped = kfac.compute_factors(model, [batch], "classification")
    shared = kfac.compute_factors(model, [batch], "classification", group_factors="shared")
    rows, at_most = [f"{'tensor':>16} {'exact':>9} {'grouped +':>9} {'shared +':>9}"], 0
    weights = [name for name in grouped.names if name.endswith("weight")]
    for name in grouped.names:
        exact = log_determinant(kfac.ggn_block(model, batch, "classification", name), DELTA)
        excess = [log_determinant(f.to_dense(name), DELTA) - exact for f in (grouped, shared)]
        at_most += name in weights and excess[0] <= excess[1] + 1e-6 * abs(exact)
        rows.append(f"{name:>16} {exact:9.1f} {excess[0]:9.1f} {excess[1]:9.1f}")
        if name.endswith("bias"):
            assert abs(excess[0]) < 1e-6 * abs(exact), "a bias is exact\n" + "\n".join(rows)
    assert at_most > len(weights) / 2, "grouped exceeds shared on most tensors\n" + "\n".join(rows)


@pytest.mark.filterwarnings("ignore")  # laplace-torch and what it imports warn about themselves
@pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
def test_weight_factors_equal_curvlinops(weight_sharing: str) -> None:
    """A normalised and B raw are laplace-torch's own convention; the biases' differ and are not compared."""
    from laplace.curvature.curvlinops import CurvlinopsGGN

    model, (x, y) = trained("zero-padded"), digits()
    backend = CurvlinopsGGN(model, "classification")
    _, theirs = backend.kron(x, y, N=len(x), kfac_approx=weight_sharing)
    ours = kfac.compute_factors(model, [(x, y)], "classification", weight_sharing=weight_sharing)
    names = [name for name, _ in model.named_parameters()]
    compared = 0
    for name, blocks in zip(names, theirs.kfacs, strict=True):
        if not name.endswith("weight"):
            continue
        output_factor, input_factor = blocks
        block = ours[name]
        assert_close(block.input_factor[0] / block.rows, input_factor, 1e-8, f"A of {name}")
        assert_close(block.output_factor[0], output_factor, 1e-8, f"B of {name}")
        compared += 1
    assert compared == 4


def log_marginal_likelihood(
    model: torch.nn.Module, factors: kfac.KroneckerFactors, delta: torch.Tensor
) -> torch.Tensor:
    """The Laplace evidence from kfac's parts alone; delta by tensor in the model's order."""
    parameters = dict(model.named_parameters())
    by_name = dict(zip(factors.names, delta, strict=True))
    prior = sum(
        0.5 * parameters[n].numel() * by_name[n].log()
        - 0.5 * by_name[n] * parameters[n].detach().square().sum()
        for n in factors.names
    )
    return factors.log_likelihood + prior - 0.5 * factors.eigendecompose().logdet(by_name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_size", [200, 50])
def test_log_marginal_likelihood_equals_laplace_torch(batch_size: int) -> None:
    """Four batches: laplace-torch adds A of batches with weight 1 and B with M/N, which equals raw sums."""
    from laplace import Laplace
    from laplace.curvature.curvlinops import CurvlinopsGGN

    model, (x, y) = trained("zero-padded without biases"), digits()
    loader = DataLoader(TensorDataset(x, y), batch_size)
    delta = torch.tensor([0.3, 1.0, 2.0, 5.0], dtype=torch.float64)
    laplace = Laplace(
        model, "classification", subset_of_weights="all", hessian_structure="kron", backend=CurvlinopsGGN
    )
    laplace.fit(loader)
    theirs = laplace.log_marginal_likelihood(prior_precision=delta).detach()
    ours = log_marginal_likelihood(model, kfac.compute_factors(model, loader, "classification"), delta)
    assert abs(float(ours - theirs)) <= 1e-8 * abs(float(theirs)), (
        f"ours {float(ours)}, theirs {float(theirs)}"
    )
