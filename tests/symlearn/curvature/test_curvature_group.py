"""Curvature of group convolutions and of batch normalisation: factors by hand, and exact where they must be.

Axes as in `kfac`, and group (h), member (g), c, row, column, tap.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import assert_close, assert_exact, free_taps, harmonic_values, relative_error
from torch import Tensor, nn
from toys import STAGES, Batch, batch_of, noise, seeded

import kfac
from kfac.rules import find_rule, gram
from symlearn.groups import find_group
from symlearn.layers import CosetPool2d, GroupBatchNorm2d, GroupConv2d, LiftingConv2d, RelaxedLayer2d
from symlearn.layers.filter_bank import SteerableBank
from symlearn.layers.group_conv import (
    GroupStage,
)
from symlearn.networks import build_model

LIKELIHOODS = ("classification", "regression")
PADDINGS = ("circular", "zeros", "valid")


def stage_of(kind: str, group: str, padding: str, k: int = 3) -> GroupStage:
    """A stage of 2 -> 3 channels (2 -> 2 where every channel stays by itself)."""
    alone = kind in ("channel", "mixing")
    stage = STAGES[kind](2, 2 if alone else 3, 1 if kind == "mixing" else k, group, padding)
    (drawn,) = seeded(stage)
    assert isinstance(drawn, GroupStage)
    return drawn


def input_of(kind: str, group: str, batch: int = 3, size: int = 4) -> Tensor:
    """Random maps for a stage."""
    return noise(batch, 2, *([] if kind == "lifting" else [len(find_group(group))]), size, size)


def tap_matrices(group: str, k: int) -> np.ndarray:
    """T `[group, t, s]` with theta(h^-1 t) = sum_s T[h, t, s] weight(s), by geometry alone.

    Quarter turns and mirrors move taps onto taps; otherwise weights are coefficients of harmonics.
    """
    n = 4 if group.startswith("p4") else int(group[1:])
    points = np.array(list(itertools.product(np.arange(k) - (k - 1) / 2, repeat=2)))
    matrices = []
    for mirrored, turn in itertools.product((False, True) if group == "p4m" else (False,), range(n)):
        angle = 2 * math.pi * turn / n
        matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrices.append(matrix @ np.diag([1.0, -1.0]) if mirrored else matrix)
    if not free_taps(matrices, k):
        return np.stack([harmonic_values(k, points @ matrix) for matrix in matrices])
    gaps = [(points @ matrix)[:, None] - points for matrix in matrices]
    return np.stack([np.abs(gap).sum(2) < 1e-9 for gap in gaps]).astype(float)


def rows_by_hand(kind: str, stage: GroupStage, x: Tensor, group: str) -> Tensor:
    """Rows a `[group of factors, row, d_in]`, one an element and place, by loops over members and taps.

    What the filter's entry (h^-1 g, s) is multiplied with: every value x(c, g, place + t) that T[h, t, s]
    lets it meet.
    """
    g_table = find_group(group)
    k, size, order = stage.kernel_size, x.shape[-1], len(g_table)
    taps, values = tap_matrices(group, k), x.numpy()
    first, out = (0, size - k + 1) if stage.padding_mode == "valid" else (-(k // 2), size)
    members = {"full": order, "mixing": order}.get(kind, 1)
    found = []
    for n, h, row, column in itertools.product(range(len(x)), range(order), range(out), range(out)):
        a = np.zeros((2, members, taps.shape[2]))
        for t, g in itertools.product(range(k * k), range(members)):
            i, j = row + first + t // k, column + first + t % k
            if stage.padding_mode == "circular":
                i, j = i % size, j % size
            elif not (0 <= i < size and 0 <= j < size):
                continue
            source = () if kind == "lifting" else (h if members == 1 else g,)
            value = values[(n, slice(None), *source, i, j)]
            member = 0 if members == 1 else int(g_table.product[g_table.inverse[h], g])
            a[:, member] += value[:, None] * taps[h, t]
        found.append(a.reshape(2, -1) if kind in ("channel", "mixing") else a.reshape(1, -1))
    return torch.from_numpy(np.stack(found, 1))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("group", ["p4", "p4m", "c3"])
@pytest.mark.parametrize("kind", STAGES)
class TestInputFactor:
    """A by permutations of one patch covariance, from the rule's rows, and from rows moved by hand."""

    def test_fast_form_is_that_of_the_rows(self, kind: str, group: str, padding: str) -> None:
        for k, size in ((3, 4), (3, 7), (1, 3), (5, 5)):
            stage = stage_of(kind, group, padding, k)
            rule, x = find_rule(stage), input_of(kind, group, size=size)
            assert rule is not None, f"no rule for {kind}"
            fast, rows = rule.input_factor(stage, x), rule.input_rows(stage, x)
            assert_close(fast, gram(rows), 1e-12, f"A of {k}x{k} filters on {size}x{size}")
            assert_close(fast, fast.mT, 1e-13, "A is symmetric")
            y = stage(x)
            assert rows.shape[2] == rule.places(stage, y.shape) == y[0, 0].numel(), "number of places"

    def test_is_that_of_patches_moved_by_hand(self, kind: str, group: str, padding: str) -> None:
        stage, x = stage_of(kind, group, padding), input_of(kind, group, batch=2)
        rule = find_rule(stage)
        assert rule is not None
        rows = rows_by_hand(kind, stage, x, group)
        assert_close(rule.input_rows(stage, x).flatten(1, 2), rows, 1e-12, "rows a")
        assert_close(rule.input_factor(stage, x), rows.mT @ rows, 1e-12, "A")

    def test_rows_are_what_the_weight_meets(self, kind: str, group: str, padding: str) -> None:
        """y = W a at every element and place, and sum g a^T is autograd's gradient."""
        stage, x = stage_of(kind, group, padding), input_of(kind, group)
        rule = find_rule(stage)
        assert rule is not None
        rows, y = rule.input_rows(stage, x), stage(x)
        weight = stage.weight.flatten(1)
        weight = weight.unsqueeze(1) if stage.per_channel else weight[None]
        outputs = torch.einsum("gbri,goi->gbro", rows, weight)
        bias = stage.bias.reshape(-1, 1, 1, 1)
        assert_close(outputs, rule.output_rows(stage, y - bias), 1e-12, "W a")
        cotangent = noise(*y.shape, seed=5)
        (expected,) = torch.autograd.grad(y, stage.weight, cotangent)
        found = torch.einsum("gbro,gbri->goi", rule.output_rows(stage, cotangent), rows)
        assert_close(found.reshape(expected.shape), expected, 1e-12, "gradient of the weight")


def one_place() -> nn.Sequential:
    """Every stage at C_1 on a 3 x 3 map that is one place from the first on: a weight is used once a datum."""
    return seeded(
        LiftingConv2d(2, 3, 3, "c1", "valid"),
        nn.Tanh(),
        GroupConv2d(3, 2, 1, "c1", "full"),
        nn.Tanh(),
        GroupConv2d(2, 3, 1, "c1", "depthwise-separable"),
        nn.Tanh(),
        GroupConv2d(3, 3, 1, "c1", "separable"),
        nn.Tanh(),
        CosetPool2d("c1", "mean"),
        nn.Flatten(),
        nn.Linear(3, 3),
    )


def mixture(group: str = "p4", padding: str = "circular", constant: bool = False) -> nn.Sequential:
    """Every kind of stage under a group on 5 x 5 images; with `constant`, nothing makes maps uneven."""
    return seeded(
        LiftingConv2d(2, 3, 3, group, padding),
        nn.Tanh(),
        GroupConv2d(3, 2, 3, group, "depthwise-separable", padding),
        nn.Tanh(),
        GroupConv2d(2, 2, 1, group, "full", padding),
        nn.Identity() if constant else nn.Tanh(),
        CosetPool2d(group, "mean"),
        nn.Flatten(),
        nn.Linear(2 * (1 if padding == "valid" else 25), 3),
    )


def weights_of(model: nn.Module) -> list[str]:
    """Names of the weights of the stages."""
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, GroupStage)]


def biases_of(model: nn.Module) -> list[str]:
    """Names of all biases of the stages."""
    return [f"{name}.bias" for name, module in model.named_modules() if isinstance(module, GroupStage)]


class TestExactness:
    """Where Kronecker factors must be exact, against the dense block."""

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_one_datum_at_one_place(self, likelihood: str) -> None:
        model, batch = one_place(), batch_of((2, 3, 3), 1, likelihood=likelihood)
        factors = kfac.compute_factors(model, [batch], likelihood)
        for name in factors:
            assert_exact(factors, model, batch, likelihood, name)

    @pytest.mark.parametrize("padding", ["circular", "zeros"])
    def test_one_datum_on_a_map_of_one_place(self, padding: str) -> None:
        """A padded 3 x 3 filter on a 1 x 1 map."""
        model = seeded(
            LiftingConv2d(2, 3, 3, "c1", padding),
            nn.Tanh(),
            GroupConv2d(3, 2, 3, "c1", "full", padding),
            nn.Tanh(),
            GroupConv2d(2, 2, 3, "c1", "separable", padding),
            nn.Flatten(),
            nn.Linear(2, 3),
        )
        batch = batch_of((2, 1, 1), 1)
        factors = kfac.compute_factors(model, [batch], "classification")
        for name in factors:
            assert_exact(factors, model, batch, "classification", name)

    @pytest.mark.parametrize("kind", ["lifting", "full", "pointwise", "channel"])
    @pytest.mark.parametrize("padding", ["circular", "zeros"])
    @pytest.mark.parametrize("k", [3, 5])
    def test_harmonics_of_one_element_on_one_place(self, kind: str, padding: str, k: int) -> None:
        """C_1 given the coefficients that other groups have: a weight is used once a datum."""
        stage = STAGES[kind](2, 2, k, "c1", padding)
        stage.bank = SteerableBank(stage.group, k, stage.regular)
        channels = (2,) if stage.per_channel else (2, 2)
        stage.weight = nn.Parameter(torch.empty(*channels, *stage.bank.axes))
        first = LiftingConv2d(2, 2, 1, "c1") if kind != "lifting" else nn.Identity()
        model = seeded(first, nn.Tanh(), stage, nn.Tanh(), nn.Flatten(), nn.Linear(2, 3))
        for likelihood in LIKELIHOODS:
            batch = batch_of((2, 1, 1), 1, likelihood=likelihood)
            factors = kfac.compute_factors(model, [batch], likelihood)
            assert_exact(factors, model, batch, likelihood, "2.weight")

    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("group", ["p4", "c3", "c8", "d3"])
    @pytest.mark.parametrize("kind", STAGES)
    def test_outputs_that_are_the_map_itself(self, kind: str, group: str, padding: str) -> None:
        """Squared error at every element and place: H = sum a a^T (x) I, for any number of data."""
        stage = stage_of(kind, group, padding)
        x = input_of(kind, group, batch=3)
        model = nn.Sequential(stage, nn.Flatten())
        batch = (x, noise(*model(x).shape, seed=2))
        factors = kfac.compute_factors(model, [batch], "regression")
        assert_exact(factors, model, batch, "regression", "0.weight")

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("group", ["p4", "p4m", "c6", "d3"])
    def test_reduce_with_equal_rows(self, group: str, likelihood: str) -> None:
        """A constant image: every element and place gives every weight the same row."""
        model, (x, y) = mixture(group), batch_of((2, 5, 5), 1, likelihood=likelihood)
        batch = (x[:, :, :1, :1].expand_as(x).contiguous(), y)
        factors = kfac.compute_factors(model, [batch], likelihood, weight_sharing="reduce")
        for name in weights_of(model):
            assert_exact(factors, model, batch, likelihood, name)

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("group", ["p4", "p4m", "c3", "d3"])
    def test_biases(self, group: str, padding: str, likelihood: str) -> None:
        """For any number of data."""
        model, batch = mixture(group, padding), batch_of((2, 5, 5), 7, likelihood=likelihood)
        factors = kfac.compute_factors(model, [batch], likelihood)
        for name in biases_of(model):
            assert_exact(factors, model, batch, likelihood, name)

    def test_biases_in_relaxed_layers(self) -> None:
        """Group paths beside paths on the plane, subsampling in between."""
        model = seeded(
            RelaxedLayer2d(1, 2, 4, "conv+gconv-p4:separable", 2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)
        )
        batch = batch_of((1, 4, 4, 4), 6)
        factors = kfac.compute_factors(model, [batch], "classification")
        for name, module in model.named_modules():
            if getattr(module, "bias", None) is not None:
                assert_exact(factors, model, batch, "classification", f"{name}.bias")

    def test_many_places_are_an_approximation(self) -> None:
        """Otherwise these tests would show nothing."""
        model, batch = mixture(), batch_of((2, 5, 5), 7)
        factors = kfac.compute_factors(model, [batch], "classification")
        for name in weights_of(model):
            truth = kfac.ggn_block(model, batch, "classification", name)
            assert relative_error(factors.to_dense(name), truth) > 0.01, f"{name} happens to be exact"


def normalised(kind: str, affine: bool = True) -> nn.Sequential:
    """A network with a batch normalisation that has seen other data, in `eval` mode."""
    if kind == "group":
        model = seeded(
            LiftingConv2d(2, 3, 3, "p4"),
            GroupBatchNorm2d(3, affine=affine),
            nn.Tanh(),
            GroupConv2d(3, 2, 3, "p4", "separable"),
            GroupBatchNorm2d(2, affine=affine),
            CosetPool2d("p4", "max"),
            nn.Flatten(),
            nn.Linear(50, 3),
        )
    elif kind == "plane":
        model = seeded(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=affine), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
        )
    else:
        model = seeded(
            nn.Flatten(), nn.Linear(50, 4), nn.BatchNorm1d(4, affine=affine), nn.Tanh(), nn.Linear(4, 3)
        )
    for _ in range(3):
        model.train()(3 * noise(20, 2, 5, 5, seed=11) + 1)
    return model.eval()


class TestBatchNorm:
    """Scale and shift of a normalisation, one gradient a datum each: exact for any number of data."""

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("kind", ["group", "plane", "vectors"])
    def test_blocks_are_exact(self, kind: str, likelihood: str) -> None:
        model, batch = normalised(kind), batch_of((2, 5, 5), 9, likelihood=likelihood)
        factors = kfac.compute_factors(model, [batch], likelihood)
        norms = [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for name in [f"{norm}.{part}" for norm in norms for part in ("weight", "bias")]:
            truth = kfac.ggn_block(model, batch, likelihood, name)
            assert_close(factors.to_dense(name), truth, 1e-10, f"block of {name}")
            assert factors[name].input_factor is None, f"{name} has Kronecker factors"

    def test_the_mode_does_not_matter_and_is_left(self) -> None:
        """Running statistics are used, and neither they nor the mode change."""
        model, batch = normalised("group"), batch_of((2, 5, 5), 9)
        expected = kfac.compute_factors(model, [batch], "classification")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        model[4].eval()  # a frozen normalisation in a network that trains
        found = kfac.compute_factors(model, [batch], "classification")
        assert model.training and model[1].training and not model[4].training, "modes were changed"
        for name in expected:
            assert_close(found.to_dense(name), expected.to_dense(name), 1e-14, name)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} was changed"

    def test_without_an_affine_part(self) -> None:
        model, batch = normalised("group", affine=False), batch_of((2, 5, 5), 4)
        factors = kfac.compute_factors(model, [batch], "classification")
        assert set(factors) == {name for name, _ in model.named_parameters()}

    @pytest.mark.parametrize("part", ["weight", "bias"])
    def test_a_frozen_part(self, part: str) -> None:
        model, batch = normalised("group"), batch_of((2, 5, 5), 4)
        expected = kfac.compute_factors(model, [batch], "classification")
        model[1].get_parameter(part).requires_grad_(False)
        factors = kfac.compute_factors(model, [batch], "classification")
        assert set(expected) - set(factors) == {f"1.{part}"}
        for name in factors:
            assert_close(factors.to_dense(name), expected.to_dense(name), 1e-14, name)

    def test_without_running_statistics_is_refused(self) -> None:
        model = seeded(
            LiftingConv2d(2, 3, 3, "p4"),
            GroupBatchNorm2d(3, track_running_stats=False),
            nn.Flatten(),
            nn.Linear(300, 3),
        )
        with pytest.raises(ValueError, match=r"no running statistics.*use track_running_stats=True"):
            kfac.compute_factors(model, [batch_of((2, 5, 5), 4)], "classification")


GROUPS_AND_PADDINGS = [("p4", "circular"), ("p4m", "zeros"), ("c3", "circular"), ("p4", "valid")]


@pytest.mark.parametrize(("group", "padding"), GROUPS_AND_PADDINGS, ids=lambda v: v)
class TestSums:
    """What sums over data must obey."""

    def data(self) -> Batch:
        return batch_of((2, 5, 5), 30)

    @pytest.mark.parametrize("sharing", ["expand", "reduce"])
    def test_half_and_half_is_the_whole(self, group: str, padding: str, sharing: str) -> None:
        model, (x, y) = mixture(group, padding), self.data()
        halves = [(x[:11], y[:11]), (x[11:], y[11:])]
        parts = [
            kfac.compute_factors(model, [half], "classification", weight_sharing=sharing) for half in halves
        ]
        added = parts[0] + parts[1]
        whole = kfac.compute_factors(model, [(x, y)], "classification", weight_sharing=sharing)
        looped = kfac.compute_factors(model, halves, "classification", weight_sharing=sharing)
        assert added.n_data == looped.n_data == whole.n_data == 30
        for name in whole:
            assert_close(added.to_dense(name), whole.to_dense(name), 1e-12, f"{name}, halves added")
            assert_close(looped.to_dense(name), whole.to_dense(name), 1e-12, f"{name}, in two batches")

    @pytest.mark.parametrize("sharing", ["expand", "reduce"])
    def test_factors_are_positive_semidefinite(self, group: str, padding: str, sharing: str) -> None:
        model = mixture(group, padding)
        factors = kfac.compute_factors(model, [self.data()], "classification", weight_sharing=sharing)
        for name, block in factors.items():
            assert isinstance(block, kfac.KroneckerBlock)
            for what, factor in (("A", block.input_factor), ("B", block.output_factor)):
                if factor is not None:
                    lowest, highest = torch.linalg.eigvalsh(factor)[:, [0, -1]].T.tolist()
                    assert min(lowest) > -1e-12 * max(highest), f"{what} of {name}: lowest {min(lowest):.1e}"
                    assert max(highest) > 0, f"{what} of {name} is zero"

    def test_log_determinant_and_effective_parameters(self, group: str, padding: str) -> None:
        """The spectrum's log determinant is the dense block's; gamma lies in [0, P] and falls in delta."""
        model = mixture(group, padding)
        factors = kfac.compute_factors(model, [self.data()], "classification")
        spectra = factors.eigendecompose()
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        last = {name: float(size) + 1e-9 for name, size in sizes.items()}
        for delta in (1e-6, 1e-2, 1.0, 100.0):
            precisions = dict.fromkeys(factors, delta)
            found = float(spectra.logdet(precisions))
            dense = sum(
                float(torch.linalg.slogdet(factors.to_dense(n) + delta * torch.eye(sizes[n]).double())[1])
                for n in factors
            )
            assert math.isfinite(found), f"log determinant {found} at delta {delta}"
            assert found == pytest.approx(dense, rel=1e-6, abs=1e-3), f"at delta {delta}"
            for name, gamma in spectra.effective_parameters(precisions).items():
                assert 0 <= float(gamma) <= last[name], f"gamma of {name}: {float(gamma)} at delta {delta}"
                last[name] = float(gamma)

    @pytest.mark.slow
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_sampled_factors_average_to_the_exact_ones(
        self, group: str, padding: str, likelihood: str
    ) -> None:
        """30 data, 1,000 draws for each: B within a few percent; A is not drawn at all."""
        model, batch = mixture(group, padding), batch_of((2, 5, 5), 30, likelihood=likelihood)
        exact = kfac.compute_factors(model, [batch], likelihood)
        drawn = kfac.compute_factors(model, [batch], likelihood, "mc", mc_samples=1000, seed=0)
        for name in weights_of(model):
            assert_close(drawn[name].input_factor, exact[name].input_factor, 1e-14, f"A of {name}")
            assert_close(drawn[name].output_factor, exact[name].output_factor, 0.05, f"B of {name}")

    @pytest.mark.slow
    def test_seeds_average_to_the_exact_ones(self, group: str, padding: str) -> None:
        """One draw a datum, and another seed a pass: the same as many draws."""
        model, batch = mixture(group, padding), self.data()
        exact = kfac.compute_factors(model, [batch], "classification")
        passes = [kfac.compute_factors(model, [batch], "classification", "mc", seed=s) for s in range(100)]
        for name in weights_of(model):
            mean = torch.stack([factors[name].output_factor for factors in passes]).mean(0)
            assert_close(mean, exact[name].output_factor, 0.1, f"B of {name}")


@pytest.mark.parametrize(
    "paths", ["gconv-p4", "f-fc+conv+gconv-p4:pointwise", "gconv-p4m:depthwise-separable"]
)
def test_every_parameter_of_a_network_has_a_block(paths: str) -> None:
    torch.manual_seed(0)
    model = build_model(paths, network="small", size=8, alpha=1, classes=3).double()
    factors = kfac.compute_factors(model, [batch_of((1, 8, 8), 5)], "classification")
    for name, p in model.named_parameters():
        assert factors[name].shape == p.shape, f"{name} has no block of its own shape"
        assert factors.eigendecompose().eigenvalues[name].numel() == p.numel(), f"spectrum of {name}"


def test_parameters_keep_their_order() -> None:
    """The dense block is in `parameter.flatten()` order: entry by entry against one datum's gradients."""
    model, batch = one_place(), batch_of((2, 3, 3), 1)
    factors = kfac.compute_factors(model, [batch], "classification")
    for name in weights_of(model):
        truth = kfac.ggn_block(model, batch, "classification", name).diagonal()
        assert_close(factors.to_dense(name).diagonal(), truth, 1e-10, f"diagonal of {name}")
