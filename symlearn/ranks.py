"""The processes that share a fit, its *ranks*: what one of them asks of the others.

`torchrun` starts `size` processes, numbered by `rank` from 0; every one holds the whole state and takes the
same decisions. What they divide up is work:

- a step on the weights: every rank takes its slice of the batch, and gradients, weighted by the number of
  images in the slice, are added up;
- a pass for the curvature: every rank takes its slice of the images, raw sums are added (`kfac` does it);
- the refits of a round: every rank trains some of them alone, and ends are exchanged (`selection/turns.py`).

Steps and passes of less than `STEP` and `PASS` operations are not divided up: handing over would take as long
as it saves. Every rank then computes them itself, bit for bit as one process alone.

`Ranks` is one process by itself, to whom none of this costs anything: nothing is sent, nothing is rounded.
Code asks `ranks` and does not ask how many there are.

Gradients are added by one all-reduce of all tensors end to end and not by `DistributedDataParallel`: that
settles at its construction which tensors get gradients, but paths are switched on and off during a fit;
networks are copied (a wrapper's hooks would come along); and it averages over processes, which of slices of
unequal size is not the mean over the batch.

Rank 0 is the writer: of folders, figures and the terminal. Rounding is the same on all ranks where they run
on machines of one kind; where it need not be (drawn or accumulated on a GPU), rank 0's result is sent.

Axes: none.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

import kfac
from symlearn.data.samples import WHOLE, Share

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

STEP, PASS = 5e8, 2e9  # floating-point operations of a forward pass over the images: 15 and 60 ms of a core
T = TypeVar("T")


class Ranks:
    """One process by itself.

    Attributes:
        rank: its number.
        size: how many there are.
        group: for `kfac`'s passes; None: this process alone.
        operations: floating-point operations of a forward pass, an image; None where nobody counted.
    """

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None
    operations: int | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of the images that is this rank's."""
        return WHOLE

    def over(self, images: int, least: float | None = None) -> Ranks:
        """Who shares a pass over images: each rank needs one at least, or every one does them all.

        Args:
            images: how many.
            least: operations from which it is shared; None: `PASS`.

        Returns:
            These ranks, or this process by itself.
        """
        return self

    def gather(self, own: T) -> list[T]:
        """Everyone's, by rank, tensors on the CPU."""
        return [own]

    def together(self, own: Callable[[], T]) -> T:
        """What `own` returns here, once it has returned everywhere."""
        return own()

    def from_first(self, own: Callable[[], T]) -> T:
        """What `own` returns on rank 0, which alone runs it."""
        return own()

    def totals(self, *numbers: float) -> tuple[float, ...]:
        """Sums of numbers over the ranks."""
        return numbers

    def expect_same(self, what: Mapping[str, str]) -> None:
        """Refuse ranks that differ in what is told here, by name."""

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over the ranks."""

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""


ALONE = Ranks()


class GroupRanks(Ranks):
    """The processes of a group of `torch.distributed`.

    Args:
        group: that this process belongs to.
    """

    def __init__(self, group: ProcessGroup) -> None:
        import torch.distributed as dist

        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @property
    def share(self) -> Share:
        """See `Ranks`."""
        return Share(self.rank, self.size)

    def over(self, images: int, least: float | None = None) -> Ranks:
        """See `Ranks`."""
        small = self.operations is not None and images * self.operations < (PASS if least is None else least)
        return self if images >= self.size and not small else ALONE

    def gather(self, own: T) -> list[T]:
        """See `Ranks`."""
        import torch.distributed as dist

        buffer = io.BytesIO()
        torch.save(own, buffer)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, buffer.getvalue(), group=self.group)
        loaded = (torch.load(io.BytesIO(one), map_location="cpu", weights_only=False) for one in found)
        return [own if rank == self.rank else one for rank, one in enumerate(loaded)]

    def together(self, own: Callable[[], T]) -> T:
        """See `Ranks`.

        Returns:
            What this rank's own call returned.

        Raises:
            ValueError: another rank failed, with its line, as the kind of ValueError that it was; this one's
                own error if it did.
        """
        failure: Exception | None = None
        try:
            result = own()
        except Exception as error:  # noqa: BLE001, whatever it is, the others must hear of it
            failure = error
        told = self.gather(None if failure is None else (line_of(failure), told_as(failure)))
        if failure is not None:
            raise failure
        for rank, line in enumerate(told):
            if line is not None:
                raise line[1](f"rank {rank} failed: {line[0]}")
        return result

    def from_first(self, own: Callable[[], T]) -> T:
        """See `Ranks`.

        Returns:
            What the call returned on rank 0, tensors on the CPU.

        Raises:
            ValueError: rank 0 failed, with its line.
        """
        found = self.together(lambda: own() if self.first else None)
        result = self.gather(found)[0]
        return result  # type: ignore[return-value]

    def totals(self, *numbers: float) -> tuple[float, ...]:
        """See `Ranks`."""
        return tuple(sum(column) for column in zip(*self.gather(numbers), strict=True))

    def expect_same(self, what: Mapping[str, str]) -> None:
        """See `Ranks`.

        Raises:
            ValueError: on every rank, with the first difference.
        """
        told = self.gather(dict(what))
        for rank, other in enumerate(told):
            for name in {**told[0], **other}:
                here, there = told[0].get(name, "nothing"), other.get(name, "nothing")
                if here != there:
                    raise ValueError(
                        f"ranks 0 and {rank} differ in {name}: {here} and {there}; start every rank with the "
                        "same code, configuration, data and seed"
                    )

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `Ranks`; what has none here has none on any rank, the network being the same."""
        import torch.distributed as dist

        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        flat = torch.cat([g.reshape(-1).to(wide) for g in gradients])
        dist.all_reduce(flat, group=self.group)
        sums = flat.split([g.numel() for g in gradients])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """See `Ranks`."""
        import torch.distributed as dist

        assert self.group is not None
        source = dist.get_global_rank(self.group, 0)
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, source, group=self.group)
            tensor.detach().copy_(sent)


def line_of(failure: Exception) -> str:
    """What an error says, on one line; the kind of one that says nothing, or is none of ours."""
    return " ".join(str(failure).split()) if isinstance(failure, ValueError) else kfac.one_line(failure)


def told_as(failure: Exception) -> type[ValueError]:
    """The kind of error by which ranks hear of another's: the same if it is a ValueError of one line."""
    kind = type(failure)
    return kind if issubclass(kind, ValueError) and kind.__init__ is ValueError.__init__ else ValueError


def present_ranks() -> Ranks:
    """All processes of `torch.distributed` where it is initialised; else this one by itself."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    group = dist.group.WORLD
    assert group is not None
    return GroupRanks(group)


@contextmanager
def launched(device: str) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, from its environment; this process by itself without it.

    Args:
        device: that the fit runs on: "cuda" takes the device of the rank's number on its machine.

    Yields:
        The ranks, until the context is left.

    Raises:
        ValueError: more ranks on a machine than it has CUDA devices.
    """
    import torch.distributed as dist

    ours = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and not dist.is_initialized()
    if not ours:
        yield present_ranks()
        return
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_available()
    if on_gpu:
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= devices:
            raise ValueError(
                f"rank {local} of this machine has no CUDA device of its own, there are {devices}; use "
                f"--nproc-per-node {devices}"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield present_ranks()
    finally:
        dist.destroy_process_group()


@contextmanager
def losses_told() -> Iterator[None]:
    """One line about a rank that ended without a word, which torch says by an error of its own.

    Raises:
        ValueError: another rank is gone.
        RuntimeError: what went wrong was something else.
    """
    try:
        yield
    except RuntimeError as error:
        import torch.distributed as dist

        backend = isinstance(error, dist.DistError) or any(
            word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
        )
        if not backend or present_ranks().size == 1:
            raise
        raise ValueError(
            f"rank {present_ranks().rank} lost the others ({str(error).splitlines()[0]}); one of them has "
            "ended and said why, or was killed; continue with --resume"
        ) from error


def code_digest() -> str:
    """A digest of the source of symlearn and kfac, as it lies on this machine."""
    found = hashlib.sha256()
    packages: Sequence[str | None] = (__file__, kfac.__file__)
    for module in packages:
        assert module is not None
        place = Path(module).parent
        for path in sorted(place.rglob("*.py")):
            found.update(path.relative_to(place).as_posix().encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:16]
