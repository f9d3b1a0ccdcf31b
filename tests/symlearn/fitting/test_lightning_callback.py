"""Evidence updates in Lightning's training loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from tiny_fits import bars, one_layer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from symlearn.fitting.lightning_callback import EvidenceCallback
from symlearn.fitting.own_loop import EvidenceUpdates


class Module(lightning.LightningModule):
    """A relaxed network with a user's own training step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = one_layer("f-fc+conv", classes=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.02)


def trainer(folder: Path, epochs: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    """Quiet, on the CPU."""
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader(data: tuple[Tensor, Tensor]) -> DataLoader[Any]:
    """In order, so that two runs see the same batches."""
    return DataLoader(TensorDataset(*data), batch_size=20)


@pytest.mark.filterwarnings("ignore")
def test_the_same_as_a_loop_of_ones_own(tmp_path: Path) -> None:
    data = bars(60, "direction")
    torch.manual_seed(0)
    module = Module()
    start = copy.deepcopy(module.network.state_dict())
    callback = EvidenceCallback(burn_in=1, every=2, network=lambda m: m.network)
    trainer(tmp_path, 4, callback).fit(module, loader(data))

    network = one_layer("f-fc+conv", classes=3)
    network.load_state_dict(start)
    updates = EvidenceUpdates(network, train=data)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for epoch in range(4):
        for x, y in loader(data):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            updates.add_gradients()
            optimizer.step()
        if epoch in (1, 3):
            updates.step()
    assert callback.updates.prior_precision == pytest.approx(updates.prior_precision, rel=1e-4)
    for (name, found), expected in zip(module.network.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)
    assert "verdict" in callback.updates.result().report["layers"][0]


@pytest.mark.filterwarnings("ignore")
def test_precisions_travel_in_checkpoints(tmp_path: Path) -> None:
    data = bars(60, "direction")
    module, callback = Module(), EvidenceCallback(burn_in=0)
    first = trainer(tmp_path, 2, callback)
    first.fit(module, loader(data))
    first.save_checkpoint(tmp_path / "module.ckpt")
    other = EvidenceCallback(burn_in=10)
    trainer(tmp_path, 3, other).fit(
        Module(), loader(data), ckpt_path=tmp_path / "module.ckpt", weights_only=False
    )
    assert other.updates.prior_precision == callback.updates.prior_precision


@pytest.mark.filterwarnings("ignore")
def test_before_and_after_a_fit(tmp_path: Path) -> None:
    """A checkpoint before the start has nothing; a second fit goes on from the learned precisions."""
    data, module, callback = bars(60, "direction"), Module(), EvidenceCallback(burn_in=0)
    assert callback.updates is None and callback.state_dict() == {}
    trainer(tmp_path, 2, callback).fit(module, loader(data))
    learned = callback.updates.prior_precision
    callback.burn_in = 10
    trainer(tmp_path, 1, callback).fit(module, loader(data))
    assert callback.updates.prior_precision == learned
