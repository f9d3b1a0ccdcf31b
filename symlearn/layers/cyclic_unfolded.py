"""Cyclic unfolded networks: FISTA, one iteration a layer (Theodosis & Ba 2022; Beck & Teboulle 2009).

For 1/2 ||x - W z||^2 + lambda ||z||_1, from z_0 = a_0 = 0 and t_0 = 1,

    z_{l+1} = S(a_l + alpha W_l^T (x - W_l a_l)),     S soft thresholding at alpha lambda
    t_{l+1} = (1 + sqrt(1 + 4 t_l^2)) / 2
    a_{l+1} = norm(z_{l+1} + (t_l - 1) / t_{l+1} (z_{l+1} - z_l))

with the normalisation left out after the last layer. A layer's dictionary W_l is a sum of banks side by side,
W z = sum_b W_b z_b: `free` filters, and cyclic ones with their rotations (`cyclic_bank.py`). Banks are the
paths that the evidence chooses from; a layer without a bank takes its a_l over as z_{l+1} and a_{l+1}.

Normalisation and thresholds are shared by a filter's rotations, so that the layers commute with quarter turns
where n = 4; the authors' are not (`AUTHORS`). Filters of unit norm cannot be chosen by the evidence: it is
their norm that goes to zero where a bank is not needed.

Axes: batch, c, h, w, filter, turn, bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from symlearn.layers.banks import bank_turns, parse_banks
from symlearn.layers.coset_pool import GroupBatchNorm2d
from symlearn.layers.cyclic_bank import CyclicBank2d, Rotations
from symlearn.layers.declared import Hyperparameter, hyperparameters_within
from symlearn.layers.path_sum import PathSum, seeded
from symlearn.layers.sizes import Size, expect_map, pair
from symlearn.layers.soft_threshold import SoftThreshold

Generator = Literal["fixed", "layer", "shared"]
Codes = dict[str, Tensor]  # by bank, [batch, filter * turn, h', w']


@dataclass(frozen=True)
class UnfoldingOptions:
    """What a user may choose of an unfolded network.

    Attributes:
        filters: of every bank in a layer, rotations included.
        kernel_size: k.
        padding: zeros around the image.
        step: alpha.
        threshold: lambda, at the start where it is learned.
        learn_threshold: whether lambda is trained.
        one_sided: whether codes are non-negative.
        shared: whether a filter's rotations share normalisation and threshold.
        normalise: whether codes are batch-normalised between layers.
        unit_norm: whether filters have unit norm in every input channel.
        generator: whether the angle of cyclic banks is fixed, or learned by the evidence, one a layer or one
            for all layers of a bank.
        generator_offset: degrees that the angle starts away from 360 / n.

    Raises:
        ValueError: a value out of range.
    """

    filters: int = 60
    kernel_size: int = 8
    padding: int = 1
    step: float = 0.01
    threshold: float = 0.5
    learn_threshold: bool = True
    one_sided: bool = False
    shared: bool = True
    normalise: bool = True
    unit_norm: bool = False
    generator: Generator = "fixed"
    generator_offset: float = 0.0

    def __post_init__(self) -> None:
        for name in ("filters", "kernel_size", "step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("padding", "threshold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.generator not in ("fixed", "layer", "shared"):
            raise ValueError(f"generator must be 'fixed', 'layer' or 'shared', got {self.generator!r}")


def authors(options: UnfoldingOptions) -> UnfoldingOptions:
    """The authors' variant: thresholds and norms by channel, codes >= 0, unit norms, lambda from 1."""
    return replace(options, one_sided=True, shared=False, unit_norm=True, threshold=1.0)


def bank_of(c_in: int, options: UnfoldingOptions, rotations: Rotations, last: bool) -> CyclicBank2d:
    """A layer's bank with its threshold and normalisation."""
    turns, channels = rotations.turns, options.filters
    basis = channels // turns
    norm: nn.Module = nn.Identity()
    if options.normalise and not last:
        norm = TurnBatchNorm2d(basis, turns) if options.shared else nn.BatchNorm2d(channels)
    threshold = SoftThreshold(
        basis,
        turns,
        options.threshold,
        options.step,
        options.learn_threshold,
        options.shared,
        options.one_sided,
    )
    return CyclicBank2d(c_in, basis, rotations, options.padding, threshold, norm, options.unit_norm)


class TurnBatchNorm2d(nn.Module):
    """Batch normalisation of codes `[batch, filter * turn, h, w]`, shared by a filter's turns."""

    def __init__(self, filters: int, turns: int) -> None:
        super().__init__()
        self.turns = turns
        self.over_turns = GroupBatchNorm2d(filters)

    def forward(self, code: Tensor) -> Tensor:
        """`[batch, filter * turn, h, w]` to the same."""
        return self.over_turns(code.unflatten(1, (-1, self.turns))).flatten(1, 2)


def rotations_of(name: str, options: UnfoldingOptions) -> Rotations:
    """The rotations of a bank's filters.

    Returns:
        A module that turns basis filters; its angle, in degrees, is a hyperparameter where the evidence
        learns it.

    Raises:
        ValueError: filters that its turns do not divide, or an angle that is none.
    """
    turns = bank_turns(name)
    if options.filters % turns:
        raise ValueError(
            f"{options.filters} filters cannot be basis filters with {turns} rotations each, as {name} has; "
            f"use a multiple of {turns}"
        )
    if turns == 1:
        return Rotations(options.kernel_size, 1)
    degrees = 360 / turns + options.generator_offset
    if not 0 < degrees < 360:
        raise ValueError(
            f"a generator_offset of {options.generator_offset:g} degrees takes {name} to {degrees:g}; it "
            "must stay between 0 and 360"
        )
    return Rotations(options.kernel_size, turns, degrees, learn=options.generator != "fixed")


class UnfoldedLayer2d(PathSum):
    """One iteration of FISTA, with a dictionary of its own; see the module's notation.

    Args:
        c_in: channels of the image.
        rotations: of every bank by name.
        options: what the user chose.
        last: whether no normalisation follows.
    """

    def __init__(
        self, c_in: int, rotations: dict[str, Rotations], options: UnfoldingOptions, last: bool = False
    ) -> None:
        seed = int(torch.randint(2**31, (), device="cpu"))
        super().__init__(
            {
                name: seeded(name, seed, partial(bank_of, c_in, options, turning, last))
                for name, turning in rotations.items()
            }
        )
        self.step = options.step

    def bank(self, name: str) -> CyclicBank2d:
        """One of the banks."""
        bank = self.paths[name]
        assert isinstance(bank, CyclicBank2d)
        return bank

    def forward(
        self, image: Tensor, codes: Codes, ahead: Codes, momentum: float | None
    ) -> tuple[Codes, Codes]:
        """One step of FISTA, from (z_l, a_l) to (z_{l+1}, a_{l+1}).

        Args:
            image: x `[batch, c_in, h, w]`.
            codes: z_l by bank.
            ahead: a_l by bank.
            momentum: (t_l - 1) / t_{l+1}; None after the last layer, where only z is wanted.

        Returns:
            z_{l+1} and a_{l+1} by bank, each `[batch, filter, h, w]`; banks that have no code yet are in
            neither, and without momentum a is not stepped.
        """
        residual = image
        for name in self.active:
            if name in ahead:
                residual = residual - self.bank(name).synthesis(ahead[name])
        before, ahead = codes, dict(ahead)
        codes = dict(ahead)
        for name in self.active:
            bank = self.bank(name)
            moved = self.step * bank.analysis(residual)
            code = bank.threshold(ahead[name] + moved if name in ahead else moved)
            codes[name] = code
            if momentum is not None:
                overshot = (1 + momentum) * code
                ahead[name] = bank.norm(overshot - momentum * before[name] if name in before else overshot)
        return codes, ahead


class CyclicUnfolded2d(nn.Module):
    """FISTA layers from an image to its code, `[batch, c_in, h, w] -> [batch, bank * filter * turn, h', w']`.

    Args:
        c_in: channels of the image.
        in_size: h, or (h, w), of the image.
        banks: a sum of `free` and `cyclic-<angle>`, the same in every layer.
        layers: iterations.
        tied: whether all iterations are one layer's: one dictionary, one set of thresholds.
        options: what the user chose.

    Raises:
        ValueError: an unknown bank, filters that its rotations do not divide, filters larger than the padded
            image, an input of another shape.
    """

    def __init__(
        self,
        c_in: int,
        in_size: Size,
        banks: str | tuple[str, ...] = "cyclic-90",
        layers: int = 4,
        tied: bool = False,
        options: UnfoldingOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or UnfoldingOptions()
        if c_in < 1 or layers < 1:
            raise ValueError(f"channels and layers must be positive, got {c_in} and {layers}")
        self.c_in, self.in_size, self.options = c_in, pair(in_size), options
        self.iterations, self.tied, self.bank_names = layers, tied, parse_banks(banks)
        h, w = (side + 2 * options.padding - options.kernel_size + 1 for side in self.in_size)
        if min(h, w) < 1:
            k, (height, width) = options.kernel_size, self.in_size
            raise ValueError(
                f"{k}x{k} filters do not fit {height}x{width} images with padding {options.padding}; use a "
                "smaller kernel_size"
            )
        self.code_size = (h, w)
        own = options.generator == "layer"
        common = {} if own else {name: rotations_of(name, options) for name in self.bank_names}
        self.layers = nn.ModuleList(
            UnfoldedLayer2d(
                c_in,
                common or {name: rotations_of(name, options) for name in self.bank_names},
                options,
                last=not tied and number + 1 == layers,
            )
            for number in range(1 if tied else layers)
        )

    def layer(self, number: int) -> UnfoldedLayer2d:
        """The layer of an iteration, counted from 0."""
        layer = self.layers[0 if self.tied else number]
        assert isinstance(layer, UnfoldedLayer2d)
        return layer

    def codes(self, x: Tensor, layers: int | None = None) -> Codes:
        """The code after some layers (None: all of them), by bank; banks that no layer has are left out."""
        expect_map(x, self.c_in, self.in_size)
        codes: Codes = {}
        ahead: Codes = {}
        t, wanted = 1.0, self.iterations if layers is None else layers
        for number in range(wanted):
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            momentum = None if number + 1 == wanted else (t - 1) / t_next
            codes, ahead = self.layer(number)(x, codes, ahead, momentum)
            t = t_next
        return codes

    def code(self, x: Tensor) -> Tensor:
        """The last code, all banks side by side, `[batch, bank * filter * turn, h', w']`."""
        codes = self.codes(x)
        empty = x.new_zeros(len(x), self.options.filters, *self.code_size)
        return torch.cat([codes.get(name, empty) for name in self.bank_names], 1)

    def forward(self, x: Tensor) -> Tensor:
        """See `code`."""
        return self.code(x)

    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The generators that are learned."""
        return hyperparameters_within(self)
