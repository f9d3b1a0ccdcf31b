"""Weights between anchor points: Gaussian-process interpolation with a radial basis function kernel.

A spatial weight theta(x) on a grid is given by values u(p) at anchors z_p (van der Ouderaa & van der Wilk
2023; van der Ouderaa et al. 2023, Eqs. 6 and 7):

    theta(x) = sum_p u(p) Phi(p, x),    Phi = (K_zz + sigma^2 I)^-1 K_zx,
    k(z, z') = exp(-||z - z'||^2 / (2 l^2))

Places are (row, column), on signals and volumes one or three numbers, in units of the grid spacing. The
grid's points are (0 .. h-1, 0 .. w-1) and its support, where anchors may lie, reaches half a unit beyond them
on every side. The lengthscale l is in the same unit. l, sigma and the places of the anchors may be learned by
the evidence: they are kept unconstrained, as logarithms and as logits of the anchors' places within the
support.

As l grows, Phi tends to the mean over anchors for every x: the weight no longer varies over places.

Axes: anchor, point (of the grid), axis (row and column of images).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from symlearn.kinds import LETTERS
from symlearn.layers.declared import Hyperparameter
from symlearn.layers.kept import Kept
from symlearn.layers.sizes import Size, sides

Anchors = float | int | Tensor
LearnedOfSparse = Literal["lengthscale", "anchors", "noise"]
SHORTEST, LONGEST = 0.1, 1e3  # lengthscales the evidence may reach, in grid spacings
ALONG = {"t": "times", "d": "depths", "h": "rows", "w": "columns"}  # places along an axis
QUIETEST, LOUDEST = 1e-3, 1.0  # noises it may reach


def grid_points(size: Size) -> Tensor:
    """The grid's points, row by row, `[point, axis]`."""
    places = torch.meshgrid(*map(torch.arange, sides(size)), indexing="ij")
    return torch.stack([along.flatten() for along in places], 1).double()


def anchor_count(anchors: float | int, points: int) -> int:
    """How many anchors a fraction of the points (rounded up) or a number stands for.

    Returns:
        At least 1 and at most `points`.

    Raises:
        ValueError: not above zero, or more anchors than points.
    """
    fraction = isinstance(anchors, float) and anchors <= 1
    if not anchors > 0 or not (fraction or float(anchors).is_integer()):
        raise ValueError(f"anchors must be a fraction in (0, 1] or a positive number of them, got {anchors}")
    count = math.ceil(anchors * points - 1e-9) if fraction else int(anchors)
    if count > points:
        raise ValueError(f"{count} anchors are more than the {points} grid points; use at most {points}")
    return count


def radial_basis(a: Tensor, b: Tensor, lengthscale: Tensor) -> Tensor:
    """k(a, b) `[a, b]` of places `[a, axis]` and `[b, axis]`."""
    squared = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(2)
    return torch.exp(-0.5 * squared / lengthscale**2)


def interpolation(anchors: Tensor, grid: Tensor, lengthscale: Tensor, noise: Tensor) -> Tensor:
    """What values at the anchors are multiplied with for values on the grid.

    Returns:
        Phi `[anchor, point]` in float64, differentiable in places, lengthscale and noise.

    Raises:
        ValueError: K_zz + sigma^2 I is not positive definite: a value is not finite, or the noise too small.
    """
    anchors, grid, lengthscale, noise = (t.double() for t in (anchors, grid, lengthscale, noise))
    jitter = noise**2 * torch.eye(len(anchors), dtype=torch.float64, device=anchors.device)
    factor, failed = torch.linalg.cholesky_ex(radial_basis(anchors, anchors, lengthscale) + jitter)
    if not failed.is_meta and int(failed):
        raise ValueError(
            f"the kernel of {len(anchors)} anchors is not positive definite at lengthscale "
            f"{float(lengthscale):.3g}; raise noise (now {float(noise):.3g}), or move anchors apart"
        )
    return torch.cholesky_solve(radial_basis(anchors, grid, lengthscale), factor)


def inverse_lengthscale_prior(precision: float) -> Callable[[Tensor], Tensor]:
    """Log density of omega = 1 / l under a half-normal of this precision, as a function of log l, in nats."""

    def log_density(log_lengthscale: Tensor) -> Tensor:
        omega = torch.exp(-log_lengthscale.double())
        return 0.5 * math.log(2 * precision / math.pi) - 0.5 * precision * omega**2

    return log_density


class AnchorBasis(nn.Module):
    """Phi `[anchor, point]` of a grid, with its lengthscale and anchors.

    Args:
        size: h, (h, w), (t,) or (d, h, w), of the grid.
        anchors: a fraction of the grid's points (rounded up; drawn uniformly over the support), a number of
            them, or their places `[anchor, axis]`.
        lengthscale: at the start, in grid spacings.
        noise: sigma; keeps K_zz well-conditioned where anchors crowd.
        learn: what is declared for the evidence to learn: any of "lengthscale", "anchors" and "noise".
        lengthscale_precision: precision of a half-normal hyperprior on the inverse lengthscale omega = 1 / l,
            in place of the precision of the weights, or None. Towards omega = 0 the weight becomes
            stationary (van der Ouderaa et al. 2023, section 3.2).

    Raises:
        ValueError: a lengthscale or noise that is not positive, more anchors than points, anchors outside the
            support, something unknown to learn.
    """

    def __init__(
        self,
        size: Size,
        anchors: Anchors = 0.5,
        lengthscale: float = 1.0,
        noise: float = 0.01,
        learn: tuple[LearnedOfSparse, ...] = (),
        lengthscale_precision: float | None = None,
    ) -> None:
        super().__init__()
        for what, value in (("lengthscale", lengthscale), ("noise", noise)):
            if not 0 < value < math.inf:
                raise ValueError(f"{what} must be positive and finite, got {value}")
        if lengthscale_precision is not None and not 0 < lengthscale_precision < math.inf:
            raise ValueError(
                f"lengthscale_precision must be positive and finite, got {lengthscale_precision}"
            )
        unknown = set(learn) - set(get_args(LearnedOfSparse))
        if unknown:
            raise ValueError(
                f"cannot learn {sorted(unknown)}; choose any of {', '.join(get_args(LearnedOfSparse))}"
            )
        self.size, self.learn = sides(size), tuple(learn)
        self.lengthscale_precision = lengthscale_precision
        self.register_buffer("grid", grid_points(self.size), persistent=False)
        self.register_buffer("extent", torch.tensor(self.size, dtype=torch.float64), persistent=False)
        self.register_buffer("log_lengthscale", torch.tensor(math.log(lengthscale)))
        self.register_buffer("log_noise", torch.tensor(math.log(noise)))
        fractions = self._fractions(anchors)
        self.register_buffer("anchor_logits", torch.logit(fractions).to(torch.get_default_dtype()))
        self._kept = Kept()

    grid: Tensor
    extent: Tensor
    log_lengthscale: Tensor
    log_noise: Tensor
    anchor_logits: Tensor

    def _fractions(self, anchors: Anchors) -> Tensor:
        """Places within the support as fractions of it, `[anchor, axis]` in (0, 1)."""
        points, axes = self.grid.shape
        if not isinstance(anchors, Tensor):
            return torch.rand(anchor_count(anchors, points), axes).double().clamp(1e-6, 1 - 1e-6)
        if anchors.dim() != 2 or anchors.shape[1] != axes or not len(anchors):
            raise ValueError(f"places of anchors are [anchor, {axes}], got {list(anchors.shape)}")
        if len(anchors) > points:
            raise ValueError(f"{len(anchors)} anchors are more than the {points} grid points")
        fractions = (anchors.double() + 0.5) / self.extent
        if not ((fractions > 0) & (fractions < 1)).all():
            reach = " and ".join(
                f"{ALONG[name]} in (-0.5, {side - 0.5})"
                for name, side in zip(LETTERS[axes], self.size, strict=True)
            )
            raise ValueError(f"anchors must lie inside the support, {reach}")
        return fractions

    @property
    def lengthscale(self) -> Tensor:
        """l, in grid spacings."""
        return self.log_lengthscale.exp()

    @property
    def noise(self) -> Tensor:
        """Sigma."""
        return self.log_noise.exp()

    @property
    def anchors(self) -> Tensor:
        """Places of the anchors, `[anchor, axis]`, such as (row, column)."""
        return self.places(self.anchor_logits)

    def places(self, logits: Tensor) -> Tensor:
        """Places of anchors from their logits."""
        return (torch.sigmoid(logits.double()) * self.extent - 0.5).to(logits.dtype)

    def __len__(self) -> int:
        return len(self.anchor_logits)

    def forward(self) -> Tensor:
        """Phi `[anchor, point]` in the hyperparameters' dtype; kept while they do not change."""
        return self._kept.get((self.log_lengthscale, self.log_noise, self.anchor_logits), self._interpolation)

    def _interpolation(self) -> Tensor:
        places = torch.sigmoid(self.anchor_logits.double()) * self.extent - 0.5
        lengthscale, noise = self.log_lengthscale.double().exp(), self.log_noise.double().exp()
        phi = interpolation(places, self.grid, lengthscale, noise)
        return phi.to(self.log_lengthscale.dtype).contiguous()

    def fitted(self, dense: Tensor) -> Tensor:
        """Values at the anchors whose weights are closest to dense ones `[..., point]`, least squares.

        Directions that Phi shrinks a hundredfold are left out: they would need huge values.

        Returns:
            `[..., anchor]`, of the dense weights' type.
        """
        inverse = torch.linalg.pinv(self.forward().detach().double(), rtol=1e-2)
        return (dense.double() @ inverse).to(dense.dtype)

    def hyperparameters(self, replaces: tuple[nn.Parameter, ...] = ()) -> dict[str, Hyperparameter]:
        """What the evidence may learn; `replaces` are the weights this basis carries the prior of."""
        found = {}
        if "lengthscale" in self.learn:
            precision = self.lengthscale_precision
            found["log_lengthscale"] = Hyperparameter(
                self.log_lengthscale,
                torch.exp,
                "lengthscale",
                (math.log(SHORTEST), math.log(LONGEST)),
                None if precision is None else inverse_lengthscale_prior(precision),
                () if precision is None else replaces,
            )
        if "anchors" in self.learn:
            found["anchor_logits"] = Hyperparameter(self.anchor_logits, self.places, "anchors", (-14.0, 14.0))
        if "noise" in self.learn:
            bounds = (math.log(QUIETEST), math.log(LOUDEST))
            found["log_noise"] = Hyperparameter(self.log_noise, torch.exp, "noise", bounds)
        return found

    def extra_repr(self) -> str:
        """Anchors, grid and lengthscale, for printing."""
        return f"anchors={len(self)}, size={self.size}, lengthscale={float(self.lengthscale.detach()):.3g}"
