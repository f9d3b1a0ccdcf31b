"""Passes over data that lie in several processes: each passes over its own part, and raw sums are added.

Raw sums add over data, so nothing else has to meet: at the end of a pass they are all-reduced, and every
process returns what one process would have over all data. Rows that a `SecondMoment` keeps are gathered while
all of them together are fewer than their length, and summed otherwise. Before the pass the processes compare
what they were given; what one of them fails on is told to all, so that none waits for a sum that never comes.
A process that dies without a word is found by the group's own timeout.

`None` in place of a process group is one process by itself: `Ranks`, which has nobody to talk to.

Axes: group, row, d.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kfac.checks import one_line
from kfac.errors import NonFiniteError
from kfac.precision import accumulated, working
from kfac.second_moment import SecondMoment

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
K = TypeVar("K")
CLOSE = 1e-6  # relative difference of fingerprints that counts as the same weights


class Ranks:
    """One process by itself."""

    rank, size = 0, 1

    def gather(self, own: T) -> list[T]:
        """Everyone's, by rank."""
        return [own]

    def together(self, own: Callable[[], T]) -> T:
        """What `own` returns here, once it has returned everywhere."""
        return own()

    def expect_same(self, what: str, own: list[str]) -> None:
        """Refuse lists that differ between the processes."""

    def expect_close(self, what: str, own: float) -> None:
        """Refuse numbers that differ between the processes."""

    def summed(self, tensors: Mapping[K, Tensor], device: torch.device) -> dict[K, Tensor]:
        """Sums over the processes by key; what a process lacks counts as zero. What is given is used up."""
        return dict(tensors)

    def moments(self, moments: Mapping[K, SecondMoment], device: torch.device) -> dict[K, SecondMoment]:
        """Sums of second moments over the processes by key."""
        return dict(moments)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Fill a tensor with that of another process."""


class GroupRanks(Ranks):
    """The processes of a group of `torch.distributed`.

    Args:
        group: that this process belongs to.

    Raises:
        ValueError: it does not, or there is no such group.
    """

    def __init__(self, group: ProcessGroup) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                "a process group was given, but torch.distributed is not initialised; call "
                "torch.distributed.init_process_group first, or leave process_group out"
            )
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process is not in the process group; call the pass on its members only")

    def gather(self, own: T) -> list[T]:
        """See `Ranks`."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own, group=self.group)
        return found

    def together(self, own: Callable[[], T]) -> T:
        """See `Ranks`.

        Returns:
            What this process's own call returned.

        Raises:
            ValueError: another process failed, with its line; this one's own error if it did.
        """
        failure: Exception | None = None
        try:
            result = own()
        except Exception as error:  # noqa: BLE001, whatever it is, the others must hear of it
            failure = error
        told = self.gather(None if failure is None else (str(failure) or one_line(failure), type(failure)))
        if failure is not None:
            raise failure
        for rank, line in enumerate(told):
            if line is not None:
                kind = NonFiniteError if issubclass(line[1], NonFiniteError) else ValueError
                raise kind(f"rank {rank} of the process group failed: {' '.join(line[0].split())}")
        return result

    def expect_same(self, what: str, own: list[str]) -> None:
        """See `Ranks`.

        Raises:
            ValueError: on every process, with the first difference.
        """
        digests = self.gather(hashlib.sha256("\n".join(own).encode()).hexdigest())
        if len(set(digests)) == 1:
            return
        lists = self.gather(own)
        other = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        differing = sorted(set(lists[0]) ^ set(lists[other])) or ["their order"]
        raise ValueError(
            f"ranks 0 and {other} of the process group have different {what}, first in {differing[0]}; give "
            "every rank the same"
        )

    def expect_close(self, what: str, own: float) -> None:
        """See `Ranks`.

        Raises:
            ValueError: on every process.
        """
        found = self.gather(own)
        far = [rank for rank, number in enumerate(found) if not math.isclose(number, found[0], rel_tol=CLOSE)]
        if far:
            raise ValueError(
                f"ranks 0 and {far[0]} of the process group have different values in {what}; give every rank "
                "the same (torch.distributed.broadcast)"
            )

    def summed(self, tensors: Mapping[K, Tensor], device: torch.device) -> dict[K, Tensor]:
        """See `Ranks`.

        Returns:
            The sums, in the memory of what is given.

        Raises:
            ValueError: shapes differ, on every process.
        """
        shapes = self.gather({key: (tuple(t.shape), t.dtype) for key, t in tensors.items()})
        wanted: dict[K, tuple[tuple[int, ...], torch.dtype]] = {}
        for rank, told in enumerate(shapes):
            for key, one in told.items():
                if wanted.setdefault(key, one) != one:
                    raise ValueError(
                        f"rank {rank} of the process group has sums of {key} of shape {list(one[0])}, others "
                        f"of {list(wanted[key][0])}; give every rank the same network and inputs of one shape"
                    )
        found = {}
        for key, (shape, dtype) in wanted.items():
            own = tensors.get(key)
            total = torch.zeros(shape, dtype=dtype, device=device) if own is None else own.contiguous()
            dist.all_reduce(total, group=self.group)
            found[key] = total
        return found

    def moments(self, moments: Mapping[K, SecondMoment], device: torch.device) -> dict[K, SecondMoment]:
        """See `Ranks`."""
        own = {key: (m.summed is None, m.n_rows, m.groups, m.size) for key, m in moments.items()}
        told = self.gather(own)
        found: dict[K, SecondMoment] = {}
        dense: dict[K, Tensor] = {}
        for key in dict.fromkeys(key for one in told for key in one):
            entries = [one[key] for one in told if key in one]
            rows = [one[key][1] if key in one else 0 for one in told]
            _, _, groups, size = entries[0]
            if all(kept for kept, *_ in entries) and sum(rows) < size:
                found[key] = self._rows(moments.get(key), rows, (groups, size), device)
            elif key in moments:
                dense[key] = accumulated(None, moments[key].to_dense())
        sums = self.summed(dense, device)
        return found | {key: SecondMoment(total) for key, total in sums.items()}

    def _rows(
        self, own: SecondMoment | None, counts: list[int], shape: tuple[int, int], device: torch.device
    ) -> SecondMoment:
        """All processes' rows, `counts` of them; sent in float32 at least, padded to one number."""
        kept = self.gather(None if own is None else own.rows[0].dtype)
        dtype = next(kind for kind in kept if kind is not None)
        groups, size = shape
        mine = (
            torch.zeros(groups, 0, size, dtype=dtype, device=device)
            if own is None
            else torch.cat(own.rows, 1)
        )
        padded = F.pad(working(mine), (0, 0, 0, max(counts) - mine.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=self.group)
        rows = (
            part[:, :count].to(dtype, copy=True) for part, count in zip(parts, counts, strict=True) if count
        )
        return SecondMoment(None, tuple(rows))

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """See `Ranks`."""
        dist.broadcast(tensor, dist.get_global_rank(self.group, source), group=self.group)


def ranks_of(group: ProcessGroup | None) -> Ranks:
    """The processes of a group, or this one by itself."""
    return Ranks() if group is None else GroupRanks(group)


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def expect_same_network(ranks: Ranks, model: nn.Module, options: Callable[[], Mapping[str, object]]) -> None:
    """Compare names, shapes, values of the weights, and options, before anything is computed.

    Args:
        ranks: the processes.
        model: this process' own.
        options: what else must agree, worked out where an error of its own is told to all.

    Raises:
        ValueError: they differ, on every process.
    """
    if ranks.size == 1:
        return
    told = ranks.together(options)
    ranks.expect_same("options", [f"{key} {value}" for key, value in told.items()])
    ranks.expect_same("networks", [f"{n} {list(p.shape)} {p.dtype}" for n, p in model.named_parameters()])
    sizes = [p.detach().double().abs().sum() for p in model.parameters()]
    ranks.expect_close("the networks' weights", float(sum(float(s) for s in sizes)))
