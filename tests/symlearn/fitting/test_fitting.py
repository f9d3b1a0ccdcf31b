"""`fit` from its data to its report: what it takes, what it learns, what it says, what it keeps on trouble."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fits import (
    bars,
    differences,
    directions,
    linear_model,
    noisy_map,
    one_layer,
    options,
    small_network,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import symlearn
import symlearn.training.phases as phases
from kfac import compute_factors
from symlearn.fitting.beginning import Beginning
from symlearn.fitting.fit import fit
from symlearn.fitting.result import Progress
from symlearn.fitting.stages import Fit
from symlearn.report.sentence import verdict_sentence
from symlearn.report.table import layer_table_text
from symlearn.run_folder import RunFolder
from symlearn.training.inputs import as_tensors
from symlearn.training.start_scale import BRIEF, CLEARLY, PROBE, redraw
from symlearn.training.state import FitState, TrainingStoppedError

CPU = torch.device("cpu")


class Listed(Dataset):
    """A data set of (array, number) items, as torchvision's are."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.items = [(image.numpy(), int(label)) for image, label in zip(x, y, strict=True)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.items[index]


class TestData:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda x, y: (x, y),
            TensorDataset,
            Listed,
            lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7),
            lambda x, y: DataLoader(Listed(x, y), batch_size=7),
            lambda x, y: (x.double().numpy(), y.numpy()),
            lambda x, y: [x, y],
            lambda x, y: list(zip(x, y, strict=True)),
            lambda x, y: (x.tolist(), y.tolist()),
        ],
        ids=[
            "tuple",
            "tensor data set",
            "data set",
            "loader",
            "loader of a data set",
            "arrays",
            "list of two tensors",
            "list of items",
            "nested lists",
        ],
    )
    def test_every_kind_of_data_is_the_same(self, wrap: Any) -> None:
        x, y = directions(30)
        found = as_tensors(wrap(x, y), CPU)
        assert torch.equal(found[0], x) and torch.equal(found[1], y)

    def test_dtypes(self) -> None:
        x, y = directions(10)
        for given in ((x.double(), y.int()), (x.float(), y.to(torch.uint8))):
            found = as_tensors(given, CPU)
            assert (found[0].dtype, found[1].dtype) == (torch.float32, torch.int64)
        assert as_tensors((x, y.double()), CPU, torch.float64)[1].dtype == torch.float64, "targets stay real"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, y: (x[:3], y[:2]), "as many targets as images and at least one, got 3 and 2"),
            (lambda x, y: (x[:0], y[:0]), "at least one, got 0 and 0"),
            (lambda x, y: (x.where(x < 1.9, torch.nan), y), "pixels are NaN or infinite"),
            (lambda x, y: (x, y.float().log()), "targets are NaN or infinite"),
            (lambda x, y: None, "got a NoneType"),
            (lambda x, y: {"x": x, "y": y}, "got a dict"),
            (lambda x, y: (x, y, y), "got a tuple of 3"),
            (lambda x, y: x, "item 0 is a Tensor; give its image and its target"),
            (lambda x, y: (x, y.numpy().astype(str)), "the targets: expected .* numbers, got an array of <U"),
            (lambda x, y: (x, 3), r"targets \[n\], got \[10, 1, 8, 8\] and \[\]"),
            (lambda x, y: [(x[0], 0), (x[0, :, :5], 1)], "images differ in shape: .* at first, .* at 1"),
            (lambda x, y: [], "at least one, got 0 and 0"),
        ],
        ids=[
            "lengths",
            "empty",
            "nan pixels",
            "infinite targets",
            "nothing",
            "dictionary",
            "three parts",
            "images alone",
            "text labels",
            "one number",
            "mixed sizes",
            "empty list",
        ],
    )
    def test_wrong_data_in_one_line(self, change: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            as_tensors(change(*directions(10)), CPU)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("outputs", "targets", "likelihood", "message"),
        [
            (2, lambda y: y, "classification", r"labels run from 0 to 2, but the network has 2 outputs"),
            (3, lambda y: y - 1, "classification", "labels run from -1 to 1"),
            (3, lambda y: y.float(), "classification", r"needs integer labels \[n\], got torch.float32"),
            (1, lambda y: y, "regression", r"needs real targets \[n, 1\], got torch.int64"),
            (3, lambda y: y.float(), "regression", r"needs real targets \[n, 3\]"),
        ],
        ids=["too many classes", "negative", "real labels", "integer targets", "too few targets"],
    )
    def test_targets_that_do_not_fit(self, outputs: int, targets: Any, likelihood: str, message: str) -> None:
        x, y = directions(30)
        with pytest.raises(ValueError, match=message):
            fit(linear_model(outputs), (x, targets(y)), config=options(likelihood=likelihood, epochs=1))

    def test_images_of_another_size(self) -> None:
        with pytest.raises(ValueError, match=r"expected a map \[batch, 1, 8, 8\], got \[1, 1, 16, 16\]"):
            fit(one_layer(), bars(10, "quadrant", size=16), config=options(epochs=1))

    @pytest.mark.parametrize("model_dtype", [torch.float32, torch.float64], ids=str)
    def test_float64_images(self, model_dtype: torch.dtype) -> None:
        """They are taken as the network wants them, test set and all."""
        x, y = directions(60)
        model = one_layer(classes=3).to(model_dtype)
        result = fit(model, (x.double(), y), (x.double(), y), options(epochs=3, selection="gradient"))
        assert math.isfinite(result.report["log_marginal_likelihood"])
        assert next(result.model.parameters()).dtype == model_dtype
        assert 0 <= result.report["test"]["accuracy"] <= 1

    def test_float64_regression(self) -> None:
        x, y = noisy_map(60, 0.3)
        config = options(epochs=3, selection="gradient", likelihood="regression")
        result = fit(linear_model(1), (x.double(), y.double()), (x.double(), y.double()), config)
        assert result.report["test"]["accuracy"] is None and math.isfinite(result.report["test"]["nll"])


@pytest.fixture(scope="module")
def gradient_fit() -> symlearn.FitResult:
    """A fit with all paths present, on 16 x 16 images; to be read only."""
    data = bars(100, "quadrant", size=16)
    return fit(small_network(), data, bars(40, "quadrant", 1, 16), options(selection="gradient", frequency=1))


class TestReport:
    def test_keys_of_the_contract(self, gradient_fit: symlearn.FitResult) -> None:
        report = gradient_fit.report
        wanted = {
            "schema",
            "data",
            "task",
            "paths",
            "parameters",
            "log_marginal_likelihood",
            "test",
            "laplace",
        }
        wanted |= {"selection", "layers"}
        assert not wanted - set(report), f"missing: {wanted - set(report)}"
        assert report["schema"] == 2 and set(report["test"]) == {"accuracy", "nll", "ece"}
        assert set(report["laplace"]) == {"accuracy", "nll", "ece"}
        assert all(0 <= value < 10 for value in report["laplace"].values())
        assert report["paths"] == ["f-fc", "conv"]
        assert report["parameters"] == sum(p.numel() for p in gradient_fit.model.parameters())
        numbers = {"parameters", "effective_parameters", "normalised", "relative", "share", "weight_norm"}
        for place, layer in enumerate(report["layers"]):
            assert not {"name", "index", "effective_type", "paths"} - set(layer) and layer["index"] == place
            assert layer["effective_type"] in ("FC", "CONV", "LINEAR")
            for path, entry in layer["paths"].items():
                assert not (numbers | {"prior_precision"}) - set(entry), f"{layer['name']} {path}"
        heads = [set(layer["paths"]) for layer in report["layers"] if layer["effective_type"] == "LINEAR"]
        assert heads == [{"linear"}] * 2
        tensors = [
            n for layer in report["layers"] for e in layer["paths"].values() for n in e["prior_precision"]
        ]
        assert sorted(tensors) == sorted(n for n, _ in gradient_fit.model.named_parameters())

    def test_metrics_of_every_epoch(self, gradient_fit: symlearn.FitResult) -> None:
        metrics = gradient_fit.metrics
        wanted = {"epoch", "step", "train_loss", "train_accuracy", "test_accuracy", "test_nll", "seconds"}
        assert all(not (wanted | {"log_marginal_likelihood"}) - set(line) for line in metrics)
        assert [line["epoch"] for line in metrics] == list(range(1, 11))
        computed = [line for line in metrics if line["log_marginal_likelihood"] is not None]
        names = {name for name, _ in gradient_fit.model.named_parameters()}
        assert computed and all(set(line["prior_precision"]) == names for line in computed)
        assert all(set(line["effective_parameters"]) == names for line in computed)

    def test_best_evidence_of_all_stages_is_what_is_reported(self, gradient_fit: symlearn.FitResult) -> None:
        """Of every update of the anneal, and of the state that the start ended with."""
        found = [
            (line["phase"], line["log_marginal_likelihood"])
            for line in gradient_fit.metrics
            if line["log_marginal_likelihood"] is not None
        ]
        start = [value for phase, value in found if phase == "start"]
        best = max([value for phase, value in found if phase == "anneal"] + start[-1:])
        assert gradient_fit.report["log_marginal_likelihood"] == best

    def test_evidence_belongs_to_the_network_that_is_returned(self, gradient_fit: symlearn.FitResult) -> None:
        """Not to a later state: recomputed from the result it is the same number."""
        curvature = gradient_fit.config.curvature
        factors = compute_factors(
            gradient_fit.model,
            [bars(100, "quadrant", size=16)],
            "classification",
            curvature.fisher_type,
            curvature.mc_samples,
            curvature.weight_sharing,
            curvature.group_factors,
            seed=gradient_fit.config.training.seed,
        )
        found = symlearn.log_marginal_likelihood(gradient_fit.model, factors, gradient_fit.prior_precision)
        assert float(found.total) == pytest.approx(gradient_fit.report["log_marginal_likelihood"], rel=1e-5)
        gamma = symlearn.effective_parameters(gradient_fit.model, factors, gradient_fit.prior_precision)
        for layer in gradient_fit.report["layers"]:
            for path, entry in layer["paths"].items():
                truth = gamma[layer["name"]][path]["effective_parameters"]
                assert entry["effective_parameters"] == pytest.approx(truth, rel=1e-3, abs=1e-3), (
                    layer,
                    path,
                )

    def test_network_is_left_in_eval_mode(self, gradient_fit: symlearn.FitResult) -> None:
        assert not any(module.training for module in gradient_fit.model.modules())

    def test_map_fit_reports_the_evidence_at_its_own_precisions(self) -> None:
        data = directions(60)
        result = fit(
            one_layer(classes=3), data, config=options(selection="none", prior_precision=2.0, epochs=3)
        )
        assert list(result.prior_precision.values()) == pytest.approx([2.0] * len(result.prior_precision))
        assert math.isfinite(result.report["log_marginal_likelihood"])
        assert [line["log_marginal_likelihood"] for line in result.metrics] == [None] * 3
        assert result.report["test"] == {"accuracy": None, "nll": None, "ece": None}

    def test_networks_without_relaxed_layers(self) -> None:
        """Any network that kfac has rules for: its layers are listed by the path `linear`."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
        report = fit(model, directions(60), config=options(epochs=4)).report
        assert [list(layer["paths"]) for layer in report["layers"]] == [["linear"]] * 2
        assert report["paths"] == [] and report["selection"]["proposals"] == []

    def test_tables_of_a_configuration(self) -> None:
        tables = {"training": {"epochs": 2, "batch_size": 20}, "evidence": {"selection": "none"}}
        assert fit(linear_model(3), directions(60), config=tables).config.training.epochs == 2
        with pytest.raises(
            ValueError, match=r"training.lr is '1e-3'; expected a number above 0; write it without"
        ):
            fit(linear_model(3), directions(60), config={"training": {"lr": "1e-3"}})

    def test_same_seed_same_fit(self) -> None:
        data, config = directions(60), options(epochs=4, augment=True)
        first, second = (fit(one_layer(classes=3), data, config=config) for _ in range(2))
        other = fit(one_layer(classes=3), data, config=config.with_options(seed=1))
        assert not differences(first.model.state_dict(), second.model.state_dict())
        assert first.report["log_marginal_likelihood"] == second.report["log_marginal_likelihood"]
        assert differences(first.model.state_dict(), other.model.state_dict()), (
            "another seed, the same batches"
        )


class TestAugmentation:
    def test_every_image_of_a_batch_moves_by_itself(self) -> None:
        """The same image a hundred times: what a batch of steps sees differs, what the curvature sees does not."""
        x = directions(1)[0].expand(100, 1, 8, 8).clone()
        y = torch.arange(100) % 2
        model, trained, judged = one_layer(classes=2), [], []
        model.layer.register_forward_pre_hook(
            lambda module, args: (trained if module.training else judged).append(args[0].detach())
        )
        fit(model, (x, y), config=options(selection="gradient", epochs=2, augment=True))
        distinct = [len(torch.unique(batch.flatten(1), dim=0)) for batch in trained]
        assert len(trained) == 8 and min(distinct) > 5, f"distinct images by batch: {distinct}"
        whole = [batch for batch in judged if len(batch) == 100]  # the report turns a few images besides
        assert whole and all(torch.equal(batch, x) for batch in whole)


class TestRegression:
    SIGMA = 0.3

    @pytest.mark.parametrize("method", ["mackay", "adam"])
    def test_planted_noise_is_learned(self, method: str) -> None:
        """A linear map of 64 pixels from 300 noisy targets; at their optimum weights soak up a fifth of it."""
        data = noisy_map(300, self.SIGMA)
        config = options(
            likelihood="regression", selection="gradient", method=method, epochs=40, frequency=1, burn_in=60
        )
        result = fit(linear_model(1), data, noisy_map(200, self.SIGMA, seed=1), config)
        assert result.report["sigma_noise"] == result.sigma_noise == pytest.approx(self.SIGMA, rel=0.15)
        ideal = 0.5 * math.log(2 * math.pi * self.SIGMA**2) + 0.5
        assert result.report["test"]["nll"] < ideal + 0.3, "nats a target, against the planted model's own"
        assert result.report["test"]["accuracy"] is None

    @pytest.mark.slow
    def test_small_network_learns_it_too(self) -> None:
        """Brightness of a bar wherever it lies, through convolutions."""
        generator = torch.Generator().manual_seed(4)
        x = bars(300, "direction", size=16)[0]
        brightness = torch.rand(300, 1, generator=generator) * 2
        y = brightness - 1 + self.SIGMA * torch.randn(300, 1, generator=generator)
        config = options(
            likelihood="regression",
            selection="gradient",
            epochs=40,
            frequency=1,
            burn_in=100,
            prior_warmup=50,
        )
        result = fit(small_network("conv", 1), (x * brightness[..., None, None], y), config=config)
        assert result.sigma_noise == pytest.approx(self.SIGMA, rel=0.25)


class TestTrouble:
    @staticmethod
    def poison(epoch: int, model: nn.Module) -> Any:
        """A progress callback that plants a NaN among the weights after an epoch."""

        def told(progress: Progress) -> None:
            if progress.epoch == epoch:
                with torch.no_grad():
                    model.head.weight[0, 0] = math.nan

        return told

    def test_one_bad_value_is_taken_back(self) -> None:
        """A safe state exists: the fit goes on from there, more slowly, and its report says so."""
        data, model = directions(60), one_layer(classes=3)
        result = fit(
            model,
            data,
            config=options(selection="gradient", epochs=12, frequency=1),
            progress=self.poison(6, model),
        )
        (setback,) = result.report["training"]["setbacks"]
        assert setback["epoch"] == 7 and "training loss became nan" in setback["reason"], setback
        assert all(torch.isfinite(p).all() for p in result.model.parameters())
        assert "Taken back" in layer_table_text(result.report)
        assert "epoch 7" in layer_table_text(result.report)

    def test_folder_is_free_again(self, tmp_path: Path) -> None:
        """Without a safe state, and whatever start is tried, there is nothing to end with."""
        model = one_layer(classes=3)

        def told(progress: Progress) -> None:
            with torch.no_grad():
                model.head.weight[0, 0] = math.nan

        with pytest.raises(TrainingStoppedError, match=r"lower lr .*; tried: as configured; .*times 0.0625"):
            fit(
                model,
                directions(60),
                config=options(selection="none", epochs=4),
                out=tmp_path / "run",
                progress=told,
            )
        folder = RunFolder.open(tmp_path / "run")
        folder.acquire()
        folder.release()

    def test_nothing_learned_is_said(self) -> None:
        """A prior that no weight survives: the fit ends, and no layer gets a verdict."""
        config = options(
            selection="gradient", epochs=10, frequency=4, prior_precision=1e7, prior_warmup=1, burn_in=1000
        )
        result = fit(one_layer(classes=3), directions(100), config=config)
        assert result.report["training"]["learned"] is False
        assert verdict_sentence(result.report).startswith("Nothing was learned, so no layer has a verdict")


class TestCollapse:
    """A collapse provoked on purpose ends with the best earlier state, and is said."""

    @staticmethod
    def huge_step(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        """One update of the precisions goes to the bound, whatever the trust."""
        honest, calls = phases.update_evidence, [0]

        def update(state: Any, data: Any, step_hyperparameters: bool = True) -> float:
            promise = honest(state, data, step_hyperparameters)
            calls[0] += 1
            if calls[0] == at:
                for group in state.prior.log:
                    state.prior.set_log(group, 18.0)
            return promise

        monkeypatch.setattr(phases, "update_evidence", update)

    @pytest.mark.parametrize("selection", ["gradient", "search"])
    def test_ends_with_the_best_state(self, selection: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.huge_step(monkeypatch, at=6)
        model = one_layer(classes=3)
        config = options(selection=selection, epochs=60, frequency=2, rounds=0, lr=0.03)
        result = fit(model, directions(100), config=config)
        training = result.report["training"]
        assert training["setbacks"], "the step switched everything off"
        assert training["train_loss"] < 0.5 * training["constant_loss"], training
        finite = [v for line in result.metrics if (v := line["log_marginal_likelihood"]) is not None]
        assert result.report["log_marginal_likelihood"] == pytest.approx(max(finite), rel=0.2)
        assert result.model is model

    @pytest.mark.slow
    def test_killed_around_it_resumes_exactly(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("symlearn.fitting.stages.SAVE_EVERY", 0.0)
        data, config = directions(100), options(selection="gradient", epochs=40, frequency=2, lr=0.03)

        self.one_spike(monkeypatch, 20)
        alone = fit(one_layer(classes=3), data, config=config)
        assert [s["epoch"] for s in alone.report["training"]["setbacks"]] == [20]

        def interrupt(progress: Progress) -> None:
            if progress.epoch == 21:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(one_layer(classes=3), data, config=config, out=tmp_path / "run", progress=interrupt)
        resumed = fit(one_layer(classes=3), data, config=config, out=tmp_path / "run", resume=True)
        assert not differences(resumed.model.state_dict(), alone.model.state_dict())
        assert resumed.report["training"] == alone.report["training"]

    @staticmethod
    def one_spike(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
        """A loss of 9 in one epoch, seen by the guard alone."""
        honest = phases.train_epoch

        def spiked(state: Any, *rest: Any) -> tuple[float, float | None]:
            loss, accuracy = honest(state, *rest)
            return (9.0 if state.epoch == epoch else loss), accuracy

        monkeypatch.setattr(phases, "train_epoch", spiked)

    @pytest.mark.parametrize("way", ["map", "relaxed", "estimator"])
    def test_every_way_to_fit_is_guarded(self, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.one_spike(monkeypatch, 20)
        x, y = directions(100)
        config = options(selection="none" if way == "map" else "gradient", epochs=40, frequency=2, lr=0.03)
        if way == "map":
            report = fit(one_layer(classes=3), (x, y), config=config).report
        elif way == "relaxed":
            torch.manual_seed(0)
            cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
            report = fit(symlearn.relax(cnn, (1, 8, 8)), (x, y), config=config).report
        else:
            quick = {"batch_size": 25, "frequency": 2, "burn_in": 1, "lr": 0.03}
            estimator = symlearn.SymmetryClassifier(
                "conv",
                network="small",
                alpha=1,
                selection="gradient",
                epochs=40,
                random_state=1,
                options=quick,
            )
            report = estimator.fit(x.numpy(), y.numpy()).report_
        training = report["training"]
        assert 20 in [s["epoch"] for s in training["setbacks"]]
        assert training["train_loss"] < 0.8 * training["constant_loss"], training
        assert training["learned"] or way != "map", "no evidence was maximised by MAP, so none is compared"


class TestStarts:
    """Starts in turn, until one is better than the constant predictor."""

    @staticmethod
    def config(**changes: Any) -> Any:
        short = {"epochs": 60, "burn_in": 40, "rounds": 1, "proposals": 1, "lr": 0.02, "prior_warmup": 60}
        return options(**{**short, **changes})

    @pytest.mark.slow
    def test_a_task_that_breaks_the_symmetry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Convolutions and an average cannot see a place: the last layer is opened, and the fit learns."""
        monkeypatch.setattr("symlearn.fitting.beginning.PROBE", 120)
        model = one_layer()
        result = fit(model, bars(300, "quadrant"), config=self.config())
        training = result.report["training"]
        outcomes = [start["outcome"] for start in training["starts"]]
        assert outcomes[-1] == "learned" and len(outcomes) > 2, training["starts"]
        assert training["starts"][-1]["start"].endswith("all paths in the last layer")
        assert training["learned"] and result.model is model

    @pytest.mark.slow
    def test_a_short_start_is_judged_by_its_loss(self) -> None:
        """Fewer steps than any evidence needs, and none of them moved the loss: the next start is tried."""
        result = fit(one_layer(), bars(300, "quadrant"), config=self.config())
        training = result.report["training"]
        *earlier, last = training["starts"]
        assert all(BRIEF <= start["steps"] < PROBE for start in training["starts"]), training["starts"]
        assert {start["outcome"] for start in earlier} == {"the loss stayed at the constant predictor's"}
        assert last["outcome"] == "too short to be judged" and training["learned"]
        assert last["train_loss"] < (1 - CLEARLY) * last["constant_loss"]

    @pytest.mark.slow
    def test_of_short_starts_that_hardly_moved_the_lowest_loss_goes_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have learned a little: rounds of the search are still tried."""
        monkeypatch.setattr("symlearn.fitting.beginning.CLEARLY", 1.0)
        training = fit(one_layer(classes=3), bars(300, "direction"), config=self.config(burn_in=1000)).report[
            "training"
        ]
        assert [start["outcome"] for start in training["starts"]] == [
            "the loss hardly fell in so few steps"
        ] * 4
        assert training["learned"]

    @pytest.mark.slow
    def test_killed_in_a_later_start_resumes_exactly(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("symlearn.fitting.beginning.PROBE", 120)
        monkeypatch.setattr("symlearn.fitting.stages.SAVE_EVERY", 0.0)
        data, config = bars(300, "quadrant"), self.config()
        alone = fit(one_layer(), data, config=config)
        tried = alone.report["training"]["starts"]
        assert len(tried) > 2, tried
        later = 0

        def interrupt(progress: Progress) -> None:
            """After three epochs of the second start, and again after its first note."""
            nonlocal later
            later += progress.stage == "start" and progress.epoch * 12 > tried[0]["steps"]
            if later == 4:
                raise KeyboardInterrupt

        for resume in (False, True):
            later = 0
            with pytest.raises(KeyboardInterrupt):
                fit(one_layer(), data, config=config, out=tmp_path / "run", progress=interrupt, resume=resume)
        resumed = fit(one_layer(), data, config=config, out=tmp_path / "run", resume=True)
        assert not differences(resumed.model.state_dict(), alone.model.state_dict())
        assert resumed.report["training"] == alone.report["training"]

    @pytest.mark.slow
    def test_evidence_is_given_time_to_follow_the_loss(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A start whose loss fell runs on at a falling rate before it counts as dead; also when killed there."""
        monkeypatch.setattr("symlearn.fitting.beginning.PROBE", 120)
        monkeypatch.setattr("symlearn.fitting.stages.SAVE_EVERY", 0.0)
        asked = [0.0]  # no evidence reaches 0; the second time any does

        def constant(*_: Any) -> float:
            return asked.pop() if asked else -math.inf

        monkeypatch.setattr("symlearn.evidence.likelihood.Classification.constant_log_evidence", constant)
        data, config = bars(300, "direction"), self.config()
        alone = fit(one_layer(classes=3), data, config=config)
        (start,) = alone.report["training"]["starts"]
        epochs = sum(line["phase"] == "start" for line in alone.metrics)
        assert start["outcome"] == "learned" and start["steps"] == 12 * epochs and epochs == 2 * 24
        notes = 0

        def interrupt(progress: Progress) -> None:
            nonlocal notes
            notes += "given time" in (progress.note or "") or notes > 0
            if notes == 5:
                raise KeyboardInterrupt

        asked[:] = [0.0]
        with pytest.raises(KeyboardInterrupt):
            fit(one_layer(classes=3), data, config=config, out=tmp_path / "run", progress=interrupt)
        resumed = fit(one_layer(classes=3), data, config=config, out=tmp_path / "run", resume=True)
        assert not differences(resumed.model.state_dict(), alone.model.state_dict())

    @pytest.mark.slow
    def test_a_saturated_start_is_not_believed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has learned, and its evidence is no evidence: there is no curvature. The next start is taken."""
        monkeypatch.setattr("symlearn.fitting.beginning.PROBE", 120)
        honest, first = Beginning.next, []

        def saturated(beginning: Beginning, state: FitState, *given: Any) -> str | None:
            if not first:
                first.append(state.evidence)
                state.effective_parameters = dict.fromkeys(state.effective_parameters, 0.0)
            return honest(beginning, state, *given)

        monkeypatch.setattr(Beginning, "next", saturated)
        training = fit(one_layer(classes=3), bars(300, "direction"), config=self.config()).report["training"]
        assert first[0] is not None
        assert training["starts"][0]["outcome"].startswith("saturated: it learned"), training["starts"]
        assert training["learned"] and training["starts"][-1]["outcome"] == "learned"

    @pytest.mark.slow
    def test_of_starts_that_all_fail_the_best_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their losses fell, no evidence was enough: the last start's state does not take the best one's place."""
        monkeypatch.setattr("symlearn.fitting.beginning.PROBE", 120)
        monkeypatch.setattr(
            "symlearn.evidence.likelihood.Classification.constant_log_evidence", lambda *_: math.inf
        )
        gone_on: list[float | None] = []
        honest = Fit.keep_best

        def keep_best(self: Fit) -> None:
            gone_on.append(self.state.evidence)
            honest(self)

        monkeypatch.setattr(Fit, "keep_best", keep_best)
        training = fit(one_layer(classes=3), bars(300, "direction"), config=self.config()).report["training"]
        tried = [start["log_marginal_likelihood"] for start in training["starts"]]
        assert len(tried) == 4 and gone_on[0] == max(tried) != tried[-1], (tried, gone_on)

    def test_nothing_to_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Labels drawn at random: every start is tried, no round is searched, no layer has a verdict."""
        monkeypatch.setattr("symlearn.fitting.beginning.PROBE", 120)
        x, _ = bars(200, "quadrant")
        y = torch.randint(4, (200,), generator=torch.Generator().manual_seed(1))
        result = fit(one_layer("conv+f-fc"), (x, y), config=self.config(lr=0.002))
        training = result.report["training"]
        assert training["learned"] is False and len(training["starts"]) == 4, training["starts"]
        assert result.report["selection"]["proposals"] == []
        assert "no layer has a verdict" in layer_table_text(result.report).replace("\n", " ")

    def test_a_relaxed_network_keeps_its_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only networks that draw their own initial values are drawn anew."""
        cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
        relaxed = symlearn.relax(cnn, (1, 8, 8))
        assert not redraw(relaxed, 1)
        assert redraw(symlearn.build_model("conv", size=16, classes=3, alpha=1), 1)
        result = fit(relaxed, directions(60), config=options(selection="gradient", epochs=8))
        assert result.report["training"]["starts"][0]["outcome"] == "too short to be judged"
