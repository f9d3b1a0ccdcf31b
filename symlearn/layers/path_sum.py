"""What layers made of several paths share: which are there, which are on, and how a search may change that.

A path can be switched off: it is then neither computed nor trained, and its prior precision counts as
infinite. Which paths are on travels in the `state_dict`.

Axes: none; subclasses say what they do to maps.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from symlearn.groups import FiniteGroup
from symlearn.layers.declared import Hyperparameter, hyperparameters_of
from symlearn.layers.path import Path

Change = tuple[str, Literal["add", "remove"]]  # a path, and what a search may do with it


Built = TypeVar("Built", bound=nn.Module)


def seeded(name: str, seed: int, build: Callable[[], Built]) -> Built:
    """Build a path with initial values of its own stream: which other paths a layer has does not change them.

    So a search that keeps the strictest paths alone ends at the very network that was built of them alone.

    Returns:
        What `build` returns; torch's global generator is where it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + zlib.crc32(name.encode()))
        return build()


class PathSum(nn.Module):
    """A layer of paths that the evidence chooses from.

    Args:
        paths: the declared paths by name, all switched on at the start.

    Attributes:
        active: the paths that are on, in the order they were declared.
        group: whose elements are an axis of the layer's maps, or None.
    """

    group: FiniteGroup | None = None

    def __init__(self, paths: dict[str, nn.Module]) -> None:
        super().__init__()
        self.paths = nn.ModuleDict(paths)
        self.active: tuple[str, ...] = tuple(paths)
        self._resting: dict[str, list[str]] = {}  # trained parameters of the paths that are off

    @property
    def path_names(self) -> tuple[str, ...]:
        """All declared paths, switched on or not."""
        return tuple(self.paths)

    def path(self, name: str) -> Path:
        """One of the declared paths."""
        return cast(Path, self.paths[name])

    def set_active(self, names: Iterable[str]) -> None:
        """Switch on exactly these paths; the others stop being computed and trained.

        What was frozen in a path before it was switched off is frozen when it comes back.

        Raises:
            ValueError: none, or a path the layer does not have.
        """
        chosen = set(names)
        if not chosen or not chosen <= set(self.paths):
            raise ValueError(f"choose one or more of {', '.join(self.paths)}, got {sorted(chosen)}")
        for name, path in self.paths.items():
            if name in self.active and name not in chosen:
                self._resting[name] = [key for key, p in path.named_parameters() if p.requires_grad]
                path.requires_grad_(False)
            elif name in chosen and name not in self.active:
                trained = self._resting.pop(name, [])
                for key, parameter in path.named_parameters():
                    parameter.requires_grad_(key in trained)
        self.active = tuple(name for name in self.paths if name in chosen)

    def start_search(self) -> None:
        """Switch on what a search starts from."""

    def changes(self) -> list[Change]:
        """What a search may propose now: of itself, removing any path but the last."""
        return [(name, "remove") for name in self.active] if len(self.active) > 1 else []

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What the paths that are switched on declare."""
        return {
            f"paths.{name}.{key}": value
            for name in self.active
            for key, value in hyperparameters_of(self.paths[name]).items()
        }

    def get_extra_state(self) -> dict[str, Any]:
        """Active paths, for the `state_dict`."""
        return {"active": list(self.active)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.set_active(state["active"])
