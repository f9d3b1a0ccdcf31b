"""Evidence updates in a Lightning training loop: weights by its optimizer, precisions by ours.

    trainer = lightning.Trainer(callbacks=[EvidenceCallback(burn_in=10)])
    trainer.fit(module, loader)
    result = trainer.callbacks[0].updates.result()

Axes: n, c, h, w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from symlearn.config import Config
from symlearn.data.streams import Data
from symlearn.extras import need
from symlearn.fitting.own_loop import EvidenceUpdates

need("lightning", "callbacks of Lightning", "lightning")

import lightning  # noqa: E402 - only where it is installed


class EvidenceCallback(lightning.Callback):
    """Adds the prior's gradients before every step, and updates the precisions after epochs.

    Args:
        config: a `Config`, or tables as in config.toml; what concerns evidence and curvature counts.
        train: the training set without augmentation, as for `fit`; None takes the trainer's loader.
        network: which part of the module returns `[batch, outputs]`; None takes the module itself.
        burn_in: epochs before the first update.
        every: epochs between updates.

    Attributes:
        updates: the `EvidenceUpdates`, from the start of the fit on; None before.
    """

    updates: EvidenceUpdates | None = None

    def __init__(
        self,
        config: Config | dict[str, Any] | None = None,
        *,
        train: Data | None = None,
        network: Callable[[lightning.LightningModule], nn.Module] | None = None,
        burn_in: int = 10,
        every: int = 1,
    ) -> None:
        self.config, self.train, self.network = config, train, network
        self.burn_in, self.every = burn_in, every
        self._saved: dict[str, Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the training set.

        Raises:
            ValueError: several processes, each of which would end at precisions of its own.
        """
        if trainer.world_size > 1:
            raise ValueError(
                f"evidence updates need one process, got {trainer.world_size}; use devices=1, or symlearn.fit"
            )
        model = pl_module if self.network is None else self.network(pl_module)
        data = trainer.train_dataloader if self.train is None else self.train
        before = None if self.updates is None else self.updates.state_dict()
        self.updates = EvidenceUpdates(model, self.config, data)
        if before is not None:
            self.updates.load_state_dict(before)
        if self._saved:
            self.updates.load_state_dict(self._saved)
            self._saved = None

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """The prior's share of the gradients."""
        assert self.updates is not None
        self.updates.add_gradients()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """An evidence update, where one is due; logged as `log_marginal_likelihood`."""
        since = trainer.current_epoch - self.burn_in
        if self.updates is not None and since >= 0 and since % self.every == 0:
            pl_module.log("log_marginal_likelihood", self.updates.step())

    def state_dict(self) -> dict[str, Any]:
        """The precisions, for Lightning's checkpoints."""
        return (self._saved or {}) if self.updates is None else self.updates.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the fit starts."""
        self._saved = state_dict
