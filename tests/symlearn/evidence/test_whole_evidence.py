"""The evidence of the whole GGN: its terms, its fixed point, when it is taken, and who is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from oracles import assert_close, assert_refused
from tiny_fits import bars, directions, noisy_map, one_layer, small_network, state_of
from torch import Tensor, nn

import kfac
import symlearn
from kfac.ggn import output_jacobian
from kfac.loss_hessian import square_root
from symlearn.config import WHOLE_UP_TO, Config
from symlearn.curvature.training_set import curvature_of
from symlearn.curvature.whole import drawn_columns, uses_whole
from symlearn.data.samples import samples_of
from symlearn.evidence.laplace import EvidenceModel
from symlearn.evidence.prior import PriorPrecision
from symlearn.evidence.whole import WholeEvidence
from symlearn.training.updates import update_evidence


def whole(model: nn.Module, data: tuple[Tensor, Tensor], likelihood: str) -> WholeEvidence:
    return WholeEvidence.of(model, kfac.compute_gram(model, [data], likelihood), likelihood)


def dense_total(
    model: nn.Module, data: tuple[Tensor, Tensor], likelihood: str, delta: Any, sigma: float
) -> float:
    """log q(D) of the textbook, with one matrix over all parameters."""
    x, y = data
    with torch.no_grad():
        f = model(x)
        columns = square_root(f, y, likelihood).stacked()
    names = [name for name, _ in model.named_parameters()]
    rows = [torch.einsum("kbc,bcp->kbp", columns, output_jacobian(model, x, n)).flatten(0, 1) for n in names]
    prior = torch.cat(
        [torch.full((r.shape[1],), delta[n], dtype=r.dtype) for n, r in zip(names, rows, strict=True)]
    )
    variance = sigma**2 if likelihood == "regression" else 1.0
    jacobian = torch.cat(rows, 1)
    posterior = jacobian.T @ jacobian / variance + torch.diag(prior)
    fit = float(kfac.log_likelihood(f, y, likelihood)) / variance
    if likelihood == "regression":
        fit -= y.numel() / 2 * math.log(2 * math.pi * variance)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    return (
        fit - 0.5 * float((prior * theta**2).sum()) + 0.5 * float(prior.log().sum() - torch.logdet(posterior))
    )


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_terms_are_those_of_one_dense_matrix(likelihood: str) -> None:
    x, y = directions(30) if likelihood == "classification" else noisy_map(30, 0.3)
    data = (x.double(), y.double() if y.is_floating_point() else y)
    model = one_layer("conv", classes=3 if likelihood == "classification" else 1).double()
    found = whole(model, data, likelihood)
    delta = {name: 0.5 + k for k, name in enumerate(found.names)}
    total = float(found.terms(delta, 0.4).total)
    assert total == pytest.approx(dense_total(model, data, likelihood, delta, 0.4), rel=1e-9)


@pytest.mark.parametrize("likelihood", ["classification", "regression"])
def test_gradients_are_half_of_what_the_fixed_point_balances(likelihood: str) -> None:
    """d log q / d log delta_t = (gamma_t - delta_t ||theta_t||^2) / 2, by finite differences."""
    x, y = directions(40) if likelihood == "classification" else noisy_map(40, 0.3)
    data = (x.double(), y.double() if y.is_floating_point() else y)
    model = one_layer(classes=3 if likelihood == "classification" else 1).double()
    found = whole(model, data, likelihood)
    delta = {name: 0.7 for name in found.names}
    gamma = found.effective_parameters(delta, 0.5)
    for k, name in enumerate(found.names):
        ends = [float(found.terms({**delta, name: 0.7 * math.exp(h)}, 0.5).total) for h in (1e-4, -1e-4)]
        expected = 0.5 * (gamma[name] - 0.7 * float(found.norms[k]))
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_the_fixed_point_is_found() -> None:
    model = one_layer(classes=3)
    found = whole(model, directions(60), "classification")
    prior = PriorPrecision({name: name for name in found.names})
    before = float(found.terms(prior.by_tensor()).total)
    found.mackay(prior, steps=400)
    gamma, precision = found.effective_parameters(prior.by_tensor()), prior.floats()
    assert float(found.terms(prior.by_tensor()).total) > before
    for k, name in enumerate(found.names):
        if gamma[name] > 0.1:
            assert gamma[name] == pytest.approx(precision[name] * float(found.norms[k]), rel=0.01), name


def test_blocks_overcount_what_few_data_determine() -> None:
    """The sum over blocks of a network's own GGN is never less than the whole's (Hadamard), and often more."""
    model, data = small_network(classes=3), bars(30, "direction", size=16)
    delta = dict.fromkeys([name for name, _ in model.named_parameters()], 1.0)
    gamma = whole(model, data, "classification").effective_parameters(delta)
    blocks = EvidenceModel(
        kfac.compute_factors(model, [data], "classification"), dict.fromkeys(delta, 0.0)
    ).effective_parameters(delta)
    assert sum(gamma.values()) < 60 < kfac.rows_needed(3, 30, "classification") + 1
    assert sum(blocks.values()) > 1.2 * sum(gamma.values())


class TestWhenItIsTaken:
    @pytest.mark.parametrize(
        ("given", "images", "taken"),
        [
            ({}, 100, True),
            ({}, WHOLE_UP_TO // 2, True),
            ({}, WHOLE_UP_TO // 2 + 1, False),
            ({"ggn": "blocks"}, 100, False),
            ({"ggn": "whole"}, WHOLE_UP_TO, True),
            ({"fisher_type": "empirical"}, 100, False),
            ({"fisher_type": "type-2"}, 100, False),
            ({"group_factors": "grouped"}, 100, False),
            ({"fisher_type": "type-2", "ggn": "whole"}, 100, True),
            ({"eigenvalues": "corrected"}, 100, False),
        ],
    )
    def test_by_rows_and_by_what_else_is_asked_for(self, given: dict, images: int, taken: bool) -> None:
        data = directions(images)
        config = Config().with_options(**given)
        assert uses_whole(one_layer(classes=3), config, samples_of(data)) is taken
        model = curvature_of(one_layer(classes=3), config, data)
        assert isinstance(model, WholeEvidence) is taken

    @pytest.mark.parametrize(("images", "columns"), [(113, None), (114, 8), (341, 3), (600, 1)])
    def test_rows_are_drawn_where_that_is_asked_for(self, images: int, columns: int | None) -> None:
        """Ten classes: nine rows an image up to 113 images, mixtures of them beyond."""
        data = (torch.rand(images, 1, 8, 8), torch.arange(images) % 10)
        model, config = one_layer(classes=10), Config().with_options(ggn="drawn")
        assert uses_whole(model, config, samples_of(data))
        assert uses_whole(model, Config(), samples_of(data)) is (columns is None)
        evidence = curvature_of(model, config, data)
        assert isinstance(evidence, WholeEvidence)
        assert evidence.factors.grams.shape[1] == images * (columns or 9)
        assert drawn_columns(config, images, 9 * images) == columns
        assert drawn_columns(Config().with_options(ggn="whole"), images, 9 * images) is None

    def test_drawn_rows_come_to_nearly_the_same(self) -> None:
        """Three of nine rows an image: effective parameters are a little fewer, by blocks far more."""
        torch.manual_seed(0)
        model = symlearn.build_model("f-fc+conv", network="small", alpha=1, size=8, classes=10)
        data = (torch.rand(60, 1, 8, 8), torch.arange(60) % 10)
        names = [name for name, _ in model.named_parameters()]
        delta = torch.full((len(names),), 1e-2, dtype=torch.float64)
        exact, drawn = (
            kfac.compute_gram(model, [data], "classification", columns, 0).effective_parameters(delta).sum()
            for columns in (None, 3)
        )
        factors = kfac.compute_factors(model, [data], "classification")
        blocks = EvidenceModel(factors, dict.fromkeys(names, 0.0))
        gamma = sum(blocks.effective_parameters(dict.fromkeys(names, 1e-2)).values())
        assert 0.8 * exact < drawn < exact < gamma / 1.2, (drawn, exact, gamma)

    def test_not_with_hyperparameters_that_layers_declare(self) -> None:
        torch.manual_seed(0)
        model = symlearn.build_model(
            "s-fc", network="small", alpha=1, size=16, classes=3, learn=("lengthscale",)
        )
        assert not uses_whole(model, Config(), samples_of(bars(30, "direction", size=16)))

    def test_a_part_of_the_data_is_judged_as_all_of_them(self) -> None:
        few = samples_of(directions(50))
        assert uses_whole(one_layer(classes=3), Config(), few)
        assert not uses_whole(one_layer(classes=3), Config(), few, n_data=5000)

    def test_an_update_takes_it(self) -> None:
        data = directions(60)
        states = {ggn: state_of(one_layer(classes=3), data, ggn=ggn) for ggn in ("auto", "whole", "blocks")}
        for state in states.values():
            update_evidence(state, data)
        assert states["auto"].evidence == states["whole"].evidence != states["blocks"].evidence
        assert states["auto"].prior.floats() == states["whole"].prior.floats()

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"eigenvalues": "corrected"}, "so curvature.eigenvalues 'corrected' says nothing of it"),
            ({"fisher_type": "mc"}, "so curvature.fisher_type 'mc' says nothing of it"),
            ({"weight_sharing": "reduce"}, "so curvature.weight_sharing 'reduce' says nothing of it"),
            ({"mc_samples": 3}, "so curvature.mc_samples 3 says nothing of it"),
        ],
    )
    def test_asked_for_with_another_curvature(self, given: dict, words: str) -> None:
        chosen = {"curvature": {"ggn": "whole", **given}}
        assert_refused(lambda: symlearn.fit(one_layer(classes=3), directions(60), config=chosen), words)

    def test_asked_for_with_a_part_of_the_images(self) -> None:
        tables = {"curvature": {"ggn": "whole"}, "evidence": {"evidence_images": 64}}
        call = lambda: symlearn.fit(one_layer(classes=3), directions(100), config=tables)
        assert_refused(call, "evidence_images is 64, but the whole GGN is of all images")

    def test_a_part_of_the_images_is_of_blocks(self) -> None:
        config = Config().with_options(evidence_images=64)
        assert not uses_whole(one_layer(classes=3), config, samples_of(directions(100)))

    def test_looking_leaves_running_statistics_alone(self) -> None:
        """One image through a network in training would move them, or fail."""
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).train()
        before = {name: b.clone() for name, b in model.named_buffers()}
        assert uses_whole(model, Config(), samples_of(directions(50))) and model.training
        assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())

    def test_asked_for_with_too_many_images(self) -> None:
        call = lambda: symlearn.fit(
            one_layer(classes=3), directions(2100), config={"curvature": {"ggn": "whole"}}
        )
        assert_refused(call, "has 4,200 rows, whose gradients do not fit; expected up to 4,096")


@pytest.mark.parametrize(("ggn", "told"), [("auto", "whole"), ("blocks", "blocks")])
def test_the_report_says_which(ggn: str, told: str) -> None:
    config = {
        "curvature": {"ggn": ggn},
        "training": {"epochs": 2, "batch_size": 20},
        "evidence": {"selection": "gradient", "burn_in": 1, "frequency": 1},
    }
    result = symlearn.fit(one_layer(classes=3), directions(60), config=config)
    assert result.report["ggn"] == told and result.report.get("ggn_columns") is None
    assert any("whole GGN" in said for said in symlearn.report.remarks.remarks(result.report)) is (
        told == "whole"
    )


def test_the_report_says_how_many_rows_were_drawn() -> None:
    config = {
        "curvature": {"ggn": "drawn"},
        "training": {"epochs": 1},
        "evidence": {"selection": "gradient", "burn_in": 1, "frequency": 1},
    }
    data = (torch.rand(150, 1, 8, 8), torch.arange(150) % 10)
    report = symlearn.fit(one_layer(classes=10), data, config=config).report
    assert (report["ggn"], report["ggn_columns"]) == ("whole", 6)
    said = " ".join(symlearn.report.remarks.remarks(report))
    assert "the whole GGN (6 random mixtures of each image's rows stand for all), since 150 images" in said


def test_left_out_parameters_are_no_part_of_it() -> None:
    data = directions(40)
    model = one_layer(classes=3)
    config = Config().with_options(left_out=("head.bias",))
    assert "head.bias" not in curvature_of(model, config, data).names
    assert_close(
        torch.tensor(model.head.bias.requires_grad).double(), torch.tensor(1.0).double(), 0, "as it was"
    )
