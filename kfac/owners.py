"""Which modules own which parameters, under which rule: settled before any data is seen.

A trainable parameter is covered by the rule of the module that holds it, or declared for an exact diagonal
block, or refused by name. Parameters that two modules share (tied weights) have two owners and one name.

Axes: none; this file handles names only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from kfac.averages import Averages, averages_around
from kfac.rules import Rule, find_rule

Fallback = Mapping[str, str] | str


@dataclass(frozen=True)
class Owner:
    """A module with a rule, and the names under which the model knows its parameters (None: frozen).

    Attributes:
        averages: over copies of a datum, that the module lies in, outermost first.
    """

    module: nn.Module
    path: str
    rule: Rule
    weight: str | None
    bias: str | None
    averages: tuple[Averages, ...] = ()


def uncovered(model: nn.Module) -> list[str]:
    """Names of the trainable parameters that no rule covers."""
    return find_owners(model, "diagonal")[2]


def find_owners(
    model: nn.Module, fallback: Fallback
) -> tuple[list[Owner], dict[str, nn.Parameter], list[str]]:
    """Which module has the rule of which trainable parameter.

    Returns:
        The modules with rules; the trainable parameters by name, in the model's order; the names left to a
        diagonal block.

    Raises:
        ValueError: a trainable parameter has neither rule nor declared fallback.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    declared = {} if isinstance(fallback, str) else dict(fallback)
    unknown = sorted(set(declared) - set(trainable))
    if unknown:
        raise ValueError(f"fallback names {unknown}, which are no trainable parameters of the model")
    choices = {fallback} if isinstance(fallback, str) else set(declared.values())
    if choices - {"diagonal"}:
        raise ValueError(f"the only fallback is 'diagonal', got {sorted(choices)}")
    names = {id(p): name for name, p in trainable.items() if name not in declared}
    around = averages_around(model)
    owners: list[Owner] = []
    covered: set[str] = set()
    for path, module in model.named_modules():
        own = {key: names.get(id(p)) for key, p in module._parameters.items() if p is not None}
        if not any(own.values()) or not set(own) <= {"weight", "bias"}:
            continue
        rule = find_rule(module)
        if rule is not None and rule.covers(module):
            within = around.get(module, ())
            owners.append(Owner(module, path, rule, own.get("weight"), own.get("bias"), within))
            covered.update(name for name in own.values() if name)
    missing = [name for name in trainable if name not in covered and name not in declared]
    if missing and not isinstance(fallback, str):
        raise ValueError(
            f"no curvature rule covers {', '.join(missing)}; register one with kfac.register_rule, freeze "
            'the parameter, or declare fallback={name: "diagonal"} for it'
        )
    return owners, trainable, [name for name in trainable if name not in covered]
