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

FAN_IN = 144  # summands at which the learning rate holds as it is: 16 channels of 3 x 3 filters


def rate_scales(model: nn.Module) -> dict[str, float]:
    """Factor of the learning rate for every parameter, from its fan-in.

    A module may say its weight's fan-in itself, as an attribute `fan_in`; otherwise it is the number of
    weights of one output, `weight[0].numel()`.

    Returns:
        min(1, `FAN_IN` / fan-in) by parameter name; 1 for biases and norms.
    """
    scales: dict[str, float] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            own = getattr(module, "fan_in", None)
            fan_in = own if isinstance(own, int) else parameter[0].numel() if parameter.dim() > 1 else 1
            if parameter.dim() < 2:
                fan_in = 1
            scales.setdefault(names[id(parameter)], min(1.0, FAN_IN / max(fan_in, 1)))
    return scales
