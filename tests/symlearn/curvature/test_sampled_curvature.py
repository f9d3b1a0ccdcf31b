"""The evidence from chunks of a subset: exact where it is exact, equal to the full pass where all images are in."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest
import torch
from tiny_fits import noisy_map, one_layer, options, quadrants, state_of
from torch import Tensor

from kfac import KroneckerFactors
from symlearn.config import ALL_UP_TO, AUTO_IMAGES
from symlearn.curvature.sampled import ChunkSums, images_used, part_of, without_each
from symlearn.curvature.training_set import curvature_of
from symlearn.data.samples import Held, Pairs, samples_of, seeded_order
from symlearn.evidence.jackknife import CHUNKS
from symlearn.evidence.sampled import SampledEvidence
from symlearn.training.state import FitState
from symlearn.training.updates import update_evidence


def state(data: Pairs, **changes: object) -> FitState:
    """A float64 network with exact columns."""
    exact = {"fisher_type": "type-2", "likelihood": "classification", **changes}
    outputs = 1 if exact["likelihood"] == "regression" else 4
    return state_of(one_layer(classes=outputs).double(), data, **exact)


def double(data: Pairs) -> Pairs:
    """Images and real targets in float64."""
    x, y = data
    return x.double(), y.double() if y.is_floating_point() else y


def sums(one: FitState, data: Pairs, images: int, seed: int = 0) -> ChunkSums:
    """Chunks of a subset."""
    return ChunkSums(one.model, one.config, data, images, seed)


@pytest.fixture(params=["classification", "regression"])
def case(request: pytest.FixtureRequest) -> tuple[FitState, Pairs]:
    """A state and 203 images: not a whole number of chunks."""
    data = double(quadrants(203) if request.param == "classification" else noisy_map(203, 0.3))
    one = state(data, likelihood=request.param)
    one.hyper.sigma_noise = 0.7 if request.param == "regression" else 1.0
    return one, data


def close(a: float | Tensor, b: float | Tensor) -> bool:
    """Equal to rounding of float64."""
    return bool(torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-9, atol=1e-9))


class TestAllImages:
    """A subset of all images is the full pass."""

    @pytest.mark.parametrize("images", [203, 1000, 64])
    def test_is_the_full_pass(self, case: tuple[FitState, Pairs], images: int) -> None:
        one, data = case
        found = sums(one, data, images)
        while not found.complete:
            found.grow()
        full, delta = curvature_of(one.model, one.config, data), one.prior.by_tensor()
        whole = found.whole()
        assert whole.n_targets == full.n_targets
        for name in ("log_likelihood", "weight_penalty", "volume"):
            mine, theirs = (getattr(m.terms(delta, one.sigma_noise), name) for m in (whole, full))
            assert close(mine, theirs), name
        told = found.evidence(delta, one.sigma_noise)
        assert float(told.total.standard_error) == 0 and float(told.total.bias) == 0
        assert close(told.total.corrected, full.terms(delta, one.sigma_noise).total)
        gamma = full.effective_parameters(delta, one.sigma_noise)
        assert all(close(told.effective_parameters[n], gamma[n]) for n in gamma)

    def test_asked_for_nothing_is_different(self) -> None:
        """Few images, or as many as there are: the pass of always, to the bit, and nothing sampled."""
        data = quadrants(100)
        found = []
        for asked in ("auto", "all", 100, 5000):
            one = state_of(one_layer(), data, evidence_images=asked)
            update_evidence(one, data)
            assert one.sampled is None
            found.append((one.evidence, one.effective_parameters, one.prior.floats()))
        assert all(other == found[0] for other in found)


class TestExactly:
    """Over disjoint subsets that make up all images, means are exact where a quantity is a sum over data."""

    def parts(self, one: FitState, data: Pairs) -> tuple[list[KroneckerFactors], KroneckerFactors]:
        found = sums(one, data, 200)
        assert found.images == 200
        return [chunk.scaled(CHUNKS) for chunk in found.chunks], reduce(add, found.chunks)

    def test_log_likelihood_and_traces(self) -> None:
        data = double(quadrants(200))
        parts, whole = self.parts(state(data), data)
        assert close(sum(p.log_likelihood for p in parts) / CHUNKS, whole.log_likelihood)
        for name, block in whole.items():
            outputs = sum(torch.trace(p[name].output_factor[0]) for p in parts) / CHUNKS
            assert close(outputs, torch.trace(block.output_factor[0])), name
            if block.input_factor is None:
                dense = sum(p.to_dense(name) for p in parts) / CHUNKS
                assert close(dense, block.to_dense()), f"{name}: the block of a bias is a sum over data"

    def test_log_det_of_a_subset_is_too_low(self) -> None:
        """Jensen: of blocks that are sums over data, whatever the precision."""
        data = double(quadrants(200))
        parts, whole = self.parts(state(data), data)
        for name in (n for n, block in whole.items() if block.input_factor is None):
            eye = torch.eye(len(whole.to_dense(name)), dtype=torch.float64)
            for delta in (1e-2, 1.0, 100.0):
                mean = sum(torch.logdet(p.to_dense(name) + delta * eye) for p in parts) / CHUNKS
                assert mean < torch.logdet(whole.to_dense(name) + delta * eye), (name, delta)


class TestGrowth:
    """Doubling a subset looks at the new images alone."""

    def test_is_the_larger_subset(self) -> None:
        data = double(quadrants(400))
        one = state(data)
        grown, direct = sums(one, data, 80), sums(one, data, 160)
        grown.grow()
        assert grown.images == direct.images == 160 and grown.size == direct.size == 20
        for mine, theirs in zip(grown.chunks, direct.chunks, strict=True):
            assert all(close(mine.to_dense(n), theirs.to_dense(n)) for n in mine)
            assert close(mine.log_likelihood, theirs.log_likelihood)

    def test_nothing_is_looked_at_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looked: list[Tensor] = []

        subset = Held.subset

        def spy(data: Held, places: Tensor) -> Held:
            looked.append(places)
            return subset(data, places)

        monkeypatch.setattr(Held, "subset", spy)
        data = quadrants(403)
        found = sums(state_of(one_layer(), data), data, 100, seed=3)
        sizes = [found.images]
        while not found.complete:
            found.grow()
            sizes.append(found.images)
        assert sizes == [96, 192, 384, 403]
        assert torch.cat(looked).sort().values.tolist() == list(range(403))
        assert torch.cat(looked)[:96].tolist() == seeded_order(403, 3)[:96].tolist()

    def test_leaving_out_each_chunk(self) -> None:
        data = double(quadrants(160))
        found = sums(state(data), data, 160)
        for c, rest in enumerate(without_each(found.chunks)):
            expected = reduce(add, [one for k, one in enumerate(found.chunks) if k != c])
            assert rest.n_data == 140
            assert all(close(rest.to_dense(n), expected.to_dense(n)) for n in rest)

    def test_too_few_images(self) -> None:
        data = quadrants(7)
        with pytest.raises(ValueError, match="at least 8 images, one a chunk, got 7"):
            sums(state_of(one_layer(), data), data, 7)


class TestStatedErrors:
    """Against the spread over draws."""

    def test_against_draws(self) -> None:
        data = double(quadrants(1600))
        one = state(data)
        delta = one.prior.by_tensor()
        full = curvature_of(one.model, one.config, data).terms(delta)
        drawn: list[SampledEvidence] = [sums(one, data, 320, seed).evidence(delta) for seed in range(24)]
        for name, truth in (("log_likelihood", full.log_likelihood), ("total", full.total)):
            found = [getattr(d, name) for d in drawn]
            errors = torch.stack([f.corrected for f in found]) - truth
            stated = torch.stack([f.standard_error for f in found]).square().mean().sqrt()
            assert 0.65 < float(stated / errors.square().mean().sqrt()) < 1.5, name
        biased = torch.stack([d.log_det.whole - d.log_det.bias for d in drawn]).mean()
        plain = torch.stack([d.log_det.whole for d in drawn]).mean()
        assert plain < biased, "the correction raises the log determinant"

    def test_noted_in_plain_numbers(self) -> None:
        data = quadrants(400)
        one = state_of(one_layer(), data, evidence_images=100)
        update_evidence(one, data)
        assert one.sampled is not None
        told = one.sampled.told()
        assert (told["images"], told["of"], told["chunks"]) == (96, 400, CHUNKS)
        assert one.sampled.evidence == one.evidence
        assert all(value > 0 for value in told["standard_error"].values())
        assert set(told["gradient_error"]) == set(one.effective_parameters)
        twin = one.clone()
        assert twin.sampled == one.sampled
        other = one.clone()
        other.sample = 1
        update_evidence(other, data, step_hyperparameters=False)
        update_evidence(twin, data, step_hyperparameters=False)
        assert twin.evidence == pytest.approx(one.evidence, rel=1e-9)
        assert other.evidence != pytest.approx(one.evidence, rel=1e-6), "another subset"


class TestHowMany:
    """The rule."""

    @pytest.mark.parametrize(
        ("asked", "n", "used"),
        [
            ("auto", ALL_UP_TO, ALL_UP_TO),
            ("auto", ALL_UP_TO + 1, AUTO_IMAGES),
            ("all", 10**6, 10**6),
            (500, 400, 400),
            (500, 4000, 500),
        ],
    )
    def test_rule(self, asked: int | str, n: int, used: int) -> None:
        assert images_used(options(evidence_images=asked), n) == used

    def test_corrected_eigenvalues_take_all(self) -> None:
        assert images_used(options(eigenvalues="corrected"), 10**6) == 10**6

    def test_a_single_pass_takes_all(self) -> None:
        assert images_used(options(selection="none"), 10**6) == 10**6
        assert images_used(options(selection="none", evidence_images=500), 10**6) == 500

    def test_part(self) -> None:
        data = quadrants(200)
        part, scale = part_of(data, options(evidence_images=64), seed=5)
        images, _ = samples_of(part).whole()
        assert len(images) == 64 and scale == 200 / 64
        assert torch.equal(images, data[0][seeded_order(200, 5)[:64]])
        whole, scale = part_of(data, options(), seed=5)
        assert samples_of(whole).whole()[0] is data[0] and scale == 1.0
