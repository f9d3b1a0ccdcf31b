"""The configuration: strict types, messages in one line, and a file that says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from symlearn.cli.options import configured
from symlearn.config import Config, checked, option_places, read_config

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "number in quotes": (
        {"training": {"lr": "1e-3"}},
        ["training.lr is '1e-3'", "a number above 0", "quotes"],
    ),
    "unknown key": ({"training": {"epoch": 1}}, ["'training.epoch'", "did you mean 'epochs'", "lr_end"]),
    "unknown table": ({"train": {}}, ["unknown table 'train'", "training", "curvature"]),
    "key without table": ({"lr": 0.1}, ["unknown table 'lr'", "training"]),
    "no table": ({"training": 3}, ["training is 3", "[training]"]),
    "negative rate": ({"training": {"lr": -1.0}}, ["training.lr is -1.0", "above 0"]),
    "NaN": ({"training": {"lr": float("nan")}}, ["training.lr is nan"]),
    "fraction of an epoch": ({"training": {"epochs": 2.5}}, ["training.epochs is 2.5", "a whole number"]),
    "truth for a number": ({"data": {"limit": True}}, ["data.limit is True", "a whole number above 0"]),
    "number for truth": ({"training": {"augment": 1}}, ["training.augment is 1", "true or false"]),
    "no choice": ({"evidence": {"selection": "best"}}, ["'best'", "'search', 'gradient' or 'none'"]),
    "either kind": ({"evidence": {"burn_in": "soon"}}, ["'soon'", "a whole number above 0 or 'settled'"]),
    "images in words": (
        {"evidence": {"evidence_images": "most"}},
        ["evidence.evidence_images is 'most'", "a whole number of at least 64 or 'auto' or 'all'"],
    ),
    "too few images": ({"evidence": {"evidence_images": 8}}, ["evidence_images is 8", "at least 64"]),
    "a share of the images": ({"evidence": {"evidence_images": 0.1}}, ["evidence_images is 0.1"]),
    "number for text": ({"data": {"data": 3}}, ["data.data is 3", "expected text"]),
    "negative seed": ({"training": {"seed": -1}}, ["training.seed is -1", "at least 0"]),
    "huge seed": ({"training": {"seed": 2**70}}, ["training.seed", "at most 4294967295"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables(case: str) -> None:
    tables, fragments = WRONG[case]
    with pytest.raises(ValueError, match=r"^run\.toml: ") as caught:
        checked(tables, "run.toml")
    message = str(caught.value)
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing and "\n" not in message, f"{message!r} lacks {missing}"


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"[training\nlr = 1", "cannot be read as TOML"),
        (b"\xff\xfe\x00", "cannot be read as TOML"),
        (b"[training]\nlr = 0.1\nlr = 0.2\n", "cannot be read as TOML"),
    ],
    ids=["syntax", "not text", "key twice"],
)
def test_unreadable_file(tmp_path: Path, content: bytes, fragment: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=fragment) as caught:
        read_config(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_config(tmp_path / "no.toml")
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(tmp_path)


def test_toml_round_trip(tmp_path: Path) -> None:
    config = Config().with_options(
        data="digits", limit=70, burn_in="settled", curvature_batch_size=99, batch_size=7
    )
    (tmp_path / "run.toml").write_text(config.to_toml(), encoding="utf-8")
    assert read_config(tmp_path / "run.toml") == config
    assert (config.curvature.batch_size, config.training.batch_size) == (99, 7)


def test_every_key_has_one_option_and_words() -> None:
    places = option_places()
    keys = [(table, key) for table, keys in Config().model_dump().items() for key in keys]
    assert sorted(places.values()) == sorted(keys)
    for table, key in keys:
        field = type(getattr(Config(), table)).model_fields[key]
        assert field.description, f"{table}.{key} has no description, which is its help"


def test_options_stand_above_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[training]\nlr = 0.5\nepochs = 3\n[evidence]\nburn_in = "settled"\n')
    config = configured(tmp_path / "run.toml", {"epochs": "7", "burn_in": "20", "augment": True})
    assert (config.training.lr, config.training.epochs, config.evidence.burn_in) == (0.5, 7, 20)
    assert config.training.augment
    assert configured(None, {"burn_in": "settled", "lr": "1e-3"}).training.lr == 1e-3


def test_images_of_the_evidence_as_typed() -> None:
    assert configured(None, {"evidence_images": "640"}).evidence.evidence_images == 640
    assert configured(None, {"evidence_images": "all"}).evidence.evidence_images == "all"
    with pytest.raises(ValueError, match=r"^--evidence-images is 3; expected a whole number of at least 64"):
        configured(None, {"evidence_images": "3"})


def test_options_are_called_as_they_are_typed() -> None:
    with pytest.raises(ValueError, match=r"^--refit-epochs is 0; expected a whole number above 0$"):
        configured(None, {"refit_epochs": "0"})
    with pytest.raises(ValueError, match=r"^option epochs is 3\.5; expected a whole number above 0$"):
        Config().with_options(epochs=3.5)
    with pytest.raises(ValueError, match=r"unknown option 'epoch' \(did you mean 'epochs'\?\)"):
        Config().with_options(epoch=3)


def test_resolved_leaves_nothing_open() -> None:
    config = Config().resolved(1400)
    assert None not in (config.training.epochs, config.evidence.frequency, config.evidence.refit_epochs)
    assert config.resolved(1400) == config
