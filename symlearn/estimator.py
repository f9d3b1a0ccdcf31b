"""scikit-learn's conventions: `SymmetryClassifier` and `SymmetryRegressor`.

Images are numeric arrays `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]` (c is 1 or 3, or `image_shape` says
it), or flattened, `[n, features]`, as pipelines hand them on. With `kind` signals are `[n, t]` or
`[n, c, t]`, volumes `[n, d, h, w]` or `[n, c, d, h, w]`. All are put in the middle of a black frame whose
sides are the next multiples of 4 (32 for the ten-layer network), since networks halve them, and normalised
with the training set's statistics. A fit also takes a torch data set of ([c, *size], target) items, a loader
or a `symlearn.Stream` in place of X and y, and reads it as its images are needed.

Axes: n, c, t, d, h, w, classes, outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from symlearn.config import Config, DataConfig
from symlearn.data.changed import Change, Changed
from symlearn.data.preprocessing import Preprocessing, chunk_size, statistics_of
from symlearn.data.samples import Held, Samples
from symlearn.data.streams import Data, Stream
from symlearn.fitting.fit import fit
from symlearn.fitting.result import DataInfo, FitResult
from symlearn.kinds import AXES, Kind, layout
from symlearn.networks import configured_model, default_network
from symlearn.report.plots.heat_map import effective_dimension_heat_map
from symlearn.training.inputs import samples_from, usable_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIVISOR, DIVISORS = 4, {"ten-layer": 32}  # of the frame's sides, for most networks and for others
BATCH = 500  # images a pass of predictions
Array = np.ndarray[Any, Any]


def image_shape_of(shape: tuple[int, ...], asked: tuple[int, ...] | None) -> tuple[int, int, int]:
    """Channels and size of the images in an array of this shape.

    Returns:
        (c, h, w); c is 1 where neither the array nor `asked` says otherwise.

    Raises:
        ValueError: the array holds no images of the shape that was asked for.
    """
    each = shape[1:]
    if asked is not None:
        sides = tuple(asked) if isinstance(asked, Iterable) else ()
        if len(sides) not in (2, 3) or not all(isinstance(side, Integral) and side > 0 for side in sides):
            raise ValueError(f"image_shape is (h, w) or (c, h, w), whole numbers above 0, got {asked!r}")
        c_h_w = (1, *sides) if len(sides) == 2 else sides
        c, h, w = c_h_w
        if each not in ((c * h * w,), c_h_w, (h, w, c), *([(h, w)] if c == 1 else [])):
            raise ValueError(f"X has images of shape {each}, which are not image_shape {asked}")
        return c, h, w
    if len(each) == 1:
        side = math.isqrt(each[0])
        return (1, side, side) if side**2 == each[0] else (1, 1, each[0])
    if len(each) == 2:
        return (1, *each)
    if len(each) == 3 and each[0] in (1, 3):
        return each  # type: ignore[return-value]
    if len(each) == 3 and each[2] in (1, 3):
        return each[2], each[0], each[1]
    raise ValueError(
        f"X has shape {shape}; expected [n, h, w], [n, h, w, c] or [n, c, h, w] with c 1 or 3, or "
        "[n, features]; give image_shape for other channels, or kind='signals' or 'volumes'"
    )


def map_shape_of(shape: tuple[int, ...], asked: tuple[int, ...] | None, kind: Kind) -> tuple[int, ...]:
    """Channels and size of the signals, images or volumes in an array of this shape.

    Returns:
        (c, *size); c is 1 where neither the array nor `asked` says otherwise.

    Raises:
        ValueError: an unknown kind; the array holds none of the shape that was asked for.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; expected {', '.join(get_args(Kind))}")
    if kind == "images":
        return image_shape_of(shape, asked)
    each, axes = shape[1:], AXES[kind]
    if asked is not None:
        sides = tuple(asked) if isinstance(asked, Iterable) else ()
        if len(sides) not in (axes, axes + 1) or not all(isinstance(n, Integral) and n > 0 for n in sides):
            wanted = f"{layout(axes, '')} or {layout(axes, 'c')}".replace("[, ", "[")
            raise ValueError(f"image_shape of {kind} is {wanted}, whole numbers above 0, got {asked!r}")
        full = sides if len(sides) > axes else (1, *sides)
        if each not in ((math.prod(full),), full, *([full[1:]] if full[0] == 1 else [])):
            raise ValueError(f"X has {kind} of shape {each}, which are not image_shape {asked}")
        return full
    if len(each) in (axes, axes + 1):
        return each if len(each) > axes else (1, *each)
    if len(each) == 1 and (side := round(each[0] ** (1 / axes))) ** axes == each[0]:
        return (1, *[side] * axes)
    raise ValueError(
        f"X has shape {shape}; expected {layout(axes, 'n')} or {layout(axes)}, or [n, features] with "
        f"image_shape, as {kind} have"
    )


def array_of(images: Sequence[Any]) -> Array:
    """A list of images, or of lists, as one array.

    Returns:
        An array `[n, ...]`, whatever its numbers are.

    Raises:
        ValueError: they differ in shape.
        ValueError: they are no array at all, as numpy says it.
    """
    try:
        return np.asarray(images)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError("X is a list of images that differ in shape; bring them to one size") from None


class SymmetryEstimator(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor share; parameters as theirs."""

    def __init__(
        self,
        paths: str = "f-fc+conv",
        *,
        network: str | None = None,
        alpha: int | None = None,
        selection: str = "search",
        epochs: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        kind: Kind = "images",
        random_state: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.paths = paths
        self.network = network
        self.alpha = alpha
        self.selection = selection
        self.epochs = epochs
        self.image_shape = image_shape
        self.kind = kind
        self.random_state = random_state
        self.options = options

    def __sklearn_tags__(self) -> Tags:
        """Arrays of two to four axes; fits that differ where `random_state` does."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags

    def _images(self, X: Any, y: Any = None, *, reset: bool) -> tuple[Tensor, Any]:
        """Raw images `[n, c, *size]` float32, and y as it was checked."""
        numeric = self._numeric_targets()
        shape = None
        if isinstance(X, list | tuple):
            X = array_of(X)
        if getattr(X, "ndim", 2) > 2:
            X = check_array(X, dtype=np.float32, allow_nd=True, input_name="X")
            shape = map_shape_of(X.shape, self.image_shape, self.kind)
            last = self.kind == "images" and X.ndim == 4 and X.shape[1:] != shape
            X = (np.moveaxis(X, 3, 1) if last else X).reshape(len(X), -1)
        if reset:
            X, y = validate_data(
                self,
                X,
                y,
                dtype=np.float32,
                ensure_min_samples=2,
                y_numeric=numeric,
                multi_output=numeric,
            )
            self.image_shape_ = shape or map_shape_of(X.shape, self.image_shape, self.kind)
        elif shape is not None and shape != self.image_shape_:
            raise ValueError(
                f"X has {self.kind} of shape {shape}, but those of the fit were {self.image_shape_}"
            )
        else:
            X = validate_data(self, X, reset=False, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(X)).reshape(-1, *self.image_shape_), y

    def _numeric_targets(self) -> bool:
        raise NotImplementedError

    def _config(self, seed: int, likelihood: str) -> Config:
        """Make the fit's configuration of the estimator's parameters and its `options`.

        Returns:
            A checked configuration; its `[data]` says nothing but the likelihood.

        Raises:
            ValueError: options that are no dictionary, or one that is a parameter of the estimator, or of
                data, which it is given.
        """
        own = {
            "paths": self.paths,
            "network": self.network,
            "alpha": self.alpha,
            "selection": self.selection,
            "epochs": self.epochs,
            "seed": seed,
            "likelihood": likelihood,
        }
        if self.options is not None and not isinstance(self.options, Mapping):
            raise ValueError(f"options is a dictionary such as {{'lr': 0.005}} or None, got {self.options!r}")
        options = dict(self.options or {})
        wrong = sorted(set(options) & {*own, *DataConfig.model_fields})
        if wrong:
            raise ValueError(
                f"options may not hold {', '.join(wrong)}; data are given to fit, and the estimator has "
                "parameters for the rest (random_state for seed)"
            )
        return Config().with_options(**own, **options)

    def _raw(self, X: Any, y: Any) -> tuple[Samples, Array]:
        """Bring arrays or a data set to one form.

        Returns:
            Raw images, float32, and all their targets as given.

        Raises:
            ValueError: no images, or targets beside a data set, which has its own.
        """
        if not isinstance(X, Dataset | DataLoader | Stream):
            images, y = self._images(X, y, reset=True)
            return Held(images, torch.arange(len(images))), y
        if y is not None:
            raise ValueError("a data set has its own targets; leave y out")
        read = samples_from(X, torch.device("cpu"))
        if self.kind not in AXES or len(read.shape) != 1 + AXES[self.kind]:
            wanted = layout(AXES.get(self.kind, 2), "c")
            raise ValueError(
                f"expected items ({wanted}, target), got {list(read.shape)}; kind is {self.kind!r}, of "
                f"{', '.join(get_args(Kind))}"
            )
        self.image_shape_ = tuple(read.shape)
        self.n_features_in_ = math.prod(read.shape)
        return read, read.targets.numpy()

    def _fit(self, raw: Samples, y: Tensor, labels: Change, outputs: int, likelihood: str) -> Self:
        """Fit a network of so many outputs.

        Args:
            raw: images as they are.
            y: the targets of the fit, where all images are held.
            labels: from raw targets to those of the fit, where they are not.
            outputs: of the network.
            likelihood: of the targets.

        Returns:
            The estimator itself, fitted.
        """
        c, *sides = self.image_shape_
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = self._config(seed, likelihood)
        frame = framed(sides, config.model.network)
        mean, std = statistics_of(lambda: (x for x, _ in raw.batches(chunk_size(raw.shape))))
        self.preprocessing_ = Preprocessing(mean, std, tuple(sides), frame, frame)
        device = usable_device(config)
        train: Data
        if raw.held:
            train = self.preprocessing_(raw.whole()[0]), y
        else:
            train = Changed(
                raw, lambda x: self.preprocessing_(x).to(device), lambda given: labels(given).to(device)
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = configured_model(config.model, c, frame, outputs)
        data = DataInfo(preprocessing=self.preprocessing_)
        result: FitResult = fit(model, train, None, config, info=data)
        self.result_ = result
        self.model_: nn.Module = result.model
        self.report_: dict[str, Any] = result.report
        self.n_iter_ = result.metrics[-1]["epoch"]
        return self

    def _outputs(self, X: Any) -> Tensor:
        """The network's outputs, `[n, outputs]` float64."""
        check_is_fitted(self)
        images, _ = self._images(X, reset=False)
        device = next(self.model_.parameters()).device
        with torch.no_grad():
            parts = [self.model_(part.to(device)) for part in self.preprocessing_(images).split(BATCH)]
        return torch.cat(parts).double().cpu()

    def plot(self) -> Figure:
        """Draw what the layers became.

        Returns:
            A heat map of relative effective dimension, layers by paths.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        return effective_dimension_heat_map(self.report_)


def framed(size: Sequence[int], network: str | None) -> tuple[int, ...]:
    """The smallest frame of an image whose sides the network halves as often as it does."""

    def up_to(divisor: int) -> tuple[int, ...]:
        return tuple(math.ceil(side / divisor) * divisor for side in size)

    name = network or default_network(up_to(DIVISOR))
    return up_to(DIVISORS.get(name, DIVISOR))


class SymmetryClassifier(ClassifierMixin, SymmetryEstimator):  # type: ignore[misc]
    """A classifier that discovers which layers should be convolutional, by the Laplace marginal likelihood.

    Args:
        paths: a sum of path names such as "f-fc+conv".
        network: name of a network; None chooses by the images' size.
        alpha: width; None takes the network's own.
        selection: "search", "gradient" or "none".
        epochs: passes over the training set; None takes about 6,700 steps.
        image_shape: (h, w) or (c, h, w) of the images, where X does not say it; (t,) or (c, t) of signals,
            (d, h, w) or (c, d, h, w) of volumes.
        kind: "images", "signals" or "volumes": what X holds.
        random_state: seed of weights and batches.
        options: further options of `symlearn fit` by name, such as {"lr": 0.005}.

    Attributes:
        classes_: the labels, `[classes]`.
        report_: the numbers of report.json: `report_["layers"]` says what each layer became.
        model_: the learned network, in `eval` mode, on preprocessed images.
        result_: the `FitResult`, for `symlearn.collapse`.
        preprocessing_: what raw images go through.
        image_shape_: (c, h, w), or (c, *size).
        n_iter_: epochs done.
    """

    def _numeric_targets(self) -> bool:
        return False

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to images X and labels y `[n]`, or to a data set of both.

        Returns:
            The estimator itself, with `classes_`, `model_`, `report_` and `result_`.

        Raises:
            ValueError: arrays that are no images or not finite, fewer than two classes, an unknown option; a
                data set that `symlearn.fit` would refuse.
            TrainingStoppedError: a value is not finite or a layer collapsed.
        """
        raw, y = self._raw(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("expected two classes or more, got 1 class")
        numbers = torch.from_numpy(labels.astype(np.int64))

        def numbered(given: Tensor) -> Tensor:
            return torch.from_numpy(np.searchsorted(self.classes_, given.numpy()))

        return self._fit(raw, numbers, numbered, len(self.classes_), "classification")

    def predict_proba(self, X: Any) -> Array:
        """Probabilities `[n, classes]`, in the order of `classes_`."""
        return self._outputs(X).softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> Array:
        """Their logarithms."""
        return self._outputs(X).log_softmax(1).numpy()

    def predict(self, X: Any) -> Array:
        """Labels `[n]`."""
        best = self._outputs(X).argmax(1).numpy()
        return self.classes_[best]


class SymmetryRegressor(RegressorMixin, SymmetryEstimator):  # type: ignore[misc]
    """The same for real targets, with the noise learned by the evidence; see `SymmetryClassifier`.

    Targets are standardised for the fit and predictions brought back to their units.

    Attributes:
        sigma_noise_: learned standard deviation of the noise, in units of the standardised targets.
        target_mean_: of the training targets, `[outputs]`.
        target_scale_: their standard deviation.
    """

    def __sklearn_tags__(self) -> Tags:
        """Targets may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def _numeric_targets(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to images X and targets y, `[n]` or `[n, outputs]`, or to a data set of both.

        Returns:
            The estimator itself, with `sigma_noise_` (in units of the standardised targets), `model_`,
            `report_` and `result_`.

        Raises:
            ValueError: arrays that are no images or not finite, an unknown option; a data set that
                `symlearn.fit` would refuse.
            TrainingStoppedError: a value is not finite or a layer collapsed.
        """
        raw, y = self._raw(X, y)
        targets = np.asarray(y, dtype=np.float64)
        self._flat = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        self.target_mean_ = targets.mean(0)
        spread = targets.std(0)
        self.target_scale_ = np.where(spread > 0, spread, 1.0)

        def scaled(given: Array) -> Tensor:
            return torch.from_numpy((given - self.target_mean_) / self.target_scale_).float()

        def scaled_batch(given: Tensor) -> Tensor:
            return scaled(given.double().reshape(len(given), -1).numpy())

        self._fit(raw, scaled(targets), scaled_batch, targets.shape[1], "regression")
        self.sigma_noise_ = self.result_.sigma_noise
        return self

    def predict(self, X: Any) -> Array:
        """Targets, `[n]` or `[n, outputs]`."""
        outputs = self._outputs(X).numpy()
        y = outputs * self.target_scale_ + self.target_mean_
        return y[:, 0] if self._flat else y
