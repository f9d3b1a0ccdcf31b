"""Keys of `[model]` that nothing reads: refused where somebody set them, by every way to begin a fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import symlearn
from symlearn.config import Config, ModelConfig, read_config
from symlearn.networks import build_model, expect_used
from symlearn.run_folder import CONFIG, MODEL, PAGE, REPORT
from symlearn.runs.tables import known_experiments, read_experiment

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"
UNREAD = {  # paths and keys: what the message says
    "anchors": ({"anchors": 0.3}, "anchors is 0.3", "s-fc, s-conv"),
    "lengthscale": ({"lengthscale": 2.0}, "lengthscale is 2.0", "s-fc, s-conv"),
    "sparse prior": ({"sparse_prior": "lengthscale"}, "sparse_prior is 'lengthscale'", "s-fc"),
    "precision": ({"lengthscale_precision": 3.0}, "lengthscale_precision is 3.0", "s-fc"),
    "offset": ({"generator_offset": 5.0}, "generator_offset is 5.0", "cyclic-90"),
    "learned anchors": ({"learn": "both"}, "learn is 'both'", "s-fc"),
    "learned generator": ({"learn": "generator"}, "learn is 'generator'", "cyclic-90"),
    "free bank": (
        {"learn": "shared-generator", "paths": "free", "network": "unfolded"},
        "nothing in free has shared-generator",
        "cyclic-90",
    ),
    "lengthscale of a bank": (
        {"lengthscale": 2.0, "paths": "cyclic-90", "network": "unfolded"},
        "nothing in cyclic-90 reads it",
        "s-fc",
    ),
    "prior on the weights": (
        {"lengthscale_precision": 3.0, "paths": "s-fc+conv"},
        "the prior is put on the weights",
        "sparse_prior to 'lengthscale'",
    ),
    "filters": ({"kernel_size": 5, "paths": "f-fc"}, "kernel_size is 5", "conv"),
    "filters of their own": (
        {"kernel_size": 5, "paths": "conv", "network": "all-cnn"},
        "nothing in the network all-cnn",
        "conv",
    ),
    "copies": ({"copies": 4}, "copies is 4", "averaged over no transforms"),
    "network on one group": (
        {"anchors": 0.3, "paths": "gconv-p4", "network": "p4cnn"},
        "nothing in the network p4cnn",
        "s-fc",
    ),
}
READ: tuple[dict[str, Any], ...] = (
    {},
    {"learn": "nothing"},  # nothing is asked for, and nothing is what happens
    {"anchors": 0.3, "lengthscale": 2.0, "learn": "all", "paths": "f-fc+s-conv"},
    {"sparse_prior": "lengthscale", "lengthscale_precision": 2.0, "paths": "s-fc"},
    {"learn": "generator", "generator_offset": 5.0, "paths": "free+cyclic-60", "network": "unfolded"},
    {"alpha": 3, "paths": "gconv-p4", "network": "p4cnn"},
    {"kernel_size": 5, "paths": "f-fc+conv"},
    {"kernel_size": 9, "paths": "free", "network": "unfolded"},
    {"learn": "invariances", "transforms": "rotation", "copies": 4},
    {"alpha": 12, "paths": "free", "network": "unfolded-dense-published"},
)


@pytest.mark.parametrize("name", UNREAD)
def test_refused_in_one_line(name: str) -> None:
    given, *words = UNREAD[name]
    with pytest.raises(ValueError, match=re.escape(words[0])) as refused:
        expect_used(ModelConfig(**given))
    assert all(word in str(refused.value) for word in words) and "\n" not in str(refused.value)


@pytest.mark.parametrize("given", READ, ids=str)
def test_taken_where_it_is_read(given: dict[str, Any]) -> None:
    expect_used(ModelConfig(**given))


def test_every_option_of_paths_has_its_key() -> None:
    """An option added to `PathOptions` and the configuration cannot be forgotten here."""
    from symlearn.networks.unread import OPTIONS

    told = set(ModelConfig().path_options) - {"learn"}
    assert told == set(OPTIONS.values())
    others = {"network", "model", "paths", "alpha", "learn", "transforms", "copies"}
    assert set(OPTIONS) | others == set(ModelConfig.model_fields)


@pytest.mark.parametrize("name", known_experiments(EXPERIMENTS))
def test_published_tables_say_nothing_in_vain(name: str) -> None:
    experiment = read_experiment(name, EXPERIMENTS)
    for scale in experiment.scales:
        for row in experiment.rows:
            expect_used(Config().with_options(**experiment.options(row, scale)).model)


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with labels."""
    return torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"anchors": 0.3}, r"anchors is 0.3, but nothing in the network's f-fc \+ conv reads it"),
        ({"learn": "generator"}, "has generator to learn"),
        ({"alpha": 3}, "alpha is 3, but the network was built with alpha 1"),
        ({"kernel_size": 5}, "kernel_size is 5, but the network's filters have their sizes"),
    ],
)
def test_fit_refuses_them(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", alpha=1, size=16, classes=3)
    with pytest.raises(ValueError, match=words):
        symlearn.fit(model, toy(), None, {"model": given}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "refused before anything is written"


@pytest.mark.parametrize(
    "begin",
    [
        lambda model, config: symlearn.estimate(model, toy(), None, config, seconds=False),
        lambda model, config: symlearn.EvidenceUpdates(model, config, toy()),
        lambda model, config: symlearn.EvidenceUpdates(model, config).step(toy()),
    ],
    ids=["estimate", "own loop", "own loop, data later"],
)
def test_so_does_everything_that_takes_a_network(begin: Callable[[torch.nn.Module, Any], Any]) -> None:
    torch.manual_seed(0)
    model = build_model("f-fc+conv", network="small", alpha=1, size=16, classes=3)
    with pytest.raises(
        ValueError, match=r"anchors is 0\.3, but nothing in the network's f-fc \+ conv reads it"
    ):
        begin(model, {"model": {"anchors": 0.3}})


def test_fit_refuses_a_width_of_ones_own_network() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    with pytest.raises(ValueError, match=r"alpha is 3, but the network has no width to set"):
        symlearn.fit(model, toy(), None, {"model": {"alpha": 3}})
    with pytest.raises(ValueError, match=r"lengthscale is 2\.0, but nothing in the network reads it"):
        symlearn.fit(model, toy(), None, {"model": {"lengthscale": 2.0}})


def test_fit_takes_what_its_paths_read() -> None:
    torch.manual_seed(0)
    model = build_model("s-conv", network="small", alpha=1, size=16, classes=3, lengthscale=2.0)
    config = Config().with_options(lengthscale=2.0, alpha=1, selection="none", epochs=1, prior_warmup=1)
    assert symlearn.fit(model, toy(), None, config).metrics[-1]["epoch"] == 1


def test_the_estimator_refuses_them() -> None:
    x, y = toy()
    estimator = symlearn.SymmetryClassifier(network="small", alpha=1, epochs=1, options={"anchors": 0.3})
    with pytest.raises(ValueError, match=r"anchors is 0\.3"):
        estimator.fit(x[:, 0].numpy(), y.numpy())


@pytest.mark.parametrize("word", ["fit", "estimate"])
def test_the_command_line_refuses_them(
    word: str, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "run") if word == "fit" else ()
    code, said, err = command(word, "--lengthscale", 2, "--paths", "f-fc+conv", *out)
    assert (code, said) == (2, "") and err.count("\n") == 1, err
    assert "lengthscale is 2.0, but nothing in f-fc + conv reads it" in err
    file = tmp_path / "config.toml"
    file.write_text('[model]\nlearn = "generator"\n')
    code, said, err = command(word, file, *out)
    assert (code, said) == (2, "") and "learn is 'generator'" in err, err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def older(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A finished run whose configuration holds keys that nothing reads, as earlier versions wrote it."""
    folder = tmp_path / "older"
    idle = ("--anchors", 0.3, "--learn", "both", "--generator-offset", 5)
    size = ("--limit", 60, "--alpha", 1, "--epochs", 1, "--selection", "none", "--paths", "conv")
    with monkeypatch.context() as patch:
        patch.setattr("symlearn.runs.experiment.expect_used", lambda chosen: None)
        code, _, err = command("fit", *size, *idle, "--out", folder)
    assert code == 0, err
    with pytest.raises(ValueError, match="anchors"):
        expect_used(read_config(folder / CONFIG).model)
    return folder


@pytest.mark.slow
def test_older_runs_that_hold_them_are_read_and_go_on(
    older: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    for words in (("report", older), ("predict", older, "digits"), ("fit", "--resume", "--out", older)):
        code, said, err = command(*words)
        assert (code, err) == (0, "") and said, (words, err)
    for name in (REPORT, PAGE, MODEL):
        (older / name).unlink()  # as if it had been interrupted after its last checkpoint
    code, _, err = command("fit", "--resume", "--out", older)
    assert (code, err) == (0, "") and (older / REPORT).is_file()
