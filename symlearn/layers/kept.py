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


class Kept:
    """A store of one tensor; copies and pickles start empty, since theirs count versions anew."""

    def __init__(self) -> None:
        self._sources: tuple[tuple[Tensor, int], ...] = ()
        self._value: Tensor | None = None

    def get(self, sources: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """The kept tensor if it is still that of these sources, a new one otherwise."""
        followed = torch.is_grad_enabled() and any(s.requires_grad for s in sources)
        if followed or torch.compiler.is_compiling() or any(is_wrapped(s) for s in sources):
            return make()
        same = len(self._sources) == len(sources) and all(
            kept is s and version == s._version
            for (kept, version), s in zip(self._sources, sources, strict=True)
        )
        if self._value is None or not same:
            self._value = make().detach()
            self._sources = tuple((s, s._version) for s in sources)
        return self._value

    def __deepcopy__(self, memo: object) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()
