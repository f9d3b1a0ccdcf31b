"""Data: sources (where images come from), tasks (what is done to them) and the splits made of both.

Everywhere: images are [n, c, h, w], raw values have black at 0, sizes are (h, w) in pixels, labels count from
0.
"""

from torch.utils.data import Dataset

from symlearn.data.augmentation import augment
from symlearn.data.preprocessing import Preprocessing
from symlearn.data.samples import Held, Samples
from symlearn.data.sources import SOURCES, load_images
from symlearn.data.splits import DataSplits, load_data
from symlearn.data.streams import Stream
from symlearn.data.tasks import TASKS

__all__ = [
    "SOURCES",
    "TASKS",
    "DataSplits",
    "Dataset",
    "Held",
    "Preprocessing",
    "Samples",
    "Stream",
    "augment",
    "load_data",
    "load_images",
]
