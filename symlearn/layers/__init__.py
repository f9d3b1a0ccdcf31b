"""Paths, the relaxed sum of them, subsampling; each `[batch, c_in, h, w] -> [batch, c_out, h', w']`.

FC, F-FC, S-FC, CONV, S-CONV, their sum and the subsampling work on signals (t,) and volumes (d, h, w) as on
images, by the sizes that they are given; "2d" in their names is from the time of images alone.

And equivarification: actions of groups, networks made equivariant, readings of functions on a group.
"""

from symlearn.layers.conv import CircularConv1d, CircularConv2d, CircularConv3d
from symlearn.layers.coset_pool import CosetPool2d, GroupBatchNorm2d
from symlearn.layers.cyclic_unfolded import CyclicUnfolded2d, UnfoldingOptions
from symlearn.layers.deviations import deviation_path
from symlearn.layers.equivarify import ByElement, Equivarified, EquivarifiedLayers
from symlearn.layers.exchanges import (
    any_order,
    circular_shifts,
    columns_in_any_order,
    places_in_any_order,
    rotations_of,
    rows_and_columns,
    rows_in_any_order,
    turns_and_mirrors,
)
from symlearn.layers.factored_fc import FactoredLinear2d
from symlearn.layers.fc import FullyConnected2d
from symlearn.layers.group_action import GroupAction, group_map_action, image_action, matrix_action
from symlearn.layers.group_conv import GroupConv2d, LiftingConv2d
from symlearn.layers.group_deviation import GroupDeviation2d, PointwiseGroupDeviation2d
from symlearn.layers.group_reading import (
    AtIdentity,
    InvariantReading,
    class_and_element,
    joint_cross_entropy,
)
from symlearn.layers.orbit_average import OrbitAverage
from symlearn.layers.own_symmetry import register_symmetry
from symlearn.layers.polyphase import PolyphaseSubsample2d
from symlearn.layers.registry import PATHS, PathKind, PathOptions, PathShape, parse_paths, register_path
from symlearn.layers.relaxed import RelaxedLayer2d
from symlearn.layers.shift_deviation import ShiftDeviation2d
from symlearn.layers.sparse_conv import SparseConv2d
from symlearn.layers.sparse_fc import SparseLinear2d
from symlearn.layers.symmetric_linear import SymmetricLinear, SymmetricLinear2d
from symlearn.layers.transforms import Transform, parse_transforms

__all__ = [
    "PATHS",
    "AtIdentity",
    "ByElement",
    "CircularConv1d",
    "CircularConv2d",
    "CircularConv3d",
    "CosetPool2d",
    "CyclicUnfolded2d",
    "Equivarified",
    "EquivarifiedLayers",
    "FactoredLinear2d",
    "FullyConnected2d",
    "GroupAction",
    "GroupBatchNorm2d",
    "GroupConv2d",
    "GroupDeviation2d",
    "InvariantReading",
    "LiftingConv2d",
    "OrbitAverage",
    "PathKind",
    "PathOptions",
    "PathShape",
    "PointwiseGroupDeviation2d",
    "PolyphaseSubsample2d",
    "RelaxedLayer2d",
    "ShiftDeviation2d",
    "SparseConv2d",
    "SparseLinear2d",
    "SymmetricLinear",
    "SymmetricLinear2d",
    "Transform",
    "UnfoldingOptions",
    "any_order",
    "circular_shifts",
    "class_and_element",
    "columns_in_any_order",
    "deviation_path",
    "group_map_action",
    "image_action",
    "joint_cross_entropy",
    "matrix_action",
    "parse_paths",
    "parse_transforms",
    "places_in_any_order",
    "register_path",
    "register_symmetry",
    "rotations_of",
    "rows_and_columns",
    "rows_in_any_order",
    "turns_and_mirrors",
]
