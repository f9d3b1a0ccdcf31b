"""A table of a few seconds that the tests of reproduction share."""

from __future__ import annotations

from pathlib import Path

TINY = """
title = "Tiny"
source = "Nobody 2026, Table 9"
note = "Digits."
[scales.smoke]
data = "digits"
limit = 60
test_limit = 40
alpha = 1
epochs = 2
selection = "none"
seeds = [0, 1]
[scales.cpu]
data = "digits"
limit = 60
alpha = 1
epochs = 2
selection = "none"
[budgets.cpu]
passes = 480
hours = 0.1
measured = "by hand"
[[rows]]
label = "conv"
options = { paths = "conv" }
published = { accuracy = 99.5 }
[[rows]]
label = "group"
options = { paths = "conv", seeds = [0] }
smoke = { paths = "gconv-p4:pointwise" }
[[rows]]
label = "only paper"
options = { paths = "conv" }
only = ["cpu"]
[[claims]]
text = "conv has fewer parameters than ten million"
rule = { kind = "bound", rows = ["conv"], metric = "parameters", below = 1e7 }
scales = ["smoke", "cpu"]
[[claims]]
text = "conv is far ahead of group"
rule = { kind = "order", rows = ["conv", "group"], gap = 150 }
scales = ["smoke"]
"""


def write_table(place: Path, text: str = TINY) -> Path:
    """A folder of experiments with this one in it."""
    (place / "experiments" / "nobody").mkdir(parents=True)
    (place / "experiments" / "nobody" / "tiny.toml").write_text(text)
    return place / "experiments"
