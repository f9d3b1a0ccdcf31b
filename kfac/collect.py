"""One pass over data: hooks on the layers, one backward pass for every column of the loss Hessian's root.

For every batch, the modules that own parameters are hooked (`kfac.calls`), the network runs once, and its
outputs are pulled back along each column; the rules of `kfac.rules` turn what passed through the modules into
the raw sums of `kfac.factors`. Factors are computed in `eval` mode.

Before the first batch counts, the rows of two data are compared with autograd's own gradients: a weight that
is also used outside its module, or a rule that is wrong for its layer, is named instead of half counted.

Axes: batch, group, place, d_in, d_out, column, classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kfac.averages import sum_over_copies
from kfac.batches import Batches, batches_of
from kfac.calls import Call, pull_back, recorded_calls
from kfac.checks import explained_backward, has_values, prepared, run
from kfac.diagonal import exact_diagonals
from kfac.factors import Block, DiagonalBlock, KroneckerBlock, KroneckerFactors, NearestKroneckerBlock, Order
from kfac.loss_hessian import FisherType, Likelihood, check_outputs, log_likelihood, square_root
from kfac.owners import Fallback, Owner, find_owners
from kfac.rules import Rule
from kfac.second_moment import SecondMoment

WeightSharing = Literal["expand", "reduce"]
GroupFactors = Literal["grouped", "shared"]
Role = Order | None  # how a use's rows lie in the parameter; None: whole gradients, datum by datum


@dataclass(frozen=True)
class Curvature:
    """Which curvature, and how its columns are drawn."""

    likelihood: Likelihood
    fisher_type: FisherType = "type-2"
    mc_samples: int = 1
    weight_sharing: WeightSharing = "expand"
    group_factors: GroupFactors = "grouped"
    differentiable: bool = False

    def __post_init__(self) -> None:
        for name, choices in (
            ("likelihood", Likelihood),
            ("fisher_type", FisherType),
            ("weight_sharing", WeightSharing),
            ("group_factors", GroupFactors),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {get_args(choices)}")
        if self.mc_samples < 1:
            raise ValueError(f"mc_samples must be at least 1, got {self.mc_samples}")


@dataclass
class Sums:
    """Running raw sums of one parameter in one role.

    Attributes:
        order: of the role's rows in the parameter; see `kfac.factors`.
    """

    order: Order
    inputs: SecondMoment | None = None
    output_factor: Tensor | float = 0.0
    rows: int = 0

    def add_inputs(self, moment: SecondMoment, rows: int) -> None:
        """Add the sum of a a^T over `rows` pairs of datum and place."""
        self.inputs = moment if self.inputs is None else self.inputs + moment
        self.rows += rows


def role_of(rule: Rule) -> Role:
    """The role in which a rule's modules use their weight."""
    return None if rule.exact else rule.order


def compare_with_autograd(
    model: nn.Module, owners: list[Owner], parameters: Mapping[str, Tensor], x: Tensor
) -> None:
    """Check that rows reproduce autograd's gradients on a few data.

    Raises:
        ValueError: they do not, for a named parameter.
    """
    with torch.enable_grad(), recorded_calls(owners, len(x)) as calls:
        f = run(model, x)
    cotangent = torch.cos(torch.arange(f.numel(), dtype=f.dtype, device=f.device)).reshape(f.shape)
    grads = pull_back(f, calls, cotangent, keep=True)
    names = [n for owner in owners for n in (owner.weight, owner.bias) if n]
    names = list(dict.fromkeys(names))
    if not names:
        return
    with explained_backward():
        expected = torch.autograd.grad(f, [parameters[n] for n in names], cotangent, allow_unused=True)
    found: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}  # the same sums without cancellation: what rounding is measured against
    for call, g in zip(calls, grads, strict=True):
        if g is None:
            continue
        owner, rule = call.owner, call.owner.rule
        if owner.weight and rule.exact:
            gradient = rule.weight_rows(owner.module, call.input(), g)
            total = gradient.sum(0).reshape(parameters[owner.weight].shape)
            found[owner.weight] = found.get(owner.weight, 0) + total
            size[owner.weight] = size.get(owner.weight, 0) + gradient.abs().sum()
        elif owner.weight:
            a, rows = rule.input_rows(owner.module, call.input()), rule.output_rows(owner.module, g)
            blocks = torch.einsum("gbro,gbri->goi", rows, a).permute(rule.order)
            found[owner.weight] = found.get(owner.weight, 0) + blocks.reshape(parameters[owner.weight].shape)
            size[owner.weight] = size.get(owner.weight, 0) + (rows.norm(dim=-1) * a.norm(dim=-1)).sum()
        if owner.bias:
            bias = rule.bias_rows(owner.module, g).sum(0).reshape(parameters[owner.bias].shape)
            found[owner.bias] = found.get(owner.bias, 0) + bias
            size[owner.bias] = size.get(owner.bias, 0) + rule.bias_rows(owner.module, g.abs()).sum()
    tolerance = 1e-2 if f.dtype == torch.float32 else 1e-6
    rounding = 100 * torch.finfo(f.dtype).eps
    for name, truth in zip(names, expected, strict=True):
        truth = torch.zeros_like(parameters[name]) if truth is None else truth
        difference = (found.get(name, torch.zeros_like(truth)) - truth).norm()
        if difference > tolerance * truth.norm() + rounding * size.get(name, 0.0) + 1e-12:
            raise ValueError(
                f"{name!r} is used in a way its curvature rule does not see (relative error of its gradient "
                f"{float(difference / truth.norm().clamp_min(1e-30)):.1e}): call the weight only through its "
                'own module, or declare fallback={name: "diagonal"}'
            )


class Collector:
    """Accumulates the factors of one pass over data."""

    def __init__(
        self,
        model: nn.Module,
        curvature: Curvature,
        fallback: Fallback,
        generator: torch.Generator | None,
        at_full_resolution: bool = False,
    ) -> None:
        self.model, self.curvature, self.generator = model, curvature, generator
        self.at_full_resolution = at_full_resolution
        self.owners, self.parameters, self.diagonal_names = find_owners(model, fallback)
        if at_full_resolution:
            self.owners = [replace(o, rule=o.rule.full_resolution or o.rule) for o in self.owners]
        self.sums: dict[str, dict[Role, Sums]] = {}
        for owner in self.owners:
            order = owner.rule.order
            for name, role in ((owner.weight, role_of(owner.rule)), (owner.bias, None)):
                if name:
                    self.sums.setdefault(name, {}).setdefault(role, Sums(order))
        self.diagonals: dict[str, Tensor | float] = dict.fromkeys(self.diagonal_names, 0.0)
        self.n_data, self.n_targets = 0, 0
        self.log_likelihood: Tensor | float = 0.0

    def add_batch(self, x: Tensor, y: Tensor) -> None:
        """Add one batch's rows to the sums."""
        differentiable = self.curvature.differentiable
        if self.n_data == 0 and not self.at_full_resolution and has_values(x):
            compare_with_autograd(self.model, self.owners, self.parameters, x[:2])
        with torch.enable_grad(), recorded_calls(self.owners, len(x), differentiable) as calls:
            f = run(self.model, x)
        check_outputs(f, y, self.curvature.likelihood)
        self.n_data += len(x)
        self.n_targets += f.numel()
        with torch.set_grad_enabled(differentiable):
            outputs = f if differentiable else f.detach()
            fit = log_likelihood(outputs, y, self.curvature.likelihood)
            kept = differentiable or not has_values(fit)
            self.log_likelihood = self.log_likelihood + (fit if kept else float(fit))
            columns = square_root(
                outputs,
                y,
                self.curvature.likelihood,
                self.curvature.fisher_type,
                self.curvature.mc_samples,
                self.generator,
            )
            self.add_inputs(calls)
            if self.diagonal_names:
                named = {name: self.parameters[name] for name in self.diagonal_names}
                for name, diagonal in exact_diagonals(self.model, named, x, columns).items():
                    self.diagonals[name] = self.diagonals[name] + diagonal
            for k, column in enumerate(columns):
                keep = k + 1 < len(columns)
                self.add_outputs(calls, pull_back(f, calls, column, keep, differentiable))

    def add_inputs(self, calls: list[Call]) -> None:
        """Add this batch's a a^T."""
        if self.curvature.weight_sharing == "expand":
            for call in calls:
                if call.owner.weight and not call.owner.rule.exact:
                    x, rule, module = call.datum_input(), call.owner.rule, call.owner.module
                    places = rule.places(module, call.y_shape)
                    if places == 1:
                        moment = SecondMoment.of_rows(rule.input_rows(module, x)[:, :, 0])
                    else:
                        moment = SecondMoment(rule.input_factor(module, x))
                    sums = self.sums[call.owner.weight][role_of(rule)]
                    sums.add_inputs(moment, len(x) * places)
            return
        means: dict[tuple[str, Role], tuple[Tensor | float, int]] = {}
        for call in calls:
            if call.owner.weight and not call.owner.rule.exact:
                rows = call.owner.rule.input_rows(call.owner.module, call.datum_input())
                use = (call.owner.weight, role_of(call.owner.rule))
                total, places = means.get(use, (0.0, 0))
                means[use] = (total + rows.sum(2), places + rows.shape[2])
        for (name, role), (total, places) in means.items():
            mean = total / places  # [group, batch, d_in]
            assert isinstance(mean, Tensor)
            self.sums[name][role].add_inputs(SecondMoment.of_rows(mean), mean.shape[1])

    def add_outputs(self, calls: list[Call], grads: list[Tensor | None]) -> None:
        """Add one column's g g^T."""
        summed: dict[tuple[str, Role], tuple[Tensor, Rule]] = {}

        def gather(name: str, role: Role, rows: Tensor, rule: Rule) -> None:
            before = summed.get((name, role))
            summed[name, role] = (rows if before is None else before[0] + rows, rule)

        expand = self.curvature.weight_sharing == "expand"
        for call, g in zip(calls, grads, strict=True):
            if g is None:
                continue
            owner, rule = call.owner, call.owner.rule
            own = call.datum_gradient(g)
            if owner.bias:
                gather(owner.bias, None, rule.bias_rows(owner.module, own).unsqueeze(0), rule)
            if owner.weight and rule.exact:
                rows = sum_over_copies(rule.weight_rows(owner.module, call.input(), g), call.copies)
                gather(owner.weight, None, rows.unsqueeze(0), rule)
            elif owner.weight and expand:
                factor = rule.output_factor(owner.module, own)
                self.add_output_factor(owner.weight, role_of(rule), factor, rule)
            elif owner.weight:
                gather(owner.weight, role_of(rule), rule.output_rows(owner.module, own).sum(2), rule)
        for (name, role), (rows, rule) in summed.items():
            self.add_output_factor(name, role, rows.mT @ rows, rule)

    def add_output_factor(self, name: str, role: Role, factor: Tensor, rule: Rule) -> None:
        """Add g g^T `[group, d_out, d_out]`, averaged over the groups where they count as places."""
        if self.curvature.group_factors == "shared" and rule.groups_are_places:
            factor = factor.mean(0, keepdim=True)
        sums = self.sums[name][role]
        sums.output_factor = sums.output_factor + factor

    def factors(self) -> KroneckerFactors:
        """What has been summed so far."""
        blocks: dict[str, Block] = {}
        for name, parameter in self.parameters.items():
            if name in self.diagonals:
                diagonal = torch.as_tensor(self.diagonals[name])
                blocks[name] = DiagonalBlock(diagonal, parameter.shape)
                continue
            uses = tuple(
                KroneckerBlock(s.inputs, s.output_factor, s.rows, parameter.shape, s.order)
                for s in self.sums[name].values()
                if isinstance(s.output_factor, Tensor)
            )
            if not uses:
                raise ValueError(
                    f"{name!r} never influenced an output: its module was not called, or nothing depends on "
                    "it; freeze it or take it out of the network"
                )
            blocks[name] = uses[0] if len(uses) == 1 else NearestKroneckerBlock(uses)
        return KroneckerFactors(blocks, self.n_data, self.log_likelihood, self.n_targets)


def seeded_generator(model: nn.Module, seed: int | None) -> torch.Generator | None:
    """A generator on the model's device, or None for torch's global one; shapes alone have none."""
    device = next(model.parameters()).device
    if seed is None or device.type == "meta":
        return None
    return torch.Generator(device=device).manual_seed(seed)


def compute_factors(
    model: nn.Module,
    loader: Batches,
    likelihood: Likelihood,
    fisher_type: FisherType = "type-2",
    mc_samples: int = 1,
    weight_sharing: WeightSharing = "expand",
    group_factors: GroupFactors = "grouped",
    seed: int | None = None,
    fallback: Fallback | None = None,
    differentiable: bool = False,
    at_full_resolution: bool = False,
) -> KroneckerFactors:
    """Kronecker factors of the GGN of the summed negative log-likelihood, one pass over `loader`.

    Args:
        model: maps x to outputs `[batch, classes]`; evaluated in `eval` mode, left in the mode it was in.
        loader: batches (x, y) of tensors, arrays or lists, or one batch; y are labels `[batch]` of any
            integer type or regression targets `[batch, outputs]`. Empty batches are passed over; see
            `kfac.batches`. Factors of regression are those of unit noise.
        likelihood: "classification" (softmax) or "regression" (Gaussian).
        fisher_type: "type-2" (exact over the outputs), "mc" (sampled labels), "empirical" (observed labels),
            "sketch" (random-sign mixtures of the exact columns).
        mc_samples: columns for "mc" and "sketch".
        weight_sharing: "expand" or "reduce" over places (Eschenhagen et al. 2023).
        group_factors: "grouped" keeps an output factor per channel of a factored layer, "shared" averages
            them as in van der Ouderaa et al. 2023.
        seed: fixes the drawn columns; None draws from torch's global generator.
        fallback: "diagonal" gives every parameter without a rule its exact diagonal block, and
            {parameter name: "diagonal"} the named ones.
        differentiable: keep the graph, so that factors and log-likelihood have gradients with respect to
            whatever requires them (drawn labels and signs count as fixed). Memory grows with the data.
        at_full_resolution: of weights in a basis, factors between the basis' points; see
            `project_factors`.

    Raises:
        ValueError: an uncovered parameter (named), batches of another kind, outputs or targets of a wrong
            shape, non-finite outputs, a loader without data, a weight used outside its module.
    """
    curvature = Curvature(likelihood, fisher_type, mc_samples, weight_sharing, group_factors, differentiable)
    with prepared(model):
        collector = Collector(
            model, curvature, fallback or {}, seeded_generator(model, seed), at_full_resolution
        )
        for x, y in batches_of(loader, model, likelihood):
            collector.add_batch(x, y)
    return collector.factors()


def project_factors(model: nn.Module, full: KroneckerFactors) -> KroneckerFactors:
    """Factors of the weights from factors at full resolution, differentiable in the bases alone.

    Args:
        model: the network that `full` was computed for.
        full: of `compute_factors(..., at_full_resolution=True)`; its A and B count as fixed.
    """
    blocks: dict[str, Block] = dict(full)
    for owner in find_owners(model, "diagonal")[0]:
        name = owner.weight
        block = blocks.get(name) if name else None
        if name and isinstance(block, KroneckerBlock):
            rule, module = owner.rule, owner.module
            blocks[name] = block.projected(rule.input_basis(module), rule.output_basis(module))
    return KroneckerFactors(blocks, full.n_data, full.log_likelihood, full.n_targets)
