"""Curvature of deviations: rows by hand, and exact where it must be, against the dense block.

Axes as in `kfac`, and group (h), function (j, q), rank (r), c_in, c_out, h, w.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import assert_close, assert_exact, relative_error
from torch import nn
from toys import Batch, batch_of, noise, seeded

import kfac
import symlearn.curvature.deviation_rules as rules
from kfac.rules import find_rule, gram
from symlearn.groups import find_group
from symlearn.layers import (
    GroupDeviation2d,
    LiftingConv2d,
    PointwiseGroupDeviation2d,
    RelaxedLayer2d,
    ShiftDeviation2d,
)
from symlearn.layers.zero_mean import on_elements

LIKELIHOODS = ("classification", "regression")
FORMS = {"full": GroupDeviation2d, "pointwise": PointwiseGroupDeviation2d}


@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
@pytest.mark.parametrize("group", ["p4", "p4m", "c3"])
@pytest.mark.parametrize("form", FORMS)
class TestRowsByTurn:
    """What the weight meets, and its sums."""

    def test_rows_are_what_the_weight_meets(self, form: str, group: str, padding: str) -> None:
        """y = W a at every element and place, and sum g a^T is autograd's gradient."""
        (stage,) = seeded(FORMS[form](2, 3, 3, group, padding))
        rule, x = find_rule(stage), noise(3, 2, len(find_group(group)), 4, 4)
        assert rule is not None
        rows, y = rule.input_rows(stage, x), stage(x)
        linear = stage.apply_to(x, None)
        outputs = torch.einsum("gbri,oi->gbro", rows, stage.weight.flatten(1))
        assert_close(outputs, rule.output_rows(stage, linear), 1e-12, "W a")
        cotangent = noise(*y.shape, seed=5)
        found = torch.einsum("gbro,gbri->goi", rule.output_rows(stage, cotangent), rows)
        weight, bias = torch.autograd.grad(y, [stage.weight, stage.bias], cotangent)
        assert_close(found.reshape(weight.shape), weight, 1e-12, "gradient of the weight")
        assert_close(rule.bias_rows(stage, cotangent).sum(0), bias, 1e-12, "gradient of the bias")

    def test_fast_form_is_that_of_the_rows(self, form: str, group: str, padding: str) -> None:
        for k, size in ((3, 4), (3, 7), (1, 3)):
            (stage,) = seeded(FORMS[form](2, 3, k, group, padding))
            rule, x = find_rule(stage), noise(3, 2, len(find_group(group)), size, size)
            assert rule is not None
            fast, rows = rule.input_factor(stage, x), rule.input_rows(stage, x)
            assert_close(fast, gram(rows), 1e-12, f"A of {k}x{k} filters on {size}x{size}")
            assert rows.shape[2] == rule.places(stage, stage(x).shape)

    def test_outputs_that_are_the_map_itself(self, form: str, group: str, padding: str) -> None:
        """Squared error at every element and place: H = sum a a^T (x) I, for any number of data."""
        (stage,) = seeded(FORMS[form](2, 2, 3, group, padding))
        model, x = nn.Sequential(stage, nn.Flatten()), noise(3, 2, len(find_group(group)), 3, 3)
        batch = (x, noise(*model(x).shape, seed=2))
        factors = kfac.compute_factors(model, [batch], "regression")
        for name in factors:
            assert_exact(factors, model, batch, "regression", name)


def test_rows_by_turn_are_shared_rows_times_functions() -> None:
    """e_j(h) a_h, h by h, with a_h of the group convolution."""
    (stage,) = seeded(GroupDeviation2d(2, 3, 3, "p4"))
    rule, x, e = find_rule(stage), noise(2, 2, 4, 3, 3), on_elements(4)
    shared = rules.GroupStageRule().input_rows(stage, x).unflatten(2, (4, 9))
    rows = rule.input_rows(stage, x).unflatten(2, (4, 9)).unflatten(-1, (3, -1))
    for h in range(4):
        for j in range(3):
            assert_close(rows[:, :, h, :, j], e[j, h] * shared[:, :, h], 1e-14, f"function {j}, element {h}")


def of_a_deviation(model: nn.Module) -> list[str]:
    """Names of the amplitudes' tensors and of the biases of all deviations."""
    return [
        n for n, _ in model.named_parameters() if "amplitudes" in n or ("dev-" in n and n.endswith("bias"))
    ]


def mixture(paths: str, stride: int = 1) -> nn.Sequential:
    """Two relaxed layers, the second one over the first's outputs, and a head; `[2, 4, 4]` maps and groups."""
    group = "gconv" in paths
    return seeded(
        LiftingConv2d(1, 2, 3, "p4") if group else nn.Conv2d(1, 2, 1),
        nn.Tanh(),
        RelaxedLayer2d(2, 2, 4, paths, stride),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2 * (4 if group else 1) * (4 // stride) ** 2, 3),
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "paths", ["conv+dev-shifts", "dev-shifts:2", "gconv-p4+dev-p4", "gconv-p4+dev-shifts+dev-p4"]
)
def test_amplitudes_and_biases_are_exact(paths: str, stride: int, sharing: Any, likelihood: str) -> None:
    """The exact GGN block, of several data, beside other paths and through subsampling."""
    model, batch = mixture(paths, stride), batch_of((1, 4, 4), 5, likelihood=likelihood)
    factors = kfac.compute_factors(model, [batch], likelihood, weight_sharing=sharing)
    names = of_a_deviation(model)
    assert len(names) >= 1
    for name in names:
        assert_exact(factors, model, batch, likelihood, name)


class TestManyAmplitudes:
    """Kronecker factors beyond `EXACT_UP_TO` weights."""

    @pytest.fixture(autouse=True)
    def _always_kronecker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rules, "EXACT_UP_TO", 0)

    def batch(self, model: nn.Module) -> Batch:
        """Regression targets for the whole map."""
        x = noise(4, 2, 3, 5)
        return x, noise(*model(x).shape, seed=2)

    def test_rows_are_what_the_weight_meets(self) -> None:
        (layer,) = seeded(ShiftDeviation2d(2, 3, (3, 5), 3, rank=2))
        part, x = layer.amplitudes, noise(4, 6, 3, 5)
        rule = find_rule(part)
        assert rule is not None and not rule.exact
        rows, y = rule.input_rows(part, x), part(x)
        linear = y - part.offsets()
        assert_close(
            torch.einsum("cnpi,ci->cnp", rows, part.weight.flatten(1)).unsqueeze(3),
            rule.output_rows(part, linear),
            1e-12,
            "W a",
        )
        cotangent = noise(*y.shape, seed=5)
        weight, bias = torch.autograd.grad(y, [part.weight, part.bias], cotangent)
        found = torch.einsum("cnpo,cnpi->coi", rule.output_rows(part, cotangent), rows)
        assert_close(found.reshape(weight.shape), weight, 1e-12, "gradient of the weight")
        assert_close(rule.bias_rows(part, cotangent).sum(0), bias, 1e-12, "gradient of the bias")
        assert rows.shape[2] == rule.places(part, y.shape) == 15

    def test_outputs_that_are_the_map_itself(self) -> None:
        """Squared error at every place: H = sum a a^T a channel, for any number of data."""
        model = seeded(ShiftDeviation2d(2, 3, (3, 5), 3, rank=2), nn.Flatten())
        batch = self.batch(model)
        factors = kfac.compute_factors(model, [batch], "regression")
        assert isinstance(factors["0.amplitudes.weight"], kfac.KroneckerBlock)
        for name in ("0.amplitudes.weight", "0.amplitudes.bias"):
            assert_exact(factors, model, batch, "regression", name)

    def test_otherwise_it_is_an_approximation(self) -> None:
        """So that the exact rule is worth having, and these tests can fail."""
        model, batch = mixture("conv+dev-shifts"), batch_of((1, 4, 4), 5)
        name = next(n for n in of_a_deviation(model) if n.endswith("amplitudes.weight"))
        factors = kfac.compute_factors(model, [batch], "classification")
        truth = kfac.ggn_block(model, batch, "classification", name)
        assert relative_error(factors.to_dense(name), truth) > 0.01


def test_filters_are_exact_where_amplitudes_are_the_same_everywhere() -> None:
    """Squared error of the map itself: H = sum a a^T (x) alpha^2, the amplitudes being held."""
    model = seeded(ShiftDeviation2d(2, 3, (4, 3), 3, rank=2), nn.Flatten())
    model[0].amplitudes.functions.fill_(1.0)
    with torch.no_grad():  # one of the two ranks: filters of one channel do not meet otherwise
        model[0].amplitudes.weight[:, 1] = 0
    x = noise(4, 2, 4, 3)
    batch = (x, noise(*model(x).shape, seed=2))
    factors = kfac.compute_factors(model, [batch], "regression")
    assert_exact(factors, model, batch, "regression", "0.filters.weight")


def test_biases_of_many_places_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "EXACT_UP_TO", 0)
    model, batch = mixture("conv+dev-shifts", 2), batch_of((1, 4, 4), 5)
    factors = kfac.compute_factors(model, [batch], "classification")
    for name in of_a_deviation(model):
        if name.endswith("bias"):
            assert_exact(factors, model, batch, "classification", name)


@pytest.mark.parametrize("paths", ["gconv-p4+dev-p4", "conv+dev-shifts"])
def test_every_consumer_of_factors_takes_them(paths: str) -> None:
    """Eigenvalues, effective parameters, eigenvectors, corrected eigenvalues, the diagonal."""
    model, batch = mixture(paths), batch_of((1, 4, 4), 5)
    factors = kfac.compute_factors(model, [batch], "classification")
    eigen = factors.eigendecompose(vectors=True)
    precision = {name: torch.tensor(2.0, dtype=torch.float64) for name in factors}
    gamma = eigen.effective_parameters(precision)
    parameters = dict(model.named_parameters())
    for name, p in parameters.items():
        assert 0 <= float(gamma[name]) <= p.numel(), name
        dense = factors.to_dense(name)
        assert_close(eigen.eigenvalues[name].sum(), dense.trace(), 1e-9, f"trace of {name}")
    corrected = kfac.correct_eigenvalues(model, [batch], "classification", eigen)
    truth = sum(float(kfac.ggn_block(model, batch, "classification", n).trace()) for n in parameters)
    found = sum(float(corrected.eigenvalues[n].sum()) for n in parameters)
    assert found == pytest.approx(truth, rel=1e-6), "corrected eigenvalues keep the trace"
