"""Raw sums of curvature over disjoint chunks of a seeded subset, which grows by doubling.

An order of all N images is drawn by a seed; a subset is the first M of it, divided into `CHUNKS` chunks of
equal size. Raw sums add, so when the subset doubles, neighbouring chunks are merged and only the new half of
the images is looked at:

    order     0 1 2 3 4 5 6 7 8 9 ...          chunks of 1: [0] [1] [2] [3]
                                               doubled:     [0 1] [2 3] [4 5] [6 7]

A subset that would grow beyond half of the images becomes all of them. The columns of a drawn Fisher
(`sketch`, `mc`) depend on a chunk's first place in the order, so that networks on the same subset get the
same ones.

Axes: chunk, batch, c, h, w, params.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add

from torch import nn

from kfac import KroneckerFactors, compute_factors
from symlearn.config import ALL_UP_TO, AUTO_IMAGES, Config
from symlearn.curvature.coverage import seen
from symlearn.curvature.training_set import curvature_options, own_batches
from symlearn.data.samples import SamplesLike, samples_of, seeded_order
from symlearn.evidence.jackknife import CHUNKS
from symlearn.evidence.laplace import EvidenceModel, squared_norms
from symlearn.evidence.sampled import Precisions, SampledEvidence
from symlearn.ranks import ALONE, Ranks


def images_used(config: Config, n_data: int) -> int:
    """Settle how many of the training images an evidence update looks at, before any decision asks for more.

    By itself (`auto`) all up to `ALL_UP_TO` images, then `AUTO_IMAGES`: from about there on the schedule has
    an update every epoch. A fit by MAP has one update, at its end, and takes all. So do corrected
    eigenvalues: their basis is no sum over data.

    Returns:
        M, at most `n_data`; not rounded to whole chunks yet.
    """
    asked = config.evidence.evidence_images
    if asked == "all" or config.curvature.eigenvalues != "kronecker":
        return n_data
    if asked == "auto":
        few = n_data <= ALL_UP_TO or config.evidence.selection == "none"
        return n_data if few else AUTO_IMAGES
    return min(asked, n_data)


def part_of(data: SamplesLike, config: Config, seed: int) -> tuple[SamplesLike, float]:
    """The images that an evidence update looks at, and N / M; all of them in their order, and 1."""
    samples = samples_of(data)
    n = len(samples)
    used = images_used(config, n)
    if used == n:
        return samples, 1.0
    return samples.subset(seeded_order(n, seed)[:used]), n / used


class ChunkSums:
    """Raw sums over the chunks of a subset, of a network at its present weights.

    Args:
        model: the network; its weights must not move while the sums are in use.
        config: says how the curvature is computed.
        data: all N images.
        images: M, rounded down to whole chunks; all from N on.
        seed: of the order.
        ranks: who share the passes.

    Raises:
        ValueError: less than one image a chunk.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        data: SamplesLike,
        images: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.config, self.data, self.ranks = model, config, samples_of(data), ranks
        self.of = len(self.data)
        self.order = seeded_order(self.of, seed)
        self.size = min(images, self.of) // CHUNKS
        if self.size < 1:
            raise ValueError(f"expected at least {CHUNKS} images, one a chunk, got {min(images, self.of)}")
        self.chunks = [self._sums(c * self.size, (c + 1) * self.size) for c in range(CHUNKS)]
        self.rest: KroneckerFactors | None = None
        if images >= self.of:
            self._complete()

    @property
    def images(self) -> int:
        """M."""
        return self.of if self.rest is not None else CHUNKS * self.size

    @property
    def complete(self) -> bool:
        """Whether the subset is all of the images."""
        return self.images == self.of

    def _sums(self, start: int, stop: int) -> KroneckerFactors:
        """Over the images from one place of the order to another."""
        config = self.config
        options = curvature_options(self.model, config)
        options["seed"] = config.training.seed + start
        options |= own_batches(config, self.data.subset(self.order[start:stop]), self.ranks)
        with seen(self.model, config.curvature):
            return compute_factors(self.model, likelihood=config.data.likelihood, **options)

    def _complete(self) -> None:
        if not self.complete:
            self.rest = self._sums(self.images, self.of)

    def grow(self) -> None:
        """Take twice as many images, or all; what has been summed is not looked at again."""
        if 2 * self.images > self.of:
            self._complete()
            return
        merged = [a + b for a, b in zip(self.chunks[::2], self.chunks[1::2], strict=True)]
        self.size *= 2
        starts = range(self.images // 2, self.images, self.size)
        self.chunks = [*merged, *(self._sums(start, start + self.size) for start in starts)]

    def whole(self) -> EvidenceModel:
        """The evidence from all chunks, as a function of the hyperparameters."""
        total = reduce(add, self.chunks)
        if self.rest is not None:
            total = total + self.rest
        return self._scaled(total, self.images)

    def _scaled(self, factors: KroneckerFactors, images: int) -> EvidenceModel:
        stands_for = factors if images == self.of else factors.scaled(self.of / images)
        eigen = stands_for.eigendecompose(process_group=self.ranks.group)
        return EvidenceModel(stands_for, squared_norms(self.model), self.config.data.likelihood, eigen)

    def evidence(
        self, prior_precision: Precisions, sigma_noise: float = 1.0, whole: EvidenceModel | None = None
    ) -> SampledEvidence:
        """Evaluate the evidence at given hyperparameters; eigenvalues are computed `CHUNKS` times.

        Args:
            prior_precision: delta by parameter name.
            sigma_noise: of a regression.
            whole: as `whole` gave it; computed if not given.

        Returns:
            Its terms for all N images, with their errors and biases; those are 0 once the subset is complete.
        """
        found = self.whole() if whole is None else whole
        if self.complete:
            without: Iterator[EvidenceModel] = iter([found] * CHUNKS)
        else:
            images = self.images - self.size
            without = (self._scaled(sums, images) for sums in without_each(self.chunks))
        return SampledEvidence.of(found, without, self.images / self.of, prior_precision, sigma_noise)


def without_each(
    chunks: Sequence[KroneckerFactors], outside: KroneckerFactors | None = None
) -> Iterator[KroneckerFactors]:
    """Leave out each chunk in turn and sum the others, by halves: few sums are held at a time.

    Args:
        chunks: at least two, or one with something outside.
        outside: what is in every sum besides.

    Yields:
        As many sums as there are chunks, the k-th of them without chunk k.
    """
    if len(chunks) == 1:
        assert outside is not None
        yield outside
        return
    half = len(chunks) // 2
    for inner, outer in ((chunks[:half], chunks[half:]), (chunks[half:], chunks[:half])):
        rest = reduce(add, outer)
        yield from without_each(inner, rest if outside is None else outside + rest)
