"""``sklearn:digits``: 1797 handwritten digits that ship with scikit-learn, no download."""

from __future__ import annotations

import numpy as np

from tfhalf.data.check import Arrays
from tfhalf.errors import DataError


def read(name: str, source: str) -> Arrays:
    """x [1797, 8, 8, 1] uint8 with values 0..16, y 0..9, no test set of its own.

    Raises:
        DataError: another name than ``digits``.
    """
    if name != "digits":
        raise DataError(f"{source}: {name!r} is not offered; accepted: sklearn:digits; correct data.source")
    from sklearn.datasets import load_digits

    found = load_digits()
    return Arrays(
        found.images.astype(np.uint8)[..., None],
        found.target.astype(np.int32),
        class_names=tuple(str(name) for name in found.target_names),
    )
