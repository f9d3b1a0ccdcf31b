"""Everything the evidence learns: log prior precisions, the observation noise, and what layers declare.

None of it is a parameter of the network, and no MAP step moves it. Precisions and noise have closed-form
gradients (`laplace.py`); those of declared hyperparameters come from `gradient.py`.

Axes: none.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symlearn.evidence.prior import PriorPrecision, PriorStructure, tensor_groups
from symlearn.layers.declared import Hyperparameter, hyperparameters_of


class Hyperparameters:
    """The hyperparameters of a network and the state of their optimizers.

    Args:
        model: the network; what its layers declare stays in its own buffers.
        structure: which tensors share a prior precision.
        prior_precision: the precision every group starts with.
        left_out: tensors that the evidence does not see; their precisions stay as they start.
        least: the least precision that may be learned, by parameter name.

    Attributes:
        prior: log precisions by group.
        sigma_noise: standard deviation of the observation noise (regression).
        moments: Adam's state by group of the prior, `[first, second, count]`.
        declared_moments: Adam's state by declared hyperparameter, `[first, second]` and its count.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: PriorStructure,
        prior_precision: float,
        left_out: Collection[str] = (),
        least: Mapping[str, float] | None = None,
    ) -> None:
        self.model = model
        self.prior = PriorPrecision(tensor_groups(model, structure, left_out), prior_precision, least)
        self.sigma_noise = 1.0
        self.moments: dict[str, list[float]] = {}
        self.declared_moments: dict[str, tuple[Tensor, Tensor, int]] = {}

    @property
    def declared(self) -> dict[str, Hyperparameter]:
        """What the layers declare, by name."""
        return hyperparameters_of(self.model)

    def readings(self) -> dict[str, Tensor]:
        """Everything by name and in its own units: precisions, noise, declared."""
        found = {f"prior_precision.{g}": log.exp() for g, log in self.prior.log.items()}
        found["sigma_noise"] = torch.tensor(self.sigma_noise, dtype=torch.float64)
        for name, declared in self.declared.items():
            found[name] = declared.read(declared.value.detach())
        return found

    def fixed_groups(self) -> set[str]:
        """Groups of precisions that a hyperprior stands in for: they keep their value."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        replaced = {names[id(p)] for declared in self.declared.values() for p in declared.replaces}
        return self.prior.groups_within(replaced)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], lr: float) -> None:
        """One step of Adam up the evidence on declared hyperparameters, within their bounds."""
        declared = self.declared
        for name, gradient in gradients.items():
            value = declared[name].value
            zero = torch.zeros_like(value)
            first, second, count = self.declared_moments.get(name, (zero, zero, 0))
            first, second, count = (
                0.9 * first + 0.1 * gradient,
                0.999 * second + 0.001 * gradient.square(),
                count + 1,
            )
            slope = first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
            value.copy_((value + lr * slope).clamp(*declared[name].bounds))
            self.declared_moments[name] = (first, second, count)

    def saved(self) -> dict[str, Any]:
        """The state as plain tensors and numbers, for checkpoints; declared values are the model's."""
        return copy.deepcopy(
            {
                "prior": self.prior.state(),
                "sigma_noise": self.sigma_noise,
                "moments": self.moments,
                "declared_moments": {n: list(m) for n, m in self.declared_moments.items()},
            }
        )

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `saved` gave."""
        saved = copy.deepcopy(saved)
        self.prior.load(saved["prior"])
        self.sigma_noise, self.moments = saved["sigma_noise"], saved["moments"]
        self.declared_moments = {n: (m[0], m[1], int(m[2])) for n, m in saved["declared_moments"].items()}

    def forget(self, names: set[str]) -> None:
        """Let the precisions of some tensors start anew."""
        self.prior.reset(names)
        for group in self.prior.groups_within(names):
            self.moments.pop(group, None)
