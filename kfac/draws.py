"""What random columns are drawn from, also where several processes share the data.

One process draws the signs of a sketch batch by batch from one generator. Where a process has only a part of
the data it draws those of all before it as well, and keeps its own: signs are cheap, and the sum over the
processes is then the sum that one of them would have come to. Sampled labels ("mc") depend on the outputs of
the data they are of; every process draws its own.

Axes: column, sign, batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a process' data lie among all.

    Attributes:
        first: how many data come before them.
        total: how many there are.
        batch: of how many data one process' batches would be, the last of what is left.

    Raises:
        ValueError: numbers that cannot be.
    """

    first: int
    total: int
    batch: int

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.first <= self.total:
            raise ValueError(
                f"place is {self}; expected a batch of 1 or more, and 0 <= first <= total, the number of data"
            )


class Draws:
    """Signs and labels of one pass, in the data's order.

    Args:
        generator: on the model's device; None draws from torch's global one.
        shared: of the signs, the same on all processes; None: `generator`.
        place: where this process' data lie; None: signs are drawn for its batches alone.
    """

    def __init__(
        self,
        generator: torch.Generator | None = None,
        shared: torch.Generator | None = None,
        place: Place | None = None,
    ) -> None:
        self.generator = generator
        self.shared, self.place = (generator if shared is None else shared), place
        self._kept: Tensor | None = None  # signs of data that were drawn and not asked for yet
        self._batches: Iterator[Tensor] | None = None

    def signs(self, samples: int, count: int, batch: int, device: torch.device) -> Tensor:
        """Independent signs of the next data.

        Args:
            samples: number of columns.
            count: of signs a column and datum.
            batch: number of data.
            device: where they are drawn.

        Returns:
            `[column, sign, batch]`, one byte each.

        Raises:
            ValueError: more data than the place says.
        """
        if self.place is None:
            return self._drawn((samples, count, batch), device)
        if self._batches is None:
            self._batches = self._of_all(samples, count, self.place, device)
        pieces = [] if self._kept is None else [self._kept]
        have = sum(piece.shape[2] for piece in pieces)
        while have < batch:
            following = next(self._batches, None)
            if following is None:
                raise ValueError(
                    f"more data than place says ({self.place}); give the number of data before this "
                    "process' own, and of all"
                )
            pieces.append(following)
            have += following.shape[2]
        signs = torch.cat(pieces, 2)
        self._kept = signs[:, :, batch:]
        return signs[:, :, :batch]

    def _of_all(self, samples: int, count: int, place: Place, device: torch.device) -> Iterator[Tensor]:
        """Signs of one process' batches, without those of the data before this process' own."""
        for start in range(0, place.total, place.batch):
            drawn = self._drawn((samples, count, min(place.batch, place.total - start)), device)
            before = max(place.first - start, 0)
            if before < drawn.shape[2]:
                yield drawn[:, :, before:]

    def _drawn(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        signs = torch.randint(0, 2, shape, generator=self.shared, device=device)
        return signs.mul_(2).sub_(1).to(torch.int8)


def seeded_draws(device: torch.device, seed: int | None, rank: int = 0, place: Place | None = None) -> Draws:
    """Draws that a seed fixes, for one process of several.

    Args:
        device: the model's; shapes alone ("meta") have no generator.
        seed: common to all processes; None draws from torch's global generator.
        rank: the process' number.
        place: where its data lie; without a seed it says nothing.

    Returns:
        Those of rank 0 are what one process alone has.
    """
    if seed is None or device.type == "meta":
        return Draws()
    own = torch.Generator(device=device).manual_seed(seed_of_rank(seed, rank))
    if place is None:
        return Draws(own)
    return Draws(own, torch.Generator(device=device).manual_seed(seed), place)


def seed_of_rank(seed: int, rank: int) -> int:
    """A seed of a process' own, fixed by the common one; the first keeps it."""
    if rank == 0:
        return seed
    digest = hashlib.sha256(f"{seed} of rank {rank}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
