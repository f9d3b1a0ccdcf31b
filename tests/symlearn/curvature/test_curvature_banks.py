"""Curvature of cyclic banks: each of a weight's two uses by itself, both together, thresholds.

Axes as in `kfac`, and filter, turn, c, tap.
"""

from __future__ import annotations

import copy

import pytest
import torch
from oracles import assert_close, assert_exact, log_determinant, relative_error
from torch import nn
from toys import Batch, batch_of, digits, noise, seeded, train

import kfac
from kfac import NearestKroneckerBlock
from kfac.rules import find_rule, gram
from symlearn.layers import CyclicUnfolded2d, UnfoldingOptions
from symlearn.layers.cyclic_bank import Analysis2d, Rotations, Synthesis2d
from symlearn.networks.unfolded import UnfoldedNetwork

LIKELIHOODS = ("classification", "regression")
BANKS = {"free": (1, None), "quarters": (4, None), "sixths": (6, None), "off": (5, 63.0)}


def use_of(kind: type, bank: str, k: int = 3, padding: int = 1, filters: int = 2) -> nn.Module:
    """One use of a bank of 2 channels by itself."""
    turns, degrees = BANKS[bank]
    weight = nn.Parameter(noise(filters, 2, k, k, seed=4))
    return kind(weight, Rotations(k, turns, degrees), padding)


class Trained:
    """A small unfolded network with three layers, trained on 40 digits: every layer but the first uses both."""

    def __init__(self, banks: str) -> None:
        torch.manual_seed(0)
        self.batch: Batch = digits(40)
        model = UnfoldedNetwork(banks, alpha=12, in_channels=1, size=8, layers=3)
        self.model = train(model.double().train(), self.batch, 40, 0.02)


@pytest.fixture(scope="module", params=["free", "cyclic-90", "cyclic-60"])
def network(request: pytest.FixtureRequest) -> Trained:
    return Trained(request.param)


class TestRows:
    """What the weight meets, in either role."""

    @pytest.mark.parametrize("bank", BANKS)
    @pytest.mark.parametrize("kind", [Analysis2d, Synthesis2d], ids=["analysis", "synthesis"])
    def test_rows_give_autograds_gradient(self, kind: type, bank: str) -> None:
        module = use_of(kind, bank)
        rule, turns = find_rule(module), BANKS[bank][0]
        assert rule is not None
        x = noise(3, 2 if kind is Analysis2d else 2 * turns, 5, 6)
        y = module(x)
        g = noise(*y.shape, seed=7)
        (expected,) = torch.autograd.grad(y, module.weight, g)
        a, rows = rule.input_rows(module, x), rule.output_rows(module, g)
        found = torch.einsum("gbro,gbri->goi", rows, a).permute(rule.order)
        assert_close(found.reshape(expected.shape), expected, 1e-12, "gradient")
        assert a.shape[2] == rows.shape[2] == rule.places(module, y.shape) == turns * 30, "places"
        assert_close(rule.input_factor(module, x), gram(a), 1e-12, "A")
        assert_close(rule.output_factor(module, g), gram(rows), 1e-12, "B")


def one_place(kind: type) -> nn.Sequential:
    """A use of free filters that happens once a datum."""
    outputs = 2 if kind is Analysis2d else 2 * 9
    return seeded(use_of(kind, "free", 3, 0), nn.Tanh(), nn.Flatten(), nn.Linear(outputs, 3))


class TestOneUse:
    """Where each use by itself must be exact."""

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("kind", [Analysis2d, Synthesis2d], ids=["analysis", "synthesis"])
    def test_one_datum_at_one_place(self, kind: type, likelihood: str) -> None:
        side = 3 if kind is Analysis2d else 1
        model, batch = one_place(kind), batch_of((2, side, side), 1, likelihood=likelihood)
        factors = kfac.compute_factors(model, [batch], likelihood)
        for name in factors:
            assert_exact(factors, model, batch, likelihood, name)

    @pytest.mark.parametrize("bank", ["quarters", "free"])
    def test_reduce_with_equal_rows(self, bank: str) -> None:
        """A constant image gives every turn and place of analysis the same patch."""
        turns = BANKS[bank][0]
        model = seeded(use_of(Analysis2d, bank, 3, 0), nn.Tanh(), nn.Flatten(), nn.Linear(2 * turns * 9, 3))
        x, y = batch_of((2, 5, 5), 1)
        batch = (x[:, :, :1, :1].expand_as(x).contiguous(), y)
        factors = kfac.compute_factors(model, [batch], "classification", weight_sharing="reduce")
        assert_exact(factors, model, batch, "classification", "0.weight")

    @pytest.mark.slow
    def test_within_a_network(self, network: Trained) -> None:
        """Untied, each use has a block of its own: the very product that the tied weight keeps for it."""
        tied = kfac.compute_factors(network.model, [network.batch], "classification")
        name = f"layers.1.paths.{network.model.bank_names[0]}.analysis.weight"
        other = name.replace("analysis", "synthesis")
        model = copy.deepcopy(network.model)
        bank = model.layer(1).bank(model.bank_names[0])
        bank.synthesis.weight = nn.Parameter(bank.synthesis.weight.detach().clone())
        apart = kfac.compute_factors(model, [network.batch], "classification")
        block = tied[name]
        assert isinstance(block, NearestKroneckerBlock) and len(block.uses) == 2
        for use, own in zip(block.uses, (name, other), strict=True):
            assert_close(use.to_dense(), apart.to_dense(own), 1e-10, own)
            truth = kfac.ggn_block(model, network.batch, "classification", own)
            assert relative_error(use.to_dense(), truth) < 1.0, "worse than nothing"
            assert float(torch.linalg.eigvalsh(use.to_dense()).min()) > -1e-9


class TestTogether:
    """The sum of both products as one."""

    def test_nearest_product_keeps_trace_and_partial_traces(self, network: Trained) -> None:
        factors = kfac.compute_factors(network.model, [network.batch], "classification")
        for name, block in factors.items():
            if not isinstance(block, NearestKroneckerBlock):
                continue
            total = sum(use.to_dense() for use in block.uses)
            filters, taps = block.to_groups(torch.zeros(block.uses[0].shape)).shape[1:]
            found, expected = (
                b.reshape(filters, taps, filters, taps) for b in (block.to_dense(), total)
            )  # [filter, tap, filter, tap]
            for trace in ("fsgs->fg", "fsft->st"):
                part = torch.einsum(trace, found)
                assert_close(part, torch.einsum(trace, expected), 1e-10, f"{trace} of {name}")

    def test_exact_where_the_products_share_a_side(self) -> None:
        one = Analysis2d(nn.Parameter(noise(2, 2, 3, 3)), Rotations(3, 1), 0)
        model = seeded(one, nn.Flatten(), nn.Linear(2, 3))
        batch = batch_of((2, 3, 3), 1)
        block = kfac.compute_factors(model, [batch], "classification")["0.weight"]
        twice = NearestKroneckerBlock((block, block.scaled(3.0)))
        assert_close(twice.to_dense(), 4 * block.to_dense(), 1e-12, "B (x) A + 3 B (x) A")

    def test_against_the_exact_block(self, network: Trained) -> None:
        """Nearer than either use alone, in trace and in log determinant; measured errors are asserted."""
        factors = kfac.compute_factors(network.model, [network.batch], "classification")
        checked = 0
        for name, block in factors.items():
            if not isinstance(block, NearestKroneckerBlock):
                continue
            truth = kfac.ggn_block(network.model, network.batch, "classification", name)
            candidates = [block.to_dense(), *(use.to_dense() for use in block.uses)]
            errors = [relative_error(c, truth) for c in candidates]
            gaps = [abs(log_determinant(c, 0.1) - log_determinant(truth, 0.1)) for c in candidates]
            assert errors[0] < 0.99 and errors[0] <= min(errors[1:]) + 0.01, f"{name}: {errors}"
            assert gaps[0] <= min(gaps[1:]) + 0.1, f"{name}: {gaps}"
            together = sum(use.to_dense() for use in block.uses)
            assert relative_error(block.to_dense(), together) < 0.55, "the one product is far from the two"
            checked += 1
        assert checked == 2, "layers 1 and 2 use their weights twice"

    def test_half_and_half_is_the_whole(self, network: Trained) -> None:
        x, y = network.batch
        whole = kfac.compute_factors(network.model, [network.batch], "classification")
        halves = [
            kfac.compute_factors(network.model, [part], "classification")
            for part in ((x[:17], y[:17]), (x[17:], y[17:]))
        ]
        for name in whole:
            assert_close((halves[0] + halves[1]).to_dense(name), whole.to_dense(name), 1e-10, name)

    def test_eigenvalues_are_those_of_the_block(self, network: Trained) -> None:
        factors = kfac.compute_factors(network.model, [network.batch], "classification")
        eigen = factors.eigendecompose(vectors=True)
        for name, block in factors.items():
            values = torch.linalg.eigvalsh(block.to_dense()).clamp_min(0)
            assert_close(eigen.eigenvalues[name].sort().values, values, 1e-8, name)
            tensor = dict(network.model.named_parameters())[name].detach()
            coordinates = eigen.blocks[name].coordinates(block.to_groups(tensor))
            quadratic = (coordinates.square() * eigen.eigenvalues[name]).sum()
            assert_close(quadratic, tensor.flatten() @ block.to_dense() @ tensor.flatten(), 1e-8, name)

    @pytest.mark.parametrize("weight_sharing", ["expand", "reduce"])
    def test_tied_layers_count_every_iteration(self, weight_sharing: str) -> None:
        """All iterations' rows in one product a role; autograd agrees, or the collector would refuse."""
        torch.manual_seed(0)
        options = UnfoldingOptions(filters=4, kernel_size=3, step=0.1, threshold=0.1)
        encoder = CyclicUnfolded2d(1, 4, "cyclic-90", 3, tied=True, options=options)
        model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(64, 3)).double().eval()
        batch = batch_of((1, 4, 4), 6)
        factors = kfac.compute_factors(model, [batch], "classification", weight_sharing=weight_sharing)
        block = factors["0.layers.0.paths.cyclic-90.analysis.weight"]
        assert isinstance(block, NearestKroneckerBlock)
        rows = 6 if weight_sharing == "reduce" else 6 * 4 * 16
        assert [use.rows for use in block.uses] == ([rows] * 2 if rows == 6 else [3 * rows, 2 * rows])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_thresholds_and_norms_are_exact(likelihood: str, one_sided: bool, shared: bool) -> None:
    torch.manual_seed(0)
    options = UnfoldingOptions(
        filters=8, kernel_size=3, step=0.2, threshold=0.3, one_sided=one_sided, shared=shared
    )
    encoder = CyclicUnfolded2d(2, 4, "cyclic-90+free", 3, options=options)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(16 * 16, 3)).double()
    for seed in range(3):
        model.train()(noise(20, 2, 4, 4, seed=seed))
    batch = batch_of((2, 4, 4), 7, likelihood=likelihood)
    factors = kfac.compute_factors(model.eval(), [batch], likelihood)
    names = [name for name in factors if "threshold" in name or "norm" in name]
    assert len(names) == 2 * (3 + 2 * 2)
    for name in names:
        truth = kfac.ggn_block(model, batch, likelihood, name)
        assert float(truth.norm()) > 0, f"{name} has no curvature here"
        assert_close(factors.to_dense(name), truth, 1e-10, name)


def test_unit_norms_are_refused_by_name() -> None:
    options = UnfoldingOptions(filters=4, kernel_size=3, unit_norm=True)
    encoder = CyclicUnfolded2d(1, 4, "cyclic-90", 2, options=options)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(64, 3)).double()
    assert kfac.uncovered(model) == [f"0.layers.{k}.paths.cyclic-90.analysis.weight" for k in range(2)]
    with pytest.raises(ValueError, match=r"no curvature rule covers 0\.layers\.0\.paths"):
        kfac.compute_factors(model, [batch_of((1, 4, 4), 3)], "classification")
