"""scikit-learn's conventions, by its own checks and by what its users do."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles import assert_refused
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from streamed_sets import Listed
from tiny_fits import differences, noisy_map

import symlearn
from symlearn import SymmetryClassifier, SymmetryRegressor
from symlearn.estimator import image_shape_of, map_shape_of

QUICK: dict[str, Any] = {
    "alpha": 1,
    "selection": "none",
    "epochs": 4,
    "random_state": 0,
    "options": {"batch_size": 10, "prior_warmup": 10},
}
NO_IMAGES = {
    "check_classifiers_train": "asks for 83 % accuracy from two features, which are no image",
    "check_regressors_train": "sets alpha to 0.01, a penalty elsewhere and a width here",
}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [SymmetryClassifier("f-fc", **QUICK), SymmetryRegressor("f-fc", **QUICK)],
    expected_failed_checks=lambda estimator: NO_IMAGES,
)
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """200 of scikit-learn's digits `[200, 8, 8]`, with names for labels."""
    bunch = load_digits()
    return bunch.images[:200].astype(np.float32), np.array([f"digit {n}" for n in bunch.target[:200]])


@pytest.fixture(scope="module")
def fitted(digits: tuple[np.ndarray, np.ndarray]) -> SymmetryClassifier:
    """A classifier that has learned 200 digits by heart."""
    longer = {**QUICK, "epochs": 20, "options": {"batch_size": 20}}
    return SymmetryClassifier("fc", **longer).fit(*digits)


class TestClassifier:
    def test_labels_probabilities_and_score(self, fitted: SymmetryClassifier, digits: Any) -> None:
        X, y = digits
        assert fitted.score(X, y) > 0.9
        probabilities = fitted.predict_proba(X)
        assert probabilities.shape == (200, 10)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), probabilities, rtol=1e-9)
        assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()

    def test_images_may_be_flat_or_have_a_channel(self, fitted: SymmetryClassifier, digits: Any) -> None:
        X = digits[0]
        for form in (X.reshape(200, 64), X[:, None], X[..., None], X.tolist(), list(X)):
            np.testing.assert_array_equal(fitted.predict_proba(form), fitted.predict_proba(X))

    def test_report_plot_and_collapse(self, fitted: SymmetryClassifier, digits: Any) -> None:
        assert fitted.report_["layers"][0]["effective_type"] == "FC"
        assert isinstance(fitted.plot(), Figure)
        plain = symlearn.collapse(fitted.model_, fitted.result_).double()
        x = fitted.preprocessing_(torch.from_numpy(digits[0][:, None])).double()
        np.testing.assert_allclose(
            plain(x).softmax(1).detach().numpy(), fitted.predict_proba(digits[0]), atol=1e-5
        )

    def test_pickled_and_cloned(self, fitted: SymmetryClassifier, digits: Any) -> None:
        twin = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(twin.predict_proba(digits[0]), fitted.predict_proba(digits[0]))
        fresh = clone(fitted)
        assert fresh.get_params() == fitted.get_params()
        with pytest.raises(NotFittedError):
            fresh.plot()

    def test_in_a_pipeline_under_cross_validation(self, digits: Any) -> None:
        X, y = digits
        pipeline = make_pipeline(StandardScaler(), SymmetryClassifier("conv", **QUICK))
        scores = cross_val_score(pipeline, X.reshape(200, 64), y, cv=2)
        assert len(scores) == 2
        assert np.isfinite(scores).all()

    def test_same_seed_same_network_and_the_global_generator_stays(self, digits: Any) -> None:
        X, y = digits
        before = torch.get_rng_state()
        first, second = (SymmetryClassifier("conv", **QUICK).fit(X, y) for _ in range(2))
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("changes", "fragment"),
        [
            ({"paths": "foo"}, "unknown path 'foo'"),
            ({"selection": "best"}, "option selection is 'best'"),
            ({"options": {"rate": 1}}, "unknown option 'rate'"),
            ({"options": {"seed": 1, "data": "mnist"}}, "options may not hold data, seed"),
            ({"image_shape": (3, 5)}, "are not image_shape (3, 5)"),
            ({"image_shape": 8}, "image_shape is (h, w) or (c, h, w), whole numbers above 0, got 8"),
            ({"image_shape": "88"}, "image_shape is (h, w) or (c, h, w), whole numbers above 0, got '88'"),
            ({"options": "lr=3"}, "options is a dictionary such as {'lr': 0.005} or None, got 'lr=3'"),
        ],
    )
    def test_wrong_parameters(self, changes: dict[str, Any], fragment: str, digits: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(fragment)):
            SymmetryClassifier(**{"paths": "conv", **QUICK, **changes}).fit(*digits)

    def test_images_of_another_size(self, fitted: SymmetryClassifier) -> None:
        with pytest.raises(ValueError, match=r"\(1, 9, 9\), but those of the fit were \(1, 8, 8\)"):
            fitted.predict(np.zeros((2, 9, 9)))

    def test_a_list_of_images_of_several_sizes(self) -> None:
        with pytest.raises(ValueError, match="differ in shape; bring them to one size"):
            SymmetryClassifier(**QUICK).fit([np.zeros((8, 8)), np.zeros((9, 9))], [0, 1])

    def test_options_of_the_paths_reach_the_network(self, digits: Any) -> None:
        few = {**QUICK, "epochs": 1, "options": {"anchors": 0.3, "batch_size": 50}}
        many = {**few, "options": {"anchors": 0.7, "batch_size": 50}}
        counts = [
            sum(p.numel() for p in SymmetryClassifier("s-conv", **o).fit(*digits).model_.parameters())
            for o in (few, many)
        ]
        assert counts[0] < counts[1]


class TestRegressor:
    def test_predicts_in_the_targets_units(self) -> None:
        rng = np.random.default_rng(0)
        X = rng.random((120, 6, 7)).astype(np.float32)  # a frame of 8 x 8
        y = 300 + 50 * X.mean((1, 2)) / X.mean((1, 2)).std()
        longer = {**QUICK, "epochs": 40, "alpha": 2}
        regressor = SymmetryRegressor("fc", **longer).fit(X, y)
        assert regressor.preprocessing_.canvas == (8, 8)
        assert regressor.score(X, y) > 0.5
        assert regressor.predict(X).shape == (120,)
        assert regressor.sigma_noise_ > 0

    def test_several_outputs(self) -> None:
        X, y = np.random.default_rng(0).random((20, 8, 8)), np.random.default_rng(1).random((20, 2))
        assert SymmetryRegressor("conv", **QUICK).fit(X, y).predict(X).shape == (20, 2)


class TestDataSets:
    """Read as they are needed, with the numbers of arrays."""

    @pytest.mark.parametrize("workers", [0, 1])
    def test_classifier(self, workers: int) -> None:
        bunch = load_digits()
        x, y = torch.from_numpy(bunch.images[:80]).float()[:, None], torch.from_numpy(bunch.target[:80]) + 3
        given = symlearn.Stream(Listed(x, y), workers=workers)
        read = SymmetryClassifier("f-fc", **QUICK).fit(given)
        held = SymmetryClassifier("f-fc", **QUICK).fit(x.numpy(), y.numpy())
        assert read.preprocessing_ == held.preprocessing_ and read.image_shape_ == held.image_shape_
        assert not differences(read.model_.state_dict(), held.model_.state_dict())
        assert np.array_equal(read.predict(x.numpy()), held.predict(x.numpy()))
        assert read.predict(x.numpy()).min() >= 3 and read.result_.train is not None
        assert not read.result_.train.held

    def test_regressor(self) -> None:
        x, y = noisy_map(50, 0.3)
        read = SymmetryRegressor("conv", **QUICK).fit(Listed(x, 100 * y))
        held = SymmetryRegressor("conv", **QUICK).fit(x.numpy(), 100 * y.numpy())
        assert not differences(read.model_.state_dict(), held.model_.state_dict())
        assert np.array_equal(read.predict(x.numpy()), held.predict(x.numpy()))

    def test_refusals(self) -> None:
        x, y = noisy_map(10, 0.3)
        quick = SymmetryClassifier("f-fc", **QUICK)
        assert_refused(lambda: quick.fit(Listed(x, y), y), "a data set has its own targets; leave y out")
        assert_refused(lambda: quick.fit(Listed(x[:, 0], y)), "expected items ([c, h, w], target)")
        assert_refused(lambda: quick.fit(Listed(x, y[:, 0])), "Unknown label type: continuous")


@pytest.mark.parametrize(
    ("shape", "asked", "wanted"),
    [
        ((9, 8, 6), None, (1, 8, 6)),
        ((9, 3, 8, 6), None, (3, 8, 6)),
        ((9, 8, 6, 3), None, (3, 8, 6)),
        ((9, 64), None, (1, 8, 8)),
        ((9, 48), (8, 6), (1, 8, 6)),
        ((9, 96), (2, 8, 6), (2, 8, 6)),
        ((9, 7), None, (1, 1, 7)),
        ((9, 8, 6, 3), (3, 8, 6), (3, 8, 6)),
        ((9, 3, 8, 6), (3, 8, 6), (3, 8, 6)),
        ((9, 8, 6), (8, 6), (1, 8, 6)),
    ],
)
def test_image_shapes(shape: tuple[int, ...], asked: tuple[int, ...] | None, wanted: tuple[int, ...]) -> None:
    assert image_shape_of(shape, asked) == wanted


def test_arrays_that_are_no_images() -> None:
    with pytest.raises(ValueError, match="give image_shape"):
        image_shape_of((9, 5, 8, 6), None)
    for swapped, asked in (((9, 6, 8), (8, 6)), ((9, 6, 3, 8), (3, 8, 6))):
        with pytest.raises(ValueError, match="are not image_shape"):
            image_shape_of(swapped, asked)
    with pytest.raises(ValueError, match="image_shape is"):
        image_shape_of((9, 64), (8,))


class TestSignalsAndVolumes:
    @pytest.mark.parametrize(
        ("shape", "kind", "asked", "wanted"),
        [
            ((5, 30), "signals", None, (1, 30)),
            ((5, 2, 30), "signals", None, (2, 30)),
            ((5, 60), "signals", (2, 30), (2, 30)),
            ((5, 30), "signals", (30,), (1, 30)),
            ((5, 4, 5, 6), "volumes", None, (1, 4, 5, 6)),
            ((5, 2, 4, 5, 6), "volumes", None, (2, 4, 5, 6)),
            ((5, 64), "volumes", None, (1, 4, 4, 4)),
            ((5, 240), "volumes", (2, 4, 5, 6), (2, 4, 5, 6)),
        ],
    )
    def test_shapes(self, shape: tuple, kind: str, asked: tuple | None, wanted: tuple) -> None:
        assert map_shape_of(shape, asked, kind) == wanted

    @pytest.mark.parametrize(
        ("shape", "kind", "asked", "said"),
        [
            ((5, 30), "sounds", None, "kind is 'sounds'; expected signals, images, volumes"),
            (
                (5, 2, 3, 30),
                "signals",
                None,
                r"X has shape \(5, 2, 3, 30\); expected \[n, t\] or \[n, c, t\]",
            ),
            ((5, 30), "volumes", None, "with image_shape, as volumes have"),
            ((5, 30), "signals", (2, 16), "X has signals of shape"),
            ((5, 30), "signals", (0,), r"image_shape of signals is \[t\] or \[c, t\]"),
        ],
    )
    def test_wrong_ones_are_refused(self, shape: tuple, kind: str, asked: tuple | None, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            map_shape_of(shape, asked, kind)

    @pytest.mark.parametrize(("kind", "size"), [("signals", (2, 30)), ("volumes", (1, 7, 8, 9))])
    def test_fitted_scored_and_collapsed(self, kind: str, size: tuple) -> None:
        X, y = planted(size)
        model = SymmetryClassifier("f-fc+conv", kind=kind, network="small", **QUICK).fit(X, y)
        assert model.image_shape_ == size
        assert model.predict_proba(X).shape == (len(X), 2)
        np.testing.assert_array_equal(model.predict_proba(X.reshape(len(X), -1)), model.predict_proba(X))
        plain = symlearn.collapse(model.model_, model.result_)
        assert isinstance(plain, torch.nn.Module)
        streamed = SymmetryClassifier("conv", kind=kind, network="small", **QUICK)
        streamed.fit(Listed(torch.from_numpy(X), torch.from_numpy(y)))
        assert streamed.image_shape_ == size

    def test_a_data_set_of_another_kind_is_refused(self) -> None:
        X, y = planted((2, 30))
        with pytest.raises(
            ValueError, match=r"expected items \(\[c, h, w\], target\), got \[2, 30\]; kind is"
        ):
            SymmetryClassifier("conv", **QUICK).fit(Listed(torch.from_numpy(X), torch.from_numpy(y)))

    def test_regression(self) -> None:
        X, y = planted((1, 32))
        model = SymmetryRegressor("conv", kind="signals", network="small", **QUICK).fit(X, y.astype(float))
        assert model.predict(X).shape == (len(X),)


def planted(size: tuple) -> tuple[np.ndarray, np.ndarray]:
    """40 noisy maps `[n, *size]`, of which the second half is brighter."""
    rng = np.random.default_rng(0)
    y = np.arange(40) // 20
    return (rng.standard_normal((40, *size)) + 2 * y.reshape(-1, *[1] * len(size))).astype(np.float32), y
