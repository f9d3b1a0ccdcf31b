"""How far one step may move a weight: less, the more inputs its outputs sum over.

Adam's steps have about the same length in every coordinate, so that a step changes an output by the rate
times the number of summands (the fan-in), whatever the initial scale 1/sqrt(fan-in) was: at a rate that suits
144 summands, the first steps of a group convolution over 576 switch off whole layers of rectified units for
good. Rates in proportion to 1/fan-in keep the change of outputs the same for every path and width (Yang & Hu
2021, the maximal update parametrisation for Adam).

Axes: params.
"""

from __future__ import annotations

from torch import nn

from symlearn.layers.structure import fan_ins

FAN_IN = 144  # summands at which the learning rate holds as it is: 16 channels of 3 x 3 filters


def rate_scales(model: nn.Module) -> dict[str, float]:
    """Factor of the learning rate by parameter name: min(1, `FAN_IN` / fan-in); biases and norms keep 1."""
    return {name: min(1.0, FAN_IN / fan_in) for name, fan_in in fan_ins(model).items()}
