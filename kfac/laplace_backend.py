"""A backend for laplace-torch: its Laplace approximations on our factors.

    from laplace import Laplace
    la = Laplace(model, "classification", "all", "kron", backend=kfac.KfacGGN)
    la.fit(train_loader)
    la.optimize_prior_precision(pred_type="glm", prior_structure="layerwise")
    probabilities = la(x, link_approx="mc")

Biases and norm layers have exact blocks, factored layers a factor a group, and parameters may have any number
of axes. `backend_kwargs={"eigenvalues": "corrected"}` adds a second pass over the data (`kfac.ekfac`).

`Laplace` picks the class for ("all", "kron") by the attribute `_key` of the classes it knows. This module
hands that key to `KfacLaplace`, which makes a plain `KronLaplace` of every call with another backend.

Axes: batch, classes, params.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from laplace.baselaplace import KronLaplace
from laplace.curvature import GGNInterface
from laplace.utils.matrix import Kron
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kfac.collect import GroupFactors, WeightSharing, compute_factors
from kfac.eigen import EigenBlock, EigenFactors
from kfac.ekfac import correct_eigenvalues
from kfac.factors import Block, DiagonalBlock, KroneckerBlock, KroneckerFactors
from kfac.laplace_kron import GroupedKron
from kfac.loss_hessian import FisherType
from kfac.owners import Fallback, find_owners
from kfac.partial_traces import partial_trace_basis

Eigenvalues = Literal["kronecker", "corrected", "partial-traces"]


class KfacGGN(GGNInterface):
    """Curvature of laplace-torch's protocol by `compute_factors`.

    Args:
        model: maps x to outputs `[batch, classes]`.
        likelihood: "classification" or "regression".
        last_layer: only the last layer's curvature (the model is laplace-torch's feature extractor).
        subnetwork_indices: laplace-torch's; no Kronecker factors then.
        dict_key_x: unused, models take tensors.
        dict_key_y: unused.
        stochastic: sampled labels in place of the exact Hessian ("mc").
        num_samples: how many.
        weight_sharing: see `compute_factors`.
        group_factors: see `compute_factors`.
        eigenvalues: "kronecker"; "corrected" (EKFAC) in KFAC's basis, or "partial-traces": corrected in the
            basis of `partial_trace_basis`. Corrections take passes of their own.
        fallback: see `compute_factors`.
        seed: fixes the sampled labels.

    Raises:
        ValueError: an unknown choice of eigenvalues.
    """

    def __init__(
        self,
        model: nn.Module,
        likelihood: str,
        last_layer: bool = False,
        subnetwork_indices: torch.LongTensor | None = None,
        dict_key_x: str = "input_ids",
        dict_key_y: str = "labels",
        stochastic: bool = False,
        num_samples: int = 1,
        weight_sharing: WeightSharing = "expand",
        group_factors: GroupFactors = "grouped",
        eigenvalues: Eigenvalues = "kronecker",
        fallback: Fallback | None = None,
        seed: int | None = None,
    ) -> None:
        if eigenvalues not in get_args(Eigenvalues):
            raise ValueError(f"unknown eigenvalues {eigenvalues!r}; choose one of {get_args(Eigenvalues)}")
        if last_layer and eigenvalues != "kronecker":
            raise ValueError(
                "eigenvalues are corrected for all weights only; use eigenvalues='kronecker' for a last layer"
            )
        super().__init__(
            model, likelihood, last_layer, subnetwork_indices, dict_key_x, dict_key_y, stochastic, num_samples
        )
        self.fisher_type: FisherType = "mc" if stochastic else "type-2"
        self.weight_sharing, self.group_factors = weight_sharing, group_factors
        self.eigenvalues, self.fallback, self.seed = eigenvalues, fallback, seed
        self.batches = 0

    def kron(self, x: Any, y: Tensor, N: int, **_: Any) -> tuple[Tensor, Kron]:
        """Loss and curvature of one batch, as laplace-torch asks for them.

        Args:
            x: one batch.
            y: labels `[batch]` or targets `[batch, outputs]`.
            N: number of training data.

        Returns:
            The summed loss in nats, and the batch's factors, raw sums; for a last layer laplace-torch's own
            `Kron` of one pair of matrices a tensor. Zeros for an empty batch.
        """
        if not len(y):
            return self._nothing()
        seed = None if self.seed is None else self.seed + self.batches
        self.batches += 1
        if self.last_layer:
            extractor: Any = self.model
            with torch.no_grad():
                _, features = extractor.forward_with_features(x)
            factors = self._factors(extractor.last_layer, features, y, seed)
            kind = next(extractor.last_layer.parameters()).dtype  # of laplace-torch's own sums
            pairs: Any = [plain_pair(factors, name, N, kind) for name in factors.names]
            return self._loss(factors), Kron(pairs)
        factors = self._factors(self.model, x, y, seed)
        return self._loss(factors), GroupedKron(factors)

    def _nothing(self) -> tuple[Tensor, Kron]:
        """Loss and sums of an empty batch."""
        like = next(self.model.parameters())
        if self.last_layer:
            extractor: Any = self.model
            return like.new_zeros(()), Kron.init_from_model(extractor.last_layer, like.device, like.dtype)
        return like.new_zeros(()), GroupedKron(empty_factors(self.model, self.fallback or {}), empty=True)

    def _factors(self, model: nn.Module, x: Tensor, y: Tensor, seed: int | None) -> KroneckerFactors:
        return compute_factors(
            model,
            [(x, y)],
            self.likelihood,  # type: ignore[arg-type]
            self.fisher_type,
            self.num_samples,
            self.weight_sharing,
            self.group_factors,
            seed,
            self.fallback,
        )

    def _loss(self, factors: KroneckerFactors) -> Tensor:
        return torch.as_tensor(-factors.log_likelihood, device=next(self.model.parameters()).device)

    def corrected(self, loader: DataLoader[Any], basis: EigenFactors) -> EigenFactors:
        """Corrected spectra over the training data."""
        device = next(self.model.parameters()).device
        moved = [(x.to(device), y.to(device)) for x, y in loader]
        options = (self.likelihood, self.fisher_type, self.num_samples, self.seed)
        if self.eigenvalues == "partial-traces":
            basis = partial_trace_basis(self.model, moved, *options, self.fallback)  # type: ignore[arg-type]
        likelihood, *columns = options
        return correct_eigenvalues(self.model, moved, likelihood, basis, *columns)  # type: ignore[arg-type]


def plain_pair(factors: KroneckerFactors, name: str, n_data: int, kind: torch.dtype) -> list[Tensor]:
    """[B, A / N] of a Linear's weight or [B] of its bias: what laplace-torch sums over batches, in `kind`."""
    block = factors[name]
    b = block.output_factor[0]  # type: ignore[union-attr]
    a = block.input_factor  # type: ignore[union-attr]
    return [b.to(kind)] if a is None else [b.to(kind), a[0].to(kind) / n_data]


def empty_factors(model: nn.Module, fallback: Fallback) -> KroneckerFactors:
    """Blocks of the model's parameters in shape and order, with nothing in them.

    Returns:
        Blocks by parameter name that hold no numbers, for zero data; what data's factors can be added to.

    Raises:
        ValueError: an uncovered parameter (named).
    """
    owners, parameters, diagonal = find_owners(model, fallback)
    orders = {name: owner.rule.order for owner in owners for name in (owner.weight, owner.bias) if name}
    nothing = torch.empty(0)
    blocks: dict[str, Block] = {
        name: DiagonalBlock(nothing, p.shape)
        if name in diagonal
        else KroneckerBlock(None, nothing, 0, p.shape, orders[name])
        for name, p in parameters.items()
    }
    return KroneckerFactors(blocks, 0)


class KfacLaplace(KronLaplace):
    """`KronLaplace` on grouped factors, with spectra corrected if the backend says so."""

    H: Any
    backend: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance, or a plain `KronLaplace` where the backend is not ours."""
        backend = kwargs.get("backend")
        if not args and not kwargs:  # a copy, whose state comes after
            return super().__new__(cls)
        if backend is None or not issubclass(backend, KfacGGN):
            return KronLaplace(*args, **kwargs)
        return super().__new__(cls)

    def _init_H(self) -> None:
        self.H = GroupedKron(empty_factors(self.model, self.backend.fallback or {}), empty=True)
        self.spectra: EigenFactors | None = None

    @staticmethod
    def _rescale_factors(kron: Kron, factor: float) -> Kron:
        """Raw sums need no discount when data are added."""
        return kron

    def fit(self, train_loader: DataLoader[Any], override: bool = True, progress_bar: bool = False) -> None:
        """See `KronLaplace`.

        Raises:
            ValueError: data added to a fit whose eigenvalues were corrected: the basis has changed.
        """
        if not override and self.backend.eigenvalues != "kronecker":
            raise ValueError(
                "corrected eigenvalues belong to one basis, so data cannot be added to a fit; fit again with "
                "all data, or use eigenvalues='kronecker'"
            )
        super().fit(train_loader, override, progress_bar)
        if self.backend.eigenvalues != "kronecker":
            self.spectra = self.backend.corrected(train_loader, self.H.eigen)
            self.H = self.H.with_spectra(self.spectra)

    @property
    def log_det_posterior_precision(self) -> Tensor:
        """Log det P; the prior's before the fit."""
        if isinstance(self.H, GroupedKron):
            return self.prior_precision_diag.log().sum()
        return self.posterior_precision.logdet()

    def square_norm(self, value: Tensor) -> Tensor:
        """(value - mean)^T P (value - mean); with the prior's precision before the fit."""
        delta = value - self.mean
        if isinstance(self.H, GroupedKron):
            return (delta * self.prior_precision_diag) @ delta
        return delta @ self.posterior_precision.bmm(delta, exponent=1)

    def state_dict(self) -> dict[str, Any]:
        """See `KronLaplace`; with the corrected spectra, if there are any."""
        state = super().state_dict()
        if self.spectra is not None:
            state["spectra"] = {
                name: [block.eigenvalues, block.input_vectors, block.output_vectors, block.needs_vectors]
                for name, block in self.spectra.blocks.items()
            }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `KronLaplace`."""
        super().load_state_dict(state_dict)
        stored = state_dict.get("spectra")
        if stored is not None:
            self.spectra = EigenFactors({name: EigenBlock(*parts) for name, parts in stored.items()})
            self.H = self.H.with_spectra(self.spectra)


KronLaplace._key, KfacLaplace._key = ("all", "kron of one pair a parameter"), KronLaplace._key
