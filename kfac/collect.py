"""One pass over data: hooks on the layers, one backward pass for every column of the loss Hessian's root.

For every batch, the modules that own parameters are hooked (`kfac.calls`), the network runs once, and its
outputs are pulled back along each column; the rules of `kfac.rules` turn what passed through the modules into
the raw sums of `kfac.factors`. Factors are computed in `eval` mode.

Before the first batch counts, the rows of two data are compared with autograd's own gradients
(`kfac.row_check`).

Products are formed and summed as `kfac.precision` says, whatever type the network has or autocast gives it.

Axes: batch, group, place, d_in, d_out, column, classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from kfac.averages import sum_over_copies
from kfac.batches import Batches, batches_of
from kfac.calls import Call, pull_back, recorded_calls
from kfac.checks import has_values, prepared, run
from kfac.diagonal import exact_diagonals
from kfac.draws import Draws, Place, seeded_draws
from kfac.factors import Block, DiagonalBlock, KroneckerBlock, KroneckerFactors, NearestKroneckerBlock, Order
from kfac.loss_hessian import FisherType, Likelihood, check_outputs, log_likelihood, square_root
from kfac.owners import Fallback, find_owners
from kfac.precision import RunningSum, accumulated
from kfac.process_groups import Ranks, device_of, expect_same_network, ranks_of
from kfac.row_check import compare_with_autograd
from kfac.rules import Rule
from kfac.second_moment import SecondMoment

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

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
    """Running raw sums of one parameter in one role, in memory that nobody else has.

    Attributes:
        order: of the role's rows in the parameter; see `kfac.factors`.
    """

    order: Order
    inputs: SecondMoment | None = None
    output_factor: RunningSum = field(default_factory=RunningSum)
    rows: int = 0

    def add_inputs(self, moment: SecondMoment, rows: int) -> None:
        """Add the sum of a a^T over `rows` pairs of datum and place."""
        self.inputs = moment.owned() if self.inputs is None else self.inputs.absorbed(moment)
        self.rows += rows


def role_of(rule: Rule) -> Role:
    """The role in which a rule's modules use their weight."""
    return None if rule.exact else rule.order


class Collector:
    """Accumulates the factors of one pass over data."""

    def __init__(
        self,
        model: nn.Module,
        curvature: Curvature,
        fallback: Fallback,
        draws: Draws,
        at_full_resolution: bool = False,
    ) -> None:
        self.model, self.curvature, self.draws = model, curvature, draws
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
        self.diagonals: dict[str, Tensor] = {}
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
                self.draws,
            )
            self.add_inputs(calls)
            if self.diagonal_names:
                named = {name: self.parameters[name] for name in self.diagonal_names}
                for name, diagonal in exact_diagonals(self.model, named, x, columns).items():
                    self.diagonals[name] = accumulated(self.diagonals.get(name), diagonal)
            for k, column in enumerate(columns):
                keep = k + 1 < len(columns)
                self.add_outputs(calls, pull_back(f, calls, column, keep, differentiable))
            for roles in self.sums.values():
                for sums in roles.values():
                    sums.output_factor.settle()

    def add_inputs(self, calls: list[Call]) -> None:
        """Add this batch's a a^T."""
        if self.curvature.weight_sharing == "expand":
            for call in calls:
                if call.owner.weight and not call.owner.rule.exact:
                    x, rule, module = call.datum_input(), call.owner.rule, call.owner.module
                    places = rule.places(module, call.y_shape)
                    if places == 1:
                        moment = SecondMoment.of_rows(rule.input_rows(module, x)[:, :, 0], call.x.dtype)
                    else:
                        moment = SecondMoment(rule.input_factor(module, x))
                    sums = self.sums[call.owner.weight][role_of(rule)]
                    sums.add_inputs(moment, len(x) * places)
            return
        means: dict[tuple[str, Role], tuple[Tensor | float, int, torch.dtype]] = {}
        for call in calls:
            if call.owner.weight and not call.owner.rule.exact:
                rows = call.owner.rule.input_rows(call.owner.module, call.datum_input())
                use = (call.owner.weight, role_of(call.owner.rule))
                total, places, _ = means.get(use, (0.0, 0, call.x.dtype))
                means[use] = (total + rows.sum(2), places + rows.shape[2], call.x.dtype)
        for (name, role), (total, places, kept) in means.items():
            mean = total / places  # [group, batch, d_in]
            assert isinstance(mean, Tensor)
            self.sums[name][role].add_inputs(SecondMoment.of_rows(mean, kept), mean.shape[1])

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
        self.sums[name][role].output_factor.add(factor)

    def add_up(self, ranks: Ranks) -> None:
        """Add the other processes' sums to this one's, so that all have those of all data."""
        if ranks.size == 1:
            return
        device = device_of(self.model)
        uses = {(name, role): sums for name, roles in self.sums.items() for role, sums in roles.items()}
        inputs = {use: sums.inputs for use, sums in uses.items() if sums.inputs is not None}
        outputs = {use: s.output_factor.total for use, s in uses.items() if s.output_factor.total is not None}
        for use, moment in ranks.moments(inputs, device).items():
            uses[use].inputs = moment
        for use, factor in ranks.summed(outputs, device).items():
            uses[use].output_factor.total = factor
        self.diagonals = ranks.summed(self.diagonals, device)
        counts = ranks.gather((self.n_data, self.n_targets, float(self.log_likelihood)))
        self.n_data, self.n_targets = sum(n for n, _, _ in counts), sum(n for _, n, _ in counts)
        self.log_likelihood = math.fsum(fit for _, _, fit in counts)
        rows = ranks.gather({use: sums.rows for use, sums in uses.items()})
        for use, sums in uses.items():
            sums.rows = sum(own[use] for own in rows)

    def factors(self) -> KroneckerFactors:
        """What has been summed so far."""
        blocks: dict[str, Block] = {}
        for name, parameter in self.parameters.items():
            if name in self.diagonals:
                blocks[name] = DiagonalBlock(self.diagonals[name], parameter.shape)
                continue
            uses = tuple(
                KroneckerBlock(s.inputs, s.output_factor.total, s.rows, parameter.shape, s.order)
                for s in self.sums[name].values()
                if s.output_factor.total is not None
            )
            if not uses:
                raise ValueError(
                    f"{name!r} never influenced an output: its module was not called, or nothing depends on "
                    "it; freeze it or take it out of the network"
                )
            blocks[name] = uses[0] if len(uses) == 1 else NearestKroneckerBlock(uses)
        return KroneckerFactors(blocks, self.n_data, self.log_likelihood, self.n_targets)


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
    process_group: ProcessGroup | None = None,
    place: Place | None = None,
) -> KroneckerFactors:
    """Kronecker factors of the GGN of the summed negative log-likelihood, one pass over `loader`.

    Args:
        model: maps x to outputs `[batch, classes]`, in any floating type or under the caller's autocast (sums
            are float64 whichever it is, see `kfac.precision`); evaluated in `eval` mode, left in the mode it
            was in.
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
        process_group: of `torch.distributed`, if the data lie in several processes: each passes over its own
            part, and all return the same sums over all data. Drawn columns differ by process, and `seed`
            fixes them all; without it, seed torch differently on every process. None: this one's data alone.
        place: where this process' data lie among all; with it and a `seed` the columns of "sketch" are those
            that one process would draw, whoever shares the data.

    Returns:
        A and B of every trainable parameter's block (or its diagonal), summed over the data, with the
        log-likelihood in nats and the numbers of data and targets.

    Raises:
        ValueError: an uncovered parameter (named), batches of another kind, outputs or targets of a wrong
            shape, non-finite outputs, a loader without data, a weight used outside its module. With a
            process group, on every process: networks, weights or options that differ, and what any of them
            fails on, a loader without data included.
    """
    ranks = ranks_of(process_group)
    curvature = ranks.together(
        lambda: Curvature(likelihood, fisher_type, mc_samples, weight_sharing, group_factors, differentiable)
    )
    if differentiable and ranks.size > 1:
        raise ValueError(
            "differentiable factors have their graph in one process; leave process_group out, or "
            "use differentiable=False"
        )

    def options() -> dict[str, object]:
        diagonal = find_owners(model, fallback or {})[2]
        return {
            **asdict(curvature),
            "diagonal": diagonal,
            "full resolution": at_full_resolution,
            "seed": seed,
        }

    def own_part() -> Collector:
        with prepared(model):
            draws = seeded_draws(device_of(model), seed, ranks.rank, place)
            collector = Collector(model, curvature, fallback or {}, draws, at_full_resolution)
            for x, y in batches_of(loader, model, likelihood):
                collector.add_batch(x, y)
        return collector

    expect_same_network(ranks, model, options)
    collector = ranks.together(own_part)
    collector.add_up(ranks)
    return collector.factors()


def project_factors(model: nn.Module, full: KroneckerFactors) -> KroneckerFactors:
    """Factors of the weights from factors at full resolution, differentiable in the bases alone.

    Nothing is summed over data here: of factors with a process group every process projects its own copy.

    Args:
        model: the network that `full` was computed for.
        full: of `compute_factors(..., at_full_resolution=True)`; its A and B count as fixed.

    Returns:
        Factors of the same blocks and data; blocks of weights without a basis are those of `full`.
    """
    blocks: dict[str, Block] = dict(full)
    for owner in find_owners(model, "diagonal")[0]:
        name = owner.weight
        block = blocks.get(name) if name else None
        if name and isinstance(block, KroneckerBlock):
            rule, module = owner.rule, owner.module
            blocks[name] = block.projected(rule.input_basis(module), rule.output_basis(module))
    return KroneckerFactors(blocks, full.n_data, full.log_likelihood, full.n_targets)
