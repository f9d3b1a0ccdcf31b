"""What cannot be written as a file, or not run from it: one line, and no file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracles import assert_refused
from tiny_fits import linear_model
from torch import Tensor, nn

from symlearn import build_model
from symlearn.transfer.export import export, run_onnx, run_pt2
from symlearn.transfer.plain import plain_copy

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Branching(nn.Module):
    """Its graph depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1, 8, 8] -> [batch, 3]`."""
        f = self.linear(x.flatten(1))
        return 2 * f if f.sum() > 0 else f


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["pt2", "onnx"])
def test_wrong_images_and_networks(file_format: str, tmp_path: Path) -> None:
    linear, path = linear_model(3), tmp_path / "network"
    assert_refused(lambda: export(linear, X.double(), path, file_format), "inputs are torch.float64")
    assert_refused(lambda: export(linear, X[..., :5], path, file_format), "not run on inputs [4, 1, 8, 5]")
    words = f"torch cannot write the network as {file_format} (GuardOnDataDependentSymNode"
    assert_refused(lambda: export(Branching(), X, path, file_format), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_has_no_convolution_in_double_precision(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten()).double()
    words = "nothing was written, try .float() or another format"
    assert_refused(lambda: export(network, X.double(), tmp_path / "network", "onnx"), words)
    assert not list(tmp_path.iterdir())


def test_the_network_keeps_its_mode(tmp_path: Path) -> None:
    network = linear_model(3).train()
    export(network, X, tmp_path / "network.pt2", "pt2")
    assert network.training


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["pt2", "onnx"])
@pytest.mark.slow
def test_layers_that_halve_their_map_take_any_number_of_images(file_format: str, tmp_path: Path) -> None:
    """The choice of a polyphase component, for every image by itself, blank ones too, whose keys all tie."""
    torch.manual_seed(0)
    plain = plain_copy(build_model("f-fc+conv", network="small", size=16, classes=4, alpha=1)).eval()
    images = torch.randn(6, 1, 16, 16)
    images[2] = 0
    path = tmp_path / "network"
    assert export(plain, images[:3], path, file_format) < 1e-5
    run = {"pt2": run_pt2, "onnx": run_onnx}[file_format]
    for count in (1, 2, 6):
        found = run(path.read_bytes(), images[:count])
        with torch.no_grad():
            torch.testing.assert_close(found, plain(images[:count]), rtol=1e-4, atol=1e-5)
