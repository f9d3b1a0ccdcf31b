"""Running code on shapes alone, and counting the bytes it would hold.

`shadow_of` copies a network without its values: its parameters lie on torch's `meta` device, which computes
nothing. A network that makes tensors of its own on the CPU cannot mix them with those; its parameters become
torch's fakes instead, which know a device. Within `LiveBytes` every tensor that an operation puts out counts
from then on until nothing refers to its storage, saved tensors of autograd included. What an operation takes
for itself while it runs is not seen, except the copy that LAPACK works on.

Axes: batch, c, h, w.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kfac import one_line


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations put out while the context is open.

    Args:
        held: tensors that were there before and do not count.

    Attributes:
        now: bytes held.
        peak: the most at once, since the start or the last `mark`.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._held = [t.untyped_storage() for t in held]  # kept alive, so that no other takes its place
        self._before = {storage._cdata for storage in self._held}

    def mark(self) -> int:
        """Begin a new peak here; returns the bytes held."""
        self.peak = self.now
        return self.now

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self._before:
            return

        def gone(_: object) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it puts out."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        if func is torch.ops.aten._linalg_eigh.default:
            self.peak = max(self.peak, self.now + lapack_bytes(args[0], compute_v=out[1].numel() > 0))
        return out


def lapack_bytes(matrix: Tensor, compute_v: bool) -> int:
    """What an eigendecomposition takes besides its output: a copy, or twice a matrix for vectors."""
    d = matrix.shape[-1]
    return matrix.element_size() * (2 * d * d if compute_v else matrix.numel())


@dataclass(frozen=True)
class Shadow:
    """A network of shapes alone.

    Attributes:
        model: the copy.
        held: all its tensors.
        kind: "meta" or "fake".
        running: the context its code runs in.
        device: of the tensors it takes.
    """

    model: nn.Module
    held: list[Tensor]
    kind: str
    running: Callable[[], AbstractContextManager[object]]
    device: str

    @contextmanager
    def counted(self, *given: Tensor) -> Iterator[LiveBytes]:
        """Run on shapes and count what is held besides the network and the tensors given."""
        with self.running(), LiveBytes([*self.held, *given]) as live:
            yield live

    def images(self, count: int, shape: Iterable[int]) -> Tensor:
        """Images `[count, c, h, w]` in the network's type; made within `running`."""
        like = next((p for p in self.model.parameters()), torch.zeros(()))
        return torch.empty(count, *shape, dtype=like.dtype, device=self.device)


def copied(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> tuple[nn.Module, list[Tensor]]:
    """A copy whose parameters and buffers are converted and never copied, and all these."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        shape = convert(tensor.detach())
        if isinstance(tensor, nn.Parameter):
            shape = nn.Parameter(shape, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = shape
    held = list(memo.values())
    return copy.deepcopy(model, memo), held


def shadow_of(model: nn.Module, image: Iterable[int]) -> Shadow:
    """A copy of a network of shapes alone, on the `meta` device or, where that fails, of fakes.

    Args:
        model: the network; left as it is.
        image: `[c, h, w]` of one image.

    Returns:
        A shadow through which the image has gone once, and what its tensors are: "meta" or "fake".

    Raises:
        ValueError: the network does not run without values; the reason in one line.
    """
    shape = tuple(image)
    meta, held = copied(model, lambda t: torch.empty_like(t, device="meta"))
    shadow = Shadow(meta, held, "meta", nullcontext, "meta")
    try:
        return tried(shadow, shape)
    except Exception:  # noqa: BLE001, whatever a user's code raises
        from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import

        mode = FakeTensorMode(allow_non_fake_inputs=True)
        fakes, held = copied(model, mode.from_tensor)
        device = str(next((p.device for p in model.parameters()), "cpu"))
        shadow = Shadow(fakes, held, "fake", lambda: mode, device)
    try:
        return tried(shadow, shape)
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"the network does not run on shapes alone ({one_line(error)})") from None


def tried(shadow: Shadow, image: tuple[int, ...]) -> Shadow:
    """The shadow, if two images pass through."""
    with shadow.running(), torch.no_grad():
        shadow.model.eval()(shadow.images(2, image))
    return shadow
