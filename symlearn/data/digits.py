"""`digits`: the 1,797 handwritten digits of 8x8 pixels that come with scikit-learn. Nothing is downloaded.

Pixels are counts 0..16 of a UCI set (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", 1998),
divided by 16 here. The first 1,400 of one fixed shuffle are for training, the other 397 for testing. The
digits lie on a 16x16 frame unless another is asked for.
"""

from pathlib import Path

import torch

from symlearn.data.raw import RawData, RawSplit

TRAINING_IMAGES = 1400


def load_digits_set(data_root: Path | None) -> RawData:
    """The digits, [1400, 1, 8, 8] and [397, 1, 8, 8], float32 in [0, 1]; `data_root` is not needed."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    train, test = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    return RawData(
        RawSplit(images[train], labels[train]),
        RawSplit(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
        frame=(16, 16),
    )
