"""Paths, the relaxed sum of them, subsampling; each `[batch, c_in, h, w] -> [batch, c_out, h', w']`."""

from symlearn.layers.conv import CircularConv2d
from symlearn.layers.coset_pool import CosetPool2d, GroupBatchNorm2d
from symlearn.layers.cyclic_unfolded import CyclicUnfolded2d, UnfoldingOptions
from symlearn.layers.factored_fc import FactoredLinear2d
from symlearn.layers.fc import FullyConnected2d
from symlearn.layers.group_conv import GroupConv2d, LiftingConv2d
from symlearn.layers.polyphase import PolyphaseSubsample2d
from symlearn.layers.registry import PATHS, parse_paths
from symlearn.layers.relaxed import RelaxedLayer2d
from symlearn.layers.sparse_conv import SparseConv2d
from symlearn.layers.sparse_fc import SparseLinear2d

__all__ = [
    "PATHS",
    "CircularConv2d",
    "CosetPool2d",
    "CyclicUnfolded2d",
    "FactoredLinear2d",
    "FullyConnected2d",
    "GroupBatchNorm2d",
    "GroupConv2d",
    "LiftingConv2d",
    "PolyphaseSubsample2d",
    "RelaxedLayer2d",
    "SparseConv2d",
    "SparseLinear2d",
    "UnfoldingOptions",
    "parse_paths",
]
