"""Which parameters the evidence sees, and by what curvature: settled by name before any data is seen.

A trainable parameter has the curvature of its module's rule. For one that no rule covers (a token, a
positional embedding, an `nn.Embedding`) the table `[curvature]` declares, by its name in
`model.named_parameters()`, one of two things:

- `diagonal`: its block is the exact diagonal of the GGN;
- `left_out`: the evidence is one of the other parameters, given this one. It has a precision of its own, the
  initial one, which never moves, and takes the same MAP steps; its prior, norm and curvature are in no
  term of the evidence. A report names it.

Axes: none; this file handles names only.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

from kfac import uncovered
from symlearn.config import CurvatureConfig
from symlearn.layers.structure import layer_paths

WAYS_OUT = (
    "list it in curvature.diagonal (exact diagonal) or in curvature.left_out (trained by MAP alone), "
    "or use selection 'none'"
)


@contextmanager
def trainable(model: nn.Module, names: Collection[str] | None) -> Iterator[None]:
    """Only these parameters require gradients while the context is open; None leaves all as they are."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        for name, p in model.named_parameters():
            p.requires_grad_(before[name] and (names is None or name in names))
        yield
    finally:
        for name, p in model.named_parameters():
            p.requires_grad_(before[name])


@contextmanager
def seen(model: nn.Module, curvature: CurvatureConfig) -> Iterator[None]:
    """Parameters that are left out count as constants while the context is open."""
    names = {name for name, _ in model.named_parameters()} - set(curvature.left_out)
    with trainable(model, names if curvature.left_out else None):
        yield


def diagonal_blocks(model: nn.Module, curvature: CurvatureConfig) -> dict[str, str]:
    """The `fallback` of `kfac.compute_factors`: what is declared and trained now, a path being on."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: "diagonal" for name in curvature.diagonal if name in trained}


def undeclared(model: nn.Module, curvature: CurvatureConfig) -> list[str]:
    """Names of trainable parameters with neither a rule nor a declaration."""
    declared = {*curvature.diagonal, *curvature.left_out}
    return [name for name in uncovered(model) if name not in declared]


def has_evidence(model: nn.Module, curvature: CurvatureConfig) -> bool:
    """Whether a fit computes any evidence, be it only at its end: of what is trained and not left out."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return not undeclared(model, curvature) and bool(trained - set(curvature.left_out))


def check_coverage(model: nn.Module, curvature: CurvatureConfig, selects: bool) -> None:
    """Refuse declarations that name nothing, and parameters that the evidence could not see.

    Args:
        model: the network.
        curvature: what is declared.
        selects: whether the evidence is to choose anything.

    Raises:
        ValueError: an unknown name, one in both lists, one of a path that the evidence chooses from; where
            the evidence chooses, a parameter with neither rule nor declaration, or nothing left to see.
    """
    parameters = dict(model.named_parameters())
    for key, names in (("diagonal", curvature.diagonal), ("left_out", curvature.left_out)):
        for name in names:
            if name not in parameters:
                near = difflib.get_close_matches(name, list(parameters), 1)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"curvature.{key} names {name!r}, which is no parameter of the network{guess}; expected "
                    "names as model.named_parameters() gives them"
                )
    both = sorted(set(curvature.diagonal) & set(curvature.left_out))
    if both:
        raise ValueError(f"{both[0]!r} is in curvature.diagonal and in curvature.left_out; keep it in one")
    if not selects:
        return
    for layer in layer_paths(model):
        chosen = {name for names in layer.paths.values() for name in names} if layer.relaxed else set()
        for name in curvature.left_out:
            if name in chosen:
                raise ValueError(
                    f"curvature.left_out names {name!r}, of {layer.name!r}, whose paths the evidence chooses "
                    "from; take it out of the list, or leave that layer as it is (relax with only=[...])"
                )
    blind = undeclared(model, curvature)
    if blind:
        raise ValueError(f"no curvature rule covers {blind[0]}, so the evidence cannot see it; {WAYS_OUT}")
    if not any(p.requires_grad and name not in curvature.left_out for name, p in parameters.items()):
        raise ValueError(
            "curvature.left_out names every trainable parameter, so there is no evidence to choose by; leave "
            "some in, or use selection 'none'"
        )
