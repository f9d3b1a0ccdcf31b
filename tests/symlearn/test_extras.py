"""Libraries that only some uses need: one line says which extra brings them."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fits import bars, one_layer
from torch import nn

import symlearn
from symlearn.extras import MissingExtraError, need

WITHOUT = "import sys; sys.modules.update(dict.fromkeys({names}))"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`absent("onnx")`: as if it were not installed."""

    def hide(*names: str) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr("symlearn.extras.find_spec", lambda n: None if n in names else found(n))

    return hide


def test_nothing_is_said_of_what_is_there() -> None:
    need("export", "files", "torch", "numpy")


def test_all_that_is_missing_is_named_with_the_command() -> None:
    with pytest.raises(MissingExtraError) as caught:
        need("export", "onnx files", "torch", "no_such_a", "no_such_b")
    said = str(caught.value)
    assert said == "onnx files need no_such_a and no_such_b; install with: pip install 'symlearn[export]'"
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, ValueError)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "library"), [("onnx", "onnxruntime"), ("safetensors", "safetensors")])
def test_export(kind: str, library: str, absent: Any, tmp_path: Path) -> None:
    from symlearn.transfer.export import export

    absent(library)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(MissingExtraError, match=rf"{kind} files need {library}; .*symlearn\[export\]"):
        export(network, torch.ones(2, 1, 2, 2), tmp_path / "network", kind)
    assert not list(tmp_path.iterdir())
    assert export(network, torch.ones(2, 1, 2, 2), tmp_path / "network.pt2", "pt2") < 1e-4


def test_tensorboard(absent: Any, tmp_path: Path) -> None:
    absent("tensorboard")
    with pytest.raises(MissingExtraError, match=r"event files need tensorboard; .*symlearn\[tensorboard\]"):
        symlearn.fit(one_layer(classes=3), bars(40, "direction"), tensorboard=tmp_path / "events")


def test_lightning(absent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    absent("lightning")
    monkeypatch.delitem(sys.modules, "symlearn.fitting.lightning_callback", raising=False)
    with pytest.raises(MissingExtraError, match=r"need lightning; .*symlearn\[lightning\]"):
        importlib.import_module("symlearn.fitting.lightning_callback")


@pytest.mark.slow
def test_a_core_installation_fits_and_reports() -> None:
    """Without any extra: import, fit, report, figures."""
    code = WITHOUT.format(
        names={"onnx", "onnxscript", "onnxruntime", "safetensors", "tensorboard", "lightning", "mkdocs"}
    )
    code += """
import symlearn
splits = symlearn.load_data("digits", limit=60)
model = symlearn.build_model("conv", network="small", alpha=1, size=splits.size, classes=10)
result = symlearn.fit(model, splits.train, splits.test, {"training": {"epochs": 2}})
assert result.plot("effective-dimension").get_axes() and "conv" in result._repr_html_()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
