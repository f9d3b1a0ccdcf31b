"""Random numbers that belong to one sample: u(seed, split, index, draw) in [0, 1).

Notation: `seed` is the run's, `split` is TRAIN or TEST, `index` the sample's place in its source and `draw`
counts the numbers one sample needs. Each number is a hash of these four (SplitMix64: Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014), so it does not depend on a limit, on an order
or on other samples, and no random generator, global or otherwise, is touched.
"""

import numpy as np
import torch
from torch import Tensor

TRAIN = 0
TEST = 1
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # SplitMix64's increment, 2^64 divided by the golden ratio


def per_sample_uniform(seed: int, split: int, index: Tensor, draws: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 [batch, draws], a row for each sample of `index`, int64 [batch]."""
    key = _mix(_mix(np.array([seed & _MASK], dtype=np.uint64)) + np.uint64(split))
    sample = _mix(key + _steps(index.numpy()))[:, None]
    bits = _mix(sample + _steps(np.arange(draws))[None, :])
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _steps(count: np.ndarray) -> np.ndarray:
    """The SplitMix64 counter after `count` + 1 steps, modulo 2^64."""
    return (count.astype(np.uint64) + np.uint64(1)) * np.uint64(_STEP)


def _mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit moves every output bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
