"""Corrected eigenvalues in a fit: the configuration's choice reaches the evidence, and what has none is refused."""

from __future__ import annotations

import pytest
import tiny_fits
import torch
from oracles import assert_refused
from toys import digits, train

import kfac
import symlearn
from symlearn.analysis.predictive import predictive_of
from symlearn.config import Config
from symlearn.curvature.training_set import curvature_of
from symlearn.networks import build_model

CHOICES = ("kronecker", "corrected", "partial-traces")


def config(eigenvalues: str, **options: object) -> Config:
    """Every column, so that traces are the exact blocks'; of blocks, though so few data would have the whole."""
    chosen = {"eigenvalues": eigenvalues, "fisher_type": "type-2", "ggn": "blocks", **options}
    return Config().with_options(**chosen).resolved(60)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A factored layer beside a convolution, trained a little on 8x8 digits, float64."""
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", size=8, classes=10, alpha=1).double()
    return train(model, digits(60))


def test_corrected_spectra_have_the_exact_traces(network: torch.nn.Module) -> None:
    data = digits(60)
    exact = {
        name: float(torch.trace(kfac.ggn_block(network, data, "classification", name)))
        for name in ("layers.0.paths.conv.weight", "layers.1.paths.f-fc.theta1.weight")
    }
    for choice in CHOICES:
        eigen = curvature_of(network, config(choice), data).eigen
        for name, trace in exact.items():
            kept = float(eigen.eigenvalues[name].sum()) == pytest.approx(trace, rel=1e-8)
            assert kept is (choice != "kronecker"), f"{choice}, {name}"


def test_a_sharper_basis_gives_a_higher_evidence(network: torch.nn.Module) -> None:
    """Log determinants of a block's diagonal are above its own (Hadamard), and less so in a better basis.

    Those of the blocks are above the whole's for the same reason.
    """
    data = digits(60)
    found = []
    for chosen in (*map(config, CHOICES), config("kronecker", ggn="whole")):
        model = curvature_of(network, chosen, data)
        found.append(float(model.terms(dict.fromkeys(model.names, 1.0)).total))
    assert found[0] < found[1] < found[2] < found[3], found


@pytest.mark.slow
@pytest.mark.parametrize("eigenvalues", ["corrected", "partial-traces"])
@pytest.mark.parametrize("selection", ["search", "gradient"])
def test_a_fit_by_corrected_evidence(eigenvalues: str, selection: str) -> None:
    data = tiny_fits.directions(60)
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", size=8, classes=4, alpha=1)
    tables = config(
        eigenvalues, selection=selection, epochs=6, burn_in=2, frequency=2, rounds=1, refit_epochs=1
    )
    result = symlearn.fit(model, data, data, tables)
    curvature = curvature_of(result.model, result.config, data)
    reported = result.report["log_marginal_likelihood"]
    assert float(curvature.terms(result.prior_precision).total) == pytest.approx(reported, rel=1e-5)
    plain = curvature_of(result.model, result.config.with_options(eigenvalues="kronecker"), data)
    assert float(plain.terms(result.prior_precision).total) != pytest.approx(reported, rel=1e-5)


def test_what_has_no_corrected_eigenvalues_is_refused_before_the_fit() -> None:
    data = tiny_fits.directions(20)
    tables = config("corrected", epochs=1, selection="gradient")
    banks = build_model("free", network="unfolded", size=8, classes=4, alpha=2)
    for selection in ("gradient", "none"):  # which needs the curvature at its end
        chosen = config("corrected", epochs=1, selection=selection)
        said = "layers.0.paths.free.analysis.weight and 3 more are used in several roles"
        for begin in (symlearn.fit, symlearn.estimate):
            assert_refused(lambda begin=begin, chosen=chosen: begin(banks, data, None, chosen), said)  # type: ignore[misc]
    sparse = build_model("s-fc+conv", network="small", size=8, classes=4, alpha=1, learn=("lengthscale",))
    assert_refused(lambda: symlearn.fit(sparse, data, None, tables), "model.learn to 'nothing'")
    more, part = tiny_fits.directions(80), config("corrected", epochs=1, evidence_images=64)
    plain = tiny_fits.one_layer(classes=3)
    assert_refused(lambda: symlearn.fit(plain, more, None, part), "evidence.evidence_images to 'all'")


def test_predictions_use_the_eigenvalues_of_the_fit(network: torch.nn.Module) -> None:
    """The last layer's posterior covariance changes with the choice."""
    data, delta = digits(60), dict.fromkeys([name for name, _ in network.named_parameters()], 1.0)
    covariances = {
        choice: predictive_of(network, data, config(choice), delta).outputs(data[0][:5])[1]
        for choice in CHOICES
    }
    for choice in CHOICES[1:]:
        assert not torch.allclose(covariances[choice], covariances["kronecker"], rtol=1e-3), choice
