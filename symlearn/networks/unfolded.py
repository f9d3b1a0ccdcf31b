"""Cyclic unfolded networks: four layers of FISTA and a linear classifier (Theodosis & Ba 2022, section 4).

The code is averaged to 4 x 4 places and classified by one Linear. 60 filters a layer, 8 x 8 on images of 32
pixels and more, 7 x 7 from 16 up (MNIST), 5 x 5 below; zero padding of 1. Exact parameter totals for three
channels, 32 x 32 and 10 classes:

    paths        norms and thresholds by channel    shared by a filter's rotations
    free                    56,290                          56,290
    cyclic-90               21,730                          21,280
    cyclic-60               17,890                          17,390

`dense` networks have filters as large as the image and a code of one place; with a single iteration of step 1
(`unfolded-dense-once`) the code is S_lambda(W^T x), and one dictionary is all that there is to choose. The
authors' variant (`cyclic_unfolded.authors`) is not equivariant: normalisation and thresholds tell a filter's
rotations apart.

Axes: batch, c, h, w, filter, turn, classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from symlearn.groups import FiniteGroup, find_group
from symlearn.layers.banks import bank_turns, parse_banks
from symlearn.layers.cyclic_unfolded import CyclicUnfolded2d, Generator, UnfoldingOptions, authors
from symlearn.layers.registry import PathOptions
from symlearn.layers.sizes import Size, pair

LAYERS, FILTERS, PLACES = 4, 60, 4


def default_kernel(size: tuple[int, int]) -> int:
    """Side of the filters: 8 from 32 pixels up, 7 from 16 up, 5 below."""
    side = min(size)
    return 8 if side >= 32 else 7 if side >= 16 else 5


def unfolding_options(
    size: tuple[int, int], alpha: int | None, options: PathOptions, dense: bool, published: bool
) -> UnfoldingOptions:
    """What a network's own arguments say about its layers.

    Returns:
        Options of the dictionary, the authors' own where `published`.

    Raises:
        ValueError: dense filters of another size than the image's.
    """
    kernel = options.kernel_size or (size[0] if dense else default_kernel(size))
    if dense and size != (kernel, kernel):
        raise ValueError(
            f"dense filters are as large as the image and square, got {size[0]}x{size[1]} images; crop them, "
            "or use network 'unfolded'"
        )
    generator: Generator = "layer" if "generator" in options.learn else "fixed"
    if "shared-generator" in options.learn:
        generator = "shared"
    chosen = UnfoldingOptions(
        filters=FILTERS if alpha is None else alpha,
        kernel_size=kernel,
        padding=0 if dense else 1,
        generator=generator,
        generator_offset=options.generator_offset,
    )
    return authors(chosen) if published else chosen


class LayerCode(nn.Module):
    """A bank's code after some layers, `[batch, c, h, w] -> [batch, filter, turn, h, w]`."""

    def __init__(self, network: CyclicUnfolded2d, layers: int, bank: str) -> None:
        super().__init__()
        self.network, self.layers, self.bank = network, layers, bank

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        code = self.network.codes(x, self.layers)[self.bank]
        return code.unflatten(1, (-1, bank_turns(self.bank)))


class UnfoldedNetwork(CyclicUnfolded2d):
    """FISTA layers and a linear classifier, `[batch, in_channels, h, w] -> [batch, classes]`.

    Args:
        paths: a sum of banks, `free` and `cyclic-<angle>`.
        alpha: filters of every bank in a layer, rotations included; None takes 60.
        in_channels: channels of the image.
        size: h, or (h, w), of the image.
        classes: number of outputs.
        options: kernel_size, learn and generator_offset concern this network; None takes the defaults.
        dense: whether filters are as large as the image.
        published: whether to build the authors' variant.
        layers: iterations of FISTA.
        tied: whether all iterations share one dictionary.
        step: alpha; None takes 0.01. Of a single iteration 1 is the natural one: z = S_lambda(W^T x).

    Raises:
        ValueError: as `CyclicUnfolded2d`, or dense filters on images that are not square.
    """

    def __init__(
        self,
        paths: str | tuple[str, ...] = "cyclic-90",
        alpha: int | None = None,
        in_channels: int = 1,
        size: Size = 28,
        classes: int = 10,
        options: PathOptions | None = None,
        *,
        dense: bool = False,
        published: bool = False,
        layers: int = LAYERS,
        tied: bool = False,
        step: float | None = None,
    ) -> None:
        chosen = unfolding_options(pair(size), alpha, options or PathOptions(), dense, published)
        chosen = chosen if step is None else replace(chosen, step=step)
        super().__init__(in_channels, size, parse_banks(paths), layers, tied, chosen)
        if classes < 1:
            raise ValueError(f"classes must be a positive integer, got {classes}")
        self.alpha = chosen.filters
        h, w = self.code_size
        self.places = (min(h, PLACES), min(w, PLACES))
        features = len(self.bank_names) * chosen.filters * self.places[0] * self.places[1]
        self.head = nn.Sequential(nn.Linear(features, classes))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, in_channels, h, w] -> [batch, classes]`."""
        return self.head(F.adaptive_avg_pool2d(self.code(x), self.places).flatten(1))

    @property
    def group(self) -> FiniteGroup:
        """The rotations of the bank that has most of them; quarter turns where all filters are free."""
        most = max(bank_turns(name) for name in self.bank_names)
        return find_group("p4" if most in (1, 4) else f"c{most}")

    def measured_maps(self) -> dict[str, nn.Module]:
        """What a report measures the equivariance of: every layer's code, bank by bank, as maps on the group.

        Returns:
            From images `[batch, c, h, w]` to the code, by a label such as "layers.0"; banks with another
            number of rotations than the group's are left out.
        """
        turns = len(self.group)
        names = [name for name in self.bank_names if bank_turns(name) == turns]
        found: dict[str, nn.Module] = {}
        for number in range(self.iterations):
            for name in names:
                if name in self.layer(number).active:
                    label = f"layers.{number}" if len(names) == 1 else f"layers.{number}.{name}"
                    found[label] = LayerCode(self, number + 1, name)
        return found
