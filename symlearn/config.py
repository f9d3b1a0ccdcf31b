"""The configuration of a fit: frozen, strictly typed, checked when made, written to TOML and read back.

A configuration file has the tables `[data] [model] [training] [evidence] [curvature]`; every key has a
default. A value of another type is refused (`lr = "1e-3"` is a string, not a number); so is an unknown key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from symlearn.kinds import Kind

ALL_UP_TO, AUTO_IMAGES = 10_000, 5_000  # images: an evidence update takes all of so many, so many of more
WHOLE_UP_TO = 1024  # rows, images times outputs: an evidence update is of the whole GGN
Names = Annotated[  # of parameters; TOML and dictionaries give a list
    tuple[str, ...], BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
]


class Table(BaseModel):
    """One table of the file: strict types, no unknown keys, no later changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Table):
    """Which images, which task."""

    data: str = Field(
        "digits",
        description="digits, mnist, fashion-mnist, cifar10, cifar100, a .npz file, a folder of .npy files or "
        "an image folder; of known symmetry planted-texture, planted-side, planted-glyph, planted-turned, "
        "planted-fixed, planted-codes, planted-shifted-codes, planted-mixture, planted-eighths, "
        "planted-cyclic-45, planted-cyclic-60, planted-cyclic-90, and of CIFAR-10's photographs "
        "planted-patches, planted-patch-places; signals planted-pulse, planted-pulse-place, "
        "planted-heartbeat; volumes planted-volume, planted-volume-place",
    )
    task: str = Field(
        "class",
        description="class, quadrant-digit, quadrant, rotated, rotated-test (training images upright), "
        "translated, scaled, quarter-turns or class-and-turn",
    )
    data_root: str | None = Field(
        None, description="where downloaded data sets lie; the user's cache if not given"
    )
    limit: PositiveInt | None = Field(None, description="training images used; all if not given")
    test_limit: PositiveInt | None = Field(None, description="test images looked at; all if not given")
    size: PositiveInt | None = Field(
        None, description="side the images are resized to, in pixels; the set's own if not given"
    )
    kind: Kind | None = Field(
        None,
        description="what a .npz holds: signals [n, c, t], images or volumes [n, c, d, h, w]; by its axes if "
        "not given, where [n, a, b] are grey images unless a is below 4",
    )
    workers: int = Field(0, ge=0, description="processes that read images which are not held in memory")
    likelihood: Literal["classification", "regression"] = Field(
        "classification", description="of the targets: classes, or real numbers (.npz only)"
    )


class ModelConfig(Table):
    """Which network, and the paths of its layers."""

    network: str | None = Field(
        None,
        description="ten-layer or small; by the images' size if not given. On one group (paths conv or "
        "gconv-p4, gconv-p4m, ...): p4cnn, p4cnn-rotation-pooling, all-cnn or resnet44. Of banks (paths "
        "free, cyclic-<angle>): unfolded, unfolded-dense, unfolded-dense-once, unfolded-published, "
        "unfolded-dense-published",
    )
    model: str | None = Field(
        None,
        description="FILE.py:FUNCTION that returns a network of your own, given in_channels, size and "
        "classes; its convolutions get the paths besides conv",
    )
    paths: str = Field(
        "f-fc+conv",
        description="what layers may be made of, a sum of fc, f-fc, s-fc, conv, s-conv and "
        "gconv-<group>[:variant] such as gconv-p4 or gconv-p4m:pointwise; dev-<group>[:pointwise] and "
        "dev-shifts[:rank], deviations beside gconv-<group> and conv; of unfolded networks a sum of free and "
        "cyclic-<angle> such as cyclic-60",
    )
    alpha: PositiveInt | None = Field(None, description="width multiplier; the network's own if not given")
    kernel_size: PositiveInt | None = Field(
        None,
        description="taps an axis of convolutions' filters and banks'; the network's own, mostly 3, if "
        "not given",
    )
    anchors: PositiveFloat = Field(
        0.5, le=1, description="anchors of sparsified paths, as a fraction of their places, rounded up"
    )
    lengthscale: PositiveFloat = Field(
        1.0, description="lengthscale of sparsified paths at the start, in grid spacings"
    )
    learn: Literal[
        "nothing", "lengthscale", "anchors", "both", "all", "generator", "shared-generator", "invariances"
    ] = Field(
        "lengthscale",
        description="what the evidence learns besides precisions: of sparsified paths lengthscale, "
        "anchors, both, or all (the noise too); of cyclic banks the angle, one a layer or a shared one; "
        "invariances, the ranges of transforms",
    )
    transforms: str | None = Field(
        None,
        description="transformations of the image that outputs are averaged over, with commas: rotation, "
        "translation, scale, shear, flip-x, of colours hue, brightness, contrast, ...; rotation:30 starts "
        "at, or without learn invariances stays at, 30 degrees",
    )
    copies: int = Field(8, ge=2, description="transformed copies of an image that outputs are averaged over")
    generator_offset: float = Field(
        0.0, description="degrees that the angle of cyclic banks starts away from their own"
    )
    sparse_prior: Literal["weights", "lengthscale"] = Field(
        "weights", description="what the prior of sparsified paths is put on"
    )
    lengthscale_precision: PositiveFloat = Field(
        1.0, description="precision of the prior on the inverse lengthscale, where it is put there"
    )

    @property
    def path_options(self) -> dict[str, Any]:
        """What the paths leave to the user, as `build_model` takes it."""
        both = ("lengthscale", "anchors")
        several = {"nothing": (), "invariances": (), "both": both, "all": (*both, "noise")}
        chosen = several.get(self.learn, (self.learn,))
        on_lengthscale = self.sparse_prior == "lengthscale"
        return {
            "kernel_size": self.kernel_size,
            "anchors": self.anchors,
            "lengthscale": self.lengthscale,
            "learn": chosen,
            "generator_offset": self.generator_offset,
            "lengthscale_precision": self.lengthscale_precision if on_lengthscale else None,
        }


class TrainingConfig(Table):
    """Steps on the weights."""

    epochs: PositiveInt | None = Field(
        None, description="epochs without the search's refits; about 6,700 steps if not given"
    )
    batch_size: PositiveInt | None = Field(
        None, description="images a batch of the weights' steps; a 24th of them, 8 to 50, if not given"
    )
    lr: PositiveFloat = Field(0.01, description="learning rate at the start")
    lr_end: PositiveFloat = Field(1e-5, description="learning rate at the end of the cosine")
    optimizer: Literal["adam", "sgd"] = Field(
        "adam", description="of the weights; either takes the prior's step proximally"
    )
    prior_warmup: PositiveInt = Field(300, description="steps until the prior has its full strength")
    augment: bool = Field(False, description="random flips and shifts, for the weights' steps only")
    compile: bool = Field(
        False,
        description="the weights' steps through torch.compile, which compiles every network that a search "
        "tries; for long fits on GPUs, on a CPU it is slower",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of weights, batches and drawn columns")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the network lives")


class EvidenceConfig(Table):
    """Steps on the hyperparameters, and the search over paths."""

    selection: Literal["search", "gradient", "none"] = Field(
        "search", description="search over paths by evidence, gradients of the evidence alone, or MAP"
    )
    method: Literal["mackay", "adam"] = Field("mackay", description="fixed point, or Adam on log precision")
    evidence_images: Annotated[int, Field(ge=64)] | Literal["auto", "all"] = Field(
        "auto",
        description="images an evidence update looks at, a decision more where it must: a number, all, or "
        f"auto: all of up to {ALL_UP_TO:,} or without selection, else {AUTO_IMAGES:,}",
    )
    frequency: PositiveInt | None = Field(
        None, description="epochs between evidence updates; epochs / 32 if not given"
    )
    hyper_steps: PositiveInt = Field(20, description="hyperparameter steps an update")
    hyper_lr: PositiveFloat = Field(
        0.1, description="step of Adam on log precision, and on what layers declare"
    )
    burn_in: PositiveInt | Literal["settled"] = Field(
        1000, description="steps before the first update, or until the training loss has settled"
    )
    gradient: Literal["full", "local"] = Field(
        "full", description="how declared hyperparameters get their gradient of the evidence"
    )
    gradient_images: PositiveInt = Field(256, description="images a gradient of declared hyperparameters")
    gradient_steps: PositiveInt = Field(1, description="steps on declared hyperparameters an update")
    prior_structure: Literal["tensor", "path", "scalar"] = Field(
        "tensor", description="which weights share a prior precision"
    )
    prior_precision: PositiveFloat = Field(1.0, description="prior precision at the start")
    rounds: int = Field(4, ge=0, description="search: rounds of proposals at most")
    refit_epochs: PositiveInt | None = Field(
        None, description="search: epochs every proposal is refit for; epochs / 12 if not given"
    )
    proposals: PositiveInt = Field(8, description="search: proposals tried a round, best guesses first")
    min_gain: float = Field(
        0.005,
        ge=0,
        description="nats an image that a proposal must gain, and a needed path be worth",
    )
    removal_rounds: int = Field(
        3,
        ge=0,
        description="rounds at the end in which each path is tried without; 0: no verdict",
    )


class CurvatureConfig(Table):
    """How the curvature is computed."""

    fisher_type: Literal["type-2", "mc", "empirical", "sketch"] = Field(
        "sketch", description="how the columns of the loss Hessian's root are found"
    )
    mc_samples: PositiveInt = Field(1, description="columns drawn an image, for mc and sketch")
    weight_sharing: Literal["expand", "reduce"] = Field(
        "expand", description="how a weight's uses at many places count"
    )
    group_factors: Literal["grouped", "shared"] = Field(
        "shared", description="whether F-FC's channels have factors of their own"
    )
    eigenvalues: Literal["kronecker", "corrected", "partial-traces"] = Field(
        "kronecker",
        description="of the curvature: its Kronecker factors' own, corrected in their basis (EKFAC, one more "
        "pass), or corrected in the basis of the exact blocks' partial traces (two more, the sharpest)",
    )
    ggn: Literal["auto", "blocks", "whole", "drawn"] = Field(
        "auto",
        description="what the curvature is of: blocks, each tensor by itself; whole, with what lies between "
        f"tensors, exact; drawn: of random mixtures of each image's rows, {WHOLE_UP_TO:,} in all; auto: "
        "whole where all rows are no more, only precisions are learned and no other key asks for a kind of "
        "blocks",
    )
    batch_size: PositiveInt = Field(500, description="images a batch of a curvature pass")
    diagonal: Names = Field(
        (), description="parameters whose curvature is the exact diagonal of their block, for want of a rule"
    )
    left_out: Names = Field(
        (),
        description="parameters that the evidence does not see: trained by MAP under prior_precision, which "
        "stays fixed, and named in the report",
    )


class Config(Table):
    """Everything a fit needs to run again."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    curvature: CurvatureConfig = CurvatureConfig()

    def with_options(self, **options: object) -> Config:
        """Replace some keys, each given by its own name whatever its table.

        The names are those of `option_places`.

        Returns:
            A checked copy; this configuration is left as it is.

        Raises:
            ValueError: an unknown key, or a value of a wrong type or range.
        """
        tables, places = self.model_dump(), option_places()
        for name, value in options.items():
            if name not in places:
                raise ValueError(f"unknown option {name!r}{_nearest(name, list(places))}")
            table, key = places[name]
            tables[table][key] = value
        return checked(tables, called={places[name]: f"option {name}" for name in options})

    def resolved(self, n_data: int) -> Config:
        """A copy in which every schedule that was left open is worked out for `n_data` training images."""
        training, evidence = self.training, self.evidence
        batch_size = training.batch_size or min(max(n_data // 24, 8), 50)
        steps = max(n_data // min(batch_size, n_data), 1)
        epochs = training.epochs or min(max(round(6700 / steps), 30), 600)
        return self.with_options(
            batch_size=batch_size,
            epochs=epochs,
            frequency=evidence.frequency or max(round(epochs / 32), 1),
            refit_epochs=evidence.refit_epochs or max(round(epochs / 12), 2),
        )

    def to_toml(self) -> str:
        """The configuration as TOML; keys that are None are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def option_places() -> dict[str, tuple[str, str]]:
    """The option that says each key.

    A key that an earlier table has too is called `<table>_<key>`, such as `curvature_batch_size`.

    Returns:
        {name of the option: (table, key)}, in the file's order.
    """
    places: dict[str, tuple[str, str]] = {}
    for table, field in Config.model_fields.items():
        for key in _table_type(field.annotation).model_fields:
            places[f"{table}_{key}" if key in places else key] = (table, key)
    return places


def checked(
    tables: Mapping[str, object],
    source: str = "configuration",
    called: Mapping[tuple[str, str], str] | None = None,
) -> Config:
    """Validate plain tables.

    Args:
        tables: `{table: {key: value}}`.
        source: where they come from, for messages.
        called: what messages call a key, by (table, key), instead of "source: table.key".

    Returns:
        A frozen configuration; keys that the tables lack have their defaults.

    Raises:
        ValueError: one line that names the first bad key, what was expected and what it got.
    """
    try:
        return Config.model_validate(dict(tables))
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(str(part) for part in first["loc"][:2])
        where = (called or {}).get((place[0], place[-1]), f"{source}: {'.'.join(place)}")
        if first["type"] == "extra_forbidden":
            known = list(Config.model_fields) if len(place) == 1 else _keys_of(place[0])
            kind = "table" if len(place) == 1 else "key"
            raise ValueError(
                f"{source}: unknown {kind} {'.'.join(place)!r}{_nearest(place[-1], known)}; "
                f"expected one of {', '.join(known)}"
            ) from None
        if len(place) == 1:
            raise ValueError(f"{where} is {first['input']!r}; expected a table, [{place[0]}]") from None
        field = _table_type(Config.model_fields[place[0]].annotation).model_fields[place[1]]
        quoted = "; write it without quotes" if _quoted_number(first["input"], field.annotation) else ""
        wanted = expectation(field.annotation, field.metadata)
        raise ValueError(f"{where} is {first['input']!r}; expected {wanted}{quoted}") from None


def expectation(annotation: Any, metadata: list[Any] | None = None) -> str:
    """What a key takes, in words: "a whole number above 0", "search, gradient or none"."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return expectation(inner, [limit for one in extra for limit in getattr(one, "metadata", [one])])
    if get_origin(annotation) is tuple:
        return "a list of parameter names"
    if get_origin(annotation) is Literal:
        return _either([repr(choice) for choice in get_args(annotation)])
    if get_origin(annotation) in (Union, UnionType):
        return _either([expectation(a, metadata) for a in get_args(annotation) if a is not type(None)])
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[annotation]
    for limit in sorted(metadata or [], key=lambda limit: hasattr(limit, "le")):  # lower bounds first
        if getattr(limit, "gt", None) is not None:
            words += f" above {limit.gt:g}"
        if getattr(limit, "ge", None) is not None:
            words += f" of at least {limit.ge:g}"
        if getattr(limit, "le", None) is not None:
            words += f" and at most {limit.le}"
    return words


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _quoted_number(value: object, annotation: Any) -> bool:
    """Whether the value is a number in quotes where a number belongs."""
    if not isinstance(value, str) or annotation is str:
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _nearest(name: str, known: list[str]) -> str:
    """A guess at what was meant, or nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _table_type(annotation: Any) -> type[BaseModel]:
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def _keys_of(table: str) -> list[str]:
    return list(_table_type(Config.model_fields[table].annotation).model_fields)


def read_config(path: str | Path) -> Config:
    """Read a TOML file.

    Returns:
        Its configuration; keys that the file lacks have their defaults.

    Raises:
        ValueError: the file is missing, is not TOML, or holds an unknown or ill-typed key.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist; expected a configuration file in TOML; check the path"
        ) from None
    except (IsADirectoryError, PermissionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); expected a configuration file in TOML"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as TOML: {reason}; correct it there") from None
    return checked(tables, str(path))
