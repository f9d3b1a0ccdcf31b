"""What the registry says of paths, and how paths of others join it."""

from __future__ import annotations

import re

import pytest

from symlearn import build_model
from symlearn.config import Config
from symlearn.layers import PATHS, CircularConv2d, PathKind, register_path
from symlearn.layers.registry import known_kind, path_kind
from symlearn.networks import configured_model
from symlearn.report.plots import path_colour

DEVIATIONS = ["dev-p4", "dev-p4m", "dev-p4:pointwise", "dev-shifts", "dev-shifts:2"]
EVERY = [*PATHS, "gconv-p4", "gconv-p4m:pointwise", "gconv-c6", *DEVIATIONS, "free", "cyclic-90"]


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_says_what_it_is(name: str) -> None:
    kind = path_kind(name)
    assert kind.words and kind.effective_type.isupper()
    assert re.fullmatch(r"#[0-9a-fA-F]{6}", path_colour(name)) and re.fullmatch(
        r"#[0-9a-fA-F]{6}", kind.family_colour
    )
    assert kind.leaner is None or path_kind(kind.leaner).symmetry == kind.symmetry
    assert bool(kind.learns) == ("learn" in kind.options)


def test_no_two_paths_of_a_network_look_alike() -> None:
    colours = [path_colour(name) for name in EVERY if name not in ("free", "cyclic-90")]
    assert len(set(colours)) == len(colours)


def test_a_path_of_others_joins() -> None:
    wide = PathKind(
        lambda s: CircularConv2d(s.c_in, s.c_out, 5),
        "WIDE",
        full_resolution=True,
        symmetry=1,
        words="widely convolutional",
        colour="#123456",
    )
    register_path("wide", wide)
    model = build_model("wide+conv", network="small", size=8, alpha=1)
    assert {layer.path_names for layer in model.layers} == {("wide", "conv")}
    assert path_colour("wide") == "#123456" and path_kind("wide").commutes_with == "shifts"
    with pytest.raises(ValueError, match="there is a path 'wide' already"):
        register_path("wide", wide)


TAKEN, UNWRITABLE = "already; give the new one another name", "choose a name without"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, TAKEN) for name in ("conv", "gconv-x", "dev-x", "cyclic-7", "free", "linear")),
        *((name, UNWRITABLE) for name in ("a+b", " ", " a", "a.b", "")),
    ],
)
def test_names_that_cannot_join(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        register_path(name, PATHS["conv"])


def test_unknown_paths_of_old_reports_have_a_colour() -> None:
    assert known_kind("gone") is None and path_colour("gone").startswith("#")


@pytest.mark.parametrize(
    ("paths", "options", "said"),
    [
        ("conv", {"network": "all-cnn", "kernel_size": 7}, "nothing in the network all-cnn reads it"),
        ("conv", {"learn": ("generator",)}, "nothing in conv reads it"),
        ("f-fc", {"kernel_size": 5}, "kernel_size is 5, but nothing in f-fc reads it"),
        ("f-fc+conv", {"anchors": 0.3}, r"nothing in f-fc \+ conv reads it"),
        (
            "s-fc",
            {"learn": ("generator",)},
            "nothing in s-fc has generator to learn",
        ),
        (
            "free+cyclic-90",
            {"network": "unfolded", "learn": ("anchors",)},
            "has anchors to learn",
        ),
    ],
)
def test_options_that_nothing_reads_are_refused(paths: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_model(paths, **{"network": "small", "size": 16, "alpha": 1, **options})


@pytest.mark.parametrize(
    "paths", ["f-fc+conv", "s-fc+s-conv", "gconv-p4", "gconv-p4+dev-p4", "conv+dev-shifts", "free+cyclic-90"]
)
def test_configurations_have_all_options(paths: str) -> None:
    network = "unfolded" if "free" in paths else "small"
    config = Config().with_options(paths=paths, network=network, alpha=4)
    assert configured_model(config.model, 1, 16, 4) is not None
