"""The configuration of a fit: frozen, strictly typed, checked when made, written to TOML and read back.

A configuration file has the tables `[data] [model] [training] [evidence] [curvature]`; every key has a
default. A value of another type is refused (`lr = "1e-3"` is a string, not a number), an unknown key is named.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

NonNegativeInt = int


class Table(BaseModel):
    """One table of the file: strict types, no unknown keys, no later changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Table):
    """Which images, which task."""

    data: str = Field("digits", description="a known data set, a .npz file, or an image folder")
    task: str = Field("class", description="what is to be predicted, and how images are transformed")
    data_root: str | None = Field(None, description="folder of downloaded data sets")
    limit: PositiveInt | None = Field(None, description="number of training images used")
    size: PositiveInt | None = Field(None, description="side the images are resized to, in pixels")
    likelihood: Literal["classification", "regression"] = Field("classification", description="of the targets")


class ModelConfig(Table):
    """Which network, and the paths of its layers."""

    network: str | None = Field(None, description="ten-layer or small; chosen by image size if not given")
    paths: str = Field("f-fc+conv", description="sum of path names")
    alpha: PositiveInt | None = Field(None, description="width multiplier; the network's own if not given")


class TrainingConfig(Table):
    """Steps on the weights."""

    epochs: PositiveInt | None = Field(None, description="epochs without the search's refits; about 4,500 steps if not given")
    batch_size: PositiveInt = Field(50, description="images a step")
    lr: PositiveFloat = Field(0.01, description="learning rate at the start")
    lr_end: PositiveFloat = Field(1e-5, description="learning rate at the end of the cosine")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="both take the prior's step proximally")
    augment: bool = Field(False, description="random flips and shifts, for the weights' steps only")
    seed: int = Field(0, ge=0, description="seed of weights, batches and drawn columns")
    device: str = Field("cpu", description="cpu or cuda")


class EvidenceConfig(Table):
    """Steps on the hyperparameters, and the search over paths."""

    selection: Literal["search", "gradient", "none"] = Field(
        "search", description="search over paths by evidence, gradients of the evidence alone, or MAP"
    )
    method: Literal["mackay", "adam"] = Field("mackay", description="fixed point, or Adam on log precision")
    frequency: PositiveInt | None = Field(None, description="epochs between evidence updates; epochs / 32 if not given")
    hyper_steps: PositiveInt = Field(20, description="hyperparameter steps an update")
    hyper_lr: PositiveFloat = Field(0.1, description="step of Adam on log precision")
    burn_in: PositiveInt | Literal["settled"] = Field(
        1000, description="steps before the first update, or until the training loss has settled"
    )
    prior_structure: Literal["tensor", "path", "scalar"] = Field(
        "tensor", description="which weights share a prior precision"
    )
    prior_precision: PositiveFloat = Field(1.0, description="prior precision at the start")
    rounds: int = Field(4, ge=0, description="search: rounds of proposals at most")
    refit_epochs: PositiveInt | None = Field(
        None, description="search: epochs every proposal is refit for; epochs / 8 if not given"
    )
    proposals: PositiveInt = Field(5, description="search: proposals tried a round, best guesses first")
    min_gain: float = Field(0.005, ge=0, description="search: gain asked for, in nats an image")


class CurvatureConfig(Table):
    """How the curvature is computed."""

    fisher_type: Literal["type-2", "mc", "empirical", "sketch"] = Field("sketch", description="columns")
    mc_samples: PositiveInt = Field(1, description="columns for mc and sketch")
    weight_sharing: Literal["expand", "reduce"] = Field("expand", description="over places")
    group_factors: Literal["grouped", "shared"] = Field("grouped", description="over channels of F-FC")
    batch_size: PositiveInt = Field(500, description="images a curvature pass")


class Config(Table):
    """Everything a fit needs to run again."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    curvature: CurvatureConfig = CurvatureConfig()

    def with_options(self, **options: object) -> Config:
        """A copy with some keys replaced, each given by its own name whatever its table.

        Raises:
            ValueError: an unknown key, or a value of a wrong type or range.
        """
        tables = self.model_dump()
        for key, value in options.items():
            table = next((t for t, keys in tables.items() if key in keys), None)
            if table is None:
                raise ValueError(f"unknown option {key!r}")
            tables[table][key] = value
        return checked(tables)

    def resolved(self, n_data: int) -> Config:
        """A copy in which every schedule that was left open is worked out for `n_data` training images."""
        training, evidence = self.training, self.evidence
        steps = max(n_data // min(training.batch_size, n_data), 1)
        epochs = training.epochs or min(max(round(4500 / steps), 30), 400)
        return self.with_options(
            epochs=epochs,
            frequency=evidence.frequency or max(round(epochs / 32), 1),
            refit_epochs=evidence.refit_epochs or max(round(epochs / 8), 2),
        )

    def to_toml(self) -> str:
        """The configuration as TOML; keys that are None are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def checked(tables: dict[str, object], source: str = "configuration") -> Config:
    """Validate plain tables.

    Raises:
        ValueError: one line that names the first bad key, what was expected and what it got.
    """
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("constrained", "literal")))
        if first["type"] == "extra_forbidden":
            known = known_keys(first["loc"][:-1])
            raise ValueError(f"{source}: unknown key {where!r}; known here: {', '.join(known)}") from None
        raise ValueError(f"{source}: {where}: {first['msg']}, got {first['input']!r}") from None


def known_keys(table: tuple[object, ...]) -> list[str]:
    """Keys of the table at this place of the configuration."""
    fields = Config.model_fields
    for part in table:
        annotation = fields[str(part)].annotation
        assert annotation is not None and issubclass(annotation, BaseModel)
        fields = annotation.model_fields
    return list(fields)


def read_config(path: str | Path) -> Config:
    """Read a TOML file.

    Raises:
        ValueError: the file is missing, is not TOML, or holds an unknown or ill-typed key.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no configuration file {str(path)!r}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as TOML: {error}") from None
    return checked(tables, str(path))
