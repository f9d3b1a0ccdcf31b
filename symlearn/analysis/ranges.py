"""The ranges of transformations that a network's outputs are averaged over, for report.json.

Axes: none.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from symlearn.layers.orbit_average import OrbitAverage


def range_report(model: nn.Module) -> list[dict[str, Any]]:
    """Read off the `ranges` of report.json.

    Returns:
        An entry a transform; none where nothing is averaged. It has `name` (of the hyperparameter),
        `transform`, `range` in the transform's own units (`symlearn.layers.transforms`; the probability of a
        mirror image), `words`, `learned`, and `at_lowest`: whether the range is as small as it may be, of no
        effect.
    """
    found = []
    for path, module in model.named_modules():
        if isinstance(module, OrbitAverage):
            for transform, reading in module.readings().items():
                found.append(
                    {
                        "name": f"{path}.ranges.{transform.name}".removeprefix("."),
                        "transform": transform.name,
                        "range": reading,
                        "words": transform.told(reading),
                        "learned": module.learn,
                        "at_lowest": transform.at_lowest(reading),
                    }
                )
    return found
