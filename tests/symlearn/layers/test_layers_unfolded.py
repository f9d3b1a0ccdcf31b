"""FISTA layers with cyclic banks: the lasso they solve, the turns they commute with, banks and their errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import LayerCase, LayerContract
from oracles import assert_close, relative_error
from sklearn.linear_model import Lasso
from torch import Tensor
from toys import noise

from symlearn.analysis.equivariance import equivariance_error
from symlearn.layers import CyclicUnfolded2d, UnfoldingOptions
from symlearn.layers.cyclic_bank import Rotations
from symlearn.layers.cyclic_unfolded import authors
from symlearn.layers.soft_threshold import SoftThreshold
from symlearn.networks.unfolded import LayerCode

SMALL = UnfoldingOptions(filters=12, kernel_size=3, step=0.05, threshold=0.1)


def encoder(banks: str, size: int = 6, layers: int = 3, c_in: int = 2, **options: object) -> CyclicUnfolded2d:
    """A network of FISTA layers in float64, whose normalisation has seen noise."""
    torch.manual_seed(0)
    chosen = replace(SMALL, **options)
    found = CyclicUnfolded2d(c_in, size, banks, layers, options=chosen).double()
    for seed in range(60):
        found.train()(noise(16, c_in, size, size, seed=seed))
    return found.eval()


CASES = [
    LayerCase(
        name,
        lambda banks=name, options=options: CyclicUnfolded2d(2, (6, 5), banks, 3, options=options).eval(),
        (2, 6, 5),
        (12 * (1 + name.count("+")), 6, 5),
        linear=False,
        wrong_shapes=((3, 6, 5), (2, 5, 6)),
    )
    for name, options in (
        ("free", SMALL),
        ("cyclic-90", SMALL),
        ("cyclic-60+free", replace(SMALL, shared=False)),
        ("cyclic-120", replace(SMALL, normalise=False, unit_norm=True)),
    )
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestUnfolded(LayerContract):
    """The laws of all layers."""


class TestEquivariance:
    """Every layer's code under the rotations of its bank."""

    @pytest.mark.parametrize("k", [3, 4])
    @pytest.mark.parametrize("learn_threshold", [True, False])
    def test_quarter_turns_are_exact(self, k: int, learn_threshold: bool) -> None:
        model = encoder("cyclic-90", 8, 4, kernel_size=k, learn_threshold=learn_threshold)
        x = noise(5, 2, 8, 8, seed=99)
        for layers in range(1, 5):
            errors = equivariance_error(LayerCode(model, layers, "cyclic-90"), "p4", x)
            assert float(errors.max()) < 1e-12, f"layer {layers}: {errors.tolist()}"
        single = equivariance_error(LayerCode(model.float(), 4, "cyclic-90"), "p4", x.float())
        assert float(single.max()) < 1e-5, single.tolist()

    def test_a_quarter_turn_turns_the_map_and_moves_the_turns(self) -> None:
        """Spelled out, without the group's own machinery."""
        model, x = encoder("cyclic-90", 7), noise(3, 2, 7, 7, seed=3)
        code = model(x).unflatten(1, (-1, 4))
        turned = model(torch.rot90(x, 1, (-2, -1))).unflatten(1, (-1, 4))
        assert_close(turned, torch.rot90(code, 1, (-2, -1)).roll(1, 2), 1e-12, "code of the turned image")

    def test_other_angles_by_their_measured_error(self) -> None:
        """Half turns are exact; the others lie between exact and unrelated."""
        model, x = encoder("cyclic-60", 16, kernel_size=7), noise(4, 2, 16, 16, seed=5)
        errors = equivariance_error(LayerCode(model, 3, "cyclic-60"), "c6", x)
        assert float(errors[3]) < 1e-12, "half a turn moves pixels onto pixels"
        assert 0.2 < float(errors[1]) < 0.8, errors.tolist()

    def test_the_authors_are_not_equivariant(self) -> None:
        options = authors(replace(SMALL, threshold=0.1))
        torch.manual_seed(0)
        model = CyclicUnfolded2d(2, 8, "cyclic-90", 4, options=replace(options, threshold=0.1)).double()
        uneven = 1 + 3 * torch.linspace(0, 1, 8).double()[:, None] * torch.ones(8).double()
        for seed in range(60):
            model.train()(noise(16, 2, 8, 8, seed=seed) * uneven)
        x = noise(5, 2, 8, 8, seed=99)
        errors = equivariance_error(LayerCode(model.eval(), 3, "cyclic-90"), "p4", x)
        assert float(errors[1:].min()) > 1e-3, errors.tolist()


class TestLasso:
    """With one dictionary and many iterations the code is the lasso's."""

    @pytest.mark.slow
    @pytest.mark.parametrize("banks", ["cyclic-90", "free+cyclic-60"])
    @pytest.mark.parametrize("one_sided", [False, True])
    def test_objective_is_scikit_learns(self, banks: str, one_sided: bool) -> None:
        torch.manual_seed(1)
        options = UnfoldingOptions(
            filters=12,
            kernel_size=3,
            step=1.0,
            threshold=0.3,
            learn_threshold=False,
            normalise=False,
            one_sided=one_sided,
        )
        model = CyclicUnfolded2d(1, 5, banks, 4000, tied=True, options=options).double()
        names = model.bank_names
        dictionary = torch.cat([model.layer(0).bank(name).to_dense(5) for name in names]).detach().T
        step = 1 / float(torch.linalg.matrix_norm(dictionary, 2)) ** 2
        for module in model.modules():
            if hasattr(module, "step"):
                module.step = step
        x = noise(3, 1, 5, 5, seed=2)
        code = model(x).detach().flatten(1)
        if len(names) > 1:  # `to_dense` lists a bank's places filter by filter, and so does the code
            assert code.shape[1] == dictionary.shape[1]
        for image, found in zip(x.flatten(1), code, strict=True):
            pixels = len(image)
            solver = Lasso(0.3 / pixels, fit_intercept=False, tol=1e-14, max_iter=10**6, positive=one_sided)
            best = torch.from_numpy(solver.fit(dictionary.numpy(), image.numpy()).coef_)

            def objective(z: Tensor, image: Tensor = image) -> float:
                return float(0.5 * (image - dictionary @ z).square().sum() + 0.3 * z.abs().sum())

            gap = objective(found) - objective(best)
            assert abs(gap) < 1e-6, f"objective {objective(found)} for {objective(best)}"
            assert np.count_nonzero(best.numpy()) < len(best) / 2, "nothing is sparse here"


class TestBanks:
    """Rotations, the two uses, thresholds."""

    @pytest.mark.parametrize("banks", ["free", "cyclic-90", "cyclic-60"])
    @pytest.mark.parametrize("unit_norm", [False, True])
    def test_synthesis_is_the_transpose_of_analysis(self, banks: str, unit_norm: bool) -> None:
        bank = encoder(banks, kernel_size=4, unit_norm=unit_norm).layer(0).bank(banks)
        analysis, synthesis = bank.analysis.to_dense(6), bank.synthesis.to_dense(5)
        assert_close(synthesis.detach(), analysis.T.detach(), 1e-12, "W")

    def test_unit_norm_is_a_parametrisation(self) -> None:
        """The weight keeps its length, and scaling it changes nothing."""
        bank = encoder("cyclic-90", unit_norm=True).layer(0).bank("cyclic-90")
        before = bank.analysis.filters()
        norms = before.flatten(2).norm(dim=2)
        assert_close(norms.detach(), torch.ones_like(norms), 1e-12, "norms")
        bank.scale_output_(3.0)
        assert_close(bank.analysis.filters().detach(), before.detach(), 1e-12, "filters")

    @pytest.mark.parametrize("degrees, turns", [(90.0, 4), (180.0, 2), (60.0, 6), (48.0, 6), (90.0, 1)])
    def test_covariances_turn_as_rows_do(self, degrees: float, turns: int) -> None:
        rotations = Rotations(4, turns, degrees)
        rows = noise(7, 3, 16)
        back = rotations.turned_back(rows)  # [row, c, turn, tap]
        assert_close(
            torch.einsum("rchs,hts->rcht", back, rotations.matrices())[:, :, 0], rows, 1.0, "same space"
        )
        flat = back.transpose(1, 2).flatten(2).flatten(0, 1)
        covariance = rows.flatten(1).T @ rows.flatten(1)
        assert_close(rotations.summed_covariance(covariance), flat.T @ flat, 1e-12, "covariance")
        filters = noise(5, 4, 4)
        turned = torch.einsum("hts,fs->fht", rotations.matrices(), filters.flatten(1))
        assert_close(rotations(filters).flatten(2), turned, 1e-12, "matrices")

    @pytest.mark.parametrize("one_sided", [False, True])
    def test_thresholds(self, one_sided: bool) -> None:
        threshold = SoftThreshold(1, 2, 2.0, 0.5, one_sided=one_sided)
        x = torch.tensor([-3.0, -0.5, 0.5, 3.0]).reshape(1, 2, 2, 1)
        expected = [0.0 if one_sided else -2.0, 0.0, 0.0, 2.0]
        assert threshold(x).flatten().tolist() == expected
        with torch.no_grad():
            threshold.weight.fill_(-3.0)  # |2 - 3| times the step is 0.5
        assert threshold(x).flatten().tolist() == [0.0 if one_sided else -2.5, 0.0, 0.0, 2.5]

    def test_a_removed_bank_leaves_its_code_alone(self) -> None:
        model, x = encoder("free+cyclic-90"), noise(2, 2, 6, 6)
        for number in (2, 0):
            model.layer(number).set_active(["free"])
            y = model(x)
            assert y.shape == (2, 24, 6, 6)
            y.square().sum().backward()
            live = {n for n, p in model.named_parameters() if p.requires_grad}
            assert not any(n.startswith(f"layers.{number}.paths.cyclic") for n in live)
            assert all(dict(model.named_parameters())[n].grad is not None for n in live)
        model.layer(1).set_active(["free"])
        assert float(model(x)[:, 12:].detach().abs().max()) == 0.0
        assert model.layer(0).changes() == []
        assert encoder("free+cyclic-90").layer(0).changes() == [("free", "remove"), ("cyclic-90", "remove")]

    def test_tied_layers_are_one(self) -> None:
        torch.manual_seed(0)
        tied = CyclicUnfolded2d(1, 6, "cyclic-90", 5, tied=True, options=SMALL)
        assert sum(p.numel() for p in tied.parameters()) == 3 * 9 + 3 + 6
        assert len(tied.layers) == 1 and tied(noise(1, 1, 6, 6).float()).shape == (1, 12, 6, 6)


@pytest.mark.parametrize(
    "build, told",
    [
        (lambda: CyclicUnfolded2d(1, 6, "cyclic-50", options=SMALL), "'cyclic-50' does not divide 360"),
        (lambda: CyclicUnfolded2d(1, 6, "cyclic-x", options=SMALL), "unknown bank 'cyclic-x'"),
        (lambda: CyclicUnfolded2d(1, 6, "conv", options=SMALL), "unknown bank 'conv'"),
        (lambda: CyclicUnfolded2d(1, 6, "free+free", options=SMALL), "different banks"),
        (lambda: CyclicUnfolded2d(1, 6, "cyclic-45", options=SMALL), "multiple of 8"),
        (lambda: CyclicUnfolded2d(1, 6, options=replace(SMALL, kernel_size=9)), "9x9 filters do not fit"),
        (lambda: CyclicUnfolded2d(0, 6, options=SMALL), "must be positive"),
        (lambda: replace(SMALL, step=0.0), "step must be positive"),
        (lambda: replace(SMALL, threshold=-1.0), "threshold must not be negative"),
        (lambda: replace(SMALL, generator="both"), "generator must be"),
        (lambda: CyclicUnfolded2d(1, 6, options=replace(SMALL, generator_offset=-90.0)), "between 0 and 360"),
    ],
)
def test_wrong_input_is_one_line(build, told: str) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert told in str(error.value) and "\n" not in str(error.value)


def test_initial_filters_have_unit_norm() -> None:
    weight = encoder("cyclic-90").layer(0).bank("cyclic-90").analysis.weight
    norms = weight.flatten(2).norm(dim=2)
    assert relative_error(norms, torch.ones_like(norms)) < 1e-6
