"""The whole GGN, all its blocks, through the Gram matrix of its root: exact where data are few.

With R `[row, params]` the rooted Jacobian (a row a datum and column of the loss Hessian's root), H = R^T R
has the eigenvalues of R R^T, whose side is the number of rows (the kernel, or dual, form: Khan et al. 2019;
Immer et al. 2021). Under a Gaussian prior of precision delta_t on tensor t,

    log det(H + D) - log det D = log det(I + sum_t K_t / delta_t),      K_t = R_t R_t^T,
    gamma_t = tr((I + sum_s K_s / delta_s)^-1 K_t / delta_t),

so that tensors' own Gram matrices are all that is kept. Nothing is left out: neither blocks between layers
nor what a Kronecker product is not.

Of more data a few random-sign mixtures of each datum's rows stand for all of them. H is then unbiased, its
log determinant on average below the exact one (it is concave).

Axes: row, tensor, params, batch, classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kfac.batches import Batches, batches_of
from kfac.checks import prepared, run
from kfac.collect import Curvature
from kfac.datum_gradients import DatumGradients
from kfac.diagonal import gradients_by_datum, rows_of
from kfac.draws import Draws, seeded_draws
from kfac.errors import NonFiniteError
from kfac.loss_hessian import Likelihood, check_outputs, log_likelihood, square_root
from kfac.owners import find_owners, uncovered
from kfac.precision import working_type

MEMORY = 2**28  # bytes that the rows of the tensors of one pass may take


@dataclass(frozen=True)
class GramFactors:
    """Gram matrices of a network's GGN at its present weights, summed over data; of unit noise.

    Attributes:
        names: of the parameters, in the model's order.
        grams: K_t `[tensor, row, row]`, float64 of networks in float64, else float32.
        n_data: number of data.
        log_likelihood: summed, in nats; of regression -1/2 of the squared residuals.
        n_targets: number of targets.
    """

    names: tuple[str, ...]
    grams: Tensor
    n_data: int
    log_likelihood: float
    n_targets: int

    def total(self, delta: Tensor, variance: float | Tensor = 1.0) -> Tensor:
        """I + sum_t K_t / (variance delta_t) for precisions `[tensor]`, `[row, row]` float64."""
        weights = 1 / (delta.to(self.grams.device).double() * variance)
        largest = weights.detach().max()  # float32 holds the sum's scale whatever the precisions are
        scaled = ((weights / largest).to(self.grams.dtype) @ self.grams.flatten(1)).double() * largest
        total = scaled.reshape(self.grams.shape[1:])
        return total + torch.eye(len(total), dtype=total.dtype, device=total.device)

    def log_det_ratio(self, delta: Tensor, variance: float | Tensor = 1.0) -> Tensor:
        """The log of det(H / variance + D) over det D, a float64 scalar, differentiable in both arguments."""
        total = self.total(delta, variance)
        root, failed = torch.linalg.cholesky_ex(total)
        if int(failed):
            return torch.linalg.eigvalsh(total).clamp_min(1.0).log().sum()
        return 2 * root.diagonal().log().sum()

    def effective_parameters(self, delta: Tensor, variance: float = 1.0) -> Tensor:
        """gamma_t `[tensor]`, float64."""
        traces = self.grams.flatten(1) @ inverted(self.total(delta, variance)).flatten().to(self.grams.dtype)
        return traces.double().clamp_min(0) / (delta.to(traces.device).double() * variance)


def inverted(total: Tensor) -> Tensor:
    """The inverse of a matrix whose eigenvalues are 1 at least, but for the rounding of large ones."""
    root, failed = torch.linalg.cholesky_ex(total)
    if not int(failed):
        return torch.cholesky_inverse(root)
    values, vectors = torch.linalg.eigh(total)
    return (vectors / values.clamp_min(1.0)) @ vectors.mT


def rows_needed(outputs: int, n_data: int, likelihood: Likelihood, columns: int | None = None) -> int:
    """Number of rows of the root: data times classes less one, or times targets; or times drawn columns."""
    return n_data * (columns or (outputs - 1 if likelihood == "classification" else outputs))


def compute_gram(
    model: nn.Module,
    loader: Batches,
    likelihood: Likelihood,
    columns: int | None = None,
    seed: int | None = None,
) -> GramFactors:
    """Gram matrices of the GGN of the summed negative log-likelihood, over all trainable parameters.

    A pass over the data for as many parameters as `MEMORY` holds rows of. Any network will do: where modules
    have no rules, or use a weight in several roles, gradients are autograd's, datum by datum.

    Args:
        model: maps x to outputs `[batch, classes]`; evaluated in `eval` mode, left in the mode it was in.
        loader: batches (x, y), as for `compute_factors`, the same in every pass.
        likelihood: "classification" or "regression" (of unit noise).
        columns: random-sign mixtures a datum that stand for its rows; None: all its rows, exactly.
        seed: of the signs, the same in every pass and call; None: 0.

    Returns:
        The Gram matrices, with log-likelihood and counts.

    Raises:
        NonFiniteError: outputs or gradients are not finite.
        ValueError: nothing to train, no columns, or data as for `compute_factors`.
    """
    curvature = Curvature(likelihood) if columns is None else Curvature(likelihood, "sketch", columns)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("the network has no trainable parameter; there is no curvature to compute")
    with prepared(model):
        batches = list(batches_of(loader, model, likelihood))
        fit, targets, data, outputs = 0.0, 0, 0, 0
        with torch.no_grad():
            for x, y in batches:
                f = run(model, x)
                check_outputs(f, y, likelihood)
                fit += float(log_likelihood(f, y, likelihood))
                data, targets, outputs = data + len(x), targets + f.numel(), f.shape[1]
        found: dict[str, Tensor] = {}
        source = RowSource(model, trained, curvature, seed or 0)
        for names in passes(trained, rows_needed(outputs, data, likelihood, columns)):
            found |= source.grams(names, batches)
    unused = [name for name in trained if name not in found]
    if unused:
        raise ValueError(f"{', '.join(unused)} never influenced an output; freeze or remove what is not used")
    grams = torch.stack([found[name] for name in trained])
    if not torch.isfinite(grams.diagonal(dim1=1, dim2=2)).all():  # a row that is not shows there
        raise NonFiniteError("the network's gradients are not finite; curvature would be meaningless")
    return GramFactors(tuple(trained), grams, data, fit, targets)


def passes(parameters: Mapping[str, Tensor], rows: int) -> Iterator[list[str]]:
    """Names of parameters whose rows `MEMORY` holds at once; one alone where it does not."""
    group: list[str] = []
    held = 0
    for name, p in parameters.items():
        size = rows * p.numel() * working_type(p.dtype).itemsize
        if group and held + size > MEMORY:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


class RowSource:
    """Rows R_t of a network's parameters: from their modules' rules, or else by autograd.

    Args:
        model: in `eval` mode.
        trained: values of its trainable parameters by name.
        curvature: likelihood and columns.
        seed: of the columns that are drawn.
    """

    def __init__(
        self, model: nn.Module, trained: Mapping[str, Tensor], curvature: Curvature, seed: int
    ) -> None:
        self.model, self.trained, self.curvature, self.seed = model, trained, curvature, seed
        ruled = find_owners(model, dict.fromkeys(uncovered(model), "diagonal"))[0]
        self.ruled: DatumGradients | None
        try:
            self.ruled = DatumGradients(model, ruled, {}, curvature, self.draws())
        except ValueError:  # a weight in several roles
            self.ruled = None
        owned = {name for owner in ruled for name in (owner.weight, owner.bias) if name}
        self.by_rule = owned if self.ruled is not None else set()

    def draws(self) -> Draws:
        """The same signs for every pass, and for modules with and without rules."""
        return seeded_draws(next(iter(self.trained.values())).device, self.seed)

    def grams(self, names: list[str], batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """K_t `[row, row]` of parameters, rows batch by batch and column by column; none of unused ones."""
        chosen, drawn = self.curvature, self.draws()
        if self.ruled is not None:
            self.ruled.draws = self.draws()
        pieces: dict[str, list[tuple[Tensor, Tensor]]] = {}
        others = {name: self.trained[name] for name in names if name not in self.by_rule}
        for x, y in batches:
            if self.ruled is not None and len(others) < len(names):
                columns, _ = self.ruled.of_batch(x, y)
                for column in columns:
                    for name in names:
                        if name in column:
                            pieces.setdefault(name, []).append(without_places(*column[name]))
            if others:
                f, pull_back = gradients_by_datum(self.model, others, x)
                for cotangent in square_root(
                    f.detach(), y, chosen.likelihood, chosen.fisher_type, chosen.mc_samples, drawn
                ):
                    for name, rows in rows_of(f, pull_back, cotangent).items():
                        g = rows.detach().flatten(1).unsqueeze(0)
                        pieces.setdefault(name, []).append((g.new_ones(1, len(rows), 1), g))
        return {name: gram_of(found) for name, found in pieces.items()}


def without_places(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs a `[group, batch, d_in]`, g `[group, batch, d_out]` whose products g a^T are gradients of data.

    Sums over several places become single rows, of which a is 1.

    Args:
        a: `[group, batch, place, d_in]`.
        g: `[group, batch, place, d_out]`.
    """  # noqa: DOC201, the first line says it
    if a.shape[2] == 1:
        return a.squeeze(2), g.squeeze(2)
    rows = torch.einsum("nbpi,nbpo->bnoi", a, g).flatten(1).unsqueeze(0)
    return rows.new_ones(1, rows.shape[1], 1), rows


def gram_of(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Inner products `[row, row]` of gradients g a^T: (a a^T) times (g g^T), entrywise, group by group."""
    a, g = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
    total = a.new_zeros(a.shape[1], a.shape[1])
    for of_inputs, of_outputs in zip(a, g, strict=True):
        product = of_outputs @ of_outputs.mT
        if of_inputs.shape[1] > 1 or not bool((of_inputs == 1).all()):
            product *= of_inputs @ of_inputs.mT
        total += product
    return total
