"""Eigenvalues of curvature blocks, and what the evidence needs of them.

With eigenvalues lambda of the block H_t of tensor t and its prior precision delta_t (MacKay 1992):

    log det(H_t + delta_t I) = sum log(lambda + delta_t)
    gamma_t                  = sum lambda / (lambda + delta_t)      the effective number of parameters

Everything is float64: a float32 eigendecomposition fails on the rank-deficient factors that blank pixels
give. Factors are symmetrised first and eigenvalues clamped at zero.

Axes: group, d_in, d_out, params.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kfac.checks import has_values
from kfac.errors import NonFiniteError
from kfac.second_moment import SecondMoment


@dataclass(frozen=True)
class EigenBlock:
    """Spectrum of one block.

    Attributes:
        eigenvalues: `[params]` float64, in `[group, d_out, d_in]` order.
        input_vectors: `[group, d_in, d_in]` (columns), or None.
        output_vectors: `[group or 1, d_out, d_out]` (columns), or None.
        needs_vectors: whether the eigenbasis differs from the parameter's own axes.
    """

    eigenvalues: Tensor
    input_vectors: Tensor | None = None
    output_vectors: Tensor | None = None
    needs_vectors: bool = True

    def same_basis(self, other: EigenBlock) -> bool:
        """Whether both spectra belong to the same eigenvectors."""
        if self.needs_vectors and self.output_vectors is None:
            return False
        pairs = (
            (self.input_vectors, other.input_vectors),
            (self.output_vectors, other.output_vectors),
        )
        return all(
            mine is theirs or (mine is not None and theirs is not None and torch.equal(mine, theirs))
            for mine, theirs in pairs
        )

    def coordinates(self, entries: Tensor) -> Tensor:
        """Coordinates in the eigenbasis of entries `[*lead, group, d_out, d_in]`.

        Returns:
            Q^T times the entries, `[*lead, params]`, in the order of the eigenvalues.

        Raises:
            ValueError: the block was decomposed without vectors.
        """
        return self._turned(entries, back=False).flatten(-3)

    def entries(self, coordinates: Tensor, like: Tensor) -> Tensor:
        """What coordinates `[*lead, params]` in the eigenbasis stand for; undoes `coordinates`.

        Returns:
            Q times the coordinates, in the shape of `like`, `[*lead, group, d_out, d_in]`.

        Raises:
            ValueError: the block was decomposed without vectors.
        """
        return self._turned(coordinates.reshape(like.shape), back=True)

    def _turned(self, entries: Tensor, back: bool) -> Tensor:
        if self.needs_vectors and self.output_vectors is None:
            raise ValueError("decomposed without vectors; use eigendecompose(vectors=True)")
        turned = entries.double()
        if self.output_vectors is not None:
            turned = (self.output_vectors if back else self.output_vectors.mT) @ turned
        if self.input_vectors is not None:
            turned = turned @ (self.input_vectors.mT if back else self.input_vectors)
        return turned

    def quadratic_diagonal(self, weights: Tensor) -> Tensor:
        """diag(Q diag(weights) Q^T), the diagonal of a matrix with this eigenbasis.

        Returns:
            `[group, d_out, d_in]`, the shape that the weights must have too.

        Raises:
            ValueError: the block was decomposed without vectors.
        """
        squared = replace(
            self,
            input_vectors=None if self.input_vectors is None else self.input_vectors.square(),
            output_vectors=None if self.output_vectors is None else self.output_vectors.square(),
        )
        return squared._turned(weights, back=True)


def symmetric_eigenvalues(factor: Tensor, vectors: bool) -> tuple[Tensor, Tensor | None]:
    """Spectrum of a factor `[group, d, d]`, in float64, by whichever solver succeeds.

    Returns:
        Eigenvalues `[group, d]`, ascending and clamped at zero, and vectors `[group, d, d]` in columns, None
        if they were not asked for.

    Raises:
        NonFiniteError: the factor holds NaN or infinity.
    """
    factor = factor.double()
    if has_values(factor) and not torch.isfinite(factor).all():
        raise NonFiniteError(
            "a curvature factor is not finite: the network's outputs or gradients overflowed"
        )
    factor = (factor + factor.mT) / 2
    try:
        values, columns = torch.linalg.eigh(factor) if vectors else (torch.linalg.eigvalsh(factor), None)
    except torch.linalg.LinAlgError:
        values, columns = eigenvalues_by_qr(factor, vectors)
    return values.clamp_min(0), columns


def eigenvalues_by_qr(factor: Tensor, vectors: bool) -> tuple[Tensor, Tensor | None]:
    """Spectrum of a factor `[group, d, d]` by QR iterations on the CPU.

    Slower than torch's divide and conquer, which can fail to converge on large matrices of low rank.

    Returns:
        As `symmetric_eigenvalues`, not clamped, on the factor's own device.
    """
    import scipy.linalg  # slow to load, and hardly ever needed

    matrices = factor.cpu().numpy()
    if not vectors:
        values = [scipy.linalg.eigh(one, driver="ev", eigvals_only=True) for one in matrices]
        return torch.from_numpy(np.stack(values)).to(factor), None
    pairs = zip(*(scipy.linalg.eigh(one, driver="ev") for one in matrices), strict=True)
    eigenvalues, columns = (torch.from_numpy(np.stack(found)).to(factor) for found in pairs)
    return eigenvalues, columns


def decompose_kronecker(
    inputs: SecondMoment | None, output_factor: Tensor, normaliser: int, groups: int, vectors: bool
) -> EigenBlock:
    """Spectrum of A (x) B / normaliser for every group."""
    out_values, out_vectors = symmetric_eigenvalues(output_factor, vectors)
    out_values = out_values / normaliser
    if inputs is None:
        return EigenBlock(out_values.flatten(), None, out_vectors)
    in_values, in_vectors = symmetric_eigenvalues(
        inputs.to_dense() if vectors else inputs.smallest(), vectors
    )
    in_values = F.pad(in_values, (inputs.size - in_values.shape[1], 0))  # the null space comes first
    values = out_values.expand(groups, -1).unsqueeze(2) * in_values.unsqueeze(1)
    return EigenBlock(values.flatten(), in_vectors, out_vectors)


def decompose_diagonal(diagonal: Tensor) -> EigenBlock:
    """Spectrum of a diagonal block."""
    return EigenBlock(diagonal.double().flatten().clamp_min(0), needs_vectors=False)


class EigenFactors:
    """Spectra of all blocks of a network."""

    def __init__(self, blocks: Mapping[str, EigenBlock]) -> None:
        self.blocks = dict(blocks)
        self.eigenvalues = {name: block.eigenvalues for name, block in self.blocks.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names."""
        return tuple(self.blocks)

    def __add__(self, other: EigenFactors) -> EigenFactors:
        """Add the spectra of two data sets in one basis, as `correct_eigenvalues` gives them.

        Returns:
            Sums of the eigenvalues in that basis; the two given are left as they are.

        Raises:
            ValueError: the bases differ (eigenvalues of different bases do not add).
        """
        if self.names != other.names or not all(
            self.blocks[name].same_basis(other.blocks[name]) for name in self.names
        ):
            raise ValueError(
                "spectra add only in one basis with vectors: correct the eigenvalues of one decomposition "
                "over both data sets, or add the factors before they are decomposed"
            )
        return EigenFactors(
            {
                name: replace(block, eigenvalues=block.eigenvalues + other.eigenvalues[name])
                for name, block in self.blocks.items()
            }
        )

    def _precision(self, prior_precision: Mapping[str, Tensor | float], name: str) -> Tensor:
        if name not in prior_precision:
            raise ValueError(
                f"no prior precision for {name!r}; prior_precision needs a positive value for each of "
                f"{', '.join(self.names)}"
            )
        values = self.eigenvalues[name]
        return torch.as_tensor(prior_precision[name], dtype=values.dtype, device=values.device)

    def logdet(
        self, prior_precision: Mapping[str, Tensor | float], sigma_noise: Tensor | float = 1.0
    ) -> Tensor:
        """sum_t log det(H_t / sigma_noise^2 + delta_t I) over all tensors t.

        Returns:
            A float64 scalar, differentiable in precisions and noise.

        Raises:
            ValueError: a tensor has no prior precision.
        """
        terms = []
        for name, values in self.eigenvalues.items():
            scaled = values / torch.as_tensor(sigma_noise, dtype=values.dtype, device=values.device) ** 2
            terms.append(torch.log(scaled + self._precision(prior_precision, name)).sum())
        return torch.stack(terms).sum()

    def effective_parameters(
        self, prior_precision: Mapping[str, Tensor | float], sigma_noise: float = 1.0
    ) -> dict[str, Tensor]:
        """Effective number of parameters of every tensor (MacKay 1992).

        Returns:
            gamma_t by parameter name, scalars between 0 and the tensor's number of parameters.

        Raises:
            ValueError: a tensor has no prior precision.
        """
        out = {}
        for name, values in self.eigenvalues.items():
            scaled = values / sigma_noise**2
            out[name] = (scaled / (scaled + self._precision(prior_precision, name))).sum()
        return out
