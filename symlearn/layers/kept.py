"""A tensor that is computed from others once and kept while they do not change.

It is kept only where nothing could look through it: no gradient is recorded and no `torch.func` transform is
at work, since a kept tensor would cut both off. Sources count as unchanged while they are the very same
tensors at the same version; so steps in place, loaded states and other dtypes are all noticed.

Axes: none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a `torch.func` transform looks at the tensor."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def fingerprint(tensor: Tensor) -> tuple[object, ...]:
    """What changes when a tensor's values, storage or type do."""
    return (tensor._version, tensor.data_ptr(), tensor.dtype, tensor.device)


class Kept:
    """A store of one tensor; copies and pickles start empty, since theirs count versions anew."""

    def __init__(self) -> None:
        self._sources: tuple[Tensor, ...] = ()
        self._seen: tuple[tuple[object, ...], ...] = ()
        self._value: Tensor | None = None

    def get(self, sources: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """The kept tensor if it is still that of these sources, a new one otherwise."""
        followed = torch.is_grad_enabled() and any(s.requires_grad for s in sources)
        hidden = any(is_wrapped(s) or s.is_inference() or s.is_meta for s in sources)
        if followed or hidden or torch.compiler.is_compiling():
            return make()
        same = len(self._sources) == len(sources) and all(
            kept is s for kept, s in zip(self._sources, sources, strict=True)
        )
        seen = tuple(map(fingerprint, sources))
        if self._value is None or not same or seen != self._seen:
            with torch.inference_mode(False), torch.no_grad():  # so that any later mode can use it
                self._value = make()
            self._sources, self._seen = sources, seen
        return self._value

    def __deepcopy__(self, memo: object) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()
